//! Private memory that comes from a source.

use stage2::loan::Handover;

use super::*;

#[test]
fn comes_with_the_first_touch_and_is_the_guests_own() {
    let board = Board::new();
    let (space, script, _) = sourced(&board, 4);
    script.answers(Supply::Ready);
    assert_eq!((script.asked().len(), space.stats().owned_frames), (0, 0));
    assert_eq!(fault(&space, 2 * PAGE + 5, Access::Read), Outcome::Resolved);
    // No other guest can ever see it: the first read makes it writable.
    let leaf = space.translate(gpa(2 * PAGE)).unwrap();
    assert_eq!((leaf.flags, space.stats().owned_frames, space.stats().shared_frames), (RW, 1, 0));
    assert_eq!(fault(&space, 3 * PAGE, Access::Write), Outcome::Resolved);
    assert_eq!(space.translate(gpa(3 * PAGE)).unwrap().flags, RW);
    assert_eq!(script.asked(), [6, 7]);
    assert_eq!(script.settled(), [(6, Settled::Ready), (7, Settled::Ready)]);
    assert_eq!(space.read_obj::<[u64; 2]>(gpa(2 * PAGE)), Ok([content(6 * PAGE), 0]));
    assert_eq!(space.load::<u64>(gpa(7 * PAGE)), Ok(content(11 * PAGE)));
    assert_eq!(script.asked(), [11]);
}

#[test]
fn two_faults_ask_once_and_wait_for_the_same() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 4);
    let ticket = waits(&space, PAGE, Access::Write);
    assert_eq!(waits(&space, PAGE + 8, Access::Read), ticket);
    assert_eq!((ticket.offset(), script.asked()), (5 * PAGE, vec![5]));
    assert_eq!((pager.state(ticket), space.stats().owned_frames), (Waiting::NotYet, 0));
    assert_eq!(pager.complete(ticket, Ok(&page(5 * PAGE))), Ok(()));
    assert_eq!((pager.state(ticket), script.settled()), (Waiting::Over, vec![(5, Settled::Ready)]));
    assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Resolved);
    assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Retry);
    assert_eq!((space.load(gpa(PAGE)), script.asked()), (Ok(content(5 * PAGE)), vec![]));
}

/// What is given away comes first; what is refused is not asked for.
#[test]
fn is_brought_to_be_given_and_not_to_be_refused() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 4);
    let taker = board.space();
    space.map(range(8 * PAGE, 2 * PAGE), LAZY, RW).unwrap();
    let (given, last) = (range(6 * PAGE, 4 * PAGE), range(LARGE + 3 * PAGE, PAGE));
    let before = (space.to_string(), space.stats(), space.usage(), board.allocated());
    let donate = || space.donate(given, &taker, gpa(LARGE), RW, Handover::Keep);
    let is_as_before = || {
        space.set_limits(stage2::Limits::default());
        assert_eq!((space.to_string(), space.stats(), space.usage(), board.allocated()), before);
    };
    taker.map(last, LAZY, RW).unwrap();
    assert!(matches!(donate(), Err(Error::Overlap { .. })));
    assert!(matches!(space.share(given, &taker, gpa(LARGE), RW), Err(Error::Overlap { .. })));
    is_as_before();
    taker.unmap(last).unwrap();
    space.set_limits(stage2::Limits { frames: Some(3), ..stage2::Limits::default() });
    assert!(matches!(donate(), Err(Error::Limit { limit: 3, .. })));
    is_as_before();
    assert_eq!(script.asked(), []);
    let Err(Error::NotYet { ticket, .. }) = donate() else { panic!("it has not come") };
    is_as_before();
    pager.complete(ticket, Ok(&page(10 * PAGE))).unwrap();
    script.answers(Supply::Ready);
    donate().unwrap();
    assert_eq!(script.asked(), [10, 11]);
    let values = [0, 1, 2, 3].map(|page| taker.load::<u64>(gpa(LARGE + page * PAGE)).unwrap());
    assert_eq!(values, [content(10 * PAGE), content(11 * PAGE), 0, 0]);
    assert_eq!((space.usage().frames, taker.usage().frames), (0, 4));
}

/// A page that a guest has written must not come a second time, with what it was before.
#[test]
fn a_page_that_came_is_not_asked_for_again() {
    let board = Board::new();
    let (space, script, _) = sourced(&board, 1);
    script.answers(Supply::Ready);
    space.store(gpa(0), 7_u64).unwrap();
    space.relocate(range(0, 8 * PAGE)).unwrap();
    space.protect(range(0, PAGE), READ).unwrap();
    assert_eq!((space.load(gpa(0)), script.asked()), (Ok(7_u64), vec![4]));
}

