//! What is let go of where time is short: nothing large is freed there, and later calls free it in parts.

#[path = "debt/private.rs"]
mod private;

use stage2::{
    GuestPhysRange, Limits, SharedRegion,
    audit::{Meanwhile, audit},
    loan::Handover,
    space::{Progress, Resource},
};

use super::*;

type Space = GuestSpace<Machine>;

/// What a call frees that has time, at most: a part before it has the lock, and one more where it found something left
/// over, or where it frees itself.
const MOST: usize = 2 * 512;

/// What a fault frees at most.
const LITTLE: usize = 16;

/// A range without an area, for calls that have nothing to do with the rest.
const ELSEWHERE: GuestPhysRange =
    GuestPhysRange { start: GuestPhysAddr::from_usize(14 * LARGE), end: GuestPhysAddr::from_usize(14 * LARGE + PAGE) };

/// A board with a CPU that can be deaf.
fn board() -> Board {
    Board::with(Reach::ThisCpu, Pieces::Any)
}

/// Unmaps a range while a CPU in the guest cannot be told, and then all CPUs can.
fn unmap_unheard(board: &Board, space: &Space, range: GuestPhysRange) {
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.unmap(range), Err(Error::Invalidation { .. })));
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
}

/// How many frames of 4 KiB were freed since the events were last looked at.
fn freed(board: &Board) -> usize {
    let pages = |event| if let Event::Freed(_, pages) = event { pages } else { 0 };
    board.events().into_iter().map(pages).sum()
}

fn touch(space: &Space, at: usize) -> Result<Outcome, Error> {
    let fault = Fault { gpa: gpa(at), access: Access::Write, cause: Cause::Translation, origin: Origin::Instruction };
    space.fault(CpuId(0), fault)
}

fn check(space: &Space) {
    let report = audit([&**space], Meanwhile::Nothing).unwrap();
    assert!(report.is_clean(), "{report}");
}

/// Calls that have nothing to do with what is owed free it, each a bounded part, until so many frames are allocated beside
/// the tables.
fn paid_in_parts(board: &Board, space: &Space, left: usize) {
    board.events();
    let mut calls = 0;
    loop {
        space.map(ELSEWHERE, LAZY, RW).unwrap();
        assert!(freed(board) <= MOST);
        check(space);
        let before = board.allocated();
        space.unmap(ELSEWHERE).unwrap();
        assert!(freed(board) <= MOST);
        check(space);
        calls += 1;
        if board.allocated() == before {
            break;
        }
    }
    assert_eq!((board.allocated(), calls > 2), (left + space.stats().table_frames, true));
    assert_eq!(space.usage().table_frames, space.stats().table_frames);
}

/// A page of a block of which all else was unmapped.
const CUT: usize = 8 * LARGE - PAGE;

/// A guest with two pages, the other 8,191 of which were unmapped when a CPU could not be told.
fn left_over(board: &Board) -> Space {
    let space = board.space();
    space.map(range(0, 7 * LARGE), PAGES, RW).unwrap();
    space.map(range(7 * LARGE, LARGE), BLOCKS, RW).unwrap();
    space.map(range(9 * LARGE, 4 * PAGE), LAZY, RW).unwrap();
    assert_eq!(touch(&space, 9 * LARGE), Ok(Outcome::Resolved));
    unmap_unheard(board, &space, range(0, CUT));
    board.events();
    space
}

/// The same, and a fault has finished it.
fn owing(board: &Board) -> Space {
    let space = left_over(board);
    assert_eq!((touch(&space, CUT), freed(board)), (Ok(Outcome::Retry), 0));
    space
}

/// Pages that a guest has in its tables.
const MANY: usize = 6 * 1024;

mod finished_late {
    use super::*;

