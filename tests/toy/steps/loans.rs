//! Loans that end in steps.

use super::*;

/// Memory that a lender left to its borrower when it was dropped.
#[test]
fn that_no_other_side_has_go_in_steps() {
    for budget in [1, 4, usize::MAX] {
        let board = Board::new();
        let (lender, borrower) = (board.space(), board.space());
        let empty = board.allocated() / 2;
        lender.map(range(0, 20 * PAGE), PAGES, RW).unwrap();
        drop(lender.share(range(0, 20 * PAGE), &borrower, gpa(LARGE), RW).unwrap());
        drop(lender);
        // What is unmapped here is freed with the last part.
        borrower.unmap(range(LARGE, 5 * PAGE)).unwrap();
        let taken = board.allocated() - empty;
        assert!(taken >= 20);
        let mut unmapping = borrower.unmap_in_steps(range(LARGE, 20 * PAGE)).unwrap();
        assert_eq!(all_steps(&board, budget, |budget| unmapping.step(budget)), taken);
        assert_eq!(unmapping.step(1), Progress::Done);
    }
}

#[test]
fn that_the_lender_has_stay_its_own() {
    let board = Board::new();
    let (lender, borrower) = (board.space(), board.space());
    lender.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
    lender.write(gpa(8), &[7; 8]).unwrap();
    let loan = lender.share(range(0, 4 * PAGE), &borrower, gpa(LARGE), RW).unwrap();
    let mut unmapping = borrower.unmap_in_steps(range(LARGE, 4 * PAGE)).unwrap();
    assert_eq!(loan.borrowed(), 0, "it is returned at once");
    while unmapping.step(1) == Progress::More {}
    lender.reclaim_returned(&loan, stage2::loan::Handover::Keep).unwrap();
    assert_eq!(lender.read_obj::<[u8; 8]>(gpa(8)), Ok([7; 8]));
    drop((loan, unmapping));
    assert_eq!(lender.read_obj::<[u8; 8]>(gpa(8)), Ok([7; 8]));
}
