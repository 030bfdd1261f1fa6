//! Memory of one space in another, on a board whose CPUs may be deaf.

use stage2::{AreaKind, Handover, Loan, LoanKind, Owner, PageState};

use super::*;

type Space = GuestSpace<Machine>;

/// Two spaces of one board, with 4 pages of the first one's own from page 8 on, page `n` of which starts with `n`.
fn pair(board: &Board) -> (Space, Space) {
    let (lender, borrower) = (board.space(), board.space());
    lender.map(range(8 * PAGE, 4 * PAGE), LAZY, RWX).unwrap();
    for page in 0..4 {
        lender.write_obj(gpa((8 + page) * PAGE), page as u64).unwrap();
    }
    (lender, borrower)
}

/// The middle two of the pages.
fn middle() -> stage2::GuestPhysRange {
    range(9 * PAGE, 2 * PAGE)
}

fn share(lender: &Space, borrower: &Space) -> Loan {
    lender.share(middle(), borrower, gpa(LARGE), RW).unwrap()
}

fn lend(lender: &Space, borrower: &Space) -> Loan {
    lender.lend(middle(), borrower, gpa(LARGE), RW).unwrap()
}

fn state_of(space: &Space, page: usize) -> PageState {
    space.page_state(gpa(page * PAGE))
}

fn is(page: usize, state: PageState) -> Error {
    Error::State { range: range(page * PAGE, PAGE), state }
}

fn value(space: &Space, at: usize) -> Result<u64, Error> {
    space.read_obj(gpa(at))
}

fn invalidations(board: &Board) -> usize {
    board.events().iter().filter(|event| matches!(event, Event::Invalidated(_))).count()
}

mod share {
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
    fn what_nobody_touched_is_populated() {
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
            let refused = Error::Denied { range: range(LARGE, PAGE), flags: RW };
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
}

mod lend {
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
}

mod refusals {
    use super::*;

    /// What nobody may do with memory in a state, and that nothing of it is done.
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
            assert_eq!(lender.share(one, &third, gpa(0), RW).map(drop), refused);
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
            let refused = Error::Flags { range: place, flags: stage2::Inexpressible(never) };
            assert_eq!(lender.share(middle(), &borrower, gpa(LARGE), flags), Err(refused));
        }
        lender.protect(range(10 * PAGE, PAGE), READ).unwrap();
        let refused = Error::Denied { range: range(10 * PAGE, PAGE), flags: READ };
        assert_eq!(lender.share(middle(), &borrower, gpa(LARGE), RW), Err(refused));
        let uncached = MappingFlags::UNCACHED;
        let refused = Error::Flags { range: range(9 * PAGE, PAGE), flags: stage2::Inexpressible(uncached) };
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
}

mod deaf_cpus {
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
}

mod deaths {
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
            borrower.unmap(range(LARGE, PAGE)).unwrap();
            board.events();
            assert_eq!(value(&borrower, LARGE + PAGE), Ok(2), "all of it until the last page is returned");
            board.synchronized();
            borrower.unmap(range(LARGE, 2 * PAGE)).unwrap();
            let events = board.events();
            let place = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted).expect("it happened");
            let invalidated = place(&|event| matches!(event, Event::Invalidated(_)));
            assert!(place(&|event| *event == Event::Freed(at, 1)) > invalidated);
            assert!(board.synchronized().contains(&(at, PAGE, Content::Data)), "H14");
            assert_eq!(borrower.stats().borrowed_frames, 0);
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
            assert_eq!(board.allocated(), 2, "a handle is left");
            drop(loan);
            assert_eq!(board.allocated(), 0);
        }
    }

    /// A borrower whose CPU cannot be told never returns: neither the lender nor anybody else gets the memory.
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
}

/// The n-th allocation fails, for every n: nothing is given and nothing lost.
#[test]
fn out_of_memory_gives_nothing() {
    for lent in [true, false] {
        let board = Board::new();
        let (lender, borrower) = (board.space(), board.space());
        lender.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        lender.write_obj(gpa(PAGE), 5_u64).unwrap();
        let before = (lender.to_string(), borrower.to_string(), board.allocated());
        let part = range(PAGE, 2 * PAGE);
        let give = || {
            if lent { lender.lend(part, &borrower, gpa(0), RW) } else { lender.share(part, &borrower, gpa(0), RW) }
        };
        let mut failures = 0;
        let loan = loop {
            board.allow(Some(failures));
            let given = give();
            board.allow(None);
            match given {
                Ok(loan) => break loan,
                Err(error) => assert!(matches!(error, Error::NoMemory(_)), "{error}"),
            }
            assert_eq!((lender.to_string(), borrower.to_string(), board.allocated()), before);
            failures += 1;
        };
        assert_eq!(failures, 4, "three tables of the borrower's, one that splits");
        board.allow(Some(0));
        lender.reclaim(&loan, &borrower, Handover::Zero).expect("taking back allocates no frame");
        board.allow(None);
        assert_eq!(value(&lender, PAGE), Ok(0));
    }
}

/// Two spaces that give to each other take their locks in one order.
#[test]
fn opposite_directions_do_not_wait_for_each_other() {
    let board = Board::new();
    let (one, other) = (board.space(), board.space());
    for space in [&one, &other] {
        space.map(range(0, PAGE), PAGES, RW).unwrap();
    }
    let rounds = if cfg!(miri) { 10 } else { 20_000 };
    let start = &std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        for (from, to) in [(&one, &other), (&other, &one)] {
            scope.spawn(move || {
                start.wait();
                for round in 0..rounds {
                    let loan = from.lend(range(0, PAGE), to, gpa(LARGE), RW).unwrap();
                    to.write_obj(gpa(LARGE), round).unwrap();
                    from.reclaim(&loan, to, Handover::Keep).unwrap();
                    assert_eq!(from.read_obj::<usize>(gpa(0)), Ok(round));
                }
            });
        }
    });
}
