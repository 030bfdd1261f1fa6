//! Asking a source, waiting, and being answered.

use alloc::sync::Arc;
use core::{fmt, num::NonZeroUsize, ops::Range};

use memory_addr::PAGE_SIZE_4K;

use super::{
    Demand, PageOwner, Settled, Source, SourceFailed, Supply, Ticket,
    desk::{Desk, Entry, Place},
};
use crate::{account::Exhausted, counted::Counted};

/// A source, and the pages that it was asked for and has not brought yet: a handle, of which there may be many.
///
/// It stands behind private memory ([`GuestSpace::map_from`](crate::GuestSpace::map_from)) and regions
/// ([`SharedRegion::from_source`](crate::SharedRegion::from_source)), any number of either. The number of pages that may be
/// pending at once is all of theirs together: with a pager for each guest, no guest takes another's room.
///
/// # Waiting
/// A fault on a page that is not there yet is answered [`Outcome::NotYet`](crate::Outcome::NotYet) with a ticket. The
/// hypervisor puts the virtual CPU to sleep *under a lock of its own*, after it has asked [`state`](Self::state) under the
/// same lock; [`Source::settled`] takes that lock too and wakes the virtual CPUs that sleep by the ticket. The
/// state changes before `settled` is called: a virtual CPU that still saw [`Waiting::NotYet`] is asleep when it comes.
/// Then the fault is answered anew.
///
/// # Pages that nobody asked for
/// A source that has a page before it is asked for it, as in the background of a migration, offers it to those that it is
/// for: [`GuestSpace::offer`](crate::GuestSpace::offer), [`SharedRegion::offer`](crate::SharedRegion::offer). A pager does
/// not know them, but for the pages that were asked for.
///
/// # Failures
/// A page that the source cannot have is [`Outcome::SourceFailed`](crate::Outcome::SourceFailed) for all CPUs that
/// waited or come, until [`retry`](Self::retry) is called or what it was for is gone. It takes up the room of a
/// pending page meanwhile; when that is needed the oldest failure is forgotten, and its page is asked for again.
///
/// # Example
/// ```
/// use std::{num::NonZeroUsize, sync::Arc};
/// use stage2::{
///     Access, Cause, CpuId, Fault, Origin, Outcome,
///     pager::{Pager, Settled, Source, Supply, Ticket, Waiting},
/// };
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// /// Another machine, which answers later.
/// struct Remote;
///
/// impl Source for Remote {
///     fn ask(&self, _: Ticket, _: &mut [u8]) -> Supply {
///         Supply::Later
///     }
///
///     fn settled(&self, _: Ticket, _: Settled) {
///         // Here a hypervisor wakes the virtual CPUs that wait for the ticket.
///     }
/// }
///
/// let pager = Pager::new(Arc::new(Remote), NonZeroUsize::new(8).unwrap())?;
/// let space = guest(1)?;
/// space.map_from(range(0x8000_0000, 0x4000), &pager, 0, RW)?;
///
/// let gpa = 0x8000_1000.into();
/// let fault = Fault { gpa, access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction };
/// let Outcome::NotYet(ticket) = space.fault(CpuId(0), fault)? else { panic!("it was not asked for yet") };
/// assert_eq!((ticket.offset(), pager.state(ticket)), (0x1000, Waiting::NotYet));
///
/// // The page arrives.
/// pager.complete(ticket, Ok(&[7; 4096]))?;
/// assert_eq!(pager.state(ticket), Waiting::Over);
/// assert_eq!(space.load::<u8>(gpa)?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Pager(Counted<Inner>);

struct Inner {
    source: Arc<dyn Source>,
    desk: Desk<Owner>,
}

/// The owner of a page: a region, which this keeps.
type Owner = Counted<dyn PageOwner>;

/// Whether a ticket is still to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Waiting {
    /// It is.
    NotYet,
    /// It is over, or was never this pager's: try again what led to it.
    Over,
}

