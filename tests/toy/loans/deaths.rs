//! The end of a lender, of a borrower, of both.

use super::*;

#[test]
fn of_the_borrower_returns_everything() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    let loan = lend(&lender, &borrower);
    drop(borrower);
    assert_eq!(loan.borrowed(), 0);
    lender.reclaim_returned(&loan, Handover::Keep).unwrap();
    assert_eq!(value(&lender, 9 * PAGE), Ok(1));
    drop(lender);
    assert_eq!(board.allocated(), 0);
}

#[test]
fn of_the_lender_leaves_the_memory_to_the_borrower() {
    for lent in [true, false] {
        let board = Board::new();
        let (lender, borrower) = pair(&board);
        drop(if lent { lend(&lender, &borrower) } else { share(&lender, &borrower) });
        let at = borrower.translate(gpa(LARGE)).unwrap().hpa;
        drop(lender);
        assert_eq!(value(&borrower, LARGE), Ok(1));
        board.events();
        board.synchronized();
        borrower.unmap(range(LARGE, PAGE)).unwrap();
        let events = board.events();
        let place = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted).expect("it happened");
        let invalidated = place(&|event| matches!(event, Event::Invalidated(_)));
        assert!(place(&|event| *event == Event::Freed(at, 1)) > invalidated);
        assert!(board.synchronized().contains(&(at, PAGE, Content::Data)), "H14");
        assert_eq!(borrower.stats().borrowed_frames, 1);
        assert_eq!(value(&borrower, LARGE + PAGE), Ok(2), "what is not returned yet stays");
        drop(borrower);
        assert_eq!(board.allocated(), 0);
    }
}

#[test]
fn of_both_frees_once_in_either_order() {
    for lender_first in [true, false] {
        let board = Board::new();
        let (lender, borrower) = pair(&board);
        let loan = lend(&lender, &borrower);
        if lender_first {
            drop((lender, borrower));
        } else {
            drop((borrower, lender));
        }
        assert_eq!(board.allocated(), 0, "a handle reaches no memory");
        assert_eq!(loan.borrowed(), 0);
    }
}

/// A borrower whose CPU cannot be told never returns: neither the lender nor another space gets the memory.
#[test]
fn of_a_borrower_whose_cpu_is_inside_returns_nothing() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let (lender, borrower) = pair(&board);
    let loan = lend(&lender, &borrower);
    borrower.enter(CpuId(3), VcpuId(3)).unwrap();
    drop(borrower);
    assert_eq!(loan.borrowed(), 2 * PAGE);
    assert!(matches!(lender.reclaim_returned(&loan, Handover::Zero), Err(Error::StillBorrowed { .. })));
    let at = board.allocated();
    drop((lender, loan));
    assert!(board.allocated() >= 2 && board.allocated() < at);
}

#[test]
fn of_a_lender_whose_cpu_is_inside_frees_nothing_of_the_loan() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let (lender, borrower) = pair(&board);
    share(&lender, &borrower);
    lender.enter(CpuId(3), VcpuId(3)).unwrap();
    drop(lender);
    let before = board.allocated();
    board.events();
    borrower.unmap(range(LARGE, 2 * PAGE)).unwrap();
    let tables = before - board.allocated();
    drop(borrower);
    assert!(board.allocated() >= 4 + tables, "a CPU may still write it");
}
