//! Memory that comes from a source: what is asked, when, and what becomes of it.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, OnceLock},
};

use stage2::{Pager, RegionError, Settled, SharedRegion, Source, SourceError, SourceFailed, Supply, Ticket, Waiting};

use super::*;

/// A source that answers as it is told and notes what it was asked, and what it was told.
#[derive(Default)]
struct Script {
    answer: Mutex<Option<Supply>>,
    asked: Mutex<Vec<Ticket>>,
    settled: Mutex<Vec<(Ticket, Settled)>>,
    /// Runs while a page is asked for, and when a ticket is over.
    meanwhile: OnceLock<Box<dyn Fn(Moment) + Send + Sync>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Moment {
    Asked(Ticket),
    Settled(Ticket),
}

impl Source for Script {
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
        assert!(page.iter().all(|&byte| byte == 0), "another guest's data in the source's hands");
        self.asked.lock().unwrap().push(ticket);
        // Only a part: the rest is the crate's to have cleared.
        page[..8].copy_from_slice(&content(ticket.offset()).to_le_bytes());
        if let Some(meanwhile) = self.meanwhile.get() {
            meanwhile(Moment::Asked(ticket));
        }
        self.answer.lock().unwrap().unwrap_or(Supply::Later)
    }

    fn settled(&self, ticket: Ticket, how: Settled) {
        self.settled.lock().unwrap().push((ticket, how));
        if let Some(meanwhile) = self.meanwhile.get() {
            meanwhile(Moment::Settled(ticket));
        }
    }
}

impl Script {
    fn asked(&self) -> Vec<usize> {
        self.asked.lock().unwrap().drain(..).map(|ticket| ticket.offset() / PAGE).collect()
    }

    fn settled(&self) -> Vec<(usize, Settled)> {
        self.settled.lock().unwrap().drain(..).map(|(ticket, how)| (ticket.offset() / PAGE, how)).collect()
    }

    fn answers(&self, supply: Supply) {
        *self.answer.lock().unwrap() = Some(supply);
    }
}

/// The first word of each page of the source.
fn content(offset: usize) -> u64 {
    offset as u64 | 0xc0de
}

/// A whole page of the source.
fn page(offset: usize) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[..8].copy_from_slice(&content(offset).to_le_bytes());
    page
}

fn pager(room: usize) -> (Arc<Script>, Pager) {
    let script = Arc::new(Script::default());
    let pager = Pager::new(script.clone(), NonZeroUsize::new(room).unwrap()).unwrap();
    (script, pager)
}

/// Eight pages of the source from its page 4 on, at address 0.
fn sourced(board: &Board, room: usize) -> (GuestSpace<Machine>, Arc<Script>, Pager) {
    let space = board.space();
    let (script, pager) = pager(room);
    space.map_from(range(0, 8 * PAGE), &pager, 4 * PAGE, RW).unwrap();
    (space, script, pager)
}

fn fault_at(at: usize) -> Fault {
    Fault { gpa: gpa(at), access: Access::Write, cause: Cause::Translation, origin: Origin::Instruction }
}

fn waits(space: &GuestSpace<Machine>, at: usize, access: Access) -> Ticket {
    match fault(space, at, access) {
        Outcome::NotYet(ticket) => ticket,
        other => panic!("{other:?}"),
    }
}

mod private {
    use super::*;

