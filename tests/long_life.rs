//! Guests that live long: what thousands of checkpoints, forks, loans and balloons leave behind. Frames, areas and heap
//! are as in the early rounds, and no operation needs more stack for what was before it.
//!
//! `STAGE2_LONG_LIFE` in the environment is another number of rounds.
#![allow(unsafe_code, unused_crate_dependencies, reason = "an allocator that counts; shared dependencies")]

#[path = "long_life/machine.rs"]
mod machine;
#[path = "long_life/stacks.rs"]
mod stacks;

use std::collections::VecDeque;

use machine::{HELD, Host, RAM, RW, Store, gpa, image, pages, space};
use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{
    GuestSpace, Limits, Mapping, Snapshot,
    audit::{Meanwhile, audit},
    loan::Handover,
    pager::Pager,
};

type Space = GuestSpace<Host>;

/// How many rounds there are if nobody says otherwise.
const ROUNDS: usize = 300;
/// Pages of each guest.
const PAGES: usize = 20;
/// After so many rounds all begins anew with the same pages.
const PERIOD: usize = 10;
/// Rounds that are looked at together: some periods.
const SOME: usize = 5 * PERIOD;
/// Bytes of heap that are no growth.
const SLACK: isize = 1024;

/// What there is after a round.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    frames: usize,
    areas: usize,
    bytes: isize,
}

/// Several guests, each with a habit.
struct Life {
    store: Store,
    pager: Pager,
    /// Keeps its last three checkpoints, and forks.
    windowed: Space,
    window: VecDeque<Snapshot>,
    /// Drops each checkpoint when the next one is there.
    stepping: Space,
    step: Option<Snapshot>,
    /// Goes back to its last checkpoint again and again.
    rewound: Space,
    /// Has its memory from a source.
    sourced: Space,
    /// Lends, gives and shares.
    generous: Space,
    /// Takes, and gives back.
    other: Space,
}

impl Life {
    fn new() -> Self {
        let store = Store::default();
        let guest = |mapped: bool| {
            let space = space(&store, Limits::default());
            if mapped {
                space.map(pages(0..PAGES), RAM, RW).unwrap();
            }
            space
        };
        Self {
            pager: image(),
            windowed: guest(true),
            window: VecDeque::with_capacity(4),
            stepping: guest(true),
            step: None,
            rewound: guest(true),
            sourced: guest(false),
            generous: guest(true),
            other: guest(false),
            store,
        }
    }

    fn spaces(&self) -> [&Space; 6] {
        [&self.windowed, &self.stepping, &self.rewound, &self.sourced, &self.generous, &self.other]
    }

    fn sample(&self) -> Sample {
        let areas = self.spaces().iter().map(|space| space.areas().unwrap().len()).sum();
        Sample { frames: self.store.used(), areas, bytes: HELD.get() }
    }

    fn round(&mut self, round: usize) {
        self.checkpoint_and_fork(round);
        self.step(round);
        self.rewind(round);
        self.bring(round);
        self.give(round);
        let report = audit(self.spaces(), Meanwhile::Nothing).unwrap();
        assert!(report.is_clean(), "round {round}: {report}");
    }

    /// Writes, a checkpoint, a balloon, and a fork that does some of it too and dies.
    fn checkpoint_and_fork(&mut self, round: usize) {
        let space = &self.windowed;
        write(space, round * 2 % PAGES, 3, round);
        self.window.push_back(space.snapshot().unwrap());
        if self.window.len() > 3 {
            drop(self.window.pop_front());
        }
        balloon(space, round % 5 * 4);
        let fork = machine::space(&self.store, Limits::default());
        fork.restore(&self.window[round % self.window.len()]).unwrap();
        write(&fork, round * 2 % PAGES, 2, round);
        balloon(&fork, round % 5 * 4);
        if round.is_multiple_of(2) {
            drop(fork.snapshot().unwrap());
            write(&fork, 0, 5, round);
        }
        drop(fork);
        write(space, (round * 2 + 1) % PAGES, 1, round);
    }

    fn step(&mut self, round: usize) {
        write(&self.stepping, round * 2 % PAGES, 2, round);
        self.step = Some(self.stepping.snapshot().unwrap());
        balloon(&self.stepping, round % 5 * 4);
        // One that nobody keeps.
        drop(self.stepping.snapshot().unwrap());
        write(&self.stepping, round * 2 % PAGES, 1, round);
    }

