//! Operations in steps, and what others do between two of them.

use stage2::{VcpuId, space::Progress};

use super::*;

/// A thread that maps a range finds fresh memory there, while others still free what they had in it; no frame is lost.
#[test]
fn a_range_is_fresh_while_what_was_there_is_freed() {
    const COUNT: usize = 48;
    const ROUNDS: usize = 150;
    let board = Board::<Spin>::new();
    let (range, left) = (range(RAM + 7 * PAGE, COUNT * PAGE), AtomicUsize::new(3));
    // Keeps the tables of some, so that leaves and tables go.
    board.space.map(stage2_scenarios::range(RAM, PAGE), PAGES, RW).expect("memory");
    let tenant = |number: usize| {
        let _running = Running(&left);
        let mut freeing = None;
        for round in 0..ROUNDS {
            let mapping = if (round + number).is_multiple_of(2) { LAZY } else { PAGES };
            match board.space.map(range, mapping, RW) {
                Ok(()) => {}
                Err(Error::Overlap { .. }) => {
                    thread::yield_now();
                    continue;
                }
                Err(other) => panic!("{other}"),
            }
            for page in 0..COUNT {
                let at = range.start + page * PAGE;
                assert_eq!(board.space.load::<u64>(at), Ok(0), "page {page} has a former tenant's contents");
                board.space.store(at, u64::MAX).expect("it is mapped");
            }
            let mut unmapping = board.space.unmap_in_steps(range).expect("it is mapped");
            let progress = unmapping.step(1 + round % 7);
            assert_eq!(progress, Progress::More);
            // The step before is finished by its drop, all at once.
            freeing = Some(unmapping);
        }
        drop(freeing);
    };
    let neighbour = |_| {
        until_done(&left, |round| {
            let at = gpa(RAM + 4 * BLOCK + round % 64 * PAGE);
            let here = stage2_scenarios::range(at.as_usize(), PAGE);
            board.space.map(here, LAZY, RW).expect("no other thread maps here");
            board.space.store(at, 1_u64).expect("memory");
            board.space.unmap(here).expect("it is mapped");
        });
    };
    race(&[&tenant, &tenant, &tenant, &neighbour]);
    board.end();
}

/// Two ranges that overlap get flags in steps, and others map and unmap in them: each part is whole, and areas are not lost.
#[test]
fn parts_are_protected_while_others_take_and_bring_them() {
    const COUNT: usize = 64;
    let board = Board::<Spin>::new();
    let whole = range(RAM, COUNT * PAGE);
    board.space.map(whole, PAGES, RW).expect("memory");
    let left = AtomicUsize::new(2);
    let protect = |number: usize| {
        let _running = Running(&left);
        for round in 0..100 {
            let flags = if (round + number).is_multiple_of(2) { READ } else { RW };
            let mut protecting = board.space.protect_in_steps(whole, flags).expect("flags");
            loop {
                match protecting.step(1 + (round + number) % 9) {
                    Ok(Progress::More) => {}
                    Ok(Progress::Done) => break,
                    Err(Error::NotMapped(hole)) => {
                        assert!(whole.contains_range(hole), "{hole:?}");
                        thread::yield_now();
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(protecting.rest().is_empty());
        }
    };
    let hole = range(RAM + 20 * PAGE, 3 * PAGE);
    let mover = |_| {
        until_done(&left, |round| {
            board.space.unmap(hole).expect("it is mapped");
            board.space.map(hole, if round.is_multiple_of(2) { LAZY } else { PAGES }, RW).expect("it is free");
        });
    };
    let touch = |cpu: usize| {
        until_done(&left, |round| {
            let at = RAM + round % COUNT * PAGE;
            let came = board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Permission));
            assert!(
                matches!(came, Ok(Outcome::Resolved | Outcome::Retry | Outcome::NotMapped | Outcome::Denied { .. })),
                "{came:?}"
            );
        });
    };
    race(&[&protect, &protect, &mover, &touch]);
    board.space.protect(whole, READ).expect("all of it is mapped");
    let areas = board.space.areas().expect("areas");
    assert_eq!(areas.iter().map(|area| area.range.size()).sum::<usize>(), whole.size());
    board.end();
}

/// A guest is frozen while it is at rest, and not otherwise: what the snapshot has is what there was when it began.
#[test]
fn no_cpu_runs_or_writes_while_a_guest_is_frozen() {
    const COUNT: usize = 32;
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, COUNT * PAGE), LAZY, RW).expect("an area");
    let (left, frozen, ran) = (AtomicUsize::new(1), AtomicBool::new(false), AtomicUsize::new(0));
    let vcpu = |cpu: usize| {
        until_done(&left, |round| match board.space.enter(CpuId(cpu), VcpuId(cpu)) {
            Ok(()) => {
                assert!(!frozen.load(Ordering::Acquire), "the guest runs");
                ran.fetch_add(1, Ordering::Relaxed);
                board.space.leave(CpuId(cpu)).expect("a CPU");
                let at = RAM + round % COUNT * PAGE;
                let came = board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Permission));
                assert!(
                    matches!(came, Ok(Outcome::Resolved | Outcome::Retry) | Err(Error::Snapshotting(_))),
                    "{came:?}"
                );
            }
            Err(Error::Snapshotting(_)) => {}
            Err(other) => panic!("{other}"),
        });
    };
    let writer = |_| {
        until_done(&left, |round| match board.space.store(gpa(RAM + round % COUNT * PAGE + 8), round as u64) {
            Ok(()) | Err(Error::Snapshotting(_)) => {}
            Err(other) => panic!("{other}"),
        });
    };
    let words = |load: &dyn Fn(usize) -> Option<u64>| (0..COUNT).map(|page| load(page * PAGE + 8)).collect::<Vec<_>>();
    let taker = |_| {
        let _running = Running(&left);
        let mut taken = 0;
        while taken < 40 || ran.load(Ordering::Relaxed) < 10 {
            let mut taking = match board.space.snapshot_in_steps() {
                Ok(taking) => taking,
                Err(Error::InGuest(_)) => {
                    thread::yield_now();
                    continue;
                }
                Err(other) => panic!("{other}"),
            };
            frozen.store(true, Ordering::Release);
            // Pages that were not touched may not be looked at: they would be populated.
            let before = words(&|offset| board.space.load(gpa(RAM + offset)).ok());
            while taking.step(1 + taken % 5) == Ok(Progress::More) {}
            frozen.store(false, Ordering::Release);
            taken += 1;
            if taken.is_multiple_of(4) {
                drop(taking);
                continue;
            }
            let snapshot = taking.finish().expect("there was room");
            let after = words(&|offset| snapshot.region().load(offset).ok());
            for (before, after) in before.into_iter().zip(after) {
                assert!(before.is_none() || before == after, "{before:?} became {after:?}");
            }
        }
    };
    race(&[&vcpu, &vcpu, &writer, &taker]);
    for area in board.space.areas().expect("areas") {
        board.space.unmap(area.range).expect("what is mapped can be unmapped");
    }
    assert_eq!(board.memory.allocated(), board.empty, "frames are lost");
}
