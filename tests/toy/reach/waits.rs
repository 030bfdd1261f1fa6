//! A page that is waited for is wanted as long as somebody can reach it, through however many checkpoints.

use std::sync::Mutex;

use stage2::pager::SourceError;

use super::*;

/// A source that answers later, and notes what it was told.
#[derive(Default)]
struct Remote {
    asked: Mutex<Vec<usize>>,
    settled: Mutex<Vec<(usize, Settled)>>,
}

impl Source for Remote {
    fn ask(&self, ticket: Ticket, _: &mut [u8]) -> Supply {
        self.asked.lock().unwrap().push(ticket.offset() / PAGE);
        Supply::Later
    }

    fn settled(&self, ticket: Ticket, how: Settled) {
        self.settled.lock().unwrap().push((ticket.offset() / PAGE, how));
    }
}

/// A guest of eight pages of the source, and a wait for the page 1.
struct Stage {
    board: Board,
    remote: Arc<Remote>,
    pager: Pager,
    space: GuestSpace<Host>,
    ticket: Ticket,
}

impl Stage {
    fn new() -> Self {
        let (board, remote) = (Board::new(), Arc::new(Remote::default()));
        let pager = Pager::new(remote.clone(), std::num::NonZeroUsize::new(4).unwrap()).unwrap();
        let space = machine::space(&board, true);
        space.map_from(pages(0..8), &pager, 0, RW).unwrap();
        let ticket = waits(&space);
        Self { board, remote, pager, space, ticket }
    }

    /// It is still waited for, and nothing was told.
    #[track_caller]
    fn is_wanted(&self) {
        assert_eq!(self.pager.state(self.ticket), Waiting::NotYet);
        assert_eq!(*self.remote.settled.lock().unwrap(), []);
    }

    /// It is over, for good, the source was told once, and it was asked once.
    #[track_caller]
    fn is_cancelled(&self) {
        assert_eq!(self.pager.state(self.ticket), Waiting::Over);
        assert_eq!(*self.remote.settled.lock().unwrap(), [(1, Settled::Cancelled)]);
        let late = self.pager.complete(self.ticket, Ok(&[1; PAGE]));
        assert_eq!(late, Err(SourceError::NotPending { ticket: self.ticket }));
        assert_eq!(*self.remote.settled.lock().unwrap(), [(1, Settled::Cancelled)]);
        assert_eq!(*self.remote.asked.lock().unwrap(), [1]);
    }

    fn fork(&self, snapshot: &Snapshot) -> GuestSpace<Host> {
        let fork = machine::space(&self.board, true);
        fork.restore(snapshot).unwrap();
        fork
    }
}

fn pages(pages: Range<usize>) -> stage2::GuestPhysRange {
    super::super::range(pages.start * PAGE, pages.len() * PAGE)
}

