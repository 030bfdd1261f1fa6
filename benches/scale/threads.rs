//! 1 to 64 threads that fault in one space, on the cores that there are.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use super::{Extent, curve::Curve, least, nanoseconds};
use stage2_benches::{
    machine::{Arm, LAZY, POPULATED, READ_WRITE, Space, fault, pages_at, space_of},
    pool::Pool,
};

/// Pages of all threads together.
const PAGES: usize = 32_768;

pub fn measure(extent: Extent) -> Curve {
    let counts: &[usize] = if extent == Extent::Quick { &[1, 2, 8] } else { &[1, 2, 4, 8, 16, 32, 64] };
    let columns = vec!["fault on a fresh page, all threads together", "fault on a present page, likewise"];
    let mut curve = Curve::new("threads", columns);
    // The allocator has the pages at hand from then on.
    faults(1, POPULATED);
    let turns = if extent == Extent::Quick { 1 } else { 5 };
    for &threads in counts {
        let fresh = least(turns, || faults(threads, LAZY));
        let present = least(turns, || faults(threads, POPULATED));
        curve.add(threads.to_string(), threads, vec![nanoseconds(fresh, PAGES), nanoseconds(present, PAGES)]);
    }
    curve
}

/// How long it takes until each page had one fault: from the first thread's first to the last thread's last.
///
/// Each thread looks at the clock itself. One that looks at it for all may not run until they have ended.
fn faults(threads: usize, mapping: stage2::Mapping) -> Duration {
    let space: &Space<Arm, Pool> = &space_of(Pool, threads);
    space.map(pages_at(0, PAGES), mapping, READ_WRITE).expect("it is unmapped");
    let barrier = &Barrier::new(threads);
    let each = PAGES / threads;
    thread::scope(|scope| {
        let work = |cpu: usize| {
            move || {
                barrier.wait();
                let started = Instant::now();
                (cpu * each..(cpu + 1) * each).for_each(|index| {
                    let _ = std::hint::black_box(fault(space, cpu, index));
                });
                (started, Instant::now())
            }
        };
        let workers: Vec<_> = (0..threads).map(|cpu| scope.spawn(work(cpu))).collect();
        let times: Vec<_> = workers.into_iter().map(|worker| worker.join().expect("no thread fails")).collect();
        let first = times.iter().map(|(started, _)| *started).min();
        let last = times.iter().map(|(_, ended)| *ended).max();
        last.zip(first).map_or(Duration::ZERO, |(last, first)| last - first)
    })
}
