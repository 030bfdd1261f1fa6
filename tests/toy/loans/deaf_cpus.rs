//! CPUs that cannot be told.

use super::*;

fn deaf(board: &Board, space: &Space) {
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
}

fn hearing(board: &Board, space: &Space) {
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
}

#[test]
fn lending_what_a_cpu_still_reaches_gives_nothing() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let (lender, borrower) = pair(&board);
    let before = (lender.to_string(), borrower.stats(), board.allocated());
    deaf(&board, &lender);
    let failed = lender.lend(middle(), &borrower, gpa(LARGE), RW);
    assert!(matches!(failed, Err(Error::Invalidation { range, .. }) if range == middle()));
    hearing(&board, &lender);
    assert_eq!((value(&lender, 9 * PAGE), state_of(&lender, 9)), (Ok(1), PageState::Owned));
    assert_eq!(lender.loans().unwrap(), []);
    assert_eq!((lender.to_string(), borrower.stats(), board.allocated()), before);
    lend(&lender, &borrower);
}

#[test]
fn splitting_under_a_cpu_that_cannot_be_told_gives_nothing() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let (lender, borrower) = (board.space(), board.space());
    lender.map(range(0, BLOCK), BLOCKS, RW).unwrap();
    deaf(&board, &lender);
    let failed = lender.share(range(PAGE, PAGE), &borrower, gpa(0), RW);
    assert!(matches!(failed, Err(Error::Invalidation { .. })));
    assert_eq!(borrower.stats().areas, 0);
    hearing(&board, &lender);
    lender.share(range(PAGE, PAGE), &borrower, gpa(0), RW).unwrap();
    assert_eq!(lender.stats().leaves[..2], [32, 0]);
}

#[test]
fn reclaiming_what_a_borrowers_cpu_still_reaches_takes_nothing() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let (lender, borrower) = pair(&board);
    let loan = lend(&lender, &borrower);
    borrower.unmap(range(LARGE, PAGE)).unwrap();
    deaf(&board, &borrower);
    let failed = lender.reclaim(&loan, &borrower, Handover::Zero);
    assert!(matches!(failed, Err(Error::Invalidation { .. })));
    hearing(&board, &borrower);
    assert_eq!((loan.borrowed(), state_of(&lender, 9)), (PAGE, PageState::Lent));
    assert_eq!(value(&borrower, LARGE + PAGE), Ok(2), "it is not zeroed under its eyes");
    lender.reclaim(&loan, &borrower, Handover::Zero).unwrap();
    assert_eq!(value(&lender, 10 * PAGE), Ok(0));
}

/// Returned is what no CPU reaches any more, not what is out of the tables.
#[test]
fn what_a_borrowers_cpu_still_reaches_is_not_returned() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let (lender, borrower) = pair(&board);
    let loan = lend(&lender, &borrower);
    deaf(&board, &borrower);
    assert!(matches!(borrower.unmap(range(LARGE, 2 * PAGE)), Err(Error::Invalidation { .. })));
    assert_eq!(loan.borrowed(), 2 * PAGE);
    assert!(matches!(lender.reclaim_returned(&loan, Handover::Keep), Err(Error::StillBorrowed { .. })));
    hearing(&board, &borrower);
    borrower.map(range(0, PAGE), LAZY, RW).unwrap();
    assert_eq!(loan.borrowed(), 0);
    lender.reclaim_returned(&loan, Handover::Keep).unwrap();
}
