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
        // What is unmapped here is free by itself.
        borrower.unmap(range(LARGE, 5 * PAGE)).unwrap();
        let taken = board.allocated() - empty;
        assert!((15..20).contains(&taken), "{taken}");
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

/// What borrowers returned before their lender was dismantled is free with it, a step at a time.
#[test]
fn that_were_returned_go_with_their_lender() {
    for budget in [1, 4, usize::MAX] {
        let board = Board::new();
        let (lender, one, other) = (board.space(), board.space(), board.space());
        let empty = board.allocated() / 3;
        lender.map(range(0, 20 * PAGE), PAGES, RW).unwrap();
        lender.share(range(0, 12 * PAGE), &one, gpa(LARGE), RW).unwrap();
        lender.share(range(8 * PAGE, 8 * PAGE), &other, gpa(LARGE), RW).unwrap();
        one.unmap(range(LARGE, 12 * PAGE)).unwrap();
        // Page 14 and 15 are still out, and so are the other's two tables.
        other.unmap(range(LARGE, 6 * PAGE)).unwrap();
        let taken = board.allocated() - 2 * empty - 2 - (other.stats().table_frames - empty);
        let mut dismantling = lender.dismantle().unwrap_or_else(|(_, error)| panic!("{error}"));
        assert_eq!(all_steps(&board, budget, |budget| dismantling.step(budget)), taken);
        other.unmap(range(LARGE + 6 * PAGE, 2 * PAGE)).unwrap();
        drop((one, other, dismantling));
        assert_eq!(board.allocated(), 0);
    }
}