#[test]
fn an_answer_that_is_none_changes_nothing() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 4);
    let ticket = waits(&space, 0, Access::Write);
    let allocated = board.allocated();
    for size in [0, 1, PAGE - 1, PAGE + 1, 2 * PAGE] {
        let refused = pager.complete(ticket, Ok(&vec![1; size]));
        assert_eq!(refused, Err(SourceError::BadSize { ticket, size }));
    }
    let (_, stranger) = super::pager(4);
    assert_eq!(stranger.complete(ticket, Ok(&page(0))), Err(SourceError::NotPending { ticket }));
    assert_eq!(pager.retry(ticket), Err(SourceError::NotFailed { ticket }));
    assert_eq!((pager.state(ticket), board.allocated()), (Waiting::NotYet, allocated));
    assert_eq!(pager.complete(ticket, Ok(&page(4 * PAGE))), Ok(()));
    for second in [Ok(&page(0)[..]), Err(SourceFailed)] {
        assert_eq!(pager.complete(ticket, second), Err(SourceError::NotPending { ticket }));
    }
    assert_eq!(fault(&space, 0, Access::Read), Outcome::Resolved);
    assert_eq!(pager.complete(ticket, Ok(&page(0))), Err(SourceError::NotPending { ticket }));
    assert_eq!((space.load(gpa(0)), script.settled().len()), (Ok(content(4 * PAGE)), 1));
}

#[test]
fn a_failure_is_every_cpus_until_it_is_tried_again() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 4);
    let ticket = waits(&space, 0, Access::Write);
    assert_eq!(waits(&space, 0, Access::Read), ticket);
    assert_eq!(pager.complete(ticket, Err(SourceFailed)), Ok(()));
    assert_eq!((pager.state(ticket), script.settled()), (Waiting::Over, vec![(4, Settled::Failed)]));
    for access in [Access::Read, Access::Write, Access::Read] {
        assert_eq!(fault(&space, 0, access), Outcome::SourceFailed(ticket));
    }
    let failed = Err(Error::SourceFailed { range: range(4, 2), ticket });
    assert_eq!(space.read(gpa(4), &mut [0; 2]), failed);
    assert_eq!(pager.complete(ticket, Ok(&page(0))), Err(SourceError::NotPending { ticket }));
    script.answers(Supply::Failed);
    let (_, at_once) = (script.asked(), fault(&space, PAGE, Access::Read));
    assert!(matches!(at_once, Outcome::SourceFailed(other) if other != ticket), "{at_once:?}");
    assert_eq!((script.asked(), script.settled()), (vec![5], vec![(5, Settled::Failed)]));
    script.answers(Supply::Ready);
    assert_eq!(pager.retry(ticket), Ok(()));
    assert_eq!(pager.retry(ticket), Err(SourceError::NotFailed { ticket }));
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    assert_eq!(space.load(gpa(0)), Ok(content(4 * PAGE)));
}

#[test]
fn unmapping_cancels_what_it_covers_and_nothing_else() {
    let board = Board::new();
    let empty = board.allocated();
    let (space, script, pager) = sourced(&board, 4);
    let tickets: Vec<_> = (0..4).map(|index| waits(&space, index * PAGE, Access::Write)).collect();
    assert_eq!(pager.complete(tickets[3], Err(SourceFailed)), Ok(()));
    script.settled();
    space.unmap(range(PAGE, 3 * PAGE)).unwrap();
    assert_eq!(script.settled(), [(5, Settled::Cancelled), (6, Settled::Cancelled)]);
    let states = tickets.iter().map(|&ticket| pager.state(ticket)).collect::<Vec<_>>();
    assert_eq!(states, [Waiting::NotYet, Waiting::Over, Waiting::Over, Waiting::Over]);
    assert_eq!(pager.retry(tickets[3]), Err(SourceError::NotFailed { ticket: tickets[3] }));
    let late = pager.complete(tickets[1], Ok(&page(5 * PAGE)));
    assert_eq!(late, Err(SourceError::NotPending { ticket: tickets[1] }));
    assert_eq!(fault(&space, PAGE, Access::Read), Outcome::NotMapped);
    // The same page of the source for the same address again is another wait.
    space.map_from(range(PAGE, PAGE), &pager, 5 * PAGE, RW).unwrap();
    let again = waits(&space, PAGE, Access::Read);
    assert_ne!(again, tickets[1]);
    for stale in [Ok(&page(0)[..]), Err(SourceFailed)] {
        assert_eq!(pager.complete(tickets[1], stale), Err(SourceError::NotPending { ticket: tickets[1] }));
    }
    assert_eq!([tickets[1], again].map(|ticket| pager.state(ticket)), [Waiting::Over, Waiting::NotYet]);
    assert_eq!(pager.complete(again, Ok(&page(5 * PAGE))), Ok(()));
    assert_eq!(space.load(gpa(PAGE)), Ok(content(5 * PAGE)));
    space.unmap(range(0, PAGE)).unwrap();
    assert_eq!(script.settled(), [(5, Settled::Ready), (4, Settled::Cancelled)]);
    drop(space);
    assert_eq!(board.allocated(), empty);
}