    #[test]
    fn comes_with_the_first_touch_and_is_the_guests_own() {
        let board = Board::new();
        let (space, script, _) = sourced(&board, 4);
        script.answers(Supply::Ready);
        assert_eq!((script.asked().len(), space.stats().owned_frames), (0, 0));
        assert_eq!(fault(&space, 2 * PAGE + 5, Access::Read), Outcome::Resolved);
        // Nobody else can ever see it: the first read makes it writable.
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
    fn a_failure_is_everybodys_until_it_is_tried_again() {
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
        assert_eq!(Arc::strong_count(&script), 1, "somebody still has the source");
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
        space.set_limits(stage2::Limits { frames: Some(2), table_frames: None });
        let brought = |at| {
            let ticket = waits(&space, at, Access::Write);
            pager.complete(ticket, Ok(&page(ticket.offset()))).unwrap();
        };
        brought(0);
        brought(PAGE);
        let refused = |at: usize| {
            let error = Error::Limit { range: range(at, PAGE), what: stage2::Resource::Frames, limit: 2 };
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

    /// Shared memory was refused at the limit when no other guest was left: it is on nobody's account.
    #[test]
    fn what_is_shared_is_on_no_limit() {
        let board = Board::new();
        let (space, (script, pager)) = (board.space(), pager(1));
        script.answers(Supply::Ready);
        let region = space.region_from(4 * PAGE, &pager, 0).unwrap();
        space.map(range(0, 4 * PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
        space.set_limits(stage2::Limits { frames: Some(1), table_frames: None });
        for number in 0..4 {
            assert_eq!(fault(&space, number * PAGE, Access::Read), Outcome::Resolved, "page {number}");
        }
        assert_eq!((space.usage().frames, space.stats().shared_frames), (0, 4));
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
        space.reclaim(&loan, &borrower, stage2::Handover::Keep).unwrap();
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
}

mod callbacks {
    use super::*;

    /// They may call the space that missed the page, and change the map there: no lock is held.
    #[test]
    fn are_called_without_any_lock() {
        let board = Board::new();
        let (space, script, pager) = sourced(&board, 2);
        let space = Arc::new(space);
        let (inside, pager_inside) = (Arc::downgrade(&space), pager.clone());
        let calls = Arc::new(AtomicU64::new(0));
        let counted = calls.clone();
        let meanwhile = move |moment: Moment| {
            let Some(space) = inside.upgrade() else { return };
            space.map(range(BLOCK, PAGE), LAZY, RW).unwrap();
            space.store(gpa(BLOCK), 1_u8).unwrap();
            space.unmap(range(BLOCK, PAGE)).unwrap();
            if let Moment::Asked(ticket) = moment {
                assert_eq!(pager_inside.state(ticket), Waiting::NotYet);
            }
            counted.fetch_add(1, Ordering::Relaxed);
        };
        assert!(script.meanwhile.set(Box::new(meanwhile)).is_ok());
        script.answers(Supply::Ready);
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
        script.answers(Supply::Later);
        let ticket = waits(&space, PAGE, Access::Read);
        pager.complete(ticket, Ok(&page(5 * PAGE))).unwrap();
        waits(&space, 2 * PAGE, Access::Read);
        space.unmap(range(2 * PAGE, PAGE)).unwrap();
        assert_eq!(calls.load(Ordering::Relaxed), 6);
    }

    /// Who looks and then sleeps would sleep for ever, were it the other way round.
    #[test]
    fn come_when_the_ticket_is_over() {
        let board = Board::new();
        let (space, script, pager) = sourced(&board, 2);
        let inside = pager.clone();
        let meanwhile = move |moment: Moment| {
            if let Moment::Settled(ticket) = moment {
                assert_eq!(inside.state(ticket), Waiting::Over);
            }
        };
        assert!(script.meanwhile.set(Box::new(meanwhile)).is_ok());
        for answer in [Ok(&page(0)[..]), Err(SourceFailed)] {
            let ticket = waits(&space, if answer.is_ok() { 0 } else { PAGE }, Access::Write);
            pager.complete(ticket, answer).unwrap();
        }
        waits(&space, 2 * PAGE, Access::Read);
        space.unmap(range(0, 8 * PAGE)).unwrap();
        let how = script.settled().into_iter().map(|(_, how)| how).collect::<Vec<_>>();
        assert_eq!(how, [Settled::Ready, Settled::Failed, Settled::Cancelled]);
    }

    /// The last mapping of a region goes with an invalidation that failed at first.
    #[test]
    fn are_called_without_a_lock_by_whoever_finishes_for_another() {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let (space, (script, pager)) = (Arc::new(board.space()), pager(2));
        let region = space.region_from(2 * PAGE, &pager, 0).unwrap();
        space.map(range(0, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        let ticket = waits(&space, 0, Access::Read);
        script.answers(Supply::Ready);
        assert_eq!(fault(&space, PAGE, Access::Read), Outcome::Resolved);
        space.enter(CpuId(3), VcpuId(3)).unwrap();
        board.deafen(Some(CpuId(3)));
        assert!(matches!(space.unmap(range(0, 2 * PAGE)), Err(Error::Invalidation { .. })));
        space.leave(CpuId(3)).unwrap();
        board.deafen(None);
        drop(region);
        assert_eq!((pager.state(ticket), script.settled()), (Waiting::NotYet, vec![(1, Settled::Ready)]));
        let inside = Arc::downgrade(&space);
        let meanwhile = move |_| inside.upgrade().unwrap().map(range(PAGE, PAGE), LAZY, RW).unwrap();
        assert!(script.meanwhile.set(Box::new(meanwhile)).is_ok());
        space.map(range(0, PAGE), LAZY, RW).unwrap();
        assert_eq!((script.settled(), space.stats().areas), (vec![(0, Settled::Cancelled)], 2));
    }

    fn during_the_ask(
        then: Supply,
        act: impl Fn(&GuestSpace<Machine>, &Pager, Ticket) + Send + Sync + 'static,
    ) -> Story {
        let board = Board::new();
        let (space, script, pager) = sourced(&board, 2);
        let space = Arc::new(space);
        let (inside, pager_inside) = (Arc::downgrade(&space), pager.clone());
        let meanwhile = move |moment: Moment| {
            if let (Moment::Asked(ticket), Some(space)) = (moment, inside.upgrade()) {
                act(&space, &pager_inside, ticket);
            }
        };
        assert!(script.meanwhile.set(Box::new(meanwhile)).is_ok());
        script.answers(then);
        let outcome = fault(&space, 0, Access::Write);
        let value = space.load::<u64>(gpa(0)).ok();
        let story = Story { outcome, value, settled: script.settled() };
        let stats = space.stats();
        assert_eq!(board.allocated(), stats.table_frames + stats.owned_frames, "a frame is kept for nobody");
        drop(space);
        assert_eq!(board.allocated(), 0, "a frame is lost");
        story
    }

    #[derive(Debug, PartialEq)]
    struct Story {
        outcome: Outcome,
        value: Option<u64>,
        settled: Vec<(usize, Settled)>,
    }

    /// A source on another CPU may be faster than the call that told it.
    #[test]
    fn may_be_overtaken_by_the_answer() {
        for then in [Supply::Later, Supply::Ready, Supply::Failed] {
            let story = during_the_ask(then, |_, pager, ticket| {
                let mut bytes = page(0);
                bytes[0] = 9;
                assert_eq!(pager.complete(ticket, Ok(&bytes)), Ok(()));
            });
            let value = Some(u64::from_le_bytes(page(0)[..8].try_into().unwrap()) & !0xff | 9);
            // The first answer counts.
            let expected = Story { outcome: Outcome::Resolved, value, settled: vec![(4, Settled::Ready)] };
            assert_eq!(story, expected, "{then:?}");
        }
    }

    #[test]
    fn may_be_overtaken_by_the_end_of_the_wait() {
        for then in [Supply::Later, Supply::Ready, Supply::Failed] {
            let story = during_the_ask(then, |space, _, _| space.unmap(range(0, PAGE)).unwrap());
            let settled = vec![(4, Settled::Cancelled)];
            assert_eq!(story, Story { outcome: Outcome::NotMapped, value: None, settled }, "{then:?}");
        }
    }
}

mod snapshots {
    use super::*;

    #[test]
    fn have_the_source_behind_them() {
        let board = Board::new();
        let (space, script, pager) = sourced(&board, 4);
        script.answers(Supply::Ready);
        space.store(gpa(0), 1_u64).unwrap();
        script.answers(Supply::Later);
        let pending = waits(&space, PAGE, Access::Write);
        script.asked();
        let snapshot = space.snapshot().unwrap();
        // A pending page stays so, and comes to whoever has the memory now.
        assert_eq!((pager.state(pending), waits(&space, PAGE, Access::Read)), (Waiting::NotYet, pending));
        let fork = board.space();
        fork.restore(&snapshot).unwrap();
        assert_eq!(waits(&fork, PAGE, Access::Write), pending);
        assert_eq!(script.asked(), []);
        pager.complete(pending, Ok(&page(5 * PAGE))).unwrap();
        for space in [&space, &fork] {
            assert_eq!((space.load(gpa(0)), space.load(gpa(PAGE))), (Ok(1_u64), Ok(content(5 * PAGE))));
            space.store(gpa(PAGE), 3_u64).unwrap();
        }
        // What nobody touched is asked for once, for both, and never zeros.
        let ticket = waits(&fork, 2 * PAGE, Access::Write);
        assert_eq!(waits(&space, 2 * PAGE, Access::Read), ticket);
        let region = snapshot.region();
        let not_yet = RegionError::NotYet { offset: 2 * PAGE, size: 8, ticket };
        assert_eq!(region.load::<u64>(2 * PAGE), Err(not_yet));
        pager.complete(ticket, Ok(&page(6 * PAGE))).unwrap();
        assert_eq!(fault(&fork, 2 * PAGE, Access::Write), Outcome::Resolved);
        fork.store(gpa(2 * PAGE), 2_u64).unwrap();
        assert_eq!((space.load(gpa(2 * PAGE)), region.load(2 * PAGE)), (Ok(content(6 * PAGE)), Ok(content(6 * PAGE))));
        assert_eq!(region.load(PAGE), Ok(content(5 * PAGE)));
        assert_eq!(script.asked(), [6]);
        let last = waits(&fork, 7 * PAGE, Access::Read);
        drop((space, snapshot));
        assert_eq!(pager.state(last), Waiting::NotYet);
        script.settled();
        drop(fork);
        assert_eq!((script.settled(), board.allocated()), (vec![(11, Settled::Cancelled)], 0));
    }
}

mod regions {
    use super::*;

    /// A region of eight pages from the source's first on.
    fn region(board: &Board, room: usize) -> (SharedRegion, Arc<Script>, Pager) {
        let (script, pager) = pager(room);
        let region = board.space().region_from(8 * PAGE, &pager, 0).unwrap();
        (region, script, pager)
    }

    #[test]
    fn are_asked_for_once_by_all_guests() {
        let board = Board::new();
        let (region, script, pager) = region(&board, 4);
        let (one, two) = (board.space(), board.space());
        one.map(range(0, 8 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        two.map(range(BLOCK, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: PAGE }, READ).unwrap();
        let ticket = waits(&one, 2 * PAGE, Access::Write);
        assert_eq!(waits(&two, BLOCK + PAGE, Access::Read), ticket);
        let not_yet = RegionError::NotYet { offset: 2 * PAGE, size: 4, ticket };
        assert_eq!(region.load::<u32>(2 * PAGE), Err(not_yet));
        let writer = region.writer().unwrap();
        assert_eq!(writer.store(2 * PAGE, 1_u32), Err(not_yet));
        // Others may still want it.
        one.unmap(range(0, 8 * PAGE)).unwrap();
        assert_eq!((pager.state(ticket), script.asked()), (Waiting::NotYet, vec![2]));
        pager.complete(ticket, Ok(&page(2 * PAGE))).unwrap();
        assert_eq!(fault(&two, BLOCK + PAGE, Access::Read), Outcome::Resolved);
        writer.store(2 * PAGE + 8, 5_u64).unwrap();
        assert_eq!(two.read_obj(gpa(BLOCK + PAGE)), Ok([content(2 * PAGE), 5_u64]));
        assert_eq!((region.frames(), two.stats().shared_frames), (1, 1));
    }

    #[test]
    fn the_last_one_out_cancels() {
        let board = Board::new();
        let (region, script, _) = region(&board, 4);
        let (one, two) = (board.space(), board.space());
        for space in [&one, &two] {
            space.map(range(0, 8 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        }
        waits(&one, 0, Access::Read);
        waits(&two, PAGE, Access::Read);
        drop(region);
        one.unmap(range(0, 8 * PAGE)).unwrap();
        assert_eq!(script.settled(), []);
        // The one that is left has only this part.
        two.unmap(range(0, PAGE)).unwrap();
        assert_eq!(script.settled(), [(0, Settled::Cancelled)]);
        two.unmap(range(2 * PAGE, PAGE)).unwrap();
        assert_eq!(script.settled(), []);
        drop(two);
        assert_eq!(script.settled(), [(1, Settled::Cancelled)]);
        assert_eq!(one.stats().table_frames, board.allocated());
    }

    #[test]
    fn what_becomes_private_must_have_come() {
        let board = Board::new();
        let (region, script, pager) = region(&board, 4);
        let space = board.space();
        space.map(range(0, 4 * PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
        let rest = waits(&space, 3 * PAGE, Access::Read);
        for at in [0, PAGE] {
            let private = space.make_private(range(0, 2 * PAGE), stage2::Handover::Keep);
            let Err(Error::NotYet { range: missing, ticket }) = private else { panic!("{private:?}") };
            assert_eq!((missing, ticket.offset()), (range(at, PAGE), at));
            pager.complete(ticket, Ok(&page(at))).unwrap();
        }
        assert_eq!(space.make_private(range(0, 2 * PAGE), stage2::Handover::Keep), Ok(()));
        assert_eq!((space.load(gpa(0)), space.load(gpa(PAGE))), (Ok(content(0)), Ok(content(PAGE))));
        assert_eq!((space.stats().owned_frames, pager.state(rest)), (2, Waiting::NotYet));
        script.settled();
        space.unmap(range(0, 4 * PAGE)).unwrap();
        assert_eq!((script.settled(), board.allocated()), (vec![(3, Settled::Cancelled)], space.usage().table_frames));
    }

    #[test]
    fn a_frozen_one_is_asked_and_then_copied() {
        let board = Board::new();
        let (region, script, pager) = region(&board, 4);
        region.freeze().unwrap();
        let space = board.space();
        space.map(range(0, 8 * PAGE), Mapping::CopyOnWrite { region: region.clone(), offset: 0 }, RW).unwrap();
        let ticket = waits(&space, 0, Access::Write);
        assert_eq!(space.store(gpa(0), 2_u8), Err(Error::NotYet { range: range(0, 1), ticket }));
        pager.complete(ticket, Ok(&page(0))).unwrap();
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
        space.store(gpa(8), 2_u64).unwrap();
        assert_eq!(space.read_obj(gpa(0)), Ok([content(0), 2_u64]));
        assert_eq!(region.read_obj(0), Ok([content(0), 0_u64]));
        script.answers(Supply::Ready);
        assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Resolved);
        assert_eq!(fault(&space, 2 * PAGE, Access::Read), Outcome::Resolved);
        // While there is a handle, a read shares.
        assert_eq!([PAGE, 2 * PAGE].map(|at| space.translate(gpa(at)).unwrap().flags), [RW, READ]);
        assert_eq!((region.frames(), script.asked()), (3, vec![0, 1, 2]));
    }

    #[test]
    fn a_failure_is_an_error_with_what_is_left() {
        let board = Board::new();
        let (region, script, _) = region(&board, 4);
        script.answers(Supply::Ready);
        let mut bytes = [0; 2 * PAGE];
        region.read(0, &mut bytes[..1]).unwrap();
        script.answers(Supply::Failed);
        let Err(RegionError::SourceFailed { offset, size, ticket }) = region.read(8, &mut bytes) else { panic!() };
        assert_eq!((offset, size, ticket.offset()), (PAGE, PAGE + 8, PAGE));
    }
}

mod out_of_memory {
    use super::*;

    #[test]
    fn leaves_the_page_to_be_asked_for() {
        let board = Board::new();
        let (space, script, pager) = sourced(&board, 4);
        // Something is populated, so that the tables are there.
        script.answers(Supply::Ready);
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
        let allocated = board.allocated();
        for left in 0..3 {
            board.allow(Some(left));
            script.settled();
            let write =
                Fault { gpa: gpa(PAGE), access: Access::Write, cause: Cause::Translation, origin: Origin::Instruction };
            match space.fault(CpuId(0), write) {
                Err(Error::NoMemory(page)) => assert_eq!(page, range(PAGE, PAGE)),
                Ok(Outcome::Resolved) => assert_eq!(left, 2),
                other => panic!("{other:?}"),
            }
            board.allow(None);
        }
        assert_eq!((board.allocated(), space.load(gpa(PAGE))), (allocated + 1, Ok(content(5 * PAGE))));
        script.answers(Supply::Later);
        let ticket = waits(&space, 2 * PAGE, Access::Write);
        board.allow(Some(0));
        assert_eq!(pager.complete(ticket, Ok(&page(0))), Err(SourceError::NoMemory { ticket }));
        assert_eq!(pager.state(ticket), Waiting::NotYet);
        board.allow(None);
        assert_eq!(pager.complete(ticket, Ok(&page(6 * PAGE))), Ok(()));
        assert_eq!(space.load(gpa(2 * PAGE)), Ok(content(6 * PAGE)));
    }
}

/// A lock after whose release something happens elsewhere.
mod races {
    use std::{
        cell::RefCell,
        ops::{Deref, DerefMut},
    };

    use stage2::{LockFamily, SpaceLock, Spin, Striped};

    use super::*;

    type Event = Box<dyn FnOnce()>;

    thread_local! {
        /// What happens after the next time that this thread held a space's lock shared.
        static AFTER: RefCell<Option<Event>> = const { RefCell::new(None) };
    }

    struct Eventful;

    struct Lock<T>(Striped<T>);

    struct Guard<G>(Option<G>);

    impl LockFamily for Eventful {
        type Lock<T: Send + Sync> = Lock<T>;
    }

    impl<T: Send + Sync> SpaceLock<T> for Lock<T> {
        type Shared<'a>
            = Guard<<Striped<T> as SpaceLock<T>>::Shared<'a>>
        where
            T: 'a;
        type Exclusive<'a>
            = <Striped<T> as SpaceLock<T>>::Exclusive<'a>
        where
            T: 'a;

        fn new(value: T, cpus: usize) -> Option<Self> {
            <Spin as LockFamily>::Lock::new(value, cpus).map(Self)
        }

        fn shared(&self, cpu: CpuId) -> Self::Shared<'_> {
            Guard(Some(self.0.shared(cpu)))
        }

        fn exclusive(&self) -> Self::Exclusive<'_> {
            self.0.exclusive()
        }

        fn get_mut(&mut self) -> &mut T {
            self.0.get_mut()
        }
    }

    impl<G: Deref> Deref for Guard<G> {
        type Target = G::Target;

        fn deref(&self) -> &G::Target {
            self.0.as_ref().unwrap()
        }
    }

    impl<G: DerefMut> DerefMut for Guard<G> {
        fn deref_mut(&mut self) -> &mut G::Target {
            self.0.as_mut().unwrap()
        }
    }

    impl<G> Drop for Guard<G> {
        fn drop(&mut self) {
            self.0.take();
            let event = AFTER.with_borrow_mut(Option::take);
            if let Some(event) = event {
                event();
            }
        }
    }

    type Space = GuestSpace<Machine, Eventful>;

    /// A fault that has found page 0 missing, and before it can ask something else happens.
    fn overtaken(
        by: impl FnOnce(&Space, &Arc<Script>, &Pager) + 'static,
    ) -> (Outcome, Vec<usize>, Vec<(usize, Settled)>) {
        let board = Board::new();
        let (script, pager) = pager(2);
        let space = Arc::new(GuestSpace::<Machine, Eventful>::new(board.config()).unwrap());
        space.map_from(range(0, 2 * PAGE), &pager, 4 * PAGE, RW).unwrap();
        let elsewhere = (space.clone(), script.clone(), pager.clone());
        let event: Event = Box::new(move || by(&elsewhere.0, &elsewhere.1, &elsewhere.2));
        AFTER.set(Some(event));
        let outcome = space.fault(CpuId(0), read()).unwrap();
        assert!(AFTER.with_borrow(Option::is_none));
        (outcome, script.asked(), script.settled())
    }

    fn read() -> Fault {
        Fault { gpa: gpa(0), access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction }
    }

    /// Another CPU asks, is answered, and puts it into the tables: then it is in no region any more.
    #[test]
    fn a_page_that_another_brought_and_took_is_not_asked_for_again() {
        let (outcome, asked, settled) = overtaken(|space, script, _| {
            script.answers(Supply::Ready);
            assert_eq!(space.fault(CpuId(1), read()), Ok(Outcome::Resolved));
        });
        assert_eq!((outcome, asked), (Outcome::Retry, vec![4]));
        assert_eq!(settled, [(4, Settled::Ready), (4, Settled::Cancelled)]);
    }

    #[test]
    fn a_page_that_was_unmapped_is_not_asked_for() {
        let (outcome, asked, settled) = overtaken(|space, _, _| space.unmap(range(0, PAGE)).unwrap());
        assert_eq!((outcome, asked, settled), (Outcome::NotMapped, vec![], vec![(4, Settled::Cancelled)]));
    }

    #[test]
    fn a_page_that_now_comes_from_elsewhere_is_not_asked_for_there() {
        let (outcome, asked, settled) = overtaken(|space, _, pager| {
            space.unmap(range(0, PAGE)).unwrap();
            space.map_from(range(0, PAGE), pager, 9 * PAGE, RW).unwrap();
        });
        assert_eq!((outcome, asked, settled), (Outcome::Retry, vec![], vec![(4, Settled::Cancelled)]));
    }
}