    /// A guest waited while all was freed that an operation had not been able to, with the space's lock held.
    #[test]
    fn by_a_fault_nothing_is_freed() {
        let board = board();
        let space = left_over(&board);
        let (allocated, used) = (board.allocated(), space.usage());
        assert_eq!(touch(&space, CUT), Ok(Outcome::Retry));
        assert_eq!((board.allocated(), freed(&board), space.usage()), (allocated, 0, used));
        assert_eq!((touch(&space, CUT), touch(&space, 0)), (Ok(Outcome::Retry), Ok(Outcome::NotMapped)));
        check(&space);
    }

    #[test]
    fn private_memory_and_tables_go_in_parts() {
        let board = board();
        for finished in [false, true] {
            let space = if finished { owing(&board) } else { left_over(&board) };
            assert!(space.usage().frames > 8 * 1024, "it counts until it is free");
            paid_in_parts(&board, &space, 2);
            assert_eq!(space.usage().frames, 2);
            drop(space);
        }
    }

    /// A call that frees nothing of its own pays too.
    #[test]
    fn a_change_of_flags_pays_a_part() {
        let board = board();
        let space = owing(&board);
        space.map(range(0, 2 * PAGE), PAGES, RW).unwrap();
        for flags in [READ, RW, READ, RW] {
            board.events();
            space.protect(range(0, 2 * PAGE), flags).unwrap();
            assert!((1..=512).contains(&freed(&board)), "{flags:?}");
        }
    }

    /// A step that has time left frees what is owed with that.
    #[test]
    fn steps_pay_with_what_is_left_of_their_budget() {
        let board = board();
        let space = owing(&board);
        space.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
        let mut unmapping = space.unmap_in_steps(range(0, 4 * PAGE)).unwrap();
        for _ in 0..20 {
            board.events();
            let _ = unmapping.step(100);
            assert!((1..=100).contains(&freed(&board)));
        }
    }

