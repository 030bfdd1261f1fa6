//! Faults whose frame is had without the lock, and entries that another CPU changes first.

use std::{sync::mpsc, thread};

use stage2::Limits;

use super::*;

/// What is frozen meanwhile would have a page that is in no snapshot, and that the guest goes on writing.
#[test]
fn bring_nothing_to_a_space_that_was_put_to_rest() {
    let board = Board::new();
    let space = space(&board);
    space.map(range(0, 2 * PAGE), LAZY, RW).unwrap();
    board.on_allocation(elsewhere(&space, put_to_rest));
    assert_eq!(touch(&space, 0, Access::Write), Err(Error::Snapshotting(range(0, 2 * PAGE))));
    assert_eq!((space.translate(gpa(0)), space.usage().frames), (None, 0));
}

/// The guest would write a page of its own where others are to see what it writes.
#[test]
fn bring_no_page_of_its_own_to_what_became_a_regions() {
    let board = Board::new();
    let space = space(&board);
    let region = space.region(PAGE).unwrap();
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    let mapping = shared(&region);
    board.on_allocation(elsewhere(&space, |space| {
        space.unmap(range(0, PAGE)).unwrap();
        space.map(range(0, PAGE), mapping, RW).unwrap();
    }));
    assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Retry));
    assert_eq!((space.translate(gpa(0)), space.usage().frames), (None, 0));
    space.write_obj(gpa(0), 5_u64).unwrap();
    assert_eq!(region.read_obj(0), Ok(5_u64));
}

/// The guest would reach memory where nothing is mapped.
#[test]
fn bring_no_block_over_a_page_that_was_unmapped() {
    let board = Board::new();
    let space = space(&board);
    space.map(range(0, BLOCK), LAZY_BLOCKS, RW).unwrap();
    board.on_allocation(elsewhere(&space, |space| space.unmap(range(BLOCK - PAGE, PAGE)).unwrap()));
    assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Retry));
    assert_eq!((space.translate(gpa(0)), space.translate(gpa(BLOCK - PAGE))), (None, None));
    assert_eq!(space.usage().frames, 0);
    assert_eq!(touch(&space, BLOCK - PAGE, Access::Write), Ok(Outcome::NotMapped));
}

/// Others took the room that there was for a block. That a page can be had still is found out without stopping all
/// CPUs.
#[test]
fn fall_back_to_a_page_where_others_took_the_room_for_a_block() {
    let board = Board::new();
    let space = space(&board);
    space.map(range(0, BLOCK), LAZY_BLOCKS, RW).unwrap();
    board.on_allocation(elsewhere(&space, |space| {
        space.set_limits(Limits { frames: Some(1), ..Limits::default() });
        eventful::before_exclusive(|| panic!("all CPUs are stopped"));
    }));
    assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Retry));
    assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Resolved));
    assert_eq!((space.usage().frames, space.stats().leaves[..2].to_vec()), (1, vec![1, 0]));
    // The audit at its end excludes all.
    eventful::before_exclusive(|| ());
}

/// What a limit refuses is looked at again while no CPU is on its way: another one has given back what it had.
#[test]
fn are_not_refused_for_want_of_what_was_given_back() {
    let board = Board::new();
    let space = space(&board);
    space.map(range(0, 2 * PAGE), LAZY, RW).unwrap();
    space.write_obj(gpa(PAGE), 5_u64).unwrap();
    space.set_limits(Limits { frames: Some(1), ..Limits::default() });
    eventful::before_exclusive(elsewhere(&space, |space| space.unmap(range(PAGE, PAGE)).unwrap()));
    assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Retry));
    assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Resolved));
}

/// A table that takes the place of another one's loses all that is below it.
#[test]
fn go_through_the_tables_that_another_cpu_has_linked() {
    // Three tables lead to a page, after its frame.
    for allocation in 2..=4 {
        let board = Board::new();
        let space = space(&board);
        space.map(range(0, 2 * PAGE), LAZY, RW).unwrap();
        board.at_allocation(allocation, elsewhere(&space, |space| space.write_obj(gpa(PAGE), 5_u64).unwrap()));
        assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Resolved), "{allocation}");
        assert_eq!((space.load(gpa(PAGE)), space.usage().frames), (Ok(5_u64), 2), "{allocation}");
        assert_eq!(board.allocated(), 2 + space.stats().table_frames, "{allocation}");
    }
}

/// A block's entry in a table of pages is another page's, or none.
#[test]
fn put_no_block_into_a_table_of_pages_that_came() {
    let board = Board::new();
    let space = space(&board);
    space.map(range(0, BLOCK), LAZY_BLOCKS, RW).unwrap();
    let memory = board.clone();
    board.on_allocation(elsewhere(&space, move |space| {
        memory.fragment(Some(1));
        space.write_obj(gpa(PAGE), 5_u64).unwrap();
    }));
    assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Retry));
    assert_eq!((space.stats().leaves[..2].to_vec(), space.load(gpa(PAGE))), (vec![1, 0], Ok(5_u64)));
    assert_eq!((space.translate(gpa(0)), board.allocated()), (None, 1 + space.stats().table_frames));
}

