//! What is missing of memory that is given away is allocated without the locks: by then the giver, or the taker, may be
//! something else.

use stage2::loan::PageState;

use super::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Donate,
    Share,
    Lend,
}

const WAYS: [Way; 3] = [Way::Donate, Way::Share, Way::Lend];

const GIVEN: GuestPhysRange =
    GuestPhysRange { start: GuestPhysAddr::from_usize(PAGE), end: GuestPhysAddr::from_usize(3 * PAGE) };

fn give(way: Way, giver: &Space, taker: &Space) -> Result<(), Error> {
    match way {
        Way::Donate => giver.donate(GIVEN, taker, gpa(0), RW, Handover::Keep),
        Way::Share => giver.share(GIVEN, taker, gpa(0), RW).map(drop),
        Way::Lend => giver.lend(GIVEN, taker, gpa(0), RW).map(drop),
    }
}

/// Two pages, one of which was touched, are given to another space, which has nothing; meanwhile something happens to
/// both spaces. What came of it.
fn overtaken(way: Way, by: fn(&Space, &Space)) -> (Result<(), Error>, Arc<Space>, Arc<Space>, Board) {
    let board = Board::new();
    let (giver, taker) = (space(&board), space(&board));
    giver.map(range(0, 4 * PAGE), LAZY, RW).unwrap();
    giver.write_obj(gpa(PAGE), 1_u64).unwrap();
    let other = Arc::clone(&taker);
    board.on_allocation(elsewhere(&giver, move |giver| by(giver, &other)));
    (give(way, &giver, &taker), giver, taker, board)
}

#[test]
fn nothing_is_given_to_where_the_taker_has_something_by_then() {
    for way in WAYS {
        let (result, giver, taker, _) = overtaken(way, |_, taker| taker.map(range(PAGE, PAGE), LAZY, RW).unwrap());
        let overlap = Error::Overlap { range: range(0, 2 * PAGE), with: range(PAGE, PAGE) };
        assert_eq!(result, Err(overlap), "{way:?}");
        assert_eq!((giver.load(gpa(PAGE)), taker.stats().areas), (Ok(1_u64), 1), "{way:?}");
    }
}

#[test]
fn nothing_is_given_that_is_the_givers_no_more() {
    for way in WAYS {
        let (result, giver, taker, _) = overtaken(way, |giver, _| giver.unmap(range(2 * PAGE, PAGE)).unwrap());
        assert_eq!(result, Err(Error::NotMapped(range(2 * PAGE, PAGE))), "{way:?}");
        assert_eq!((giver.load(gpa(PAGE)), taker.stats().areas), (Ok(1_u64), 0), "{way:?}");
        let (result, _, taker, _) = overtaken(way, |giver, taker| {
            giver.lend(range(PAGE, PAGE), taker, gpa(LARGE), RW).unwrap();
        });
        assert_eq!(result, Err(Error::State { range: range(PAGE, PAGE), state: PageState::Lent }), "{way:?}");
        assert_eq!(taker.stats().areas, 1, "{way:?}");
    }
}

/// A borrower may do no more than its lender.
#[test]
fn nothing_is_lent_with_what_its_lender_lost() {
    for way in [Way::Share, Way::Lend] {
        let (result, giver, taker, _) = overtaken(way, |giver, _| giver.protect(GIVEN, READ).unwrap());
        assert_eq!(result, Err(Error::Denied { range: GIVEN, flags: READ }), "{way:?}");
        assert_eq!((giver.load(gpa(PAGE)), taker.stats().areas), (Ok(1_u64), 0), "{way:?}");
    }
}

/// What a snapshot had, which is gone again, is the guest's own.
#[test]
fn what_was_in_a_snapshot_meanwhile_is_given() {
    for way in WAYS {
        let (result, _, taker, _) = overtaken(way, |giver, _| drop(giver.snapshot().unwrap()));
        assert_eq!((result, taker.load(gpa(0))), (Ok(()), Ok(1_u64)), "{way:?}");
    }
}

/// What a snapshot has is no guest's alone to give.
#[test]
fn what_is_in_a_snapshot_by_then_is_not_given() {
    for way in WAYS {
        let (result, giver, taker, _) = overtaken(way, |giver, _| std::mem::forget(giver.snapshot().unwrap()));
        assert_eq!(result, Err(Error::State { range: range(PAGE, PAGE), state: PageState::Frozen }), "{way:?}");
        assert_eq!((giver.load(gpa(PAGE)), taker.stats().areas), (Ok(1_u64), 0), "{way:?}");
    }
}

/// A space that is at rest neither gives nor takes.
#[test]
fn nothing_is_given_by_or_to_a_space_that_was_put_to_rest() {
    for way in WAYS {
        let (result, giver, taker, _) = overtaken(way, |giver, _| put_to_rest(giver));
        assert_eq!(result, Err(Error::Snapshotting(range(0, 4 * PAGE))), "{way:?}");
        assert_eq!((giver.load(gpa(PAGE)), taker.stats().areas), (Ok(1_u64), 0), "{way:?}");
        let (result, giver, taker, _) = overtaken(way, |_, taker| {
            taker.map(range(LARGE, PAGE), LAZY, RW).unwrap();
            put_to_rest(taker);
        });
        assert_eq!(result, Err(Error::Snapshotting(range(LARGE, PAGE))), "{way:?}");
        assert_eq!((giver.load(gpa(PAGE)), taker.stats().areas), (Ok(1_u64), 1), "{way:?}");
    }
}
