//! Pages that are shared several times at once.

use super::*;

fn page(page: usize) -> stage2::GuestPhysRange {
    range(page * PAGE, PAGE)
}

/// A lender, as [`pair`] makes it, and two borrowers: the first sees pages 8 to 10, the other pages 9 to 11.
fn three(board: &Board) -> ([Space; 3], [Loan; 2]) {
    let (lender, one) = pair(board);
    let other = board.space();
    let first = lender.share(range(8 * PAGE, 3 * PAGE), &one, gpa(LARGE), RW).unwrap();
    let second = lender.share(range(9 * PAGE, 3 * PAGE), &other, gpa(BLOCK), READ).unwrap();
    ([lender, one, other], [first, second])
}

#[test]
fn all_see_what_any_of_them_writes() {
    let board = Board::new();
    let ([lender, one, other], [first, second]) = three(&board);
    board.events();
    // The same borrower once more, at another address.
    let third = lender.share(page(9), &one, gpa(0), RW).unwrap();
    assert_eq!(invalidations(&board), 0);
    one.write_obj(gpa(LARGE + PAGE), 77_u64).unwrap();
    let seen = || [value(&lender, 9 * PAGE), value(&one, 0), value(&one, LARGE + PAGE), value(&other, BLOCK)];
    assert_eq!(seen(), [Ok(77); 4]);
    lender.write_obj(gpa(9 * PAGE), 88_u64).unwrap();
    assert_eq!(seen(), [Ok(88); 4]);
    assert_eq!(other.write_obj(gpa(BLOCK), 1_u8), Err(Error::Denied { range: range(BLOCK, 1), flags: READ }));
    assert_eq!([&first, &second, &third].map(Loan::borrowed), [3 * PAGE, 3 * PAGE, PAGE]);
    assert_eq!(lender.loans().unwrap(), [first, second, third]);
    assert_eq!((lender.stats().owned_frames, one.stats().borrowed_frames), (4, 4));
}

#[test]
fn a_page_is_on_loan_until_its_last_loan_is_over() {
    for first_first in [true, false] {
        let board = Board::new();
        let ([lender, one, other], [first, second]) = three(&board);
        let (ends, stays) =
            if first_first { ((&first, &one), (&second, &other)) } else { ((&second, &other), (&first, &one)) };
        lender.reclaim(ends.0, ends.1, Handover::Keep).unwrap();
        let alone = if first_first { 8 } else { 11 };
        let states = [8, 9, 10, 11].map(|page| (page, state_of(&lender, page)));
        for (page, state) in states {
            assert_eq!(state, if page == alone { PageState::Owned } else { PageState::SharedOut }, "page {page}");
        }
        let whole = range(9 * PAGE, 2 * PAGE);
        for refused in [
            lender.unmap(whole),
            lender.protect(whole, READ),
            lender.relocate(whole).map(drop),
            lender.lend(whole, &one, gpa(0), RW).map(drop),
            lender.donate(whole, &one, gpa(0), RW, Handover::Keep),
            lender.make_shared(whole).map(drop),
            lender.snapshot().map(drop),
        ] {
            let page = if alone == 8 || matches!(refused, Err(Error::State { range, .. }) if range == page(9)) {
                9
            } else {
                8
            };
            assert_eq!(refused, Err(is(page, PageState::SharedOut)));
        }
        assert_eq!(ends.1.stats().areas, 0);
        lender.reclaim(stays.0, stays.1, Handover::Keep).unwrap();
        assert_eq!(lender.loans().unwrap(), []);
        lender.unmap(range(8 * PAGE, 4 * PAGE)).unwrap();
        drop((lender, one, other));
        assert_eq!(board.allocated(), 0);
    }
}