    fn rewind(&mut self, round: usize) {
        write(&self.rewound, round * 2 % PAGES, 2, round);
        let last = self.rewound.snapshot().unwrap();
        write(&self.rewound, 0, PAGES, round);
        self.rewound.unmap(pages(0..PAGES)).unwrap();
        self.rewound.restore(&last).unwrap();
    }

    fn bring(&self, round: usize) {
        let space = &self.sourced;
        space.map_from(pages(0..PAGES), &self.pager, 0, RW).unwrap();
        let read = |page: usize| assert_eq!(space.load(gpa(page)), Ok((page * PAGE) as u64 + 1));
        read(round % PAGES);
        drop(space.snapshot().unwrap());
        space.unmap(pages(4..8)).unwrap();
        (10..15).for_each(read);
        write(space, 12, 6, round);
        space.unmap(pages(0..PAGES)).unwrap();
    }

    /// Loans, gifts, and memory that becomes a region's and private again, between two checkpoints.
    fn give(&self, round: usize) {
        let (space, other) = (&self.generous, &self.other);
        let first = round % 5 * 4;
        let some = pages(first..first + 2);
        drop(space.snapshot().unwrap());
        write(space, first, 2, round);
        let shared = space.share(some, other, gpa(0), RW).unwrap();
        other.store(gpa(0), 1_u64).unwrap();
        other.unmap(pages(0..2)).unwrap();
        space.reclaim(&shared, other, Handover::Keep).unwrap();
        let lent = space.lend(some, other, gpa(0), RW).unwrap();
        other.store(gpa(1), 2_u64).unwrap();
        space.reclaim(&lent, other, Handover::Keep).unwrap();
        let region = space.make_shared(some).unwrap();
        other.map(pages(0..2), Mapping::Shared { region, offset: 0 }, RW).unwrap();
        other.store(gpa(0), 3_u64).unwrap();
        other.unmap(pages(0..2)).unwrap();
        assert_eq!(space.load(gpa(first)), Ok(3_u64));
        space.make_private(some, Handover::Keep).unwrap();
        space.donate(some, other, gpa(4), RW, Handover::Keep).unwrap();
        other.unmap(pages(4..6)).unwrap();
        space.map(some, RAM, RW).unwrap();
    }
}

/// Writes to some pages from `first` on, around the memory's end.
fn write(space: &Space, first: usize, count: usize, round: usize) {
    (first..first + count).for_each(|page| space.store(gpa(page % PAGES), round as u64).unwrap());
}

/// Memory that the guest gives back, and has again. It is full of zeros by then.
fn balloon(space: &Space, first: usize) {
    let some = pages(first..first + 3);
    space.unmap(some).unwrap();
    space.map(some, RAM, RW).unwrap();
    assert_eq!(space.load(gpa(first)), Ok(0_u64));
}

fn rounds() -> usize {
    let rounds = std::env::var("STAGE2_LONG_LIFE").map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    assert!(rounds >= PERIOD + 3 * SOME, "so few rounds say nothing");
    rounds
}

#[test]
fn a_long_life() {
    let before = HELD.get();
    let rounds = rounds();
    let early = PERIOD..PERIOD + SOME;
    let middle = rounds / 2..rounds / 2 + SOME;
    let late = rounds - SOME..rounds;
    let mut life = Life::new();
    let (mut most_early, mut most_middle, mut most_late) = (None, None, None);
    for round in 0..rounds {
        life.round(round);
        let sample = life.sample();
        for (some, most) in [(&early, &mut most_early), (&middle, &mut most_middle), (&late, &mut most_late)] {
            if some.contains(&round) {
                *most = Some(most.map_or(sample, |most: Sample| Sample {
                    frames: most.frames.max(sample.frames),
                    areas: most.areas.max(sample.areas),
                    bytes: most.bytes.max(sample.bytes),
                }));
            }
        }
    }
    let most = [most_early, most_middle, most_late].map(|most| most.expect("some rounds"));
    for later in &most[1..] {
        assert_eq!((later.frames, later.areas), (most[0].frames, most[0].areas), "{most:?}");
        assert!(later.bytes <= most[0].bytes + SLACK, "{most:?}");
    }
    let store = life.store.clone();
    drop(life);
    assert_eq!(store.used(), 0, "frames that are left");
    drop(store);
    assert_eq!(HELD.get(), before, "bytes that are left");
}
