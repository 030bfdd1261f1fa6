//! The pages that were asked for and not brought yet: a fixed number of slots, each with its page's owner.
//!
//! It knows no page and no region: `O` is what the page is for.

use alloc::vec::Vec;
use core::{
    num::NonZeroUsize,
    ops::{Deref, DerefMut, Range},
    sync::atomic::{AtomicU64, Ordering},
};

#[cfg(loom)]
use loom::sync::Mutex as Lock;
#[cfg(not(loom))]
use spin::rwlock::RwLock as Lock;

use super::{Demand, Ticket};

/// The number of the next ticket, of whichever desk: a ticket that is shown at the wrong one is unknown there.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The desk.
pub(super) struct Desk<O> {
    slots: Lock<Vec<Option<Entry<O>>>>,
}

/// A page that was asked for.
pub(super) struct Entry<O> {
    pub ticket: Ticket,
    /// The owner of the page.
    pub owner: O,
    /// Which of the owner's pages.
    pub page: usize,
    stage: Stage,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It may be answered. Of several answers, the first that comes to its end counts.
    Asked,
    /// It cannot be had, and this is remembered.
    Failed,
}

/// What came of asking for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It was not asked for yet: the CPU that came now does it.
    New(Ticket),
    /// It has been asked for, or there is no room: then this is the ticket that has waited longest.
    Pending(Ticket),
    /// It could not be had.
    Failed(Ticket),
}

impl<O: PartialEq> Desk<O> {
    /// With room for so many pages.
    pub(super) fn new(room: NonZeroUsize) -> Option<Self> {
        let mut slots = Vec::new();
        slots.try_reserve_exact(room.get()).ok()?;
        slots.resize_with(room.get(), || None);
        Some(Self { slots: Lock::new(slots) })
    }

    /// Finds or makes the place of a page, at `offset` in the source. A failure makes room where there is no other.
    pub(super) fn enter(&self, owner: O, page: usize, offset: usize, demand: Demand) -> Place {
        let mut slots = self.lock();
        let known = slots.iter().flatten().find(|entry| entry.page == page && entry.owner == owner);
        if let Some(entry) = known {
            let ticket = entry.ticket;
            return if entry.stage == Stage::Failed { Place::Failed(ticket) } else { Place::Pending(ticket) };
        }
        let pending = || slots.iter().flatten().filter(|entry| entry.stage == Stage::Asked).map(|entry| entry.ticket);
        let kept = match demand {
            Demand::Now => 0,
            Demand::Ahead => kept(slots.len()),
        };
        // Fewer are kept than there are: with none pending there is room.
        if slots.len() - pending().count() <= kept
            && let Some(oldest) = pending().min_by_key(|ticket| ticket.serial)
        {
            return Place::Pending(oldest);
        }
        let slot = (0..slots.len()).min_by_key(|&slot| rank(slots[slot].as_ref())).unwrap_or(0);
        let ticket = ticket(slot, offset);
        let forgotten = slots[slot].replace(Entry { ticket, owner, page, stage: Stage::Asked });
        drop(slots);
        // Without the lock: it may have the last reference to its owner.
        drop(forgotten);
        Place::New(ticket)
    }

    /// The owner and the number of the page of a ticket that is neither answered nor over.
    pub(super) fn wanted(&self, ticket: Ticket) -> Option<(O, usize)>
    where
        O: Clone,
    {
        let mut slots = self.lock();
        find(&mut slots, ticket).map(|entry| (entry.owner.clone(), entry.page))
    }

    /// Whether the ticket is neither answered nor over.
    pub(super) fn is_waited_for(&self, ticket: Ticket) -> bool {
        let slots = self.look();
        slots.get(ticket.slot).and_then(Option::as_ref).is_some_and(|entry| entry.is_asked(ticket))
    }

    /// It cannot be had, if it was waited for: whether it was. The entry stays until it is forgotten.
    pub(super) fn fail(&self, ticket: Ticket) -> bool {
        find(&mut self.lock(), ticket).map(|entry| entry.stage = Stage::Failed).is_some()
    }

    /// Forgets that it could not be had.
    pub(super) fn forget(&self, ticket: Ticket) -> Option<Entry<O>> {
        self.take(|entry| entry.ticket == ticket && entry.stage == Stage::Failed)
    }

    /// The ticket is over.
    pub(super) fn end(&self, ticket: Ticket) -> Option<Entry<O>> {
        self.take(|entry| entry.ticket == ticket && entry.stage == Stage::Asked)
    }

    /// Takes out one of an owner's pages.
    pub(super) fn take_one(&self, owner: &O, pages: &Range<usize>) -> Option<Entry<O>> {
        self.take(|entry| pages.contains(&entry.page) && entry.owner == *owner)
    }

    fn take(&self, wanted: impl Fn(&Entry<O>) -> bool) -> Option<Entry<O>> {
        self.lock().iter_mut().find(|slot| slot.as_ref().is_some_and(&wanted))?.take()
    }

    /// Held shared: a CPU that looks again and again does not hold up the others.
    #[cfg(not(loom))]
    fn look(&self) -> impl Deref<Target = Vec<Option<Entry<O>>>> {
        self.slots.read()
    }

    /// Held alone, in spite of a stream of CPUs that look.
    #[cfg(not(loom))]
    fn lock(&self) -> impl DerefMut<Target = Vec<Option<Entry<O>>>> {
        self.slots.upgradeable_read().upgrade()
    }

    #[cfg(loom)]
    fn look(&self) -> impl Deref<Target = Vec<Option<Entry<O>>>> {
        self.slots.lock().unwrap()
    }

    #[cfg(loom)]
    fn lock(&self) -> impl DerefMut<Target = Vec<Option<Entry<O>>>> {
        self.slots.lock().unwrap()
    }
}

impl<O> Entry<O> {
    /// Whether it is waited for by this ticket.
    fn is_asked(&self, ticket: Ticket) -> bool {
        self.ticket == ticket && self.stage == Stage::Asked
    }

    /// Whether it was waited for until now.
    pub(super) fn was_pending(&self) -> Option<Ticket> {
        (self.stage == Stage::Asked).then_some(self.ticket)
    }
}

/// How many of so many places what is asked for ahead leaves to what cannot wait.
const fn kept(places: usize) -> usize {
    if places < 4 { places / 2 } else { places / 4 }
}

/// Which slot is used first: an empty one, then the oldest failure.
fn rank<O>(entry: Option<&Entry<O>>) -> (usize, u64) {
    match entry {
        None => (0, 0),
        Some(entry) if entry.stage == Stage::Failed => (1, entry.ticket.serial),
        Some(entry) => (2, entry.ticket.serial),
    }
}

/// A ticket with a number that no other has.
fn ticket(slot: usize, offset: usize) -> Ticket {
    // Relaxed: each number comes once, in whatever order.
    Ticket { serial: NEXT.fetch_add(1, Ordering::Relaxed), slot, offset }
}

/// A page that is waited for.
fn find<O>(slots: &mut [Option<Entry<O>>], ticket: Ticket) -> Option<&mut Entry<O>> {
    let entry = slots.get_mut(ticket.slot)?.as_mut()?;
    entry.is_asked(ticket).then_some(entry)
}