/// A range that is shared in part can be shared as a whole, whatever loans there are, but not with more than its guest has.
#[test]
fn what_is_shared_in_part_is_shared_across() {
    let board = Board::new();
    let (lender, one) = pair(&board);
    let other = board.space();
    lender.protect(page(10), READ).unwrap();
    let middle = [(9, &one, 0, RW), (10, &one, PAGE, READ)];
    let middle = middle.map(|(at, to, there, flags)| lender.share(page(at), to, gpa(there), flags).unwrap());
    let all = range(8 * PAGE, 4 * PAGE);
    let refused = Error::Denied { range: page(10), flags: READ };
    assert_eq!(lender.share(all, &other, gpa(LARGE), RW), Err(refused));
    let across = lender.share(all, &other, gpa(LARGE), READ).unwrap();
    assert_eq!([0, 1, 2, 3].map(|page| value(&other, LARGE + page * PAGE)), [Ok(0), Ok(1), Ok(2), Ok(3)]);
    // The loan that was there first is not the last one.
    for loan in &middle {
        lender.reclaim(loan, &one, Handover::Keep).unwrap();
    }
    drop(lender);
    assert_eq!([0, 1, 2, 3].map(|page| value(&other, LARGE + page * PAGE)), [Ok(0), Ok(1), Ok(2), Ok(3)]);
    assert_eq!(across.borrowed(), 4 * PAGE);
    drop((one, other));
    assert_eq!(board.allocated(), 0);
}

#[test]
fn what_is_lent_is_with_one_borrower_only() {
    let board = Board::new();
    let (lender, one) = pair(&board);
    let other = board.space();
    lender.share(range(8 * PAGE, 3 * PAGE), &one, gpa(LARGE), RW).unwrap();
    lender.lend(page(11), &one, gpa(0), RW).unwrap();
    let before = (lender.to_string(), one.to_string(), board.allocated());
    for at in [8, 9, 10] {
        assert_eq!(lender.lend(page(at), &other, gpa(0), RW), Err(is(at, PageState::SharedOut)));
    }
    let refused = Err(is(11, PageState::Lent));
    assert_eq!(lender.share(range(10 * PAGE, 2 * PAGE), &other, gpa(0), RW), refused);
    assert_eq!(lender.lend(page(11), &other, gpa(0), RW), refused);
    assert_eq!((lender.to_string(), one.to_string(), board.allocated()), before);
}

/// Zeros are for memory that no other guest sees: what another loan has is left as it is, until that is over.
#[test]
fn a_page_is_zeroed_by_its_last_loan() {
    let board = Board::new();
    let ([lender, one, other], [first, second]) = three(&board);
    lender.reclaim(&first, &one, Handover::Zero).unwrap();
    assert_eq!([8, 9, 10, 11].map(|page| value(&lender, page * PAGE)), [Ok(0), Ok(1), Ok(2), Ok(3)]);
    assert_eq!(value(&other, BLOCK), Ok(1));
    lender.reclaim(&second, &other, Handover::Zero).unwrap();
    assert_eq!([8, 9, 10, 11].map(|page| value(&lender, page * PAGE)), [Ok(0); 4]);
    drop((lender, one, other));
}

/// Parts of loans that overlap, which are taken back in any order.
#[test]
fn parts_of_loans_that_overlap_are_taken_back_by_themselves() {
    use PageState::{Owned, SharedOut};

    let board = Board::new();
    let ([lender, one, other], [first, second]) = three(&board);
    lender.reclaim_part(&first, page(9), &one, Handover::Keep).unwrap();
    assert_eq!([8, 9, 10].map(|page| state_of(&lender, page)), [PageState::SharedOut; 3]);
    assert_eq!((value(&other, BLOCK), value(&one, LARGE + 2 * PAGE)), (Ok(1), Ok(2)));
    lender.reclaim_part(&second, range(9 * PAGE, 2 * PAGE), &other, Handover::Keep).unwrap();
    assert_eq!([8, 9, 10, 11].map(|page| state_of(&lender, page)), [SharedOut, Owned, SharedOut, SharedOut]);
    assert_eq!(lender.reclaim_part(&second, page(10), &other, Handover::Keep), Err(Error::NoLoan(page(10))));
    // Shared anew, in the middle of what is left of the first.
    let again = lender.share(range(8 * PAGE, 4 * PAGE), &other, gpa(2 * BLOCK), RW).unwrap();
    assert_eq!(lender.loans().unwrap().len(), 3);
    lender.reclaim(&first, &one, Handover::Keep).unwrap();
    lender.reclaim(&second, &other, Handover::Keep).unwrap();
    assert_eq!(again.outstanding().collect::<Vec<_>>(), [range(8 * PAGE, 4 * PAGE)]);
    lender.reclaim(&again, &other, Handover::Keep).unwrap();
    assert_eq!([8, 9, 10, 11].map(|page| state_of(&lender, page)), [Owned; 4]);
    assert_eq!((one.stats().areas, other.stats().areas), (0, 0));
}

