//! Populating ahead of the guest: what it comes to, what it refuses, and what others do meanwhile.

use std::sync::Mutex;

use stage2::{
    Limits,
    space::{Populated, Progress, Resource},
};

use super::*;

/// All frames that are out are the guest's own, or tables.
#[track_caller]
fn is_balanced(board: &Board, space: &GuestSpace<Machine>) {
    let stats = space.stats();
    assert_eq!(board.allocated(), stats.owned_frames + stats.table_frames);
    assert_eq!(space.usage().frames, stats.owned_frames);
    assert_eq!(space.usage().table_frames, stats.table_frames);
}

#[test]
fn comes_to_the_same_as_populating_at_once() {
    for mapping in [(LAZY, PAGES), (LAZY_BLOCKS, BLOCKS)] {
        for ram in [range(0, 3 * PAGE), range(5 * PAGE, 2 * BLOCK), range(LARGE - 3 * BLOCK - PAGE, 2 * LARGE + BLOCK)]
        {
            let board = Board::new();
            let [lazy, now] = [board.space(), board.space()];
            lazy.map(ram, mapping.0.clone(), RW).unwrap();
            now.map(ram, mapping.1.clone(), RW).unwrap();
            assert_eq!(lazy.populate(ram, Access::Read), Ok(Populated::Whole));
            assert_eq!(
                (lazy.stats().leaves, lazy.stats().table_frames),
                (now.stats().leaves, now.stats().table_frames)
            );
            assert_eq!(lazy.read_obj::<[u8; 16]>(ram.start), Ok([0; 16]), "memory starts as zeros");
            for page in (ram.start.as_usize()..ram.end.as_usize()).step_by(PAGE) {
                assert_eq!(fault(&lazy, page, Access::Read), Outcome::Retry);
            }
        }
    }
}

#[test]
fn leaves_what_is_there_and_what_is_outside() {
    for board in [Board::new(), Board::zeroed()] {
        let space = board.space();
        space.map(range(0, 3 * BLOCK), LAZY, RW).unwrap();
        for page in [1, 2, 40] {
            space.write_obj(gpa(page * PAGE), page as u64).unwrap();
        }
        let frames: Vec<_> = [1, 2, 40].map(|page| space.translate(gpa(page * PAGE))).into();
        assert_eq!(space.populate(range(0, 2 * BLOCK - PAGE), Access::Write), Ok(Populated::Whole));
        assert_eq!(frames, [1, 2, 40].map(|page| space.translate(gpa(page * PAGE))));
        assert_eq!((space.stats().owned_frames, space.translate(gpa(2 * BLOCK - PAGE))), (63, None));
        assert_eq!(space.load(gpa(40 * PAGE)), Ok(40_u64));
        assert_eq!(
            (space.populate(range(0, 2 * BLOCK), Access::Read), space.stats().faults),
            (Ok(Populated::Whole), 0)
        );
        is_balanced(&board, &space);
    }
}

#[test]
fn in_steps_of_any_size_comes_to_the_same() {
    for budget in [1, 2, 7, 31, 32, 33, 100, 5000] {
        let board = Board::new();
        let space = board.space();
        let ram = range(3 * PAGE, LARGE + 5 * PAGE);
        space.map(ram, LAZY, RW).unwrap();
        space.write_obj(gpa(9 * PAGE), 9_u64).unwrap();
        let mut populating = space.populate_in_steps(ram, Access::Write).unwrap();
        assert_eq!((populating.step(0), populating.rest()), (Ok(Progress::More), ram));
        let mut before = 1;
        while populating.step(budget).unwrap() == Progress::More {
            let now = space.usage().frames;
            assert!(now - before <= budget, "{} frames in a step of {budget}", now - before);
            assert_eq!(fault(&space, populating.rest().start.as_usize() - PAGE, Access::Write), Outcome::Retry);
            before = now;
        }
        assert!(populating.rest().is_empty());
        assert_eq!((populating.step(budget), populating.populated()), (Ok(Progress::Done), Populated::Whole));
        assert_eq!((space.stats().owned_frames, space.load(gpa(9 * PAGE))), (1024 + 5, Ok(9_u64)));
        is_balanced(&board, &space);
    }
}