/// Uncached memory that executes, in a block that does not.
fn restricted(board: &Board) -> Arc<Space> {
    let space = space(board);
    space.map(range(0, BLOCK), BLOCKS, RWX | MappingFlags::UNCACHED).unwrap();
    space
}

/// `Resolved` says that the access goes through.
#[test]
fn resolve_nothing_that_the_area_denies_by_then() {
    let (board, flags) = (Board::new(), RW | MappingFlags::UNCACHED);
    let space = restricted(&board);
    eventful::before_exclusive(elsewhere(&space, move |space| space.protect(range(0, BLOCK), flags).unwrap()));
    assert_eq!(touch(&space, PAGE, Access::Execute), Ok(Outcome::Retry));
    assert_eq!(touch(&space, PAGE, Access::Execute), Ok(Outcome::Denied { flags }));
    assert_eq!(space.stats().leaves[..2], [0, 1]);
}

#[test]
fn split_no_block_that_was_unmapped() {
    let board = Board::new();
    let space = restricted(&board);
    eventful::before_exclusive(elsewhere(&space, |space| space.unmap(range(0, BLOCK)).unwrap()));
    assert_eq!(touch(&space, PAGE, Access::Execute), Ok(Outcome::Retry));
    assert_eq!(board.allocated(), space.stats().table_frames);
}

/// A page that is in a snapshot, and whose leaf has to note accesses.
fn frozen(board: &Board) -> (Arc<Space>, stage2::Snapshot) {
    let space = space(board);
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    space.write_obj(gpa(0), 1_u64).unwrap();
    let snapshot = space.snapshot().unwrap();
    (space, snapshot)
}

const NOTE: Fault = Fault {
    gpa: GuestPhysAddr::from_usize(0),
    access: Access::Read,
    cause: Cause::AccessFlag,
    origin: Origin::Instruction,
};

/// How many leaves a fault reads that is to note an access, at most: at each of them another CPU may come.
const LEAVES: usize = 9;

/// An entry that another CPU has claimed has no flags and no marks.
#[test]
fn note_nothing_in_an_entry_that_another_cpu_has_claimed() {
    for number in 1..LEAVES {
        let board = Board::new();
        let (space, _snapshot) = frozen(&board);
        let (claim, claimed) = mpsc::channel();
        let (go, going) = mpsc::channel::<()>();
        board.on_invalidation(move || {
            // An error: no CPU waits for it, since it is the space's end.
            let _ = claim.send(());
            // An error: the fault was answered.
            let _ = going.recv();
        });
        let other = Arc::clone(&space);
        let writer = Arc::new(std::sync::Mutex::new(None));
        let place = Arc::clone(&writer);
        on_leaf(number, move || {
            *place.lock().unwrap() = Some(thread::spawn(move || touch(&other, 0, Access::Write)));
            claimed.recv_timeout(PATIENCE).expect("the other CPU copies");
        });
        let outcome = space.fault(CpuId(1), NOTE);
        drop(go);
        on_leaf(1, || ());
        let Some(other) = writer.lock().unwrap().take() else { continue };
        assert!(matches!(outcome, Ok(Outcome::Retry | Outcome::Resolved)), "{number}: {outcome:?}");
        assert_eq!(other.join().unwrap(), Ok(Outcome::Resolved), "{number}");
        assert_eq!((space.load(gpa(0)), space.translate(gpa(0)).unwrap().flags), (Ok(1_u64), RW), "{number}");
    }
}

/// What was judged is an older leaf: the new one allows more, and would lose it without an invalidation.
#[test]
fn take_no_permission_from_a_leaf_that_came_meanwhile() {
    for number in 1..LEAVES {
        let board = Board::new();
        let (space, _snapshot) = frozen(&board);
        let happened = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&happened);
        let other = elsewhere(&space, |space| space.write_obj(gpa(0), 5_u64).unwrap());
        on_leaf(number, move || {
            seen.store(1, Ordering::Release);
            other();
        });
        let outcome = space.fault(CpuId(1), NOTE);
        on_leaf(1, || ());
        if happened.load(Ordering::Acquire) == 0 {
            continue;
        }
        assert!(matches!(outcome, Ok(Outcome::Retry | Outcome::Resolved)), "{number}: {outcome:?}");
        assert_eq!((space.load(gpa(0)), space.translate(gpa(0)).unwrap().flags), (Ok(5_u64), RW), "{number}");
    }
}