/// A page is free when no side has it: lender and borrowers go in every order, each page by itself.
#[test]
fn a_page_is_freed_once_when_the_last_side_is_gone() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let board = Board::new();
        let (spaces, loans) = three(&board);
        let frames = [8, 9, 10, 11].map(|page| spaces[0].translate(gpa(page * PAGE)).unwrap().hpa);
        let users: [&[usize]; 4] = [&[0, 1], &[0, 1, 2], &[0, 1, 2], &[0, 2]];
        let mut spaces = spaces.map(Some);
        let mut gone = Vec::new();
        for side in order {
            board.events();
            spaces[side] = None;
            gone.push(side);
            let events = board.events();
            for (frame, users) in frames.iter().zip(users) {
                let freed = events.iter().filter(|event| **event == Event::Freed(*frame, 1)).count();
                let is_last = users.contains(&side) && users.iter().all(|user| gone.contains(user));
                assert_eq!(freed, usize::from(is_last), "{order:?}, {side}");
            }
        }
        assert_eq!((board.allocated(), loans[0].borrowed()), (0, 0), "{order:?}");
    }
}

/// The same page by page, as each borrower returns it.
#[test]
fn what_the_last_borrower_returns_is_free_at_once() {
    let board = Board::new();
    let ([lender, one, other], _) = three(&board);
    drop(lender);
    let tables = |space: &Space| space.stats().table_frames;
    let memory = || board.allocated() - tables(&one) - tables(&other);
    assert_eq!(memory(), 4);
    one.unmap(range(LARGE, 2 * PAGE)).unwrap();
    assert_eq!((memory(), value(&other, BLOCK)), (3, Ok(1)), "the other has page 9 still");
    other.unmap(range(BLOCK, 2 * PAGE)).unwrap();
    assert_eq!((memory(), value(&one, LARGE + 2 * PAGE)), (2, Ok(2)));
    one.unmap(range(LARGE + 2 * PAGE, PAGE)).unwrap();
    assert_eq!((memory(), value(&other, BLOCK + 2 * PAGE)), (1, Ok(3)));
    other.unmap(range(BLOCK + 2 * PAGE, PAGE)).unwrap();
    assert_eq!(memory(), 0);
}

/// Loans of one page that come and go for ever leave nothing behind, and no end of one takes more time than another's.
#[test]
fn loans_that_follow_each_other_leave_nothing() {
    let board = Board::new();
    let (lender, one) = pair(&board);
    let place = |round: usize| gpa(LARGE + round % 2 * PAGE);
    let mut last = lender.share(page(9), &one, place(0), RW).unwrap();
    let before = board.allocated();
    for round in 1..if cfg!(miri) { 5 } else { 5_000 } {
        // Before one ends, the next begins.
        let next = lender.share(page(9), &one, place(round), RW).unwrap();
        lender.reclaim(&last, &one, Handover::Keep).unwrap();
        assert_eq!((lender.loans().unwrap().len(), board.allocated()), (1, before));
        last = next;
    }
    drop(lender);
    drop((one, last));
    assert_eq!(board.allocated(), 0);
}

/// While two spaces share one page of a third and return it, none of it is lost.
#[test]
fn two_borrowers_return_at_once() {
    let rounds = if cfg!(miri) { 3 } else { 300 };
    for round in 0..rounds {
        let board = Board::new();
        let ([lender, one, other], _) = three(&board);
        let start = &std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            for (space, at) in [(&one, LARGE), (&other, BLOCK)] {
                scope.spawn(move || {
                    start.wait();
                    space.unmap(range(at, 3 * PAGE)).unwrap();
                });
            }
            start.wait();
            if round % 3 > 0 {
                drop(lender);
            }
        });
        drop((one, other));
        if round % 3 > 0 {
            assert_eq!(board.allocated(), 0);
        }
    }
}
