//! Snapshots of memory that has not come yet.

use stage2::{
    Limits,
    loan::PageState,
    space::{Progress, Resource},
};

use super::{
    eventful::{self, Eventful},
    *,
};

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
    // A pending page stays pending, and comes to the region that has the memory now.
    assert_eq!((pager.state(pending), waits(&space, PAGE, Access::Read)), (Waiting::NotYet, pending));
    let fork = board.space();
    fork.restore(&snapshot).unwrap();
    assert_eq!(waits(&fork, PAGE, Access::Write), pending);
    assert!(script.asked().is_empty());
    pager.complete(pending, Ok(&page(5 * PAGE))).unwrap();
    for space in [&space, &fork] {
        assert_eq!((space.load(gpa(0)), space.load(gpa(PAGE))), (Ok(1_u64), Ok(content(5 * PAGE))));
        space.store(gpa(PAGE), 3_u64).unwrap();
    }
    // A page that was not touched is asked for once, for both guests, and is never zeros.
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

/// All that a source had brought went off the account at once, and the CPUs waited meanwhile.
#[test]
fn that_go_in_steps_take_some_pages_off_the_account_in_each() {
    let board = Board::new();
    let (_script, pager) = pager(2);
    let space = board.space();
    space.map_from(range(0, 4096 * PAGE), &pager, 0, RW).unwrap();
    for turn in 0..3 {
        // In pieces that are far from each other, and some of them whole.
        let offered = (0..4096).filter(|at| at % 1024 < 300 || at % 16 == turn);
        for at in offered.clone() {
            let _ = space.offer(gpa(at * PAGE), &page(at * PAGE)).unwrap();
        }
        let paid = space.usage().frames;
        assert!(if turn == 0 { paid == offered.count() } else { paid > 100 }, "{paid}");
        let mut taking = space.snapshot_in_steps().unwrap();
        let (mut steps, mut left) = (0, paid);
        loop {
            let progress = taking.step(1).unwrap();
            let now = space.usage().frames;
            assert!(left - now <= 256, "{} pages in a step", left - now);
            steps += usize::from(now < left);
            left = now;
            if progress == Progress::Done {
                break;
            }
        }
        assert!(left == 0 && steps > 4, "{left} after {steps}");
        let snapshot = taking.finish().unwrap();
        assert_eq!(snapshot.region().load(16 * PAGE), Ok(content(16 * PAGE)));
        // What it is alone with by then is no snapshot's any more.
        drop(snapshot);
    }
}

/// A page that a CPU was about to ask for came to be on the account of a space that has it in common with a snapshot.
#[test]
fn that_go_in_steps_have_no_page_asked_for_that_is_paid_for() {
    let board = Board::new();
    let (script, pager) = pager(2);
    script.answers(Supply::Ready);
    let space = Arc::new(GuestSpace::<Machine, Eventful>::new(board.config()).unwrap());
    space.map_from(range(0, 2 * PAGE), &pager, 0, RW).unwrap();
    let other = Arc::clone(&space);
    // It has looked at the area, the space's tree and the page, and has not asked yet.
    eventful::after_shared_number(3, move || {
        let mut taking = other.snapshot_in_steps().unwrap();
        while taking.step(usize::MAX) == Ok(Progress::More) {}
        std::mem::forget(taking);
    });
    let missed = Fault { gpa: gpa(0), access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction };
    assert_eq!(space.fault(CpuId(0), missed), Err(Error::Snapshotting(range(0, 2 * PAGE))));
    assert_eq!((script.asked(), space.usage().frames), (vec![], 0));
}

/// The guest's own pages, a snapshot of which was taken and is gone; the third one has not come.
fn left(board: &Board) -> (GuestSpace<Machine>, Arc<Script>, Pager) {
    let (space, script, pager) = sourced(board, 4);
    script.answers(Supply::Ready);
    (0..2).for_each(|page| space.store(gpa(page * PAGE), 7 + page as u64).unwrap());
    script.answers(Supply::Later);
    drop(space.snapshot().unwrap());
    (space, script, pager)
}

