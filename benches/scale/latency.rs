//! How long one fault takes beside a writer that changes the map without a pause, and how long the writer's changes take.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use super::{Extent, curve::figure};
use stage2_benches::{
    machine::{Arm, LAZY, READ_WRITE, Space, fault, linear, pages_at, space_of},
    pool::Pool,
};

/// Pages of each thread that faults. When all of them were touched, it has them taken away, which is not timed.
const PAGES: usize = 4096;
/// Where the writer's page is: behind those of the most threads.
const WRITTEN: usize = 65 * PAGES;

/// Times of single calls, in nanoseconds.
type Samples = Vec<u64>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writer {
    Absent,
    Busy,
}

pub fn measure(extent: Extent) {
    let (length, counts): (_, &[usize]) = match extent {
        Extent::Quick => (Duration::from_millis(200), &[1, 2]),
        Extent::Full => (Duration::from_secs(3), &[1, 2, 8, 64]),
    };
    println!("<!-- begin: latency -->");
    println!(
        "| threads that fault | call | p50 | p99 | p99.9 | most | calls a second |\n|---|---|---|---|---|---|---|"
    );
    for &threads in counts {
        for writer in [Writer::Absent, Writer::Busy] {
            let (faults, changes) = run(threads, writer, length);
            let beside = if writer == Writer::Busy { "fault, beside a writer" } else { "fault" };
            line(threads, beside, faults, length);
            if writer == Writer::Busy {
                line(threads, "map or unmap, the writer", changes, length);
            }
        }
    }
    println!("<!-- end: latency -->");
}

fn line(threads: usize, call: &str, mut samples: Samples, length: Duration) {
    samples.sort_unstable();
    let at = |thousandth: usize| samples.get(samples.len() * thousandth / 1000).or(samples.last()).copied();
    #[allow(clippy::cast_precision_loss, reason = "for people to read")]
    let shown = |sample: Option<u64>| sample.map_or_else(|| "none came through".to_owned(), |time| figure(time as f64));
    let most = samples.last().copied();
    let (p50, p99, p999) = (shown(at(500)), shown(at(990)), shown(at(999)));
    let rate = samples.len() as u128 * 1000 / length.as_millis();
    println!("| {threads} | {call} | {p50} | {p99} | {p999} | {} | {rate} |", shown(most));
}

/// Lets threads fault for a while, with a writer or without one.
fn run(threads: usize, writer: Writer, length: Duration) -> (Samples, Samples) {
    let space: &Space<Arm, Pool> = &space_of(Pool, threads + 1);
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let faulting: Vec<_> = (0..threads).map(|cpu| scope.spawn(move || faults(space, cpu, over))).collect();
        let writing = (writer == Writer::Busy).then(|| scope.spawn(move || changes(space, over)));
        thread::sleep(length);
        over.store(true, Relaxed);
        let samples = faulting.into_iter().flat_map(|thread| thread.join().expect("no thread fails")).collect();
        (samples, writing.map(|thread| thread.join().expect("it does not fail")).unwrap_or_default())
    })
}

fn faults(space: &Space<Arm, Pool>, cpu: usize, over: &AtomicBool) -> Samples {
    let (first, mut samples) = (cpu * PAGES, Samples::new());
    while !over.load(Relaxed) {
        space.map(pages_at(first, PAGES), LAZY, READ_WRITE).expect("it is unmapped");
        for index in (first..first + PAGES).take_while(|_| !over.load(Relaxed)) {
            samples.push(timed(|| {
                let _ = std::hint::black_box(fault(space, cpu, index));
            }));
        }
        space.unmap(pages_at(first, PAGES)).expect("it is mapped");
    }
    samples
}

fn changes(space: &Space<Arm, Pool>, over: &AtomicBool) -> Samples {
    let (page, mut samples) = (pages_at(WRITTEN, 1), Samples::new());
    while !over.load(Relaxed) {
        samples.push(timed(|| space.map(page, linear(WRITTEN), READ_WRITE).expect("it is unmapped")));
        samples.push(timed(|| space.unmap(page).expect("it is mapped")));
    }
    samples
}

fn timed(call: impl FnOnce()) -> u64 {
    let started = Instant::now();
    call();
    started.elapsed().as_nanos() as u64
}
