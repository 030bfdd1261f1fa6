//! Faults of the guest, and what others do meanwhile.

use super::*;

#[test]
fn on_a_present_page_keep_its_frame() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    space.write(gpa(8), b"kept").unwrap();
    let (frame, allocated) = (space.translate(gpa(0)), board.allocated());
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Retry);
    assert_eq!((space.translate(gpa(0)), board.allocated()), (frame, allocated));
    assert_eq!(space.read_obj::<[u8; 4]>(gpa(8)).unwrap(), *b"kept");
}

#[test]
fn that_deny_what_the_entry_allows_are_forgotten_on_this_cpu() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, PAGE), PAGES, READ).unwrap();
    space.protect(range(0, PAGE), RW).unwrap();
    board.events();
    let denied = Fault { gpa: gpa(0x10), access: Access::Write, cause: Cause::Permission, origin: Origin::Instruction };
    assert_eq!(space.fault(CpuId(1), denied), Ok(Outcome::Retry));
    assert_eq!(board.events(), [Event::DenialForgotten(gpa(0x10))]);
}

#[test]
fn populate_blocks_where_the_area_has_room_and_pages_where_not() {
    let board = Board::new();
    let space = board.space();
    space.map(range(PAGE, 3 * BLOCK), LAZY_BLOCKS, RW).unwrap();
    assert_eq!(fault(&space, BLOCK + 5 * PAGE + 7, Access::Read), Outcome::Resolved);
    assert_eq!(fault(&space, PAGE, Access::Read), Outcome::Resolved);
    assert_eq!(fault(&space, 3 * BLOCK, Access::Read), Outcome::Resolved);
    assert_eq!(space.stats().leaves, [2, 1, 0, 0, 0]);
}

/// The frame is had before the lock is taken: what another CPU does meanwhile counts (F1).
#[test]
fn leave_a_frame_that_came_meanwhile() {
    let board = Board::new();
    let space = Arc::new(board.space());
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    let other = space.clone();
    board.on_allocation(move || {
        assert_eq!(fault(&other, 0, Access::Write), Outcome::Resolved);
        other.write(gpa(8), b"kept").unwrap();
    });
    let before = board.allocated();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Retry);
    assert_eq!(space.read_obj::<[u8; 4]>(gpa(8)).unwrap(), *b"kept");
    // The first one's frame, and the tables that lead to it.
    assert_eq!(board.allocated(), before + 1 + 3);
}

/// An area that was found under the lock may be gone once the lock is free (L4).
#[test]
fn map_nothing_where_the_area_went_meanwhile() {
    let board = Board::new();
    let space = Arc::new(board.space());
    let empty = board.allocated();
    for change in [None, Some(READ)] {
        space.map(range(0, PAGE), LAZY, RW).unwrap();
        let other = space.clone();
        board.on_allocation(move || match change {
            None => other.unmap(range(0, PAGE)).unwrap(),
            Some(flags) => other.protect(range(0, PAGE), flags).unwrap(),
        });
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Retry);
        assert_eq!(space.translate(gpa(0)), None);
        assert_eq!(board.allocated(), empty);
        let expected = change.map_or(Outcome::NotMapped, |flags| Outcome::Denied { flags });
        assert_eq!(fault(&space, 0, Access::Write), expected);
    }
}

/// Faults of several CPUs go on side by side (F3).
#[test]
fn do_not_wait_for_each_other() {
    let board = Board::new();
    let space = Arc::new(board.space());
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    space.map(range(PAGE, PAGE), LAZY, RW).unwrap();
    let (sender, answer) = std::sync::mpsc::channel();
    let (other, (came, seen)) = (space.clone(), std::sync::mpsc::channel());
    // What a fault publishes it publishes with the lock held.
    board.on_publication(move || {
        std::thread::spawn(move || sender.send(fault(&other, PAGE, Access::Write)));
        came.send(answer.recv_timeout(PATIENCE)).unwrap();
    });
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Retry);
    assert_eq!(seen.try_recv().expect("the first fault published"), Ok(Outcome::Resolved));
}

/// A touch costs no more than a block of the level above pages (L3).
#[test]
fn populate_a_small_block_where_a_large_one_fits() {
    let space = Board::new().space();
    space.map(range(LARGE, LARGE), LAZY_BLOCKS, RW).unwrap();
    assert_eq!(fault(&space, LARGE + PAGE, Access::Write), Outcome::Resolved);
    assert_eq!(space.stats().leaves, [0, 1, 0, 0, 0]);
}

#[test]
fn fall_back_to_a_page_when_no_block_can_be_had() {
    let board = Board::with(Reach::Everywhere, Pieces::Any);
    let space = board.space();
    space.map(range(0, BLOCK), LAZY_BLOCKS, RW).unwrap();
    // A page that is there already stands in the way of a block.
    space.unmap(range(0, PAGE)).unwrap();
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    assert_eq!(fault(&space, PAGE, Access::Read), Outcome::Resolved);
    assert_eq!(space.stats().leaves, [2, 0, 0, 0, 0]);
}

