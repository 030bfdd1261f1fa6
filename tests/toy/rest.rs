//! A snapshot that is taken in steps, of a guest that is at rest meanwhile.

use stage2::{
    Snapshot,
    lock::Spin,
    space::{Progress, Snapshotting},
};

use super::*;

type Taking<'s> = Snapshotting<'s, Machine, Spin>;

/// Pages, blocks, inherited memory with a copy in it, and what is no part of a snapshot.
fn guest(board: &Board) -> GuestSpace<Machine> {
    let space = board.space();
    let region = space.region(4 * PAGE).unwrap();
    region.writer().unwrap().write(0, &[5; 2 * PAGE]).unwrap();
    region.freeze().unwrap();
    space.map(range(0, 4 * PAGE), Mapping::CopyOnWrite { region, offset: 0 }, RW).unwrap();
    space.map(range(4 * PAGE, 4 * PAGE), LAZY, RW).unwrap();
    space.map(range(BLOCK, LARGE), BLOCKS, RW).unwrap();
    space.map(range(2 * LARGE, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
    let shared = Mapping::Shared { region: space.region(PAGE).unwrap(), offset: 0 };
    space.map(range(3 * LARGE, PAGE), shared, RW).unwrap();
    for at in [0, 5 * PAGE, LARGE, 3 * LARGE] {
        space.write(gpa(at + 8), &[7; 8]).unwrap();
    }
    assert_eq!(fault(&space, PAGE, Access::Read), Outcome::Resolved);
    space
}

/// Calls `step` until it is done: how often.
fn steps(taking: &mut Taking<'_>, entries: usize) -> usize {
    let mut count = 1;
    while taking.step(entries).unwrap() == Progress::More {
        count += 1;
    }
    assert_eq!(taking.step(entries), Ok(Progress::Done));
    count
}

/// Everything that is in a snapshot.
fn contents(snapshot: &Snapshot) -> (Vec<u8>, usize, Vec<(usize, usize)>) {
    let mut bytes = vec![0; snapshot.region().size()];
    snapshot.region().read(0, &mut bytes).unwrap();
    let areas = snapshot.areas().map(|(range, _, offset)| (range.start.as_usize(), offset)).collect();
    (bytes, snapshot.region().frames(), areas)
}

#[test]
fn in_steps_of_any_size_it_comes_to_the_same() {
    let board = Board::new();
    let space = guest(&board);
    let expected = (contents(&space.snapshot().unwrap()), space.to_string());
    drop(space);
    let mut counts = Vec::new();
    for entries in [1, 2, 9, usize::MAX] {
        let space = guest(&board);
        board.events();
        let mut taking = space.snapshot_in_steps().unwrap();
        counts.push(steps(&mut taking, entries));
        let events = board.events();
        assert!(!events.iter().any(|event| matches!(event, Event::Invalidated(_))), "{events:?}");
        let snapshot = taking.finish().unwrap();
        assert_eq!((contents(&snapshot), space.to_string()), expected);
        assert_eq!(board.events().iter().filter(|event| matches!(event, Event::Invalidated(_))).count(), 1);
        // The guest runs and writes again, and the snapshot does not change.
        space.enter(CpuId(1), VcpuId(1)).unwrap();
        space.leave(CpuId(1)).unwrap();
        space.write(gpa(LARGE + 8), &[9; 8]).unwrap();
        assert_eq!(contents(&snapshot), expected.0);
        let fork = board.space();
        fork.restore(&snapshot).unwrap();
        assert_eq!(fork.read_obj::<[u8; 8]>(gpa(LARGE + 8)), Ok([7; 8]));
        drop((space, snapshot, fork));
        assert_eq!(board.allocated(), 0);
    }
    assert!(counts.is_sorted_by(|more, fewer| more > fewer), "{counts:?}");
}

/// A snapshot after `count` steps of ten entries.
fn midway(space: &GuestSpace<Machine>, count: usize) -> Taking<'_> {
    let mut taking = space.snapshot_in_steps().unwrap();
    (0..count).for_each(|_| assert_eq!(taking.step(10), Ok(Progress::More)));
    taking
}

/// How many steps of ten entries lie before the first that freezes.
fn reserving() -> usize {
    let board = Board::new();
    let space = guest(&board);
    let mut taking = space.snapshot_in_steps().unwrap();
    let owned = space.stats().owned_frames;
    let mut count = 0;
    while space.stats().owned_frames == owned {
        assert_eq!(taking.step(10), Ok(Progress::More));
        count += 1;
    }
    count - 1
}

#[test]
fn nothing_changes_meanwhile_and_the_error_says_why() {
    let board = Board::new();
    let space = guest(&board);
    let of = range(0, BLOCK + LARGE);
    let refused = Err(Error::Snapshotting(of));
    for count in [0, 1, reserving() + 1] {
        let taking = midway(&space, count);
        let before = space.to_string();
        assert_eq!(space.map(range(4 * LARGE, PAGE), PAGES, RW), refused);
        assert_eq!(space.unmap(range(2 * LARGE, PAGE)), refused);
        assert_eq!(space.protect(range(2 * LARGE, PAGE), READ), refused);
        assert_eq!(space.relocate(range(4 * PAGE, PAGE)), Err(Error::Snapshotting(of)));
        assert_eq!(space.snapshot().map(drop), refused);
        assert_eq!(space.snapshot_in_steps().map(drop), refused);
        for (at, access) in [(4 * PAGE, Access::Read), (0, Access::Write), (BLOCK, Access::Write)] {
            let fault = Fault { gpa: gpa(at), access, cause: Cause::Permission, origin: Origin::Instruction };
            assert_eq!(space.fault(CpuId(0), fault), Err(Error::Snapshotting(of)));
        }
        assert_eq!(space.write(gpa(8), &[1]), refused);
        assert_eq!(space.write(gpa(LARGE), &[1]), refused);
        assert_eq!(space.compare_exchange(gpa(LARGE + 8), 0x0707_u16, 1), Err(Error::Snapshotting(of)));
        assert_eq!(space.read(gpa(4 * PAGE), &mut [0]), refused, "it would be populated");
        assert!(matches!(space.enter(CpuId(1), VcpuId(1)), Err(Error::Snapshotting(_))));
        assert_eq!(space.enter(CpuId(9), VcpuId(1)), Err(Error::NoSuchCpu(CpuId(9))));
        // Reads are allowed.
        assert_eq!(space.read_obj::<[u8; 8]>(gpa(LARGE + 8)), Ok([7; 8]));
        assert_eq!(space.read_obj::<[u8; 2]>(gpa(PAGE)), Ok([5; 2]));
        assert_eq!(space.to_string(), before);
        drop(taking);
        assert_eq!(space.write(gpa(8), &[7]), Ok(()));
    }
}

#[test]
fn a_cpu_in_the_guest_is_named_and_not_disturbed() {
    let board = Board::new();
    let space = guest(&board);
    space.enter(CpuId(2), VcpuId(0)).unwrap();
    assert_eq!(space.snapshot_in_steps().map(drop), Err(Error::InGuest(CpuId(2))));
    space.enter(CpuId(1), VcpuId(1)).unwrap();
    space.write(gpa(8), &[1]).unwrap();
    space.leave(CpuId(1)).unwrap();
    space.leave(CpuId(2)).unwrap();
    assert_eq!(space.snapshot_in_steps().map(drop), Ok(()));
}

#[test]
fn dropped_before_anything_is_frozen_it_leaves_no_trace() {
    let board = Board::new();
    let space = guest(&board);
    let before = (space.to_string(), board.allocated());
    for count in 0..=reserving() {
        board.events();
        drop(midway(&space, count));
        assert_eq!((space.to_string(), board.allocated()), before);
        assert_eq!(board.events(), []);
        space.enter(CpuId(0), VcpuId(0)).unwrap();
        space.leave(CpuId(0)).unwrap();
    }
    space.write(gpa(LARGE), &[1]).unwrap();
}

#[test]
fn dropped_later_it_is_completed_and_nothing_is_lost() {
    for left in 1..4 {
        let board = Board::new();
        let space = guest(&board);
        board.events();
        drop(midway(&space, reserving() + left));
        assert!(board.events().iter().any(|event| matches!(event, Event::Invalidated(_))), "CPUs must forget");
        assert_eq!(space.stats().owned_frames, 0, "all is copy-on-write");
        let allocated = board.allocated();
        space.write(gpa(LARGE + 8), &[8; 8]).unwrap();
        space.write(gpa(5 * PAGE + 8), &[8; 8]).unwrap();
        assert!(board.allocated() <= allocated + 2, "no other guest has it: but for the tables of a block it is taken");
        assert_eq!(space.read_obj::<[u8; 8]>(gpa(8)), Ok([7; 8]));
        space.unmap(range(0, 4 * LARGE)).unwrap();
        drop(space);
        assert_eq!(board.allocated(), 0);
    }
}

/// A snapshot that is forgotten leaks its memory, and has no other effect.
#[test]
fn forgotten_it_leaves_the_space_at_rest() {
    for count in [1, reserving() + 2] {
        let board = Board::new();
        let space = guest(&board);
        std::mem::forget(midway(&space, count));
        assert!(matches!(space.enter(CpuId(0), VcpuId(0)), Err(Error::Snapshotting(_))));
        assert!(matches!(space.unmap(range(0, LARGE)), Err(Error::Snapshotting(_))));
        assert_eq!(space.read_obj::<[u8; 8]>(gpa(8)), Ok([7; 8]));
        drop(space);
    }
}

#[test]
fn of_nothing_there_is_none() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
    assert!(matches!(space.snapshot_in_steps(), Err(Error::NotMapped(_))));
    space.enter(CpuId(0), VcpuId(0)).unwrap();
}
