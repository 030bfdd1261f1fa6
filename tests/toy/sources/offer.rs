//! Pages that are offered before anyone asks for them, and while one does.

use stage2::{Limits, pager::Offered, region::RegionError, space::Resource};

use super::{
    super::eventful::{self, Eventful},
    *,
};

type Space = GuestSpace<Machine, Eventful>;

/// A page that the source would not have answered with.
fn offered(mark: u64) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    page[..8].copy_from_slice(&mark.to_le_bytes());
    page
}

/// All frames that are out are the guest's own, or tables, and on its account.
#[track_caller]
fn is_balanced<L: stage2::lock::LockFamily>(board: &Board, space: &GuestSpace<Machine, L>) {
    let stats = space.stats();
    assert_eq!(board.allocated(), stats.owned_frames + stats.table_frames);
    assert_eq!(space.usage().frames, stats.owned_frames);
}

fn read() -> Fault {
    Fault { gpa: gpa(0), access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction }
}

#[test]
fn a_page_that_was_offered_is_not_asked_for() {
    let board = Board::new();
    let (space, script, _) = sourced(&board, 1);
    assert_eq!(space.offer(gpa(2 * PAGE), &offered(7)), Ok(Offered::Taken));
    assert_eq!((space.usage().frames, space.translate(gpa(2 * PAGE))), (1, None));
    assert_eq!(fault(&space, 2 * PAGE, Access::Read), Outcome::Resolved);
    assert_eq!((space.translate(gpa(2 * PAGE)).unwrap().flags, space.load(gpa(2 * PAGE))), (RW, Ok(7_u64)));
    assert_eq!((script.asked(), script.settled(), space.stats().owned_frames), (vec![], vec![], 1));
    is_balanced(&board, &space);
    // What nobody touched goes with the rest.
    assert_eq!(space.offer(gpa(3 * PAGE), &offered(8)), Ok(Offered::Taken));
    space.unmap(range(0, 8 * PAGE)).unwrap();
    assert_eq!((space.usage().frames, board.allocated()), (0, space.stats().table_frames));
}

#[test]
fn a_page_that_is_there_stays_as_the_guest_left_it() {
    let board = Board::new();
    let (space, script, _) = sourced(&board, 1);
    assert_eq!(space.offer(gpa(0), &offered(1)), Ok(Offered::Taken));
    let allocated = board.allocated();
    assert_eq!(space.offer(gpa(0), &offered(2)), Ok(Offered::Late));
    assert_eq!((board.allocated(), space.load(gpa(0))), (allocated, Ok(1_u64)));
    space.store(gpa(0), 3_u64).unwrap();
    assert_eq!((space.offer(gpa(0), &offered(4)), space.load(gpa(0))), (Ok(Offered::Late), Ok(3_u64)));
    script.answers(Supply::Ready);
    assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Resolved);
    assert_eq!(
        (space.offer(gpa(PAGE), &offered(5)), space.load(gpa(PAGE))),
        (Ok(Offered::Late), Ok(content(5 * PAGE)))
    );
    is_balanced(&board, &space);
}

/// It is the answer that the CPUs wait for, and the only one. The source is told without any lock.
#[test]
fn a_page_that_is_waited_for_is_answered() {
    let board = Board::new();
    let (script, pager) = pager(1);
    let space = Arc::new(board.space());
    space.map_from(range(0, 8 * PAGE), &pager, 4 * PAGE, RW).unwrap();
    space.map(range(LARGE, PAGE), PAGES, RW).unwrap();
    let ticket = waits(&space, PAGE, Access::Read);
    let (told, answers) = (space.clone(), pager.clone());
    let tell = script.meanwhile.set(Box::new(move |moment| {
        assert!(moment == Moment::Settled(ticket) && answers.state(ticket) == Waiting::Over);
        told.unmap(range(LARGE, PAGE)).unwrap();
        assert_eq!(fault(&told, PAGE, Access::Write), Outcome::Resolved);
    }));
    assert!(tell.is_ok() && script.asked() == [5]);
    assert_eq!(space.offer(gpa(PAGE), &offered(7)), Ok(Offered::Taken));
    assert_eq!((pager.state(ticket), script.settled()), (Waiting::Over, vec![(5, Settled::Ready)]));
    assert_eq!(pager.complete(ticket, Ok(&page(5 * PAGE))), Err(SourceError::NotPending { ticket }));
    assert_eq!(pager.complete(ticket, Err(SourceFailed)), Err(SourceError::NotPending { ticket }));
    assert_eq!((space.load(gpa(PAGE)), script.settled(), script.asked()), (Ok(7_u64), vec![], vec![]));
    is_balanced(&board, &space);
}