/// Why an answer to a ticket is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The ticket is not waited for: it was answered, or it was cancelled, or it is another pager's.
    #[error("{ticket} is not waited for")]
    NotPending {
        /// Which ticket.
        ticket: Ticket,
    },
    /// There is no failure of this ticket that is remembered.
    #[error("{ticket} did not fail, or that was forgotten")]
    NotFailed {
        /// Which ticket.
        ticket: Ticket,
    },
    /// An answer is one page of 4 KiB. The ticket stays pending.
    #[error("{size:#x} bytes are no page: {ticket}")]
    BadSize {
        /// Which ticket.
        ticket: Ticket,
        /// How many bytes there were.
        size: usize,
    },
    /// There is no memory for the page. The ticket stays pending, and may be answered again.
    #[error("out of memory: {ticket}")]
    NoMemory {
        /// Which ticket.
        ticket: Ticket,
    },
    /// There is no memory for a pager with so much room.
    #[error("out of memory for a pager of {room} pages")]
    NoRoom {
        /// How many pages.
        room: NonZeroUsize,
    },
}

impl Pager {
    /// For pages of `source`, of which `pending` at most are asked for at a time.
    ///
    /// They are looked through for each page that is missed: tens or hundreds, not thousands.
    ///
    /// A quarter of the places, or one of two or three, are kept for faults and for other accesses that cannot go on without
    /// the page: [`GuestSpace::populate`](crate::GuestSpace::populate) leaves them empty, whatever it is called for and by
    /// however many CPUs. Of a pager with one place nothing can be kept.
    ///
    /// # Errors
    /// [`SourceError::NoRoom`].
    pub fn new(source: Arc<dyn Source>, pending: NonZeroUsize) -> Result<Self, SourceError> {
        let desk = Desk::new(pending);
        let inner = desk.and_then(|desk| Counted::try_new(Inner { source, desk }));
        inner.map(Self).ok_or(SourceError::NoRoom { room: pending })
    }

    /// Answers a ticket with the page's 4 KiB, or with the failure to have them. Called without any lock that
    /// [`Source::settled`] takes.
    ///
    /// The page is in its region when it returns, and waiters were told; the tables get it when a guest tries again,
    /// with what flags its area then has.
    ///
    /// # Errors
    /// - [`SourceError::NotPending`] for a second answer, a late one, one to a wrong pager;
    /// - [`SourceError::BadSize`], [`SourceError::NoMemory`]: the ticket stays pending.
    pub fn complete(&self, ticket: Ticket, answer: Result<&[u8], SourceFailed>) -> Result<(), SourceError> {
        match answer {
            Ok(page) if page.len() != PAGE_SIZE_4K => Err(SourceError::BadSize { ticket, size: page.len() }),
            Ok(page) => self.fill(ticket, page),
            Err(SourceFailed) if self.fail(ticket) => Ok(()),
            Err(SourceFailed) => Err(SourceError::NotPending { ticket }),
        }
    }

    /// Whether a ticket is still to be waited for. It takes a lock that is never held during a callback: it may be asked
    /// under any lock of the hypervisor's own.
    pub fn state(&self, ticket: Ticket) -> Waiting {
        if self.0.desk.is_waited_for(ticket) { Waiting::NotYet } else { Waiting::Over }
    }

    /// Forgets a failure: the next fault asks for the page again.
    ///
    /// # Errors
    /// [`SourceError::NotFailed`].
    pub fn retry(&self, ticket: Ticket) -> Result<(), SourceError> {
        self.0.desk.forget(ticket).map(drop).ok_or(SourceError::NotFailed { ticket })
    }

    fn fill(&self, ticket: Ticket, page: &[u8]) -> Result<(), SourceError> {
        let (region, index) = self.0.desk.wanted(ticket).ok_or(SourceError::NotPending { ticket })?;
        let copy = &mut |to: &mut [u8]| {
            to.copy_from_slice(page);
            true
        };
        match self.receive(&region, index, ticket, copy) {
            Ok(true) => Ok(()),
            // Cancelled meanwhile, or answered by another CPU.
            Ok(false) => Err(SourceError::NotPending { ticket }),
            Err(_) => Err(SourceError::NoMemory { ticket }),
        }
    }

    /// Gives a region the page that `write` fills, unless it is cancelled before: whether the region has it.
    fn receive(
        &self,
        region: &Owner,
        page: usize,
        ticket: Ticket,
        write: &mut dyn FnMut(&mut [u8]) -> bool,
    ) -> Result<bool, Exhausted> {
        let mut entry = None;
        let admit = &mut || {
            entry = self.0.desk.end(ticket);
            entry.is_some()
        };
        let received = region.receive(page, write, admit)?;
        over(entry, |ticket| self.0.source.settled(ticket, Settled::Ready));
        Ok(received)
    }

