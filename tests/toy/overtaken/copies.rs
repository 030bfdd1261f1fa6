//! First writes to what was inherited, and the hypervisor's reads of it.

use std::{sync::mpsc, thread, time::Duration};

use stage2::Snapshot;

use super::*;

/// Memory in which page 0 is in a snapshot, and starts with 1.
fn frozen(board: &Board, mapping: Mapping) -> (Arc<Space>, Snapshot) {
    let space = space(board);
    space.map(range(0, BLOCK), mapping, RW).unwrap();
    space.write_obj(gpa(0), 1_u64).unwrap();
    let snapshot = space.snapshot().unwrap();
    (space, snapshot)
}

/// The copy would be in no snapshot, and the guest go on writing it.
#[test]
fn are_refused_by_a_space_that_was_put_to_rest() {
    let board = Board::new();
    let (space, _snapshot) = frozen(&board, LAZY);
    board.on_allocation(elsewhere(&space, put_to_rest));
    assert_eq!(touch(&space, 0, Access::Write), Err(Error::Snapshotting(range(0, BLOCK))));
    assert_eq!((space.translate(gpa(0)).unwrap().flags, space.usage().frames), (READ, 0));
}

/// A page that may not be written any more is copied, and charged, for nothing.
#[test]
fn copy_nothing_that_the_area_denies_by_then() {
    let board = Board::new();
    let (space, _snapshot) = frozen(&board, LAZY);
    board.on_allocation(elsewhere(&space, |space| space.protect(range(0, BLOCK), READ).unwrap()));
    assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Retry));
    assert_eq!((space.usage().frames, space.stats().shared_frames), (0, 1));
}

/// What another CPU has written since then would be lost.
#[test]
fn leave_the_copy_that_another_cpu_has_made() {
    let board = Board::new();
    let (space, _snapshot) = frozen(&board, LAZY);
    board.on_allocation(elsewhere(&space, |space| space.write_obj(gpa(0), 5_u64).unwrap()));
    assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Retry));
    assert_eq!((space.load(gpa(0)), space.usage().frames), (Ok(5_u64), 1));
}

/// Two CPUs make a copy each, and what is written to the first is lost.
#[test]
fn leave_the_entry_that_another_cpu_has_claimed() {
    let board = Board::new();
    let (space, _snapshot) = frozen(&board, LAZY);
    let (arrive, arrived) = mpsc::channel();
    let (claim, claimed) = mpsc::channel::<()>();
    // The second CPU has found a frozen page, and goes on when the first has claimed it.
    board.on_allocation(move || {
        arrive.send(()).unwrap();
        claimed.recv_timeout(PATIENCE).unwrap();
    });
    let other = Arc::clone(&space);
    let second = thread::spawn(move || touch(&other, 0, Access::Write));
    arrived.recv_timeout(PATIENCE).unwrap();
    let (ends, ended) = mpsc::channel();
    board.on_invalidation(move || {
        claim.send(()).unwrap();
        ends.send(second.join().unwrap()).unwrap();
    });
    assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Resolved));
    assert_eq!(ended.try_recv().unwrap(), Ok(Outcome::Retry));
    assert_eq!((space.load(gpa(0)), space.usage().frames), (Ok(1_u64), 1));
}

/// A page that is taken before the entry is claimed is lost where the other CPU has the entry: that one finds nothing.
#[test]
fn take_a_page_when_its_entry_is_claimed() {
    // A frame for the copy, and three tables.
    for allocation in 1..=4 {
        let board = Board::new();
        let (parent, snapshot) = frozen(&board, LAZY);
        let space = space(&board);
        space.restore(&snapshot).unwrap();
        drop((parent, snapshot));
        board.at_allocation(
            allocation,
            elsewhere(&space, |space| {
                assert_eq!(touch(space, 0, Access::Write), Ok(Outcome::Resolved));
            }),
        );
        assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Retry), "{allocation}");
        assert_eq!((space.load(gpa(0)), space.usage().frames), (Ok(1_u64), 1), "{allocation}");
        assert_eq!(board.allocated(), 1 + space.stats().table_frames, "{allocation}");
    }
}

/// The page is the guest's own by then, and what it has written there would be unmapped.
#[test]
fn take_no_page_out_that_another_cpu_has_copied() {
    let board = Board::new();
    let (space, _snapshot) = frozen(&board, BLOCKS);
    eventful::before_exclusive(elsewhere(&space, |space| space.write_obj(gpa(PAGE), 9_u64).unwrap()));
    assert_eq!(touch(&space, PAGE, Access::Write), Ok(Outcome::Retry));
    assert_eq!((space.load(gpa(PAGE)), space.usage().frames), (Ok(9_u64), 1));
}

/// The snapshot went, and the block is the guest's own again.
#[test]
fn take_no_page_out_of_a_block_that_became_the_guests_own() {
    let board = Board::new();
    let (space, snapshot) = frozen(&board, BLOCKS);
    eventful::before_exclusive(elsewhere(&space, move |space| {
        drop(snapshot);
        assert_eq!(space.relocate(range(0, BLOCK)), Ok(BLOCK / PAGE));
        space.write_obj(gpa(PAGE), 9_u64).unwrap();
    }));
    assert_eq!(touch(&space, PAGE, Access::Write), Ok(Outcome::Retry));
    assert_eq!((space.load(gpa(PAGE)), space.stats().leaves[..2].to_vec()), (Ok(9_u64), vec![0, 1]));
}

/// The block is in pieces already, and CPUs would be made to forget one for nothing.
#[test]
fn take_nothing_out_of_a_block_that_is_in_pieces() {
    let board = Board::new();
    let (space, _snapshot) = frozen(&board, BLOCKS);
    let log = board.clone();
    eventful::before_exclusive(elsewhere(&space, move |space| {
        space.write_obj(gpa(2 * PAGE), 9_u64).unwrap();
        log.events();
    }));
    assert_eq!(touch(&space, PAGE, Access::Write), Ok(Outcome::Retry));
    let events = board.events();
    assert!(!events.iter().any(|event| matches!(event, Event::Invalidated(_))), "{events:?}");
}

/// The page was copied, and freed with the snapshot, before the reader has kept it.
#[test]
fn are_seen_by_a_read_that_had_found_the_page_before() {
    let board = Board::new();
    let (space, snapshot) = frozen(&board, LAZY);
    on_leaf(
        1,
        elsewhere(&space, move |space| {
            space.write_obj(gpa(0), 5_u64).unwrap();
            drop(snapshot);
        }),
    );
    assert_eq!(space.load(gpa(0)), Ok(5_u64));
}

/// How long a CPU is given that must not come to its end.
const GRACE: Duration = Duration::from_millis(100);

/// While the hypervisor reads, the page is not freed: a CPU that would leave it waits.
#[test]
fn wait_for_a_read_of_the_page() {
    let board = Board::new();
    let (space, snapshot) = frozen(&board, LAZY);
    let (write, written) = mpsc::channel();
    let (other, memory) = (Arc::clone(&space), board.clone());
    // The reader has the page, and has not read it.
    board.on_synchronization(move || {
        let (arrive, arrived) = mpsc::channel();
        memory.on_allocation(move || arrive.send(()).unwrap());
        thread::spawn(move || {
            other.write_obj(gpa(0), 5_u64).unwrap();
            drop((snapshot, other));
            let _ = write.send(());
        });
        arrived.recv_timeout(PATIENCE).expect("the other CPU copies");
        written.recv_timeout(GRACE).expect_err("the page is left while it is read");
    });
    assert_eq!(space.load(gpa(0)), Ok(1_u64));
}
