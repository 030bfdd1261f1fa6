//! Loans that were returned and that the hypervisor has no handle of any more.

use super::*;

fn return_all(borrower: &Space) {
    borrower.unmap(range(LARGE, 2 * PAGE)).unwrap();
}

/// A guest that has its memory shared and returned without end had the lender's book grow without end.
#[test]
fn of_shared_memory_are_over_when_it_is_shared_again() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    let before = board.owners();
    for round in 0..1000_u64 {
        // Each one has a page that the next has not, and one that it has.
        let first = [8, 9, 10, 9][round as usize % 4];
        let loan = lender.share(range(first * PAGE, 2 * PAGE), &borrower, gpa(LARGE), RW).unwrap();
        borrower.write_obj(gpa(LARGE), round).unwrap();
        assert_eq!((value(&lender, first * PAGE), lender.loans().unwrap()), (Ok(round), vec![loan]));
        let states = (8..12).map(|page| (page, state_of(&lender, page)));
        for (page, state) in states {
            let is_out = (first..first + 2).contains(&page);
            assert_eq!(
                state,
                if is_out { PageState::SharedOut } else { PageState::Owned },
                "round {round}, page {page}"
            );
        }
        return_all(&borrower);
        // What a loan has noted of its memory may be another's too, as long as that is not over.
        assert!(board.owners() <= before + 4, "{} in round {round}", board.owners() - before);
    }
    assert_eq!(lender.unmap(page_of(8)), Ok(()), "it is no loan's any more");
}

fn page_of(page: usize) -> stage2::GuestPhysRange {
    range(page * PAGE, PAGE)
}

/// They are the host's to reclaim, in whatever way it wants.
#[test]
fn are_not_over_while_there_is_a_handle() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    let kept = share(&lender, &borrower);
    return_all(&borrower);
    let next = share(&lender, &borrower);
    return_all(&borrower);
    assert_eq!(lender.loans().unwrap(), [kept.clone(), next.clone()]);
    drop(next);
    lender.reclaim_returned(&kept, Handover::Keep).unwrap();
    let last = share(&lender, &borrower);
    assert_eq!(lender.loans().unwrap(), [last], "the one without a handle is over");
    assert_eq!(lender.reclaim_returned(&kept, Handover::Keep), Err(Error::NoLoan(middle())));
}

#[test]
fn are_not_over_while_a_page_is_out() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    drop(share(&lender, &borrower));
    borrower.unmap(range(LARGE, PAGE)).unwrap();
    let next = lender.share(middle(), &borrower, gpa(BLOCK), RW).unwrap();
    assert_eq!(lender.loans().unwrap().len(), 2);
    lender.reclaim(&next, &borrower, Handover::Keep).unwrap();
    assert_eq!([9, 10].map(|page| state_of(&lender, page)), [PageState::SharedOut; 2]);
    borrower.write_obj(gpa(LARGE + PAGE), 5_u64).unwrap();
    assert_eq!(value(&lender, 10 * PAGE), Ok(5));
}

/// The page is out of the lender's reach until it says what becomes of its contents.
#[test]
fn of_lent_memory_are_never_over_by_themselves() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    drop(lend(&lender, &borrower));
    borrower.write_obj(gpa(LARGE), 5_u64).unwrap();
    return_all(&borrower);
    assert_eq!(lender.share(middle(), &borrower, gpa(LARGE), RW).map(drop), Err(is(9, PageState::Lent)));
    drop(lender.share(page_of(8), &borrower, gpa(LARGE), RW).unwrap());
    assert!(value(&lender, 9 * PAGE).is_err());
    let loan = lender.loans().unwrap().pop().unwrap();
    lender.reclaim_returned(&loan, Handover::Zero).unwrap();
    assert_eq!(value(&lender, 9 * PAGE), Ok(0));
}

/// The book has such a loan in two pieces. Another loan has one of them.
#[test]
fn in_pieces_are_over_too() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    let other = board.space();
    let all = range(8 * PAGE, 4 * PAGE);
    let loan = lender.share(all, &borrower, gpa(LARGE), RW).unwrap();
    lender.reclaim_part(&loan, page_of(9), &borrower, Handover::Keep).unwrap();
    drop(loan);
    let stays = lender.share(page_of(11), &other, gpa(0), RW).unwrap();
    assert_eq!(lender.loans().unwrap().len(), 2);
    borrower.unmap(range(LARGE, 4 * PAGE)).unwrap();
    let next = lender.share(page_of(8), &other, gpa(BLOCK), RW).unwrap();
    assert_eq!(lender.loans().unwrap(), [next, stays]);
    let states = [8, 9, 10, 11].map(|page| state_of(&lender, page));
    assert_eq!(states, [PageState::SharedOut, PageState::Owned, PageState::Owned, PageState::SharedOut]);
}
