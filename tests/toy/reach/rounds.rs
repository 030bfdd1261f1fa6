//! Checkpoints that come and go: a guest that is alone again has no more than its pages, and they are its own once it
//! wrote them.

use std::collections::VecDeque;

use stage2::{GuestPhysRange, loan::Handover};

use super::*;

/// How many pages the guest has.
const COUNT: usize = 8;
const ROUNDS: usize = 100;

type Space = GuestSpace<Host>;

/// A guest whose pages are all written.
fn guest(board: &Board, pooled: bool) -> Space {
    let space = machine::space(board, pooled);
    space.map(whole(), LAZY, RW).unwrap();
    write_all(&space, 1);
    space
}

fn whole() -> GuestPhysRange {
    super::super::range(0, COUNT * PAGE)
}

fn write_all(space: &Space, value: u64) {
    for page in 0..COUNT {
        space.store(gpa(page * PAGE), value + page as u64).unwrap();
    }
}

fn has_all(space: &Space, value: u64) {
    for page in 0..COUNT {
        assert_eq!(space.load(gpa(page * PAGE)), Ok(value + page as u64), "page {page}");
    }
}

#[test]
fn checkpoints_that_were_dropped_cost_nothing() {
    for pooled in [true, false] {
        let board = Board::new();
        let space = guest(&board, pooled);
        for round in 0..ROUNDS {
            space.store(gpa(round % COUNT * PAGE), round as u64).unwrap();
            assert_eq!(held(&board, [&space]), COUNT, "round {round}: written");
            for _ in 0..2 {
                drop(space.snapshot().unwrap());
                assert_eq!(held(&board, [&space]), COUNT, "round {round}: a checkpoint was dropped");
            }
            assert_eq!(space.load(gpa(round % COUNT * PAGE)), Ok(round as u64));
        }
        drop(space);
        assert_eq!(board.allocated(), 0);
    }
}

#[test]
fn what_is_written_beside_a_checkpoint_goes_with_it() {
    for pooled in [true, false] {
        let board = Board::new();
        let space = guest(&board, pooled);
        for round in 0..ROUNDS {
            let snapshot = space.snapshot().unwrap();
            for copies in 1..=3 {
                space.store(gpa((round + copies) % COUNT * PAGE), round as u64).unwrap();
                assert_eq!(held(&board, [&space]), COUNT + copies, "round {round}");
            }
            drop(snapshot);
            assert_eq!(held(&board, [&space]), COUNT, "round {round}");
        }
    }
}

/// Each checkpoint has one page that is not as the next one has it.
#[test]
fn a_window_of_checkpoints_holds_what_differs() {
    for pooled in [true, false] {
        let board = Board::new();
        let space = guest(&board, pooled);
        let mut window = VecDeque::new();
        for round in 0..ROUNDS {
            space.store(gpa(round % COUNT * PAGE), round as u64).unwrap();
            window.push_back((round, space.snapshot().unwrap()));
            if window.len() > 3 {
                window.pop_front();
            }
            assert_eq!(held(&board, [&space]), COUNT + window.len() - 1, "round {round}");
            for (round, snapshot) in &window {
                assert_eq!(snapshot.region().load(round % COUNT * PAGE), Ok(*round as u64));
            }
        }
        // The one in the middle has nothing for itself: what it does not share with the last, the first has too.
        drop(window.remove(1));
        assert_eq!(held(&board, [&space]), COUNT + 2);
        drop(window.pop_front());
        assert_eq!(held(&board, [&space]), COUNT);
    }
}

/// An untouched page is the guest's own from its first touch on, whatever stands behind it.
#[test]
fn what_a_guest_touches_first_after_a_checkpoint_is_its_own() {
    for access in [Access::Read, Access::Write] {
        let board = Board::new();
        let space = machine::space(&board, true);
        space.map(whole(), LAZY, RW).unwrap();
        let snapshot = space.snapshot().unwrap();
        as_guest(&space, gpa(PAGE), access).unwrap();
        assert_eq!((held(&board, [&space]), space.usage().frames, space.stats().owned_frames), (1, 1, 1));
        assert_eq!(snapshot.region().load::<u64>(PAGE), Ok(0));
        space.store(gpa(PAGE), 7_u64).unwrap();
        assert_eq!((held(&board, [&space]), snapshot.region().load::<u64>(PAGE)), (1, Ok(0)));
        space.unmap(super::super::range(PAGE, PAGE)).unwrap();
        assert_eq!(held(&board, [&space]), 0);
    }
}