#[test]
fn at_any_address_have_an_outcome() {
    let space = Board::new().space();
    space.map(range(0, PAGE), LAZY, READ).unwrap();
    for at in [0, 1, PAGE - 1, PAGE, (1 << 34) - 1, 1 << 34, usize::MAX] {
        for access in [Access::Read, Access::Write, Access::Execute] {
            for cause in [Cause::Translation, Cause::Permission, Cause::AccessFlag] {
                for origin in [Origin::Instruction, Origin::GuestWalk] {
                    let fault = Fault { gpa: gpa(at), access, cause, origin };
                    let outcome = space.fault(CpuId(usize::MAX), fault).unwrap();
                    assert_eq!(outcome == Outcome::Inject, at >= PAGE && origin == Origin::GuestWalk);
                }
            }
        }
    }
}

#[test]
fn of_a_guests_walk_on_a_device_are_injected() {
    let space = Board::new().space();
    let device = RW | MappingFlags::DEVICE;
    space.map(range(0, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, device).unwrap();
    let walk = Fault { gpa: gpa(0), access: Access::Read, cause: Cause::Permission, origin: Origin::GuestWalk };
    assert_eq!(space.fault(CpuId(0), walk), Ok(Outcome::Inject));
}

/// Where frames come zeroed, a page is had by one look, with the lock that is held.
mod of_zeroed_frames {
    use stage2::{Error, Limits, space::Resource};

    use super::*;

    #[test]
    fn bring_zeros_and_are_on_the_account() {
        let board = Board::zeroed();
        let space = board.space();
        space.map(range(0, 3 * PAGE), LAZY, RW).unwrap();
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
        assert_eq!(fault(&space, PAGE, Access::Read), Outcome::Resolved);
        assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Retry);
        assert_eq!(space.read_obj::<[u8; PAGE]>(gpa(0)), Ok([0; PAGE]));
        assert_eq!((space.usage().frames, space.stats().owned_frames), (2, 2));
        space.unmap(range(0, 3 * PAGE)).unwrap();
        assert_eq!((space.usage().frames, space.stats().owned_frames), (0, 0));
    }

    #[test]
    fn of_two_cpus_bring_one_page() {
        let board = Board::zeroed();
        let space = Arc::new(board.space());
        space.map(range(0, PAGE), LAZY, RW).unwrap();
        let other = Arc::clone(&space);
        board.on_allocation(move || assert_eq!(fault(&other, 0, Access::Write), Outcome::Resolved));
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Retry);
        assert_eq!((space.usage().frames, space.stats().owned_frames), (1, 1));
        let tables = space.stats().table_frames;
        assert_eq!((space.usage().table_frames, board.allocated()), (tables, tables + 1));
    }

    #[test]
    fn say_what_is_short_and_leave_nothing_behind() {
        let board = Board::zeroed();
        let space = board.space();
        space.map(range(0, 2 * PAGE), LAZY, RW).unwrap();
        let write = |at| {
            let (access, origin) = (Access::Write, Origin::Instruction);
            space.fault(CpuId(0), Fault { gpa: gpa(at), access, cause: Cause::Translation, origin })
        };
        let tables = space.usage().table_frames;
        space.set_limits(Limits { frames: Some(1), table_frames: Some(tables + 2), ..Limits::default() });
        let refused = |what, limit| Err(Error::Limit { range: range(0, PAGE), what, limit });
        assert_eq!(write(0), refused(Resource::TableFrames, tables + 2));
        space.set_limits(Limits { frames: Some(0), ..Limits::default() });
        assert_eq!(write(0), refused(Resource::Frames, 0));
        space.set_limits(Limits::default());
        for left in 0..4 {
            board.allow(Some(left));
            let result = write(0);
            board.allow(None);
            assert_eq!(space.usage().frames, space.stats().owned_frames, "{left}");
            if result.is_ok() {
                break;
            }
            assert_eq!(result, Err(Error::NoMemory(range(0, PAGE))), "{left}");
        }
        assert_eq!(write(0), Ok(Outcome::Retry));
        assert_eq!(write(PAGE), Ok(Outcome::Resolved));
    }

    #[test]
    fn that_the_area_refuses_bring_nothing() {
        let board = Board::zeroed();
        let space = board.space();
        space.map(range(0, PAGE), LAZY, READ).unwrap();
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Denied { flags: READ });
        assert_eq!(fault(&space, PAGE, Access::Read), Outcome::NotMapped);
        assert_eq!((space.usage().frames, space.stats().owned_frames), (0, 0));
    }
}
