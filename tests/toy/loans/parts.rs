//! Parts of a loan that are taken back while the rest stays out.

use super::*;

/// Four pages on loan, from page 8 on.
fn four(board: Board, kind: LoanKind) -> (Board, Space, Space, Loan) {
    let (lender, borrower) = pair(&board);
    let all = range(8 * PAGE, 4 * PAGE);
    let loan = match kind {
        LoanKind::Shared => lender.share(all, &borrower, gpa(LARGE), RW).unwrap(),
        LoanKind::Lent => lender.lend(all, &borrower, gpa(LARGE), RW).unwrap(),
    };
    (board, lender, borrower, loan)
}

fn page(page: usize) -> stage2::GuestPhysRange {
    range(page * PAGE, PAGE)
}

fn outstanding(loan: &Loan) -> Vec<stage2::GuestPhysRange> {
    loan.outstanding().collect()
}

const KINDS: [(LoanKind, PageState); 2] = [(LoanKind::Shared, PageState::SharedOut), (LoanKind::Lent, PageState::Lent)];

#[test]
fn a_part_is_the_lenders_own_and_the_rest_stays_out() {
    for (kind, state) in KINDS {
        let (board, lender, borrower, loan) = four(Board::new(), kind);
        borrower.write_obj(gpa(LARGE + PAGE), 77_u64).unwrap();
        board.events();
        lender.reclaim_part(&loan, page(9), &borrower, Handover::Keep).unwrap();
        assert!(invalidations(&board) > 0, "the borrower's CPUs forget it");
        assert_eq!(value(&borrower, LARGE + PAGE), Err(Error::NotMapped(range(LARGE + PAGE, 8))));
        assert_eq!([8, 9, 10, 11].map(|page| state_of(&lender, page)), [state, PageState::Owned, state, state]);
        assert_eq!(value(&lender, 9 * PAGE), Ok(77));
        assert_eq!([0, 2, 3].map(|page| value(&borrower, LARGE + page * PAGE)), [Ok(0), Ok(2), Ok(3)]);
        assert_eq!((loan.borrowed(), outstanding(&loan)), (3 * PAGE, vec![page(8), range(10 * PAGE, 2 * PAGE)]));
        assert_eq!((lender.loans().unwrap(), borrower.stats().areas), (vec![loan.clone()], 2));
        // What is back is as if it had never been on loan.
        lender.protect(page(9), READ).unwrap();
        lender.relocate(page(9)).unwrap();
        lender.share(page(9), &borrower, gpa(0), READ).unwrap();
        // The rest is refused as before.
        for other in [8, 10, 11] {
            assert_eq!(lender.unmap(page(other)), Err(is(other, state)));
            assert_eq!(lender.protect(page(other), READ), Err(is(other, state)));
        }
        assert_eq!(lender.unmap(range(10 * PAGE, 2 * PAGE)), Err(is(10, state)));
    }
}

#[test]
fn the_last_part_ends_the_loan() {
    for (kind, _) in KINDS {
        let (board, lender, borrower, loan) = four(Board::new(), kind);
        // The middle, an end, a part that is returned, what is left.
        lender.reclaim_part(&loan, page(10), &borrower, Handover::Zero).unwrap();
        lender.reclaim_part(&loan, page(11), &borrower, Handover::Keep).unwrap();
        borrower.unmap(range(LARGE, PAGE)).unwrap();
        lender.reclaim_returned_part(&loan, page(8), Handover::Keep).unwrap();
        assert_eq!((outstanding(&loan), lender.loans().unwrap().len()), (vec![page(9)], 1));
        lender.reclaim_part(&loan, page(9), &borrower, Handover::Keep).unwrap();
        assert_eq!((loan.borrowed(), outstanding(&loan)), (0, vec![]));
        assert_eq!((lender.loans().unwrap(), borrower.stats().areas), (vec![], 0));
        let over = Err(Error::NoLoan(loan.lender_range()));
        assert_eq!(lender.reclaim(&loan, &borrower, Handover::Keep), over);
        assert_eq!(lender.reclaim_returned(&loan, Handover::Keep), over);
        assert_eq!([8, 9, 10, 11].map(|page| value(&lender, page * PAGE)), [Ok(0), Ok(1), Ok(0), Ok(3)]);
        lender.snapshot().unwrap();
        lender.unmap(range(8 * PAGE, 4 * PAGE)).unwrap();
        drop((lender, borrower));
        assert_eq!(board.allocated(), 0);
    }
}

/// What was taken back before is the guest's own: nothing that ends the rest touches it.
#[test]
fn what_is_left_is_reclaimed_as_a_whole() {
    for (kind, _) in KINDS {
        let (_board, lender, borrower, loan) = four(Board::new(), kind);
        lender.reclaim_part(&loan, range(9 * PAGE, 2 * PAGE), &borrower, Handover::Keep).unwrap();
        lender.write_obj(gpa(9 * PAGE), 55_u64).unwrap();
        lender.lend(page(10), &borrower, gpa(0), RW).unwrap();
        lender.reclaim(&loan, &borrower, Handover::Zero).unwrap();
        assert_eq!([8, 9, 11].map(|page| value(&lender, page * PAGE)), [Ok(0), Ok(55), Ok(0)]);
        assert_eq!([9, 10].map(|page| state_of(&lender, page)), [PageState::Owned, PageState::Lent]);
        assert_eq!(value(&borrower, 0), Ok(2), "the other loan is another");
    }
}

