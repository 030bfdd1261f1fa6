//! Faults on one CPU and on two at once.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use stage2::Outcome;

use crate::{
    machine::{LAZY, POPULATED, Part, Space, Tables, fault, mapped, pages_at, rounds, scattered},
    suite::Suite,
};

/// How many pages a CPU has for itself: many tables, and few enough that they can be had again and again.
const PAGES: usize = 8192;

pub fn bench(suite: &mut Suite) {
    let mut tables = Tables::new(PAGES);
    let tables = std::cell::RefCell::new(&mut tables);
    let install = |turn| tables.borrow_mut().fault(turn);
    let remove = |turn| tables.borrow_mut().remove(turn);
    suite.compare(
        "fault on a fresh page",
        1,
        vec![
            ("loop", Box::new(rounds(PAGES, Part::Operation, install, remove))),
            ("stage2, 1 thread", Box::new(|faults| fresh(1, faults))),
            ("stage2, 2 threads", Box::new(|faults| fresh(2, faults))),
        ],
    );
    suite.compare(
        "fault on a present page",
        1,
        vec![
            ("stage2, 1 thread", Box::new(|faults| spurious(1, faults))),
            ("stage2, 2 threads", Box::new(|faults| spurious(2, faults))),
        ],
    );
}

/// `faults` on each of `cpus` at once, all on untouched pages; the time for one of them, `faults` times: with
/// two CPUs that do not hinder each other, half as long as with one.
fn fresh(cpus: usize, faults: u64) -> Duration {
    let (mut left, mut total) = (faults as usize, Duration::ZERO);
    while left > 0 {
        let turns = left.min(PAGES);
        let space = mapped(LAZY, cpus * PAGES);
        total += on_all(cpus, &space, |cpu, space| {
            for turn in 0..turns {
                assert_eq!(fault(space, cpu, cpu * PAGES + turn), Outcome::Resolved);
            }
        });
        space.unmap(pages_at(0, cpus * PAGES)).expect("it is mapped");
        left -= turns;
    }
    total / cpus as u32
}

/// The same on pages that are there.
fn spurious(cpus: usize, faults: u64) -> Duration {
    let space = mapped(POPULATED, cpus * PAGES);
    let order = &scattered(PAGES, PAGES);
    let total = on_all(cpus, &space, |cpu, space| {
        for turn in 0..faults as usize {
            assert_eq!(fault(space, cpu, cpu * PAGES + order[turn % PAGES]), Outcome::Retry);
        }
    });
    total / cpus as u32
}

/// How long `work` takes on threads that begin together, until the last of them is done.
fn on_all(cpus: usize, space: &Space, work: impl Fn(usize, &Space) + Sync) -> Duration {
    let barrier = &Barrier::new(cpus);
    let work = &work;
    let one = |cpu| {
        barrier.wait();
        let started = Instant::now();
        work(cpu, space);
        (started, Instant::now())
    };
    let times: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cpus).map(|cpu| scope.spawn(move || one(cpu))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread fails")).collect()
    });
    let first = times.iter().map(|(started, _)| *started).min().expect("there is a thread");
    let last = times.iter().map(|(_, ended)| *ended).max().expect("there is a thread");
    last - first
}
