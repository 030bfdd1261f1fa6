//! Snapshots, forks, and the first write to a page that is inherited.

use std::time::Duration;

use stage2::{Outcome, Snapshot};

use crate::{
    machine::{GIB_PAGES, LAZY, POPULATED, Space, each, fault, mapped, pages_at, space, store_to},
    suite::Suite,
};

/// How many pages are written in turn.
const PAGES: usize = 8192;

pub fn bench(suite: &mut Suite) {
    suite.compare(
        "first write to a page",
        1,
        vec![
            ("lazy", Box::new(|faults| first_writes(faults, || mapped(LAZY, PAGES)))),
            ("copy, untouched", Box::new(|faults| with_snapshot(faults, |_| {}))),
            ("copy, read before", Box::new(|faults| with_snapshot(faults, read_all))),
            ("taken", Box::new(|faults| first_writes(faults, alone))),
        ],
    );
    for (size, pages) in [("64 MiB", GIB_PAGES / 16), ("1 GiB", GIB_PAGES)] {
        // The frames stay with the snapshot until it goes, which is not timed.
        let subject = || (mapped(POPULATED, pages), None);
        let snapshot = each(subject, |(space, taken): &mut (Space, Option<Snapshot>)| *taken = Some(freeze(space)));
        suite.compare(&format!("snapshot of {size}"), 1, vec![("stage2", Box::new(snapshot))]);
        let parent = mapped(POPULATED, pages);
        let frozen = freeze(&parent);
        let fork = each(|| None, |child: &mut Option<Space>| *child = Some(forked(&frozen)));
        suite.compare(&format!("fork of {size}"), 1, vec![("stage2", Box::new(fork))]);
    }
    report();
}

/// Says what a hundred forks cost that write one page of a hundred.
fn report() {
    let parent = mapped(POPULATED, GIB_PAGES / 16);
    let snapshot = freeze(&parent);
    let (mut own, mut tables) = (0, 0);
    for _ in 0..100 {
        let child = forked(&snapshot);
        (0..GIB_PAGES / 1600).for_each(|turn| assert_eq!(fault(&child, 0, turn * 100), Outcome::Resolved));
        let stats = child.stats();
        own += stats.owned_frames;
        tables += stats.table_frames;
    }
    println!("100 forks of 64 MiB that write 1 % each: {own} frames of their own, {tables} of tables");
}

fn freeze(space: &Space) -> Snapshot {
    space.snapshot().expect("there is memory")
}

fn forked(snapshot: &Snapshot) -> Space {
    let child = space();
    child.restore(snapshot).expect("nothing is there");
    child
}

/// A space that is alone with what it froze.
fn alone() -> Space {
    let space = mapped(POPULATED, PAGES);
    drop(freeze(&space));
    space
}

fn read_all(space: &Space) {
    for index in 0..PAGES {
        let read = stage2::Fault { access: stage2::Access::Read, ..store_to(index) };
        assert_eq!(space.fault(stage2::CpuId(0), read), Ok(Outcome::Resolved));
    }
}

/// First writes by forks, after what `prepare` does.
fn with_snapshot(faults: u64, prepare: impl Fn(&Space)) -> Duration {
    let parent = mapped(POPULATED, PAGES);
    let snapshot = freeze(&parent);
    first_writes(faults, || {
        let child = forked(&snapshot);
        prepare(&child);
        child
    })
}

/// How long so many first writes take, each to a page of its own.
fn first_writes(faults: u64, fresh: impl Fn() -> Space) -> Duration {
    let (mut left, mut total) = (faults as usize, Duration::ZERO);
    while left > 0 {
        let turns = left.min(PAGES);
        let space = fresh();
        let started = std::time::Instant::now();
        for turn in 0..turns {
            assert_eq!(fault(&space, 0, turn), Outcome::Resolved);
        }
        total += started.elapsed();
        space.unmap(pages_at(0, PAGES)).expect("it is mapped");
        left -= turns;
    }
    total
}