#[test]
fn what_is_no_part_of_it_is_refused_by_its_range() {
    let (board, lender, borrower, loan) = four(Board::new(), LoanKind::Shared);
    lender.map(range(12 * PAGE, PAGE), PAGES, RW).unwrap();
    lender.reclaim_part(&loan, page(10), &borrower, Handover::Keep).unwrap();
    let third = board.space();
    let before = (lender.to_string(), borrower.to_string(), outstanding(&loan));
    for part in [page(7), page(10), page(12), range(9 * PAGE, 2 * PAGE), range(11 * PAGE, 2 * PAGE)] {
        let refused = Err(Error::NoLoan(part));
        assert_eq!(lender.reclaim_part(&loan, part, &borrower, Handover::Zero), refused);
        assert_eq!(lender.reclaim_returned_part(&loan, part, Handover::Zero), refused);
    }
    for (part, error) in [
        (range(8 * PAGE, 0), Error::Empty(range(8 * PAGE, 0))),
        (range(8 * PAGE + 1, PAGE), Error::Misaligned(range(8 * PAGE + 1, PAGE))),
    ] {
        assert_eq!(lender.reclaim_part(&loan, part, &borrower, Handover::Zero), Err(error));
        assert_eq!(lender.reclaim_returned_part(&loan, part, Handover::Zero), Err(error));
    }
    let still = Error::StillBorrowed { range: range(LARGE + PAGE, PAGE), bytes: PAGE };
    assert_eq!(lender.reclaim_returned_part(&loan, page(9), Handover::Zero), Err(still));
    assert_eq!(lender.reclaim_part(&loan, page(9), &third, Handover::Zero), Err(still), "another space has it");
    assert_eq!(lender.reclaim_part(&loan, page(9), &lender, Handover::Zero), Err(Error::SameSpace(page(9))));
    assert_eq!(borrower.reclaim_part(&loan, page(9), &lender, Handover::Zero), Err(Error::NoLoan(page(9))));
    assert_eq!((lender.to_string(), borrower.to_string(), outstanding(&loan)), before);
}

/// Other memory of the borrower's, where a part was returned, is none of the loan.
#[test]
fn what_stands_where_a_part_was_stays() {
    let (_board, lender, borrower, loan) = four(Board::new(), LoanKind::Lent);
    borrower.unmap(range(LARGE + PAGE, PAGE)).unwrap();
    borrower.map(range(LARGE + PAGE, PAGE), PAGES, RW).unwrap();
    borrower.write_obj(gpa(LARGE + PAGE), 5_u64).unwrap();
    borrower.protect(range(LARGE + 2 * PAGE, PAGE), READ).unwrap();
    lender.reclaim_part(&loan, range(8 * PAGE, 3 * PAGE), &borrower, Handover::Keep).unwrap();
    assert_eq!((value(&borrower, LARGE + PAGE), value(&borrower, LARGE + 3 * PAGE)), (Ok(5), Ok(3)));
    assert_eq!((borrower.stats().areas, outstanding(&loan)), (2, vec![page(11)]));
    assert_eq!([8, 9, 10].map(|page| value(&lender, page * PAGE)), [Ok(0), Ok(1), Ok(2)]);
}

#[test]
fn blocks_that_a_parts_ends_cut_are_split_on_both_sides() {
    for (kind, state) in KINDS {
        let board = Board::new();
        let (lender, borrower) = (board.space(), board.space());
        lender.map(range(0, 3 * BLOCK), BLOCKS, RW).unwrap();
        lender.write_obj(gpa(BLOCK), 5_u64).unwrap();
        lender.write_obj(gpa(BLOCK - PAGE), 4_u64).unwrap();
        let all = range(0, 3 * BLOCK);
        let loan = match kind {
            LoanKind::Shared => lender.share(all, &borrower, gpa(LARGE), RW).unwrap(),
            LoanKind::Lent => lender.lend(all, &borrower, gpa(LARGE), RW).unwrap(),
        };
        assert_eq!(borrower.stats().leaves[..2], [0, 3]);
        // From a block's last page to the next one's first.
        let part = range(BLOCK - PAGE, 2 * PAGE);
        let spaces = || (lender.to_string(), borrower.to_string(), board.allocated(), outstanding(&loan));
        let before = spaces();
        for tables in 0..4 {
            board.allow(Some(tables));
            let failed = lender.reclaim_part(&loan, part, &borrower, Handover::Keep);
            board.allow(None);
            assert!(matches!(failed, Err(Error::NoMemory(_))), "{failed:?}");
            assert_eq!(spaces(), before);
        }
        board.allow(Some(4));
        lender.reclaim_part(&loan, part, &borrower, Handover::Keep).expect("two tables on each side");
        board.allow(None);
        assert_eq!((value(&lender, BLOCK - PAGE), value(&lender, BLOCK)), (Ok(4), Ok(5)));
        assert_eq!(borrower.stats().leaves[..2], [62, 1]);
        assert_eq!([BLOCK - 2 * PAGE, BLOCK + PAGE].map(|at| state_of(&lender, at / PAGE)), [state; 2]);
        assert_eq!(value(&borrower, LARGE + BLOCK - PAGE), Err(Error::NotMapped(range(LARGE + BLOCK - PAGE, 8))));
        assert_eq!(value(&borrower, LARGE + BLOCK + PAGE), Ok(0));
        // In the middle of a block, where the borrower has none any more.
        borrower.unmap(range(LARGE + 2 * BLOCK, BLOCK)).unwrap();
        lender.reclaim_returned_part(&loan, range(2 * BLOCK + 3 * PAGE, PAGE), Handover::Zero).unwrap();
        assert_eq!(state_of(&lender, (2 * BLOCK + 4 * PAGE) / PAGE), state);
        lender.unmap(range(2 * BLOCK + 3 * PAGE, PAGE)).unwrap();
        lender.reclaim(&loan, &borrower, Handover::Keep).unwrap();
        lender.unmap(range(0, 3 * BLOCK)).unwrap();
        drop((lender, borrower));
        assert_eq!(board.allocated(), 0);
    }
}

