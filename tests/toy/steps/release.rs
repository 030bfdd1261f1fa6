//! Handles and snapshots that go in steps.

use stage2::{SharedRegion, region::RegionError};

use super::*;

/// Pages of the regions here, all written.
const MANY: usize = 600;

/// A region of which all pages have frames: they alone are allocated, and the spaces' roots.
fn region(space: &GuestSpace<Machine>) -> SharedRegion {
    let region = space.region(MANY * PAGE).unwrap();
    region.writer().unwrap().write(0, &vec![1; MANY * PAGE]).unwrap();
    region
}

#[test]
fn what_nothing_else_has_goes_in_steps() {
    for budget in [1, 7, usize::MAX] {
        let board = Board::new();
        let space = board.space();
        let empty = board.allocated();
        let region = region(&space);
        board.events();
        let mut releasing = region.release();
        assert_eq!((freed(&board), board.allocated()), (0, empty + MANY));
        assert_eq!(all_steps(&board, budget, |budget| releasing.step(budget)), MANY);
        assert_eq!((board.allocated(), releasing.step(budget)), (empty, Progress::Done));
    }
}

/// What two mappings show stays, and the gap between them is looked at too.
#[test]
fn what_no_mapping_shows_goes_in_steps_and_the_rest_stays() {
    for budget in [1, 7, usize::MAX] {
        let board = Board::new();
        let (one, two) = (board.space(), board.space());
        let region = region(&one);
        let shared = |offset| Mapping::Shared { region: region.clone(), offset };
        one.map(range(0, 100 * PAGE), shared(50 * PAGE), RW).unwrap();
        two.map(range(0, 40 * PAGE), shared(400 * PAGE), RW).unwrap();
        board.events();
        let mut releasing = region.release();
        assert_eq!(freed(&board), 0);
        assert_eq!(all_steps(&board, budget, |budget| releasing.step(budget)), MANY - 140);
        assert_eq!(one.read_obj::<[u8; 2]>(gpa(100 * PAGE - 2)), Ok([1; 2]));
        assert_eq!(two.read_obj::<[u8; 2]>(gpa(0)), Ok([1; 2]));
        drop(releasing);
        drop((one, two));
        assert_eq!(board.allocated(), 0);
    }
}