fn waits(space: &GuestSpace<Host>) -> Ticket {
    let fault = Fault { gpa: gpa(PAGE), access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction };
    match space.fault(CpuId(0), fault) {
        Ok(Outcome::NotYet(ticket)) => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_checkpoint_unmapping_ends_them() {
    let stage = Stage::new();
    stage.space.unmap(pages(2..8)).unwrap();
    stage.is_wanted();
    stage.space.unmap(pages(1..2)).unwrap();
    stage.is_cancelled();
    assert_eq!(held(&stage.board, [&stage.space]), 0);
}

#[test]
fn unmapping_ends_them_after_checkpoints_that_were_dropped() {
    for checkpoints in 1..4 {
        for whole in [true, false] {
            let stage = Stage::new();
            for _ in 0..checkpoints {
                drop(stage.space.snapshot().unwrap());
                stage.is_wanted();
                assert_eq!(waits(&stage.space), stage.ticket);
            }
            stage.space.unmap(if whole { pages(0..8) } else { pages(1..2) }).unwrap();
            stage.is_cancelled();
            drop(stage.space);
            assert_eq!(stage.board.allocated(), 0);
        }
    }
}

#[test]
fn unmapping_leaves_them_to_a_checkpoint() {
    let stage = Stage::new();
    let snapshot = stage.space.snapshot().unwrap();
    stage.space.unmap(pages(0..8)).unwrap();
    stage.is_wanted();
    drop(snapshot);
    stage.is_cancelled();
}

#[test]
fn the_last_of_several_checkpoints_ends_them() {
    for newest_first in [true, false] {
        let stage = Stage::new();
        let mut all: Vec<_> = (0..3).map(|_| stage.space.snapshot().unwrap()).collect();
        stage.space.unmap(pages(0..8)).unwrap();
        while all.len() > 1 {
            drop(all.remove(if newest_first { all.len() - 1 } else { 0 }));
            stage.is_wanted();
        }
        drop(all);
        stage.is_cancelled();
    }
}

#[test]
fn the_last_of_several_guests_ends_them() {
    for by_unmapping in [true, false] {
        for parent_first in [true, false] {
            let stage = Stage::new();
            let fork = stage.fork(&stage.space.snapshot().unwrap());
            assert_eq!(waits(&fork), stage.ticket);
            let mut fork = Some(fork);
            let mut fork_goes = || match fork.take() {
                Some(there) if by_unmapping => fork.insert(there).unmap(pages(0..2)).unwrap(),
                gone => drop(gone),
            };
            if parent_first {
                stage.space.unmap(pages(1..3)).unwrap();
                stage.is_wanted();
                fork_goes();
            } else {
                fork_goes();
                stage.is_wanted();
                stage.space.unmap(pages(1..3)).unwrap();
            }
            stage.is_cancelled();
        }
    }
}

/// What was written, or unmapped and mapped anew, is not what is waited for.
#[test]
fn other_memory_at_the_same_address_does_not_want_them() {
    let stage = Stage::new();
    let snapshot = stage.space.snapshot().unwrap();
    let fork = stage.fork(&snapshot);
    stage.space.unmap(pages(1..2)).unwrap();
    stage.space.map(pages(1..2), LAZY, RW).unwrap();
    stage.space.store(gpa(PAGE), 5_u64).unwrap();
    drop(snapshot);
    stage.is_wanted();
    fork.unmap(pages(1..2)).unwrap();
    stage.is_cancelled();
    assert_eq!(stage.space.load(gpa(PAGE)), Ok(5_u64));
    assert_eq!(held(&stage.board, [&stage.space, &fork]), 1);
}

/// It comes while only a checkpoint wants it, and is that's until it goes.
#[test]
fn a_page_that_comes_is_there_for_whom_it_is_left_to() {
    let stage = Stage::new();
    let snapshot = stage.space.snapshot().unwrap();
    stage.space.unmap(pages(0..8)).unwrap();
    stage.pager.complete(stage.ticket, Ok(&[7; PAGE])).unwrap();
    assert_eq!(*stage.remote.settled.lock().unwrap(), [(1, Settled::Ready)]);
    assert_eq!((held(&stage.board, [&stage.space]), snapshot.region().load(PAGE)), (1, Ok(7_u8)));
    let fork = stage.fork(&snapshot);
    drop(snapshot);
    assert_eq!((held(&stage.board, [&stage.space, &fork]), fork.load(gpa(PAGE))), (1, Ok(7_u8)));
    fork.unmap(pages(1..2)).unwrap();
    assert_eq!(held(&stage.board, [&stage.space, &fork]), 0);
}

/// A handle is one who can reach it, and so is a guest that inherits it by the handle.
#[test]
fn a_handle_wants_what_it_reaches() {
    let stage = Stage::new();
    let snapshot = stage.space.snapshot().unwrap();
    let region = snapshot.region().clone();
    drop(snapshot);
    stage.space.unmap(pages(0..8)).unwrap();
    stage.is_wanted();
    let other = machine::space(&stage.board, true);
    other.map(pages(1..2), Mapping::CopyOnWrite { region, offset: PAGE }, RW).unwrap();
    stage.is_wanted();
    assert_eq!(waits(&other), stage.ticket);
    other.unmap(pages(1..2)).unwrap();
    stage.is_cancelled();
}