#[test]
fn the_end_of_the_space_cancels_all() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 2);
    let tickets = [waits(&space, 0, Access::Write), waits(&space, PAGE, Access::Write)];
    drop(space);
    assert_eq!(script.settled(), [(4, Settled::Cancelled), (5, Settled::Cancelled)]);
    for ticket in tickets {
        assert_eq!(pager.complete(ticket, Ok(&page(0))), Err(SourceError::NotPending { ticket }));
    }
    assert_eq!(board.allocated(), 0);
    drop(pager);
    assert_eq!(Arc::strong_count(&script), 1, "the source is still referenced");
}

/// What was to be taken away is out of the map, though a CPU may still reach it.
#[test]
fn unmapping_cancels_though_a_cpu_cannot_be_told() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let (space, script, pager) = sourced(&board, 2);
    let there = waits(&space, 0, Access::Write);
    pager.complete(there, Ok(&page(4 * PAGE))).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    waits(&space, PAGE, Access::Write);
    script.settled();
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.unmap(range(0, 2 * PAGE)), Err(Error::Invalidation { .. })));
    assert_eq!(script.settled(), [(5, Settled::Cancelled)]);
    space.leave(CpuId(3)).unwrap();
}

/// Between two waits that end, another CPU finishes what could not be told, and lets go what was removed.
#[test]
fn what_is_finished_meanwhile_ends_the_waits_that_are_left() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let (space, script, pager) = sourced(&board, 3);
    let space = Arc::new(space);
    // Three areas of one mapping, of which the last stays.
    space.protect(range(PAGE, PAGE), MappingFlags::READ).unwrap();
    pager.complete(waits(&space, 0, Access::Write), Ok(&page(4 * PAGE))).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    space.protect(range(0, PAGE), MappingFlags::READ).unwrap();
    space.protect(range(0, PAGE), RW).unwrap();
    let tickets = [waits(&space, PAGE, Access::Read), waits(&space, 2 * PAGE, Access::Write)];
    script.settled();
    let (inside, deaf) = (Arc::downgrade(&space), board.clone());
    let meanwhile = move |moment: Moment| {
        if let (Moment::Settled(_), Some(space)) = (moment, inside.upgrade()) {
            deaf.deafen(None);
            let _ = space.leave(CpuId(3));
            let _ = space.map(range(16 * PAGE, PAGE), LAZY, RW);
        }
    };
    assert!(script.meanwhile.set(Box::new(meanwhile)).is_ok());
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.unmap(range(0, 3 * PAGE)), Err(Error::Invalidation { .. })));
    assert_eq!(script.settled(), [(5, Settled::Cancelled), (6, Settled::Cancelled)]);
    assert_eq!(tickets.map(|ticket| pager.state(ticket)), [Waiting::Over; 2]);
}

#[test]
fn room_for_so_many_and_no_more() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 2);
    let (first, second) = (waits(&space, 0, Access::Write), waits(&space, PAGE, Access::Write));
    // Wait for the oldest, and try again.
    assert_eq!(waits(&space, 2 * PAGE, Access::Write), first);
    assert_eq!(space.load::<u8>(gpa(3 * PAGE)), Err(Error::NotYet { range: range(3 * PAGE, 1), ticket: first }));
    assert_eq!(script.asked(), [4, 5]);
    pager.complete(first, Ok(&page(4 * PAGE))).unwrap();
    let third = waits(&space, 2 * PAGE, Access::Write);
    assert_eq!((script.asked(), waits(&space, 3 * PAGE, Access::Write)), (vec![6], second));
    // A failure makes room, and is forgotten.
    pager.complete(third, Err(SourceFailed)).unwrap();
    let fourth = waits(&space, 3 * PAGE, Access::Write);
    assert_eq!(waits(&space, 2 * PAGE, Access::Write), second);
    pager.complete(second, Ok(&page(5 * PAGE))).unwrap();
    let again = waits(&space, 2 * PAGE, Access::Write);
    assert!(again != third && again != fourth);
    assert_eq!(script.asked(), [7, 6]);
}