    #[test]
    fn a_region_goes_in_parts() {
        let board = board();
        let space = board.space();
        let region = space.region(MANY * PAGE).unwrap();
        space.map(range(0, MANY * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        let _ = space.populate(range(0, MANY * PAGE), Access::Write).unwrap();
        drop(region);
        unmap_unheard(&board, &space, range(0, MANY * PAGE));
        paid_in_parts(&board, &space, 0);
    }

    #[test]
    fn what_was_inherited_goes_in_parts() {
        let board = board();
        let space = board.space();
        space.map(range(0, MANY * PAGE), PAGES, RW).unwrap();
        drop(space.snapshot().unwrap());
        unmap_unheard(&board, &space, range(0, MANY * PAGE));
        paid_in_parts(&board, &space, 0);
    }

    #[test]
    fn what_a_dead_lender_left_goes_in_parts() {
        let board = board();
        let (lender, borrower) = (board.space(), board.space());
        lender.map(range(0, MANY * PAGE), PAGES, RW).unwrap();
        let _loan = lender.lend(range(0, MANY * PAGE), &borrower, gpa(0), RW).unwrap();
        drop(lender);
        unmap_unheard(&board, &borrower, range(0, MANY * PAGE));
        paid_in_parts(&board, &borrower, 0);
    }

    /// The permission to write ends when all CPUs have been told, and not when there is time.
    #[test]
    fn a_region_can_be_frozen_at_once() {
        let board = board();
        let space = owing(&board);
        let region = space.region(PAGE).unwrap();
        space.map(range(10 * LARGE, PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        space.write_obj(gpa(10 * LARGE), 1_u64).unwrap();
        space.enter(CpuId(3), VcpuId(3)).unwrap();
        board.deafen(Some(CpuId(3)));
        assert!(space.protect(range(10 * LARGE, PAGE), READ).is_err());
        assert!(region.freeze().is_err());
        space.leave(CpuId(3)).unwrap();
        board.deafen(None);
        space.map(ELSEWHERE, LAZY, RW).unwrap();
        assert!(space.usage().frames > 2 * MOST, "there is much more to be freed");
        region.freeze().unwrap();
    }

    /// What several operations left is owed together.
    #[test]
    fn one_after_the_other_goes_in_parts_too() {
        let board = board();
        let space = owing(&board);
        for turn in 0..3 {
            let (at, rest) = (range((10 + turn) * LARGE, 1023 * PAGE), (10 + turn) * LARGE + 1023 * PAGE);
            let region = space.region(32 * PAGE).unwrap();
            space.map(range(0, 32 * PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
            let _ = space.populate(range(0, 32 * PAGE), Access::Write).unwrap();
            space.map(range(at.start.as_usize(), LARGE), BLOCKS, RW).unwrap();
            unmap_unheard(&board, &space, GuestPhysRange { start: gpa(0), end: at.end });
            board.events();
            assert_eq!((touch(&space, rest), freed(&board)), (Ok(Outcome::Retry), 0));
            check(&space);
        }
        paid_in_parts(&board, &space, 1);
    }
}

mod refused {
    use super::*;

    /// The limit has no room but for what is owed: the fault frees a little, and the next try has its page.
    #[test]
    fn no_page_is_that_the_limit_allows_when_the_debt_is_paid() {
        let board = board();
        let space = owing(&board);
        space.set_limits(Limits { frames: Some(3), table_frames: None, ..Limits::default() });
        let mut answers = 0;
        let answer = loop {
            let answer = touch(&space, 9 * LARGE + PAGE);
            // With the frame that it was refused.
            assert!(freed(&board) <= LITTLE + 1);
            check(&space);
            if answer != Ok(Outcome::Retry) {
                break answer;
            }
            answers += 1;
        };
        assert_eq!((answer, answers >= 8 * 1024 / LITTLE), (Ok(Outcome::Resolved), true), "{answers}");
        let refused = touch(&space, 9 * LARGE + 2 * PAGE);
        assert!(matches!(refused, Err(Error::Limit { what: Resource::Frames, limit: 3, .. })), "{refused:?}");
    }

    /// So does an allocator that has nothing else.
    #[test]
    fn no_page_is_for_which_there_is_memory_when_the_debt_is_paid() {
        let board = board();
        let space = owing(&board);
        while board.allocate(1, PAGE).is_some() {}
        board.events();
        assert_eq!(touch(&space, 9 * LARGE + PAGE), Ok(Outcome::Retry));
        assert!((1..=LITTLE).contains(&freed(&board)));
        assert_eq!(touch(&space, 9 * LARGE + PAGE), Ok(Outcome::Resolved));
    }

    /// A call that is refused pays all that it takes.
    #[test]
    fn no_call_is_that_the_limit_allows_when_the_debt_is_paid() {
        let call = |call: &dyn Fn(&Space, &Space) -> Result<(), Error>, limits| {
            let board = board();
            let (space, other) = (owing(&board), board.space());
            space.set_limits(limits);
            assert_eq!(call(&space, &other), Ok(()));
            check(&space);
        };
        let frames = |frames| Limits { frames: Some(frames), table_frames: None, ..Limits::default() };
        call(&|space, _| space.map(range(0, 8 * PAGE), PAGES, RW), frames(10));
        call(&|space, _| space.replace(range(9 * LARGE, 8 * PAGE), PAGES, RW), frames(10));
        call(&|space, _| space.populate(range(9 * LARGE, 4 * PAGE), Access::Write).map(drop), frames(5));
        call(&|space, other| space.share(range(9 * LARGE, 4 * PAGE), other, gpa(0), RW).map(drop), frames(5));
        call(&|space, other| space.donate(range(9 * LARGE, 4 * PAGE), other, gpa(0), RW, Handover::Keep), frames(5));
        call(&|space, _| space.write_obj(gpa(9 * LARGE + PAGE), 1_u64), frames(3));
    }
}

mod at_the_end {
    use super::*;

    #[test]
    fn a_space_that_is_dropped_pays_all() {
        for finished in [false, true] {
            let board = board();
            drop(if finished { owing(&board) } else { left_over(&board) });
            assert_eq!(board.allocated(), 0);
        }
    }

    /// A CPU is in the guest, and what it may reach is lost; what was owed before it came is not.
    #[test]
    fn a_space_whose_memory_is_lost_pays_what_it_owed() {
        let board = board();
        let space = owing(&board);
        let left = 2 + space.stats().table_frames;
        space.enter(CpuId(1), VcpuId(0)).unwrap();
        drop(space);
        assert_eq!(board.allocated(), left);
    }

    #[test]
    fn a_space_that_is_dismantled_pays_in_its_steps() {
        for budget in [1, 7, usize::MAX] {
            let board = board();
            let mut dismantling = owing(&board).dismantle().map_err(|(_, error)| error).unwrap();
            board.events();
            while dismantling.step(budget) == Progress::More {
                assert!(freed(&board) <= budget);
            }
            assert_eq!(board.allocated(), 0);
        }
    }
}

mod of_a_fault {
    use super::*;

    /// A region of many pages, of which a CPU misses one when all else that has it goes.
    fn overtaken(board: &Board, space: &Arc<Space>) -> usize {
        let before = board.owners();
        let size = 16 * 2048 * PAGE;
        let region = space.region(size).unwrap();
        let writer = region.writer().unwrap();
        for page in (1..16 * 2048).step_by(16) {
            writer.write_obj(page * PAGE, 1_u8).unwrap();
        }
        drop(writer);
        space.map(range(0, size), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        let other = Arc::clone(space);
        board.on_allocation(move || {
            other.unmap(range(0, size)).unwrap();
            drop::<SharedRegion>(region);
        });
        assert!(matches!(touch(space, 0), Ok(Outcome::NotMapped | Outcome::Retry)));
        before
    }

    /// The region has no frames any more, but as many nodes as its pages need: the CPU with the fault freed all of them.
    #[test]
    fn a_region_that_it_has_for_the_last_time_goes_in_parts() {
        let board = board();
        let space = Arc::new(board.space());
        let owners = overtaken(&board, &space);
        let mut calls = 0;
        while board.owners() > owners {
            calls += 1;
            check(&space);
            space.map(ELSEWHERE, LAZY, RW).unwrap();
            space.unmap(ELSEWHERE).unwrap();
        }
        assert!((2..10).contains(&calls), "{calls}");
        assert_eq!(board.allocated(), space.stats().table_frames);
    }

    #[test]
    fn a_region_goes_with_the_space_at_the_latest() {
        let board = board();
        let space = Arc::new(board.space());
        let owners = overtaken(&board, &space);
        assert!(board.owners() > owners, "it is still there");
        drop(space);
        assert_eq!((board.allocated(), board.owners()), (0, 1));
    }

    /// Of two spaces that show a region, one owes what it had of it: the other still has all of its pages.
    #[test]
    fn a_region_stays_with_another_space_that_shows_it() {
        let board = board();
        let (space, other) = (board.space(), board.space());
        let region = space.region(2048 * PAGE).unwrap();
        for space in [&space, &other] {
            space.map(range(0, 2048 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
            let _ = space.populate(range(0, 2048 * PAGE), Access::Write).unwrap();
        }
        other.write_obj(gpa(PAGE), 7_u8).unwrap();
        other.unmap(range(0, PAGE)).unwrap();
        drop(region);
        unmap_unheard(&board, &space, range(0, 2048 * PAGE));
        space.map(ELSEWHERE, LAZY, RW).unwrap();
        let report = audit([&*space, &*other], Meanwhile::Nothing).unwrap();
        assert!(report.is_clean(), "{report}");
        drop(space);
        assert_eq!(other.read_obj::<u8>(gpa(PAGE)), Ok(7));
        assert_eq!(board.allocated(), 2047 + other.stats().table_frames, "the page that neither shows is free");
    }
}