#[test]
fn a_page_that_the_source_could_not_have_comes_after_all() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 1);
    let ticket = waits(&space, PAGE, Access::Read);
    pager.complete(ticket, Err(SourceFailed)).unwrap();
    assert_eq!(fault(&space, PAGE, Access::Read), Outcome::SourceFailed(ticket));
    assert_eq!(space.offer(gpa(PAGE), &offered(7)), Ok(Offered::Taken));
    assert_eq!(fault(&space, PAGE, Access::Read), Outcome::Resolved);
    assert_eq!(
        (script.settled(), pager.retry(ticket)),
        (vec![(5, Settled::Failed)], Err(SourceError::NotFailed { ticket }))
    );
    // The failure takes up no room any more.
    assert_eq!(waits(&space, 2 * PAGE, Access::Read).offset(), 6 * PAGE);
}

#[test]
fn what_nobody_reaches_or_no_source_is_behind_is_refused() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 1);
    space.map(range(8 * PAGE, PAGE), LAZY, RW).unwrap();
    let region = space.region(PAGE).unwrap();
    space.map(range(9 * PAGE, PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    region.freeze().unwrap_err();
    let ticket = waits(&space, PAGE, Access::Read);
    space.unmap(range(PAGE, PAGE)).unwrap();
    let allocated = board.allocated();
    let refused = |at| space.offer(gpa(at), &offered(7)).unwrap_err();
    assert_eq!(refused(PAGE), Error::NotMapped(range(PAGE, PAGE)));
    assert_eq!(refused(8 * PAGE), Error::NoSource(range(8 * PAGE, PAGE)));
    assert_eq!(refused(9 * PAGE), Error::NoSource(range(9 * PAGE, PAGE)));
    assert_eq!(refused(2 * PAGE + 8), Error::Misaligned(range(2 * PAGE + 8, PAGE)));
    assert!(matches!(refused(usize::MAX - PAGE + 1), Error::Overflow { .. } | Error::BeyondInput { .. }));
    assert_eq!(region.offer(0, &offered(7)), Err(RegionError::NoSource { offset: 0, size: PAGE }));
    assert_eq!((board.allocated(), pager.state(ticket)), (allocated, Waiting::Over));
    assert_eq!(script.settled(), [(5, Settled::Cancelled)]);
    let sourced = space.region_from(2 * PAGE, &pager, 0).unwrap();
    assert!(matches!(sourced.offer(2 * PAGE, &offered(7)), Err(RegionError::Beyond { .. })));
    assert!(matches!(sourced.offer(8, &offered(7)), Err(RegionError::Unaligned { .. })));
    assert_eq!(board.allocated(), allocated);
}

/// What waits for it goes on waiting, and is answered when there is room.
#[test]
fn at_a_limit_or_without_memory_nothing_is_kept_and_the_wait_goes_on() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 4);
    let ticket = waits(&space, PAGE, Access::Read);
    space.set_limits(Limits { frames: Some(0), ..Limits::default() });
    let allocated = board.allocated();
    for page in [1, 2] {
        let limit = Error::Limit { range: range(page * PAGE, PAGE), what: Resource::Frames, limit: 0 };
        assert_eq!(space.offer(gpa(page * PAGE), &offered(7)), Err(limit));
    }
    space.set_limits(Limits::default());
    board.allow(Some(0));
    for page in [1, 2] {
        assert_eq!(space.offer(gpa(page * PAGE), &offered(7)), Err(Error::NoMemory(range(page * PAGE, PAGE))));
    }
    board.allow(None);
    assert_eq!((board.allocated(), pager.state(ticket), script.settled()), (allocated, Waiting::NotYet, vec![]));
    assert_eq!(space.offer(gpa(PAGE), &offered(7)), Ok(Offered::Taken));
    assert_eq!((pager.state(ticket), space.load(gpa(PAGE)), space.usage().frames), (Waiting::Over, Ok(7_u64), 1));
}