#[test]
fn what_the_hypervisor_reads_and_writes_waits_too() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 4);
    script.answers(Supply::Ready);
    assert_eq!(space.load(gpa(0)), Ok(content(4 * PAGE)));
    script.answers(Supply::Later);
    let mut bytes = [0xff; PAGE];
    let Err(Error::NotYet { range: missing, ticket }) = space.read(gpa(8), &mut bytes) else { panic!() };
    assert_eq!((missing, ticket.offset()), (range(PAGE, 8), 5 * PAGE));
    // What is before it was read.
    assert_eq!((bytes[PAGE - 9], bytes[PAGE - 8]), (0, 0xff));
    let not_yet = |at, size| Err(Error::NotYet { range: range(at, size), ticket });
    assert_eq!(space.write(gpa(PAGE + 1), &[1; 3]), not_yet(PAGE + 1, 3));
    assert_eq!(space.store(gpa(PAGE + 16), 1_u32), not_yet(PAGE + 16, 4));
    assert_eq!(space.compare_exchange(gpa(PAGE), 1_u64, 2).map(drop), not_yet(PAGE, 8));
    assert_eq!((script.asked(), pager.state(ticket)), (vec![4, 5], Waiting::NotYet));
    pager.complete(ticket, Ok(&page(5 * PAGE))).unwrap();
    assert_eq!(space.compare_exchange(gpa(PAGE), content(5 * PAGE), 2), Ok(Ok(content(5 * PAGE))));
    assert_eq!(space.load(gpa(PAGE)), Ok(2_u64));
}

#[test]
fn a_page_gets_the_flags_that_its_area_has_when_it_comes() {
    let board = Board::new();
    let (space, _, pager) = sourced(&board, 4);
    let (first, second) = (waits(&space, 0, Access::Write), waits(&space, PAGE, Access::Read));
    space.protect(range(0, PAGE), READ).unwrap();
    space.protect(range(PAGE, PAGE), RWX).unwrap();
    board.synchronized();
    for ticket in [first, second] {
        assert_eq!(pager.state(ticket), Waiting::NotYet);
        pager.complete(ticket, Ok(&page(ticket.offset()))).unwrap();
    }
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Denied { flags: READ });
    assert_eq!(fault(&space, 0, Access::Read), Outcome::Resolved);
    assert_eq!(fault(&space, PAGE, Access::Execute), Outcome::Resolved);
    let leaves = [0, PAGE].map(|at| space.translate(gpa(at)).unwrap());
    assert_eq!(leaves.map(|leaf| leaf.flags), [READ, RWX]);
    // H14: what the source wrote is in step before the guest fetches it.
    let of_second = board.synchronized().into_iter().filter(|(at, ..)| *at == leaves[1].hpa);
    assert_eq!(of_second.map(|(.., content)| content).collect::<Vec<_>>(), [Content::Data, Content::Code]);
}

/// A guest that touches page after page and comes back for none has no more than it may have.
#[test]
fn what_was_brought_and_not_taken_is_limited_too() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 1);
    space.set_limits(stage2::Limits { frames: Some(2), ..stage2::Limits::default() });
    let brought = |at| {
        let ticket = waits(&space, at, Access::Write);
        pager.complete(ticket, Ok(&page(ticket.offset()))).unwrap();
    };
    brought(0);
    brought(PAGE);
    let refused = |at: usize| {
        let error = Error::Limit { range: range(at, PAGE), what: stage2::space::Resource::Frames, limit: 2 };
        assert_eq!(space.fault(CpuId(0), fault_at(at)), Err(error));
        assert!(matches!(space.load::<u8>(gpa(at)), Err(Error::Limit { .. })));
    };
    refused(2 * PAGE);
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    refused(2 * PAGE);
    assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Resolved);
    refused(2 * PAGE);
    assert_eq!(
        (script.asked(), space.usage().frames, board.allocated()),
        (vec![4, 5], 2, 2 + space.usage().table_frames)
    );
    space.unmap(range(0, PAGE)).unwrap();
    brought(2 * PAGE);
    assert_eq!(fault(&space, 2 * PAGE, Access::Read), Outcome::Resolved);
    refused(3 * PAGE);
}