/// A small step would cut what a fault brings at once into pages.
#[test]
fn small_steps_bring_the_blocks_that_faults_would() {
    let space = Board::new().space();
    space.map(range(0, 3 * BLOCK), LAZY_BLOCKS, RW).unwrap();
    let mut populating = space.populate_in_steps(range(PAGE, 2 * BLOCK), Access::Write).unwrap();
    while populating.step(1).unwrap() == Progress::More {}
    assert_eq!(space.stats().leaves, [0, 3, 0, 0, 0]);
    // Another level of blocks takes a range and a step that hold one.
    let space = Board::new().space();
    space.map(range(0, 3 * LARGE), LAZY_BLOCKS, RW).unwrap();
    assert_eq!(space.populate(range(LARGE - BLOCK, 2 * LARGE), Access::Write), Ok(Populated::Whole));
    assert_eq!(space.stats().leaves, [0, 32, 1, 0, 0]);
}

#[test]
fn a_hole_or_a_denial_is_refused_before_anything_comes() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 2 * PAGE), LAZY, RW).unwrap();
    space.map(range(3 * PAGE, PAGE), LAZY, READ).unwrap();
    space.map(range(4 * PAGE, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, READ).unwrap();
    let before = (space.to_string(), board.allocated());
    let refused = |pages, access| space.populate(pages, access).unwrap_err();
    assert_eq!(refused(range(0, 5 * PAGE), Access::Read), Error::NotMapped(range(2 * PAGE, PAGE)));
    assert_eq!(refused(range(3 * PAGE, 5 * PAGE), Access::Read), Error::NotMapped(range(5 * PAGE, 3 * PAGE)));
    assert_eq!(refused(range(8 * PAGE, PAGE), Access::Read), Error::NotMapped(range(8 * PAGE, PAGE)));
    let denied = Error::Denied { range: range(3 * PAGE, PAGE), flags: READ };
    assert_eq!(refused(range(3 * PAGE, 2 * PAGE), Access::Write), denied);
    assert_eq!(refused(range(0, PAGE), Access::Execute), Error::Denied { range: range(0, PAGE), flags: RW });
    assert!(matches!(space.populate(range(1, PAGE), Access::Read), Err(Error::Misaligned(_))));
    assert!(matches!(space.populate(range(PAGE, 0), Access::Read), Err(Error::Empty(_))));
    assert_eq!((space.to_string(), board.allocated()), before);
    assert_eq!(space.populate(range(3 * PAGE, 2 * PAGE), Access::Read), Ok(Populated::Whole));
    // Linear memory has nothing to come, whatever the access.
    assert_eq!(space.populate(range(4 * PAGE, PAGE), Access::Write), Ok(Populated::Whole));
}

#[test]
fn what_others_unmapped_between_two_steps_is_refused_by_name() {
    let space = Board::new().space();
    space.map(range(0, 8 * PAGE), LAZY, RW).unwrap();
    let mut populating = space.populate_in_steps(range(0, 8 * PAGE), Access::Read).unwrap();
    assert_eq!(populating.step(2), Ok(Progress::More));
    space.unmap(range(3 * PAGE, PAGE)).unwrap();
    assert_eq!(populating.step(usize::MAX), Err(Error::NotMapped(range(3 * PAGE, PAGE))));
    assert_eq!((populating.rest(), space.stats().owned_frames), (range(3 * PAGE, 5 * PAGE), 3));
    space.map(range(3 * PAGE, PAGE), LAZY, READ).unwrap();
    assert_eq!((populating.step(usize::MAX), populating.populated()), (Ok(Progress::Done), Populated::Whole));
}

/// The frames are had before the lock is taken: what another CPU wrote meanwhile stays.
#[test]
fn pages_that_came_meanwhile_are_left() {
    let board = Board::new();
    let space = Arc::new(board.space());
    space.map(range(0, BLOCK), LAZY, RW).unwrap();
    let other = space.clone();
    board.on_allocation(move || {
        for page in [0, 5, 31] {
            assert_eq!(fault(&other, page * PAGE, Access::Write), Outcome::Resolved);
            other.write_obj(gpa(page * PAGE), 0x5afe_u64).unwrap();
        }
    });
    assert_eq!(space.populate(range(0, BLOCK), Access::Write), Ok(Populated::Whole));
    for page in [0, 5, 31] {
        assert_eq!(space.load(gpa(page * PAGE)), Ok(0x5afe_u64), "page {page}");
    }
    assert_eq!(space.stats().owned_frames, 32);
    is_balanced(&board, &space);
}

