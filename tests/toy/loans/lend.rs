//! Pages that the lender is without.

use super::*;

#[test]
fn the_lender_is_without_until_it_is_back() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    board.events();
    let loan = lend(&lender, &borrower);
    assert_eq!(invalidations(&board), 1);
    assert_eq!(lender.translate(gpa(9 * PAGE)), None);
    for access in [Access::Read, Access::Write, Access::Execute] {
        assert_eq!(fault(&lender, 9 * PAGE, access), Outcome::Lent);
    }
    let lent = |at, len| Error::State { range: range(at, len), state: PageState::Lent };
    assert_eq!(value(&lender, 9 * PAGE), Err(lent(9 * PAGE, 8)));
    assert_eq!(lender.write(gpa(9 * PAGE - 4), &[0; 8]), Err(lent(9 * PAGE, 4)));
    assert_eq!([8, 9].map(|page| state_of(&lender, page)), [PageState::Owned, PageState::Lent]);
    assert_eq!((lender.stats().owned_frames, lender.stats().lent_frames), (2, 2));
    assert_eq!((lender.usage().frames, borrower.usage().frames), (4, 0), "the lender has it on its limit");
    assert_eq!(value(&borrower, LARGE + PAGE), Ok(2));
    borrower.write_obj(gpa(LARGE), 99_u64).unwrap();
    lender.reclaim(&loan, &borrower, Handover::Keep).unwrap();
    assert_eq!((value(&lender, 9 * PAGE), state_of(&lender, 9)), (Ok(99), PageState::Owned));
    assert_eq!(borrower.stats().areas, 0);
}

#[test]
fn zeroed_memory_is_clean_before_the_lender_sees_it() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    let at = lender.translate(gpa(9 * PAGE)).unwrap().hpa;
    let loan = lend(&lender, &borrower);
    borrower.unmap(range(LARGE, 2 * PAGE)).unwrap();
    board.synchronized();
    lender.reclaim_returned(&loan, Handover::Zero).unwrap();
    let done = board.synchronized();
    assert!(done.contains(&(at, PAGE, Content::Data)), "what was on its way comes before the zeros");
    assert_eq!(done.iter().rfind(|(page, ..)| *page == at), Some(&(at, PAGE, Content::Code)), "it is executable");
    assert_eq!((value(&lender, 9 * PAGE), value(&lender, 10 * PAGE)), (Ok(0), Ok(0)));
}

#[test]
fn blocks_are_split_at_the_ends_and_used_where_they_fit() {
    let board = Board::new();
    let (lender, borrower) = (board.space(), board.space());
    lender.map(range(0, 3 * BLOCK), BLOCKS, RW).unwrap();
    lender.write_obj(gpa(2 * BLOCK - 8), 5_u64).unwrap();
    // From the middle of a block to the end of the next.
    let part = range(BLOCK / 2, BLOCK / 2 + BLOCK);
    let loan = lender.lend(part, &borrower, gpa(LARGE - BLOCK / 2), RW).unwrap();
    assert_eq!(lender.stats().leaves[..2], [16, 1]);
    assert_eq!(borrower.stats().leaves[..2], [16, 1], "a block at an address that fits");
    assert_eq!(value(&borrower, LARGE + BLOCK - 8), Ok(5));
    lender.reclaim(&loan, &borrower, Handover::Keep).unwrap();
    assert_eq!(value(&lender, 2 * BLOCK - 8), Ok(5));
    assert_eq!(borrower.stats().leaves[..2], [0, 0]);
    let apart = lender.lend(part, &borrower, gpa(LARGE), RW).unwrap();
    assert_eq!(borrower.stats().leaves[..2], [48, 0], "pages where no block fits");
    lender.reclaim(&apart, &borrower, Handover::Keep).unwrap();
    assert_eq!((lender.stats().owned_frames, lender.stats().lent_frames), (96, 0));
}

/// The address, the use and the flags of a leaf go through the loan.
#[test]
fn what_comes_back_is_the_same_memory_and_written() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    let before = lender.translate(gpa(9 * PAGE)).unwrap();
    let loan = lend(&lender, &borrower);
    assert_eq!(borrower.translate(gpa(LARGE)).unwrap().hpa, before.hpa);
    lender.reclaim(&loan, &borrower, Handover::Keep).unwrap();
    assert_eq!(lender.translate(gpa(9 * PAGE)), Some(before));
}
