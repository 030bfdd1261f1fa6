//! What is refused, and how it is named.

use super::*;

/// What memory in each state refuses, and that nothing is done when it does.
#[test]
fn every_wrong_transition_names_the_page_and_its_state() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    share(&lender, &borrower);
    lender.lend(range(8 * PAGE, PAGE), &borrower, gpa(0), RW).unwrap();
    let third = board.space();
    let before = || (lender.to_string(), borrower.to_string(), third.to_string(), board.allocated());
    let unchanged = before();
    for (page, state) in [(8, PageState::Lent), (9, PageState::SharedOut)] {
        let refused = Err(is(page, state));
        let one = range(page * PAGE, PAGE);
        if state == PageState::Lent {
            assert_eq!(lender.share(one, &third, gpa(0), RW).map(drop), refused);
        }
        assert_eq!(lender.donate(one, &third, gpa(0), RW, Handover::Keep), refused);
        assert_eq!(lender.make_shared(one).map(drop), refused);
        assert_eq!(lender.lend(one, &third, gpa(0), RW).map(drop), refused);
        assert_eq!(lender.unmap(one), refused);
        assert_eq!(lender.protect(one, READ), refused);
        assert_eq!(lender.relocate(one).map(drop), refused);
    }
    let whole = range(8 * PAGE, 4 * PAGE);
    assert_eq!(lender.unmap(whole), Err(is(8, PageState::Lent)), "the first page that is found");
    assert_eq!(lender.snapshot().map(drop), Err(is(8, PageState::Lent)));
    let (theirs, refused) = (range(LARGE, PAGE), Err(is(LARGE / PAGE, PageState::Borrowed)));
    assert_eq!(borrower.share(theirs, &third, gpa(0), RW).map(drop), refused, "sharing onward");
    assert_eq!(borrower.lend(theirs, &third, gpa(0), RW).map(drop), refused);
    assert_eq!(borrower.relocate(theirs).map(drop), refused);
    assert_eq!(borrower.snapshot().map(drop), Err(is(0, PageState::Borrowed)));
    assert_eq!(before(), unchanged);
}

#[test]
fn only_private_memory_is_given() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    let region = lender.region(2 * PAGE).unwrap();
    region.writer().unwrap().write_obj(0, 1_u8).unwrap();
    lender.map(range(0, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
    lender.map(range(PAGE, PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, READ).unwrap();
    region.freeze().unwrap();
    lender.map(range(2 * PAGE, PAGE), Mapping::CopyOnWrite { region, offset: 0 }, RW).unwrap();
    for (page, state) in [(0, PageState::Foreign), (1, PageState::Region), (2, PageState::Frozen)] {
        assert_eq!(lender.share(range(page * PAGE, PAGE), &borrower, gpa(0), READ), Err(is(page, state)));
    }
    lender.write_obj(gpa(2 * PAGE), 2_u8).unwrap();
    lender.share(range(2 * PAGE, PAGE), &borrower, gpa(0), READ).expect("a copy is the guest's own");
    let hole = Error::NotMapped(range(12 * PAGE, 2 * PAGE));
    assert_eq!(lender.share(range(11 * PAGE, 3 * PAGE), &borrower, gpa(PAGE), READ), Err(hole));
    assert_eq!(state_of(&lender, 20), PageState::Nothing);
    assert_eq!(lender.page_state(gpa(1 << 40)), PageState::Nothing);
}

#[test]
fn a_borrower_gets_no_more_than_it_may_have() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    let place = range(LARGE, 2 * PAGE);
    for (flags, never) in [(RWX, MappingFlags::EXECUTE), (RW | MappingFlags::DEVICE, MappingFlags::DEVICE)] {
        let refused = Error::Flags { range: place, flags: stage2::format::Inexpressible(never) };
        assert_eq!(lender.share(middle(), &borrower, gpa(LARGE), flags), Err(refused));
    }
    lender.protect(range(10 * PAGE, PAGE), READ).unwrap();
    let refused = Error::Denied { range: range(10 * PAGE, PAGE), flags: READ };
    assert_eq!(lender.share(middle(), &borrower, gpa(LARGE), RW), Err(refused));
    let uncached = MappingFlags::UNCACHED;
    let refused = Error::Flags { range: range(9 * PAGE, PAGE), flags: stage2::format::Inexpressible(uncached) };
    assert_eq!(lender.share(middle(), &borrower, gpa(LARGE), READ | uncached), Err(refused));
    lender.lend(middle(), &borrower, gpa(LARGE), READ | uncached).expect("there is one view at a time");
    assert!(!Owner::Borrowed.limit(RWX).contains(MappingFlags::EXECUTE));
}

#[test]
fn ranges_that_are_none_and_spaces_that_are_the_same() {
    let board = Board::new();
    let (lender, borrower) = pair(&board);
    assert_eq!(lender.share(middle(), &lender, gpa(0), RW), Err(Error::SameSpace(middle())));
    let odd = range(1, 2 * PAGE);
    assert_eq!(lender.share(middle(), &borrower, gpa(1), RW), Err(Error::Misaligned(odd)));
    let overflow = Error::Overflow { start: gpa(usize::MAX - PAGE + 1), size: 2 * PAGE };
    assert_eq!(lender.share(middle(), &borrower, gpa(usize::MAX - PAGE + 1), RW), Err(overflow));
    borrower.map(range(0, PAGE), LAZY, RW).unwrap();
    let overlap = Error::Overlap { range: range(0, 2 * PAGE), with: range(0, PAGE) };
    assert_eq!(lender.share(middle(), &borrower, gpa(0), RW), Err(overlap));
    let loan = share(&lender, &borrower);
    assert_eq!(lender.reclaim(&loan, &lender, Handover::Keep), Err(Error::SameSpace(middle())));
    assert_eq!(borrower.reclaim(&loan, &lender, Handover::Keep), Err(Error::NoLoan(middle())));
    let third = board.space();
    let elsewhere = Error::StillBorrowed { range: range(LARGE, 2 * PAGE), bytes: 2 * PAGE };
    assert_eq!(lender.reclaim(&loan, &third, Handover::Keep), Err(elsewhere));
    lender.reclaim(&loan, &borrower, Handover::Keep).unwrap();
}