/// Another CPU unmaps the area, or another takes its place, while frames for it are allocated.
#[test]
fn pages_of_an_area_that_went_are_not_mapped() {
    for then in [None, Some(READ), Some(RW)] {
        let board = Board::new();
        let space = Arc::new(board.space());
        space.map(range(0, 4 * PAGE), LAZY, RW).unwrap();
        let other = space.clone();
        board.on_allocation(move || {
            other.unmap(range(0, 3 * PAGE)).unwrap();
            if let Some(flags) = then {
                let device = Mapping::Linear { to: PhysAddr::from_usize(0) };
                other.map(range(0, PAGE), if flags == RW { device } else { LAZY }, flags).unwrap();
            }
        });
        let populated = space.populate(range(0, 4 * PAGE), Access::Write);
        let expected = match then {
            None => Error::NotMapped(range(0, PAGE)),
            Some(READ) => Error::Denied { range: range(0, PAGE), flags: READ },
            Some(_) => Error::NotMapped(range(PAGE, PAGE)),
        };
        assert_eq!(populated, Err(expected));
        assert_eq!(space.stats().owned_frames, 0);
        is_balanced(&board, &space);
    }
}

/// A CPU that faults while frames wait to be mapped has what the limit allows: they are not on the account yet.
#[test]
fn a_fault_meanwhile_has_the_last_frames_that_the_limit_allows() {
    let board = Board::new();
    let space = Arc::new(board.space());
    space.map(range(0, 4 * PAGE), LAZY, RW).unwrap();
    space.set_limits(Limits { frames: Some(3), ..Limits::default() });
    let (other, outcomes) = (space.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = outcomes.clone();
    board.on_allocation(move || {
        for page in 0..3 {
            let write = Fault {
                gpa: gpa(page * PAGE),
                access: Access::Write,
                cause: Cause::Translation,
                origin: Origin::Instruction,
            };
            seen.lock().unwrap().push(other.fault(CpuId(1), write));
        }
    });
    let limit = Error::Limit { range: range(3 * PAGE, PAGE), what: Resource::Frames, limit: 3 };
    assert_eq!(space.populate(range(0, 4 * PAGE), Access::Write), Err(limit));
    assert_eq!(*outcomes.lock().unwrap(), [Ok(Outcome::Resolved); 3]);
    is_balanced(&board, &space);
}

#[test]
fn at_a_limit_all_that_it_allows_comes() {
    for mapping in [LAZY, LAZY_BLOCKS] {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, 4 * BLOCK), mapping, RW).unwrap();
        space.set_limits(Limits { frames: Some(70), ..Limits::default() });
        let limit = Error::Limit { range: range(70 * PAGE, PAGE), what: Resource::Frames, limit: 70 };
        let mut populating = space.populate_in_steps(range(0, 4 * BLOCK), Access::Read).unwrap();
        assert_eq!(populating.step(usize::MAX), Err(limit));
        assert_eq!((space.usage().frames, populating.rest().start), (70, gpa(70 * PAGE)));
        is_balanced(&board, &space);
        space.set_limits(Limits::default());
        assert_eq!(populating.step(usize::MAX), Ok(Progress::Done));
        assert_eq!(space.usage().frames, 128);
        // One for each level but the root's.
        let space = board.space();
        space.map(range(0, 4 * BLOCK), LAZY, RW).unwrap();
        let tables = space.usage().table_frames + 4;
        space.set_limits(Limits { table_frames: Some(tables), ..Limits::default() });
        let limit = Error::Limit { range: range(2 * BLOCK, PAGE), what: Resource::TableFrames, limit: tables };
        assert_eq!(space.populate(range(0, 4 * BLOCK), Access::Read), Err(limit));
        assert_eq!((space.usage().frames, space.usage().table_frames), (64, tables));
    }
}