/// What there was left of the snapshot became the guest's own before it was found that another page has not come.
#[test]
fn that_are_gone_stay_so_where_a_page_is_not_there_to_be_shared() {
    let board = Board::new();
    let (space, _script, _pager) = left(&board);
    let seen = || (space.to_string(), space.stats(), space.usage(), space.page_state(gpa(0)));
    let before = seen();
    assert_eq!((before.2.frames, before.3), (0, PageState::Frozen));
    let refused = Error::State { range: range(2 * PAGE, PAGE), state: PageState::Frozen };
    assert_eq!(space.make_shared(range(0, 3 * PAGE)), Err(refused));
    assert_eq!(seen(), before);
    let region = space.make_shared(range(0, 2 * PAGE)).unwrap();
    assert_eq!((region.load(0), region.load(PAGE), space.usage().frames), (Ok(7_u64), Ok(8_u64), 0));
}

/// A page at a time: what the limit has room for is the guest's own again, and on its account, though the call is refused.
#[test]
fn that_are_gone_are_as_if_they_had_never_been_up_to_the_limit() {
    let board = Board::new();
    let (space, _script, _pager) = left(&board);
    space.set_limits(Limits { frames: Some(1), table_frames: None, ..Limits::default() });
    assert!(matches!(space.make_shared(range(0, 2 * PAGE)), Err(Error::Limit { what: Resource::Frames, .. })));
    let states = [0, PAGE].map(|at| space.page_state(gpa(at)));
    assert_eq!((space.usage().frames, states), (1, [PageState::Owned, PageState::Frozen]));
    assert_eq!(space.translate(gpa(0)).unwrap().flags, RW, "a write of the guest is no fault");
    assert_eq!((space.load(gpa(0)), space.load(gpa(PAGE))), (Ok(7_u64), Ok(8_u64)));
    space.set_limits(Limits::default());
    drop(space.make_shared(range(0, 2 * PAGE)).unwrap());
}

/// What there was left of the snapshot became the guest's own before it was found that another page is others' too: one that
/// is there, and one that its source brings.
#[test]
fn that_are_gone_stay_so_where_another_page_is_not_to_be_given() {
    for (way, is_there) in (0..3).flat_map(|way| [(way, true), (way, false)]) {
        let board = Board::new();
        let (space, script, pager) = left(&board);
        let taker = board.space();
        let image = space.region_from(PAGE, &pager, 9 * PAGE).unwrap();
        image.freeze().unwrap();
        space.unmap(range(2 * PAGE, PAGE)).unwrap();
        space.map(range(2 * PAGE, PAGE), Mapping::CopyOnWrite { region: image.clone(), offset: 0 }, RW).unwrap();
        script.answers(Supply::Ready);
        if is_there {
            assert_eq!(space.load(gpa(2 * PAGE)), Ok(content(9 * PAGE)));
        }
        let give = || match way {
            0 => space.share(range(0, 3 * PAGE), &taker, gpa(0), RW).map(drop),
            1 => space.lend(range(0, 3 * PAGE), &taker, gpa(0), RW).map(drop),
            _ => space.donate(range(0, 3 * PAGE), &taker, gpa(0), RW, stage2::loan::Handover::Keep),
        };
        let seen = || {
            let states =
                [0, PAGE].map(|at| (space.page_state(gpa(at)), space.translate(gpa(at)).map(|there| there.flags)));
            (states, space.usage(), taker.to_string())
        };
        let before = seen();
        assert_eq!((before.1.frames, before.0.map(|page| page.0)), (0, [PageState::Frozen; 2]));
        let refused = Error::State { range: range(2 * PAGE, PAGE), state: PageState::Frozen };
        assert_eq!(give(), Err(refused), "way {way}");
        assert_eq!((seen().0, seen().1.frames, seen().2), (before.0, 0, before.2), "way {way}");
        drop(image);
        assert_eq!(give(), Ok(()), "way {way}");
        let given = [0, 1, 2].map(|page| taker.load(gpa(page * PAGE)));
        assert_eq!(given, [Ok(7_u64), Ok(8), Ok(content(9 * PAGE))], "way {way}");
    }
}