#[test]
fn while_there_is_another_handle_nothing_goes() {
    let board = Board::new();
    let space = board.space();
    let region = region(&space);
    let writer = region.writer().unwrap();
    board.events();
    assert_eq!((region.clone().release().step(usize::MAX), freed(&board)), (Progress::Done, 0));
    space.map(range(0, PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    assert_eq!((region.release().step(usize::MAX), freed(&board)), (Progress::Done, 0));
    assert_eq!(writer.write(0, b"here"), Ok(()));
    assert_eq!(space.read_obj::<[u8; 4]>(gpa(0)), Ok(*b"here"));
}

/// The last mapping goes between two steps, and leaves the rest to them.
#[test]
fn what_is_unmapped_meanwhile_is_free_and_the_rest_goes_in_steps() {
    for (before, after) in [(0, 1), (100, 7), (MANY - 20, 1)] {
        let board = Board::new();
        let space = board.space();
        let empty = board.allocated();
        let region = region(&space);
        space.map(range(0, 10 * PAGE), Mapping::Shared { region: region.clone(), offset: 300 * PAGE }, RW).unwrap();
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
        let mut releasing = region.release();
        board.events();
        assert_eq!((releasing.step(before), freed(&board)), (Progress::More, before));
        space.unmap(range(0, 10 * PAGE)).unwrap();
        assert!(freed(&board) >= 10, "what was unmapped is free when that returns");
        assert_eq!(all_steps(&board, after, |budget| releasing.step(budget)), MANY - 10 - before);
        assert_eq!(board.allocated(), empty);
    }
}

/// A guest writes, maps and makes a region's page its own while what was a handle's goes.
#[test]
fn guests_go_on_between_two_steps() {
    let board = Board::new();
    let space = board.space();
    let region = region(&space);
    space.map(range(0, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: 300 * PAGE }, RW).unwrap();
    let mut releasing = region.release();
    assert_eq!(releasing.step(9), Progress::More);
    space.write_obj(gpa(0), 5_u64).unwrap();
    space.make_private(range(0, 2 * PAGE), stage2::loan::Handover::Keep).unwrap();
    assert_eq!((space.read_obj::<u64>(gpa(0)), space.usage().frames), (Ok(5), 2));
    assert_eq!(all_steps(&board, 9, |budget| releasing.step(budget)), MANY - 2 - 9);
    assert_eq!(space.read_obj::<u64>(gpa(0)), Ok(5));
    drop(space);
    assert_eq!(board.allocated(), 0);
}

#[test]
fn what_is_left_is_freed_where_it_is_dropped() {
    let board = Board::new();
    let space = board.space();
    for shown in [0, 2] {
        let region = region(&space);
        if shown > 0 {
            space.map(range(0, shown * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        }
        let mut releasing = region.release();
        assert_eq!(releasing.step(9), Progress::More);
        board.events();
        drop(releasing);
        assert_eq!(freed(&board), MANY - 9 - shown);
    }
}

/// A guest has overwritten half of its pages since: those are the snapshot's alone.
#[test]
fn of_a_snapshot_goes_what_no_guest_reaches() {
    for budget in [1, 7, usize::MAX] {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, MANY * PAGE), PAGES, RW).unwrap();
        space.write(gpa(0), &vec![1; MANY * PAGE]).unwrap();
        let before = board.allocated();
        let snapshot = space.snapshot().unwrap();
        space.write(gpa(0), &vec![2; MANY / 2 * PAGE]).unwrap();
        assert_eq!(board.allocated(), before + MANY / 2);
        let fork = board.space();
        fork.restore(&snapshot).unwrap();
        assert_eq!(fork.read_obj::<u8>(gpa(0)), Ok(1));
        drop(fork);
        board.events();
        let mut releasing = snapshot.release();
        assert_eq!(freed(&board), 0);
        assert_eq!(all_steps(&board, budget, |budget| releasing.step(budget)), MANY / 2);
        assert_eq!(board.allocated(), before);
        // What is left is the guest's own when it is written: nothing is copied.
        space.write(gpa(0), &vec![3; MANY * PAGE]).unwrap();
        assert_eq!((board.allocated(), space.usage().frames), (before, MANY));
    }
}

/// Another handle of a snapshot's region keeps all of it.
#[test]
fn of_a_snapshot_whose_region_has_a_handle_nothing_goes() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, MANY * PAGE), PAGES, RW).unwrap();
    let snapshot = space.snapshot().unwrap();
    let region = snapshot.region().clone();
    space.unmap(range(0, MANY * PAGE)).unwrap();
    assert_eq!(snapshot.release().step(usize::MAX), Progress::Done);
    assert_eq!((region.frames(), region.writer().map(drop)), (MANY, Err(RegionError::Frozen)));
    let mut releasing = region.release();
    assert_eq!(all_steps(&board, 7, |budget| releasing.step(budget)), MANY);
}

/// What lets go of it holds up no other CPU, neither in a step nor between two.
#[test]
fn no_lock_is_held_while_it_is_freed() {
    let board = Board::new();
    let space = Arc::new(board.space());
    let region = region(&space);
    space.map(range(0, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    let mut releasing = region.release();
    let (guest, heard) = (space.clone(), Arc::new(AtomicU64::new(0)));
    let seen = heard.clone();
    board.on_free(move || {
        let (sender, answer) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let touched = guest.write_obj(gpa(PAGE), 1_u64);
            let unmapped = guest.unmap(range(0, PAGE));
            sender.send(touched.and(unmapped).is_ok())
        });
        seen.store(u64::from(answer.recv_timeout(PATIENCE) == Ok(true)), Ordering::Relaxed);
    });
    assert_eq!(releasing.step(3), Progress::More);
    assert_eq!(heard.load(Ordering::Relaxed), 1, "the guest could go on meanwhile");
}