/// A CPU of the borrower's that cannot be told keeps the part, and one of the lender's keeps it from being split.
#[test]
fn a_part_that_a_cpu_may_still_reach_is_not_taken_back() {
    for of_borrower in [true, false] {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let (lender, borrower) = (board.space(), board.space());
        lender.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        lender.write_obj(gpa(PAGE), 5_u64).unwrap();
        let loan = lender.share(range(0, BLOCK), &borrower, gpa(LARGE), RW).unwrap();
        let space = if of_borrower { &borrower } else { &lender };
        space.enter(CpuId(3), VcpuId(3)).unwrap();
        board.deafen(Some(CpuId(3)));
        let failed = lender.reclaim_part(&loan, page(1), &borrower, Handover::Zero);
        assert!(matches!(failed, Err(Error::Invalidation { .. })), "{failed:?}");
        assert_eq!((loan.borrowed(), outstanding(&loan)), (BLOCK, vec![range(0, BLOCK)]));
        space.leave(CpuId(3)).unwrap();
        board.deafen(None);
        // The next exclusive operation of each finishes what was begun.
        borrower.map(range(0, PAGE), PAGES, RW).unwrap();
        lender.map(range(LARGE, PAGE), PAGES, RW).unwrap();
        assert_eq!((value(&borrower, LARGE + PAGE), state_of(&lender, 1)), (Ok(5), PageState::SharedOut));
        lender.reclaim_part(&loan, page(1), &borrower, Handover::Zero).unwrap();
        assert_eq!((value(&lender, PAGE), loan.borrowed()), (Ok(0), BLOCK - PAGE));
        drop((lender, borrower, loan));
        assert_eq!(board.allocated(), 0);
    }
}

/// A part in one page's leaf of its own, which a CPU may still write: it stays with the borrower as it was.
#[test]
fn a_page_that_a_borrowers_cpu_may_still_write_stays_there() {
    let (board, lender, borrower, loan) = four(Board::with(Reach::ThisCpu, Pieces::Any), LoanKind::Lent);
    borrower.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    let failed = lender.reclaim_part(&loan, page(9), &borrower, Handover::Zero);
    assert!(matches!(failed, Err(Error::Invalidation { range: at, .. }) if at == range(LARGE + PAGE, PAGE)));
    assert_eq!((outstanding(&loan), state_of(&lender, 9)), (vec![range(8 * PAGE, 4 * PAGE)], PageState::Lent));
    borrower.leave(CpuId(3)).unwrap();
    board.deafen(None);
    assert_eq!((value(&borrower, LARGE + PAGE), borrower.stats().areas), (Ok(1), 1));
    lender.reclaim_part(&loan, page(9), &borrower, Handover::Zero).unwrap();
    assert_eq!(value(&lender, 9 * PAGE), Ok(0));
}

/// The lender of a loan that it has in parts again leaves the rest to the borrower, and frees its own.
#[test]
fn a_lender_that_ends_leaves_what_is_still_out() {
    for (kind, _) in KINDS {
        let (board, lender, borrower, loan) = four(Board::new(), kind);
        lender.reclaim_part(&loan, page(9), &borrower, Handover::Keep).unwrap();
        borrower.unmap(range(LARGE + 3 * PAGE, PAGE)).unwrap();
        drop((lender, loan));
        assert_eq!((value(&borrower, LARGE), value(&borrower, LARGE + 2 * PAGE)), (Ok(0), Ok(2)));
        assert_eq!(board.allocated(), 2 + borrower.stats().table_frames, "what is returned is free, and the part");
        drop(borrower);
        assert_eq!(board.allocated(), 0);
    }
}