/// A guest that was checkpointed so many times, has no checkpoint left, and wrote all its pages since then.
fn alone_again(board: &Board, checkpoints: usize) -> Space {
    let space = guest(board, true);
    let all: Vec<_> = (0..checkpoints).map(|_| space.snapshot().unwrap()).collect();
    drop(all);
    write_all(&space, 100);
    assert_eq!((held(board, [&space]), space.usage().frames), (COUNT, COUNT), "{checkpoints} checkpoints");
    space
}

#[test]
fn what_a_guest_wrote_since_its_last_checkpoint_can_be_moved() {
    for checkpoints in 1..4 {
        let board = Board::new();
        let space = alone_again(&board, checkpoints);
        assert_eq!(space.relocate(whole()), Ok(COUNT));
        has_all(&space, 100);
        assert_eq!(held(&board, [&space]), COUNT);
    }
}

#[test]
fn what_a_guest_wrote_since_its_last_checkpoint_can_be_lent_and_shared() {
    for checkpoints in 1..4 {
        let board = Board::new();
        let (space, other) = (alone_again(&board, checkpoints), machine::space(&board, true));
        for lends in [false, true] {
            let loan = if lends {
                space.lend(whole(), &other, gpa(0), RW).unwrap()
            } else {
                space.share(whole(), &other, gpa(0), RW).unwrap()
            };
            has_all(&other, 100);
            assert_eq!((held(&board, [&space, &other]), space.usage().frames), (COUNT, COUNT));
            space.reclaim(&loan, &other, Handover::Keep).unwrap();
            assert_eq!(held(&board, [&space, &other]), COUNT);
        }
        has_all(&space, 100);
    }
}

#[test]
fn what_a_guest_wrote_since_its_last_checkpoint_can_be_given_away() {
    for checkpoints in 1..4 {
        let board = Board::new();
        let (space, other) = (alone_again(&board, checkpoints), machine::space(&board, true));
        space.donate(whole(), &other, gpa(0), RW, Handover::Keep).unwrap();
        has_all(&other, 100);
        assert_eq!((held(&board, [&space, &other]), space.usage().frames, other.usage().frames), (COUNT, 0, COUNT));
        drop(space);
        has_all(&other, 100);
        assert_eq!(held(&board, [&other]), COUNT);
    }
}

#[test]
fn what_a_guest_wrote_since_its_last_checkpoint_can_become_a_regions_and_private_again() {
    for checkpoints in 1..4 {
        let board = Board::new();
        let (space, other) = (alone_again(&board, checkpoints), machine::space(&board, true));
        let region = space.make_shared(whole()).unwrap();
        assert_eq!((region.frames(), space.usage().frames), (COUNT, 0));
        other.map(whole(), Mapping::Shared { region, offset: 0 }, RW).unwrap();
        has_all(&other, 100);
        write_all(&other, 200);
        assert_eq!(held(&board, [&space, &other]), COUNT);
        drop(other);
        space.make_private(whole(), Handover::Keep).unwrap();
        has_all(&space, 200);
        assert_eq!((held(&board, [&space]), space.usage().frames), (COUNT, COUNT));
    }
}

/// Nothing was written since: it is the guest's own all the same.
#[test]
fn what_a_dropped_checkpoint_left_is_the_guests_again() {
    for pooled in [true, false] {
        let board = Board::new();
        let (space, other) = (guest(&board, pooled), machine::space(&board, pooled));
        drop(space.snapshot().unwrap());
        assert_eq!(space.relocate(super::super::range(0, PAGE)), Ok(1), "moved");
        let loan = space.share(super::super::range(PAGE, PAGE), &other, gpa(PAGE), READ).unwrap();
        assert_eq!(other.load(gpa(PAGE)), Ok(2_u64));
        space.reclaim(&loan, &other, Handover::Keep).unwrap();
        let given = space.donate(super::super::range(2 * PAGE, PAGE), &other, gpa(0), RW, Handover::Keep);
        assert_eq!(given.is_ok(), pooled, "only an allocator that tells its pool frees another's frames");
        assert_eq!(other.load(gpa(0)).ok(), pooled.then_some(3_u64));
        let region = space.make_shared(super::super::range(3 * PAGE, PAGE)).unwrap();
        assert_eq!((region.frames(), held(&board, [&space, &other])), (1, COUNT));
        // One that lives shares them, and nothing is given away.
        let snapshot = space.snapshot().unwrap();
        let refused = space.make_shared(super::super::range(4 * PAGE, PAGE)).unwrap_err();
        assert!(matches!(refused, Error::State { .. }), "{refused}");
        assert_eq!(space.relocate(super::super::range(4 * PAGE, PAGE)), Ok(0));
        drop((snapshot, region));
        assert_eq!(held(&board, [&space, &other]), COUNT);
        drop((space, other));
        assert_eq!(board.allocated(), 0);
    }
}
