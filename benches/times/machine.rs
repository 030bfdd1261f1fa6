//! A space of `AArch64` tables on frames of the host, and the ways to time what is done with one.

use std::time::{Duration, Instant};

pub use stage2_benches::machine::{
    BASE, GIB_PAGES, LAZY, POPULATED, READ, READ_WRITE, TARGET, fault, linear, page, pages_at, scattered,
};
use stage2_benches::{
    floor,
    machine::{self, Arm, space_of},
    pool::Pool,
};

pub type Space = machine::Space<Arm, Pool>;
/// The floor's tables.
pub type Tables = floor::Tables<Pool>;

/// A space in which nothing is mapped.
pub fn space() -> Space {
    space_of(Pool, 2)
}

/// A space with `pages` pages at [`BASE`].
pub fn mapped(mapping: stage2::Mapping, pages: usize) -> Space {
    let space = space();
    space.map(pages_at(0, pages), mapping, READ_WRITE).expect("it is unmapped");
    space
}

/// Times `operation` on what `prepare` made each time, and nothing else.
pub fn each<T>(mut prepare: impl FnMut() -> T, mut operation: impl FnMut(&mut T)) -> impl FnMut(u64) -> Duration {
    move |iterations| {
        let one = |_| {
            let mut subject = prepare();
            let started = Instant::now();
            operation(&mut subject);
            started.elapsed()
        };
        (0..iterations).map(one).sum()
    }
}

/// Times `operation`, which leaves everything so that it can be done again, with the number of its turn.
pub fn again<R>(mut operation: impl FnMut(usize) -> R) -> impl FnMut(u64) -> Duration {
    move |iterations| {
        let started = Instant::now();
        for turn in 0..iterations as usize {
            std::hint::black_box(operation(turn));
        }
        started.elapsed()
    }
}

/// Which half of a round is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Operation,
    Undo,
}

/// Times one part of rounds of up to `most` turns: `operation` of all of them, then `undo` of all of them.
pub fn rounds(
    most: usize,
    timed: Part,
    mut operation: impl FnMut(usize),
    mut undo: impl FnMut(usize),
) -> impl FnMut(u64) -> Duration {
    move |iterations| {
        let (mut left, mut total) = (iterations as usize, Duration::ZERO);
        while left > 0 {
            let turns = left.min(most);
            let started = Instant::now();
            (0..turns).for_each(&mut operation);
            let turned = Instant::now();
            (0..turns).for_each(&mut undo);
            total += if timed == Part::Operation { turned - started } else { turned.elapsed() };
            left -= turns;
        }
        total
    }
}