    /// The source cannot have a page: whether it was still waited for.
    fn fail(&self, ticket: Ticket) -> bool {
        let was_pending = self.0.desk.fail(ticket);
        if was_pending {
            self.0.source.settled(ticket, Settled::Failed);
        }
        was_pending
    }

    fn cancel(&self, entry: Option<Entry<Owner>>) {
        over(entry, |ticket| self.0.source.settled(ticket, Settled::Cancelled));
    }

    /// These pages are not wanted any more.
    pub(crate) fn cancel_pages(&self, region: &Owner, pages: &Range<usize>) {
        while let Some(entry) = self.0.desk.take_one(region, pages) {
            self.cancel(Some(entry));
        }
    }

    /// A page has come that its owner was offered: nobody answers for it any more. It is told of when the value is dropped.
    pub(crate) fn answered(&self, owner: &Owner) -> Answered {
        Answered { pager: self.clone(), entry: self.0.desk.take_one(owner, &(0..1)) }
    }

    /// Finds out whether a page has been asked for. A CPU that is answered [`Entered::First`] looks once more whether it is
    /// still missing, and then asks.
    pub(crate) fn enter(&self, region: &Owner, page: usize, offset: usize, demand: Demand) -> Entered {
        match self.0.desk.enter(region.clone(), page, offset, demand) {
            Place::New(ticket) => {
                Entered::First(Asking { pager: self.clone(), region: region.clone(), page, ticket: Some(ticket) })
            }
            Place::Pending(ticket) => Entered::Other(Supplied::NotYet(ticket)),
            Place::Failed(ticket) => Entered::Other(Supplied::Failed(ticket)),
        }
    }
}

/// Tells that what was at the desk is over. It is there no more: a vCPU that asks for its state before it sleeps does not
/// sleep, and one that asked before is told.
pub(super) fn over<O>(entry: Option<Entry<O>>, tell: impl FnOnce(Ticket)) {
    if let Some(entry) = entry {
        let ticket = entry.was_pending();
        // Before the source is told: it may have the last reference to the region.
        drop(entry);
        ticket.map(tell);
    }
}

/// The wait for a page that was offered, if there was one: dropped, without any lock, it is over.
#[must_use]
pub(crate) struct Answered {
    pager: Pager,
    entry: Option<Entry<Owner>>,
}

impl Drop for Answered {
    fn drop(&mut self) {
        over(self.entry.take(), |ticket| self.pager.0.source.settled(ticket, Settled::Ready));
    }
}

/// What came of missing a page.
#[must_use]
pub(crate) enum Entered {
    /// It was not asked for yet.
    First(Asking),
    /// It was.
    Other(Supplied),
}

/// What a source did about a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Supplied {
    /// It brought the page, or the page is not missing any more: look again.
    Ready,
    /// It has not got it yet.
    NotYet(Ticket),
    /// It cannot have it.
    Failed(Ticket),
}

/// The right to ask for a page, once. Dropped, it was not asked for.
#[must_use]
pub(crate) struct Asking {
    pager: Pager,
    region: Owner,
    page: usize,
    /// Until it is asked.
    ticket: Option<Ticket>,
}

impl Asking {
    /// Asks, without any lock.
    ///
    /// # Errors
    /// [`Exhausted`] if there is no frame for the page.
    pub(crate) fn ask(mut self) -> Result<Supplied, Exhausted> {
        let Some(ticket) = self.ticket else { return Ok(Supplied::Ready) };
        let mut supply = None;
        let write = &mut |page: &mut [u8]| {
            let answer = self.pager.0.source.ask(ticket, page);
            supply = Some(answer);
            answer == Supply::Ready
        };
        let received = self.pager.receive(&self.region, self.page, ticket, write)?;
        self.ticket = None;
        Ok(match (supply, received) {
            (Some(Supply::Failed), _) if self.pager.fail(ticket) => Supplied::Failed(ticket),
            (_, true) => Supplied::Ready,
            // Not answered yet, or answered by another CPU while it was asked.
            _ => match self.pager.state(ticket) {
                Waiting::NotYet => Supplied::NotYet(ticket),
                Waiting::Over => Supplied::Ready,
            },
        })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.pager.cancel(self.pager.0.desk.end(ticket));
        }
    }
}

impl fmt::Debug for Pager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pager").finish_non_exhaustive()
    }
}

/// Handles are equal that are of the same pager.
impl PartialEq for Pager {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }
}

impl Eq for Pager {}
