//! Pages that two guests see.

use super::*;

#[test]
fn both_see_what_either_writes_and_nothing_is_invalidated() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    board.events();
    let loan = share(&lender, &borrower);
    assert_eq!(invalidations(&board), 0);
    assert_eq!((loan.kind(), loan.flags(), loan.borrowed()), (LoanKind::Shared, RW, 2 * PAGE));
    assert_eq!((loan.lender_range(), loan.borrower_range()), (middle(), range(LARGE, 2 * PAGE)));
    assert_eq!((value(&borrower, LARGE), value(&borrower, LARGE + PAGE)), (Ok(1), Ok(2)));
    borrower.write_obj(gpa(LARGE), 77_u64).unwrap();
    lender.write_obj(gpa(10 * PAGE), 88_u64).unwrap();
    assert_eq!((value(&lender, 9 * PAGE), value(&borrower, LARGE + PAGE)), (Ok(77), Ok(88)));
    assert_eq!([8, 9, 10, 11].map(|page| state_of(&lender, page)), {
        use PageState::{Owned, SharedOut};
        [Owned, SharedOut, SharedOut, Owned]
    });
    assert_eq!(state_of(&borrower, LARGE / PAGE), PageState::Borrowed);
    assert_eq!(borrower.area(gpa(LARGE)).unwrap().kind, AreaKind::Borrowed);
    let (owner, other) = (lender.stats(), borrower.stats());
    assert_eq!((owner.owned_frames, owner.lent_frames), (4, 0));
    assert_eq!((other.owned_frames, other.borrowed_frames), (0, 2));
    assert_eq!(fault(&lender, 9 * PAGE, Access::Execute), Outcome::Retry, "the owner keeps what it had");
    assert_eq!(fault(&borrower, LARGE, Access::Execute), Outcome::Denied { flags: RW });
}

#[test]
fn untouched_pages_are_populated() {
    let board = Board::new();
    let (lender, borrower) = (board.space(), board.space());
    lender.map(range(0, 2 * PAGE), LAZY, RW).unwrap();
    lender.share(range(0, 2 * PAGE), &borrower, gpa(0), READ).unwrap();
    assert_eq!(lender.stats().owned_frames, 2);
    assert_eq!(value(&borrower, PAGE), Ok(0));
}

#[test]
fn the_borrowers_unmap_returns_and_frees_nothing() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    let before = (board.allocated(), borrower.stats().table_frames);
    let loan = share(&lender, &borrower);
    borrower.unmap(range(LARGE, PAGE)).unwrap();
    assert_eq!(loan.borrowed(), PAGE);
    let still = Error::StillBorrowed { range: range(LARGE, 2 * PAGE), bytes: PAGE };
    assert_eq!(lender.reclaim_returned(&loan, Handover::Keep), Err(still));
    assert_eq!(state_of(&lender, 9), PageState::SharedOut, "a loan is over as a whole");
    borrower.unmap(range(LARGE, 2 * PAGE)).unwrap();
    assert_eq!((loan.borrowed(), value(&lender, 9 * PAGE)), (0, Ok(1)));
    assert_eq!((board.allocated(), borrower.stats().table_frames), before);
    lender.reclaim_returned(&loan, Handover::Keep).unwrap();
    assert_eq!(state_of(&lender, 9), PageState::Owned);
    assert_eq!(lender.reclaim_returned(&loan, Handover::Keep), Err(Error::NoLoan(middle())));
    lender.unmap(range(8 * PAGE, 4 * PAGE)).unwrap();
    assert_eq!(board.allocated(), lender.stats().table_frames + borrower.stats().table_frames);
}

#[test]
fn reclaiming_unmaps_at_the_borrower_after_an_invalidation() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    let loan = share(&lender, &borrower);
    borrower.unmap(range(LARGE, PAGE)).unwrap();
    borrower.map(range(LARGE, PAGE), PAGES, RW).unwrap();
    board.events();
    lender.reclaim(&loan, &borrower, Handover::Keep).unwrap();
    assert!(invalidations(&board) > 0);
    assert_eq!(value(&borrower, LARGE), Ok(0), "what stands where the loan was is none of it");
    assert_eq!(value(&borrower, LARGE + PAGE), Err(Error::NotMapped(range(LARGE + PAGE, 8))));
    assert_eq!((state_of(&lender, 9), loan.borrowed()), (PageState::Owned, 0));
    assert_eq!(value(&lender, 10 * PAGE), Ok(2));
    assert_eq!(lender.reclaim(&loan, &borrower, Handover::Keep), Err(Error::NoLoan(middle())));
    assert_eq!(lender.loans().unwrap(), []);
}

#[test]
fn a_lost_handle_is_no_lost_memory() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    drop(share(&lender, &borrower));
    let later = lender.share(range(8 * PAGE, PAGE), &borrower, gpa(0), READ).unwrap();
    let loans = lender.loans().unwrap();
    assert_eq!(loans.iter().map(Loan::lender_range).collect::<Vec<_>>(), [range(8 * PAGE, PAGE), middle()]);
    assert_eq!(loans[0], later);
    for loan in &loans {
        lender.reclaim(loan, &borrower, Handover::Keep).unwrap();
    }
    assert_eq!(borrower.stats().areas, 0);
}

#[test]
fn a_borrower_restricts_its_view_and_raises_it_again_up_to_what_it_got() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    share(&lender, &borrower);
    borrower.protect(range(LARGE, PAGE), READ).unwrap();
    assert_eq!(borrower.write_obj(gpa(LARGE), 1_u8), Err(Error::Denied { range: range(LARGE, 1), flags: READ }));
    borrower.protect(range(LARGE, PAGE), RW).unwrap();
    borrower.write_obj(gpa(LARGE), 1_u8).unwrap();
    for flags in [RWX, READ | MappingFlags::EXECUTE] {
        // With the flags of its neighbour the page is one area with it again.
        let refused = Error::Denied { range: range(LARGE, 2 * PAGE), flags: RW };
        assert_eq!(borrower.protect(range(LARGE, PAGE), flags), Err(refused));
    }
}

#[test]
fn zeroing_is_a_choice() {
    for (handover, left) in [(Handover::Keep, 1), (Handover::Zero, 0)] {
        let board = Board::new();
        let (lender, borrower) = pair(&board);
        let loan = share(&lender, &borrower);
        lender.reclaim(&loan, &borrower, handover).unwrap();
        assert_eq!(value(&lender, 9 * PAGE), Ok(left));
        assert_eq!(value(&lender, 8 * PAGE + 3 * PAGE), Ok(3), "not what was not on loan");
    }
}