#[test]
fn a_regions_page_comes_to_all_that_map_it() {
    for by_handle in [true, false] {
        let board = Board::new();
        let (script, pager) = pager(1);
        let spaces = [board.space(), board.space()];
        let region = spaces[0].region_from(4 * PAGE, &pager, 0).unwrap();
        for (space, at) in spaces.iter().zip([0, LARGE]) {
            space.map(range(at, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        }
        let ticket = waits(&spaces[1], LARGE + PAGE, Access::Write);
        let offer = |mark| {
            if by_handle {
                region.offer(PAGE, &offered(mark)).unwrap()
            } else {
                spaces[0].offer(gpa(PAGE), &offered(mark)).unwrap()
            }
        };
        assert_eq!((offer(7), pager.state(ticket)), (Offered::Taken, Waiting::Over));
        assert_eq!(script.settled(), [(1, Settled::Ready)]);
        spaces[1].store(gpa(LARGE + PAGE + 8), 9_u64).unwrap();
        assert_eq!(spaces[0].read_obj::<[u64; 2]>(gpa(PAGE)), Ok([7, 9]));
        assert_eq!(
            (offer(8), region.frames(), spaces.each_ref().map(|space| space.usage().frames)),
            (Offered::Late, 1, [0; 2])
        );
        assert_eq!(region.load::<u64>(PAGE), Ok(7));
    }
}

/// Who took a snapshot and who started from it wait for the same page: it comes once, on no account.
#[test]
fn a_page_comes_to_all_that_inherited_it() {
    let board = Board::new();
    let (space, script, _) = sourced(&board, 4);
    let snapshot = space.snapshot().unwrap();
    let fork = board.space();
    fork.restore(&snapshot).unwrap();
    let ticket = waits(&space, PAGE, Access::Write);
    assert_eq!(waits(&fork, PAGE, Access::Read), ticket);
    assert_eq!((fork.offer(gpa(PAGE), &offered(7)), script.settled()), (Ok(Offered::Taken), vec![(5, Settled::Ready)]));
    assert_eq!([&space, &fork].map(|space| space.usage().frames), [0; 2]);
    assert_eq!(space.offer(gpa(PAGE), &offered(8)), Ok(Offered::Late));
    space.store(gpa(PAGE), 9_u64).unwrap();
    assert_eq!((fork.load(gpa(PAGE)), snapshot.region().load(PAGE)), (Ok(7_u64), Ok(7_u64)));
    // What one has mapped anew is still missing for the others.
    space.unmap(range(2 * PAGE, PAGE)).unwrap();
    space.map(range(2 * PAGE, PAGE), PAGES, RW).unwrap();
    assert_eq!(space.offer(gpa(2 * PAGE), &offered(7)), Err(Error::NoSource(range(2 * PAGE, PAGE))));
    assert_eq!(snapshot.region().offer(2 * PAGE, &offered(7)), Ok(Offered::Taken));
    assert_eq!((fork.load(gpa(2 * PAGE)), space.load(gpa(2 * PAGE))), (Ok(7_u64), Ok(0_u64)));
}

#[test]
fn while_a_snapshot_is_taken_in_steps_none_comes() {
    let board = Board::new();
    let (space, ..) = sourced(&board, 1);
    let snapshotting = space.snapshot_in_steps().unwrap();
    let allocated = board.allocated();
    assert!(matches!(space.offer(gpa(0), &offered(7)), Err(Error::Snapshotting(_))));
    assert_eq!(board.allocated(), allocated);
    drop(snapshotting);
    assert_eq!(space.offer(gpa(0), &offered(7)), Ok(Offered::Taken));
}

/// Something happens on another CPU while the frame of the page is allocated that is offered at address 0.
fn meanwhile(by: impl FnOnce(&Space, &Script, &Pager) + Send + 'static) -> (Board, Arc<Space>, Result<Offered, Error>) {
    let board = Board::new();
    let (script, pager) = pager(2);
    let space = Arc::new(Space::new(board.config()).unwrap());
    space.map_from(range(0, 2 * PAGE), &pager, 4 * PAGE, RW).unwrap();
    let (elsewhere, source) = (space.clone(), script.clone());
    board.on_allocation(move || by(&elsewhere, &source, &pager));
    let result = space.offer(gpa(0), &offered(7));
    (board, space, result)
}

/// What the guest has by then, and may have written, is not what was offered.
#[test]
fn a_page_that_came_meanwhile_keeps_what_was_written() {
    let (board, space, result) = meanwhile(|space, script, _| {
        script.answers(Supply::Ready);
        space.store(gpa(8), 5_u64).unwrap();
    });
    assert_eq!((result, space.read_obj(gpa(0))), (Ok(Offered::Late), Ok([content(4 * PAGE), 5])));
    is_balanced(&board, &space);
    // The same, and the page is in no table yet.
    let (board, space, result) = meanwhile(|space, script, _| {
        script.answers(Supply::Later);
        assert_eq!(space.offer(gpa(0), &offered(6)), Ok(Offered::Taken));
    });
    assert_eq!((result, space.load(gpa(0))), (Ok(Offered::Late), Ok(6_u64)));
    is_balanced(&board, &space);
}

#[test]
fn a_page_that_was_unmapped_meanwhile_is_not_kept() {
    let (board, space, result) = meanwhile(|space, _, _| space.unmap(range(0, PAGE)).unwrap());
    assert_eq!(result, Err(Error::NotMapped(range(0, PAGE))));
    is_balanced(&board, &space);
}

#[test]
fn a_page_that_is_asked_for_meanwhile_is_answered() {
    let (board, space, result) = meanwhile(|space, script, pager| {
        let Ok(Outcome::NotYet(ticket)) = space.fault(CpuId(1), read()) else { panic!("it was not there yet") };
        assert_eq!((script.asked(), pager.state(ticket)), (vec![4], Waiting::NotYet));
    });
    assert_eq!((result, space.load(gpa(0))), (Ok(Offered::Taken), Ok(7_u64)));
    is_balanced(&board, &space);
}

/// A fault holds the lock four times before it asks. What is offered in between is not asked for, and whoever was given
/// the fault's ticket meanwhile does not wait for ever.
#[test]
fn a_fault_that_is_about_to_ask_sees_what_was_offered() {
    fn after(times: usize, action: impl FnOnce() + 'static) {
        if times == 0 {
            eventful::before_shared(action);
        } else {
            eventful::after_shared(move || after(times - 1, action));
        }
    }
    for look in 0..4 {
        let board = Board::new();
        let (script, pager) = pager(2);
        let space = Arc::new(Space::new(board.config()).unwrap());
        space.map_from(range(0, 2 * PAGE), &pager, 4 * PAGE, RW).unwrap();
        let (elsewhere, answers) = (space.clone(), pager.clone());
        after(look, move || {
            // It is the fault's own ticket in the end, which this CPU gets too.
            let ticket = match elsewhere.fault(CpuId(1), read()) {
                Ok(Outcome::NotYet(ticket)) => ticket,
                other => panic!("{other:?}"),
            };
            assert_eq!(elsewhere.offer(gpa(0), &offered(7)), Ok(Offered::Taken));
            assert_eq!(answers.state(ticket), Waiting::Over);
            let late = answers.complete(ticket, Ok(&page(4 * PAGE)));
            assert_eq!(late, Err(SourceError::NotPending { ticket }));
        });
        let outcome = space.fault(CpuId(0), read()).unwrap();
        assert!(matches!(outcome, Outcome::Resolved | Outcome::Retry), "{outcome:?}");
        assert_eq!(space.load(gpa(0)), Ok(7_u64));
        let settled = script.settled();
        assert_eq!(settled.iter().filter(|&&(_, how)| how == Settled::Ready).count(), 1, "{settled:?}");
        is_balanced(&board, &space);
    }
}

/// The source answers late, too late, and not at all, while it is asked.
#[test]
fn a_page_that_is_offered_while_the_source_is_asked_is_what_the_guest_sees() {
    for answer in [Supply::Ready, Supply::Later, Supply::Failed] {
        let board = Board::new();
        let (script, pager) = pager(2);
        let space = Arc::new(board.space());
        space.map_from(range(0, 2 * PAGE), &pager, 4 * PAGE, RW).unwrap();
        script.answers(answer);
        let elsewhere = space.clone();
        let set = script.meanwhile.set(Box::new(move |moment| {
            if matches!(moment, Moment::Asked(_)) {
                assert_eq!(elsewhere.offer(gpa(0), &offered(7)), Ok(Offered::Taken));
            }
        }));
        assert!(set.is_ok());
        assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
        assert_eq!((space.load(gpa(0)), script.settled()), (Ok(7_u64), vec![(4, Settled::Ready)]));
        is_balanced(&board, &space);
    }
}

/// A migration: the guest runs on two CPUs and has what it misses brought, while all pages are pushed in the background.
/// No write is lost, no CPU waits for ever, and no page is charged twice.
#[test]
fn a_guest_runs_while_all_its_pages_are_pushed() {
    const PAGES: usize = 3000;
    let board = Board::new();
    let (space, (script, pager)) = (board.space(), pager(4));
    space.map_from(range(0, PAGES * PAGE), &pager, 0, RW).unwrap();
    let taken = AtomicU64::new(0);
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            let (space, pager, script) = (&space, &pager, &script);
            scope.spawn(move || {
                for index in 0..PAGES {
                    let at = (if cpu == 0 { index } else { PAGES - 1 - index }) * PAGE;
                    while let Err(error) = space.store(gpa(at + 8 + 8 * cpu), at as u64) {
                        let Error::NotYet { ticket, .. } = error else { panic!("{error}") };
                        if script.asked.lock().unwrap().last() == Some(&ticket) {
                            let _ = pager.complete(ticket, Ok(&page(ticket.offset())));
                        }
                        assert!(start.elapsed() < PATIENCE, "no page comes");
                    }
                }
            });
        }
        scope.spawn(|| {
            for at in (0..PAGES).map(|page| page * PAGE) {
                if space.offer(gpa(at), &page(at)).unwrap() == Offered::Taken {
                    taken.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    });
    for at in (0..PAGES).map(|page| page * PAGE) {
        assert_eq!(space.read_obj(gpa(at)), Ok([content(at), at as u64, at as u64]));
    }
    let (asked, settled) = (script.asked().len(), script.settled());
    assert!(settled.len() >= asked, "{asked} were asked for, and {} told", settled.len());
    assert!(taken.load(Ordering::Relaxed) > 0);
    is_balanced(&board, &space);
}