#[test]
fn without_memory_all_that_there_is_comes() {
    for mapping in [LAZY, LAZY_BLOCKS] {
        for left in 0..40 {
            let board = Board::new();
            board.fragment(Some(1));
            let space = board.space();
            space.map(range(0, BLOCK), mapping.clone(), RW).unwrap();
            board.allow(Some(left));
            let Err(Error::NoMemory(page)) = space.populate(range(0, BLOCK), Access::Write) else {
                // The frames, and the path to them.
                assert_eq!(left, 32 + 3);
                break;
            };
            assert_eq!(page.start.as_usize() / PAGE, space.usage().frames);
            is_balanced(&board, &space);
            board.allow(None);
            assert_eq!(space.populate(range(0, BLOCK), Access::Write), Ok(Populated::Whole));
            is_balanced(&board, &space);
        }
    }
}

#[test]
fn regions_and_what_was_inherited_come_as_the_access_has_them() {
    let board = Board::new();
    let (space, clone) = (board.space(), board.space());
    let region = space.region(4 * PAGE).unwrap();
    space.map(range(0, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    assert_eq!(space.populate(range(0, 4 * PAGE), Access::Write), Ok(Populated::Whole));
    assert_eq!((region.frames(), space.stats().shared_frames), (4, 4));
    space.write_obj(gpa(PAGE), 7_u64).unwrap();
    space.unmap(range(0, 4 * PAGE)).unwrap();
    region.freeze().unwrap();
    clone.map(range(0, 4 * PAGE), Mapping::CopyOnWrite { region, offset: 0 }, RW).unwrap();
    assert_eq!(clone.populate(range(0, 4 * PAGE), Access::Read), Ok(Populated::Whole));
    assert_eq!((clone.stats().shared_frames, clone.stats().owned_frames), (4, 0));
    assert_eq!(clone.populate(range(0, 2 * PAGE), Access::Write), Ok(Populated::Whole));
    assert_eq!((clone.stats().shared_frames, clone.stats().copied_frames), (2, 2));
    assert_eq!(fault(&clone, PAGE, Access::Write), Outcome::Retry);
    assert_eq!(clone.load(gpa(PAGE)), Ok(7_u64));
}

#[test]
fn what_is_lent_or_borrowed_is_passed_over() {
    let board = Board::new();
    let (giver, taker) = (board.space(), board.space());
    giver.map(range(0, 4 * PAGE), LAZY, RW).unwrap();
    taker.map(range(0, PAGE), LAZY, RW).unwrap();
    let loan = giver.lend(range(PAGE, PAGE), &taker, gpa(PAGE), READ).unwrap();
    assert_eq!(giver.populate(range(0, 4 * PAGE), Access::Write), Ok(Populated::Whole));
    assert_eq!((giver.stats().owned_frames, giver.stats().lent_frames), (3, 1));
    assert_eq!(taker.populate(range(0, 2 * PAGE), Access::Write), Ok(Populated::Whole));
    assert_eq!((taker.stats().owned_frames, taker.stats().borrowed_frames), (1, 1));
    taker.unmap(range(PAGE, PAGE)).unwrap();
    drop(loan);
}

/// What a CPU could not be told of is finished first, as by a fault.
#[test]
fn what_an_earlier_operation_left_is_finished_first() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    space.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.unmap(range(0, 2 * PAGE)), Err(Error::Invalidation { .. })));
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    assert_eq!(space.populate(range(2 * PAGE, 2 * PAGE), Access::Write), Ok(Populated::Whole));
    assert_eq!(space.populate(range(0, PAGE), Access::Write), Err(Error::NotMapped(range(0, PAGE))));
}

/// Two CPUs populate the same range: each page comes once, and is charged once.
#[test]
fn two_cpus_populate_the_same_range() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 4 * LARGE), LAZY, RW).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(space.populate(range(0, 4 * LARGE), Access::Write), Ok(Populated::Whole)));
        }
        scope.spawn(|| (0..4096).for_each(|page| space.write_obj(gpa(page * PAGE + 8), page as u64).unwrap()));
    });
    assert!((0..4096).all(|page| space.load(gpa(page * PAGE + 8)) == Ok(page as u64)));
    is_balanced(&board, &space);
}
