//! When a source is called, and under which locks.

use std::{
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use super::*;

/// Does something that takes a space's lock. Another thread does it: were the lock held, this one would never come to an end.
fn elsewhere(act: impl FnOnce() + Send + 'static) {
    let (done, is_done) = mpsc::channel();
    thread::spawn(move || {
        act();
        done.send(())
    });
    is_done.recv_timeout(PATIENCE).expect("no lock is held");
}

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
        elsewhere(move || {
            space.map(range(BLOCK, PAGE), LAZY, RW).unwrap();
            space.store(gpa(BLOCK), 1_u8).unwrap();
            space.unmap(range(BLOCK, PAGE)).unwrap();
        });
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

/// Before the ticket is over it would come too early: a thread that then looks at the ticket would sleep for ever.
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
fn are_called_without_a_lock_by_a_cpu_that_finishes_for_another() {
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
    let meanwhile = move |_| {
        let space = inside.upgrade().unwrap();
        elsewhere(move || space.map(range(PAGE, PAGE), LAZY, READ).unwrap());
    };
    assert!(script.meanwhile.set(Box::new(meanwhile)).is_ok());
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    assert_eq!((script.settled(), space.stats().areas), (vec![(0, Settled::Cancelled)], 2));
}

fn during_the_ask(then: Supply, act: impl Fn(&GuestSpace<Machine>, &Pager, Ticket) + Send + Sync + 'static) -> Story {
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
    assert_eq!(board.allocated(), stats.table_frames + stats.owned_frames, "a frame is kept that is no space's");
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

/// A source whose end looks whether the space's lock is free.
struct Ending(Arc<OnceLock<Arc<GuestSpace<Machine>>>>, Arc<Mutex<Option<bool>>>);

impl Source for Ending {
    fn ask(&self, _: Ticket, _: &mut [u8]) -> Supply {
        Supply::Ready
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Some(space) = self.0.get().cloned() else { return };
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let _ = space.translate(gpa(0));
            let _ = done.send(());
        });
        *self.1.lock().unwrap() = Some(is_done.recv_timeout(Duration::from_secs(3)).is_ok());
    }
}

/// The region, and with it the source, was the refused area's alone.
#[test]
fn end_without_any_lock_where_a_mapping_is_refused() {
    let board = Board::new();
    let space = Arc::new(board.space());
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    let (inside, was_free) = (Arc::new(OnceLock::new()), Arc::new(Mutex::new(None)));
    let pager = Pager::new(Arc::new(Ending(inside.clone(), was_free.clone())), NonZeroUsize::MIN).unwrap();
    let region = space.region_from(PAGE, &pager, 0).unwrap();
    drop(pager);
    assert!(inside.set(Arc::clone(&space)).is_ok());
    let refused = space.map(range(0, PAGE), Mapping::Shared { region, offset: 0 }, READ);
    assert_eq!(refused, Err(Error::Overlap { range: range(0, PAGE), with: range(0, PAGE) }));
    assert_eq!(*was_free.lock().unwrap(), Some(true));
}

/// A source that looks at a space when it goes.
struct Farewell {
    space: OnceLock<std::sync::Weak<GuestSpace<Machine>>>,
    gone: Arc<AtomicU64>,
}

impl Source for Farewell {
    fn ask(&self, _: Ticket, _: &mut [u8]) -> Supply {
        Supply::Ready
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let space = self.space.get().and_then(std::sync::Weak::upgrade).expect("it is there");
        elsewhere(move || assert!(space.stats().areas > 0));
        self.gone.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whatever it was that let go of it for good.
#[test]
fn a_source_goes_without_any_lock() {
    type Let = fn(&GuestSpace<Machine>);
    let lets: [(&str, Let); 6] = [
        ("unmap", |space| space.unmap(range(BLOCK, PAGE)).unwrap()),
        ("discard", |space| space.discard(range(BLOCK, PAGE), stage2::space::Refill::Zeros).unwrap()),
        ("replace", |space| space.replace(range(BLOCK, PAGE), LAZY, RW).unwrap()),
        ("make_shared", |space| drop(space.make_shared(range(BLOCK, PAGE)).unwrap())),
        ("snapshot", |space| drop(space.snapshot().unwrap())),
        ("snapshot in steps", |space| drop(space.snapshot_in_steps().unwrap().finish().unwrap())),
    ];
    for (name, let_go) in lets {
        let board = Board::new();
        let gone = Arc::new(AtomicU64::new(0));
        let (space, (_, other)) = (Arc::new(board.space()), pager(2));
        let farewell = Arc::new(Farewell { space: OnceLock::new(), gone: gone.clone() });
        farewell.space.set(Arc::downgrade(&space)).unwrap();
        let pager = Pager::new(farewell, NonZeroUsize::MIN).unwrap();
        space.map_from(range(BLOCK, PAGE), &pager, 0, RW).unwrap();
        space.map_from(range(0, PAGE), &other, 0, RW).unwrap();
        drop(pager);
        assert_eq!(fault(&space, BLOCK, Access::Write), Outcome::Resolved, "{name}");
        if name.starts_with("snapshot") {
            // Behind the area that stays it is noted that it was there.
            drop(space.snapshot().unwrap());
            space.unmap(range(BLOCK, PAGE)).unwrap();
        }
        assert_eq!(gone.load(Ordering::Relaxed), 0, "{name}");
        let_go(&space);
        assert_eq!(gone.load(Ordering::Relaxed), 1, "{name}");
    }
}