/// Shared memory was refused at the limit when no other guest was left: it is on no space's account.
#[test]
fn what_is_shared_is_on_no_limit() {
    let board = Board::new();
    let (space, (script, pager)) = (board.space(), pager(1));
    script.answers(Supply::Ready);
    let region = space.region_from(4 * PAGE, &pager, 0).unwrap();
    space.map(range(0, 4 * PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
    space.set_limits(stage2::Limits { frames: Some(1), ..stage2::Limits::default() });
    for number in 0..4 {
        assert_eq!(fault(&space, number * PAGE, Access::Read), Outcome::Resolved, "page {number}");
    }
    assert_eq!((space.usage().frames, space.stats().shared_frames), (0, 4));
}

/// A frozen region that two guests map is left to neither of them.
#[test]
fn what_two_guests_inherit_is_on_no_limit() {
    let board = Board::new();
    let (one, two, (script, pager)) = (board.space(), board.space(), pager(1));
    script.answers(Supply::Ready);
    let region = one.region_from(4 * PAGE, &pager, 0).unwrap();
    region.freeze().unwrap();
    for space in [&one, &two] {
        space.map(range(0, 4 * PAGE), Mapping::CopyOnWrite { region: region.clone(), offset: 0 }, RW).unwrap();
    }
    drop(region);
    one.set_limits(stage2::Limits { frames: Some(1), ..stage2::Limits::default() });
    for number in 0..4 {
        assert_eq!(fault(&one, number * PAGE, Access::Read), Outcome::Resolved, "page {number}");
    }
    assert_eq!((one.usage().frames, one.stats().shared_frames), (0, 4));
}

/// Giving it to another space populates it, as the guest's own read would.
#[test]
fn what_comes_can_be_lent_when_it_is_there() {
    let board = Board::new();
    let (space, _, pager) = sourced(&board, 4);
    let borrower = board.space();
    for at in [0, PAGE] {
        let lent = space.lend(range(0, 2 * PAGE), &borrower, gpa(0), RW);
        let Err(Error::NotYet { range: missing, ticket }) = lent else { panic!("{lent:?}") };
        assert_eq!((missing, ticket.offset(), borrower.stats().areas), (range(at, PAGE), 4 * PAGE + at, 0));
        pager.complete(ticket, Ok(&page(ticket.offset()))).unwrap();
    }
    let loan = space.lend(range(0, 2 * PAGE), &borrower, gpa(0), RW).unwrap();
    assert_eq!(borrower.load(gpa(PAGE)), Ok(content(5 * PAGE)));
    borrower.store(gpa(PAGE), 1_u64).unwrap();
    assert_eq!(fault(&space, PAGE, Access::Read), Outcome::Lent);
    space.reclaim(&loan, &borrower, stage2::loan::Handover::Keep).unwrap();
    assert_eq!((space.load(gpa(0)), space.load(gpa(PAGE))), (Ok(content(4 * PAGE)), Ok(1_u64)));
}

#[test]
fn bad_ranges_are_refused() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 1);
    let free = range(BLOCK, 2 * PAGE);
    let region = |cause| Err(Error::Region { range: free, cause });
    let unaligned = RegionError::Unaligned { offset: 1, align: PAGE };
    assert_eq!(space.map_from(free, &pager, 1, RW), region(unaligned));
    let offset = usize::MAX - PAGE + 1;
    let beyond = RegionError::Beyond { offset, size: 2 * PAGE, region: usize::MAX };
    assert_eq!(space.map_from(free, &pager, offset, RW), region(beyond));
    let device = RW | MappingFlags::DEVICE;
    assert!(matches!(space.map_from(free, &pager, 0, device), Err(Error::Flags { .. })));
    let overlap = Err(Error::Overlap { range: range(PAGE, PAGE), with: range(0, 8 * PAGE) });
    assert_eq!(space.map_from(range(PAGE, PAGE), &pager, 0, RW), overlap);
    assert_eq!(space.map_from(range(0, 0), &pager, 0, RW), Err(Error::Empty(range(0, 0))));
    assert_eq!((space.stats().areas, script.settled().len()), (1, 0));
}

/// What is left to do in steps is to free: nobody waits for that.
#[test]
fn unmapping_in_steps_cancels_before_the_first_step() {
    let board = Board::new();
    let (space, (script, pager)) = (board.space(), pager(3));
    space.map_from(range(0, 40 * PAGE), &pager, 0, RW).unwrap();
    for at in [0, 20 * PAGE, 39 * PAGE] {
        assert!(matches!(fault(&space, at, Access::Read), Outcome::NotYet(_)));
    }
    let unmapping = space.unmap_in_steps(range(0, 40 * PAGE)).unwrap();
    assert_eq!(script.settled().len(), 3);
    assert!(script.settled().iter().all(|(_, how)| *how == Settled::Cancelled));
    drop((unmapping, pager));
}
