//! Memory that comes from a source: what is asked, when, and what becomes of it.

#[path = "sources/callbacks.rs"]
mod callbacks;
#[path = "sources/let_go.rs"]
mod let_go;
#[path = "sources/offer.rs"]
mod offer;
#[path = "sources/populate.rs"]
mod populate;
#[path = "sources/private.rs"]
mod private;
#[path = "sources/races.rs"]
mod races;
#[path = "sources/regions.rs"]
mod regions;
#[path = "sources/snapshots.rs"]
mod snapshots;

use std::{
    num::NonZeroUsize,
    sync::{Mutex, OnceLock},
};

use stage2::{
    SharedRegion,
    pager::{Pager, Settled, Source, SourceError, SourceFailed, Supply, Ticket, Waiting},
    region::RegionError,
};

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
