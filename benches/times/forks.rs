//! The first write to a page that is inherited.

use std::time::Duration;

use stage2::{Access, CpuId, Outcome, Snapshot};
use stage2_benches::machine::touch;

use crate::{
    machine::{LAZY, POPULATED, Space, fault, mapped, pages_at, space},
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
            ("copy, read before", Box::new(|faults| with_snapshot(faults, |child| read_all(child, PAGES)))),
            ("taken", Box::new(|faults| first_writes(faults, alone))),
        ],
    );
}

pub fn freeze(space: &Space) -> Snapshot {
    space.snapshot().expect("there is memory")
}

pub fn forked(snapshot: &Snapshot) -> Space {
    let child = space();
    child.restore(snapshot).expect("it is unmapped");
    child
}

/// A space that is alone with what it froze.
fn alone() -> Space {
    let space = mapped(POPULATED, PAGES);
    drop(freeze(&space));
    space
}

/// Reads so many pages for the first time.
pub fn read_all(space: &Space, pages: usize) {
    for index in 0..pages {
        assert_eq!(space.fault(CpuId(0), touch(index, Access::Read)), Ok(Outcome::Resolved));
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
