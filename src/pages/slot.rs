//! A page that several trees name, or that a source is asked for.
#![allow(unsafe_code, reason = "owns frames")]

use core::sync::atomic::{AtomicUsize, Ordering};

use memory_addr::PhysAddr;
use spin::rwlock::RwLock;

use super::{
    frame::Frame,
    keeper::{Keeper, Paid, Payer},
};
use crate::{
    account::{Exhausted, Resource},
    counted::Counted,
    source::{Answered, Demand, Entered, PageOwner, Pager, Supplied},
};

/// One tree's claim to a page: of all that name it, each has one.
///
/// With the last of them the page is freed, and what waits for it is told that the wait is over: it is dropped without any
/// lock.
pub(crate) struct Share(Counted<Slot>);

/// A page that a source is to be asked for. It is no claim to the page.
pub(crate) struct Wanted(Counted<Slot>);

/// The page.
struct Slot {
    keeper: Counted<dyn Keeper>,
    /// How many trees name it. The desk of a pager has the slot too, and does not count.
    sharers: AtomicUsize,
    content: RwLock<Content>,
}

/// What is known of it.
struct Content {
    /// Its frame, once it has one.
    at: Option<Frame>,
    /// For whom it was asked: with its frame it is on that account.
    paid: Option<Paid>,
    /// The source that was asked for it.
    asked: Option<Pager>,
}

impl Share {
    /// A page that has no frame yet. With `None` there is no memory.
    pub(super) fn missing(keeper: &Counted<dyn Keeper>) -> Option<Self> {
        let content = RwLock::new(Content { at: None, paid: None, asked: None });
        Counted::try_new(Slot { keeper: keeper.clone(), sharers: AtomicUsize::new(1), content }).map(Self)
    }

    /// Its frame from now on.
    pub(super) fn set(&self, frame: Frame) {
        self.0.content.write().at = Some(frame);
    }

    /// Its frame.
    pub(super) fn frame(&self) -> Option<Frame> {
        self.0.content.read().at
    }

    pub(super) fn keeper(&self) -> &Counted<dyn Keeper> {
        &self.0.keeper
    }

    /// Whether no other tree names it. None can come while this one is not shared.
    pub(super) fn is_alone(&self) -> bool {
        self.0.sharers.load(Ordering::Acquire) == 1
    }

    /// Whether it is on that account, by that number.
    pub(super) fn is_paid_by(&self, payer: &Payer, page: usize) -> bool {
        let content = self.0.content.read();
        content.at.is_some() && content.is_for(payer, page)
    }

    /// Takes it off that account, if it is there by that number: whether it was. The charge is the caller's.
    pub(super) fn take_charge(&self, payer: &Payer, page: usize) -> bool {
        let mut content = self.0.content.write();
        content.is_for(payer, page) && content.paid.take().is_some() && content.at.is_some()
    }

    /// Takes it off that account, if it is there by that number.
    pub(super) fn unpay(&self, payer: &Payer, page: usize) {
        let mut content = self.0.content.write();
        if content.is_for(payer, page) {
            content.unpay();
        }
    }

    /// The page itself, for the only one that names it; it is on no account any more.
    pub(super) fn take(&self) -> Option<PhysAddr> {
        let mut content = self.0.content.write();
        content.unpay();
        content.at.take().map(Frame::at)
    }

    /// The page, to ask for it.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted(self.0.clone())
    }
}

impl Wanted {
    /// Refuses what an account has no room for, unless it was asked for before, or others wait for it too.
    pub(super) fn check_room(&self, payer: &Payer, is_alone: impl FnOnce() -> bool) -> Result<(), Exhausted> {
        let account = payer.of(Resource::Frames);
        let is_full = account.room() == 0 && self.0.content.read().asked.is_none() && is_alone();
        if is_full { Err(account.refusal()) } else { Ok(()) }
    }

    /// It is about to be asked for: when it comes it is on that account.
    pub(crate) fn note(&self, paid: Option<Paid>, pager: &Pager) {
        self.0.content.write().ask(paid, pager);
    }

    /// Asks the source for it, once for all that name it: `offset` is where it is there. The CPU that is to ask first
    /// looks once more whether it is missing, and [notes](Self::note) that it asks: another CPU may have brought it before.
    /// Called without any lock.
    pub(crate) fn ask(
        &self,
        (pager, offset): (&Pager, usize),
        demand: Demand,
        is_still_missing: impl FnOnce() -> bool,
    ) -> Result<Supplied, Exhausted> {
        let owner = self.0.owner();
        let asked = ask((pager, offset), &owner, demand, is_still_missing);
        if self.0.sharers.load(Ordering::Acquire) == 0 {
            // It was let go before it was known that there is something to cancel: discarded, so that a page is missing
            // there still, but another one.
            pager.cancel_pages(&owner, &(0..1));
        }
        asked
    }
}

/// A frame with what was offered, which no tree names. Dropped before a page has it, it is free.
pub(super) struct Filled {
    keeper: Counted<dyn Keeper>,
    /// `None` once a page has it.
    at: Option<PhysAddr>,
}

impl Wanted {
    /// Whether it is the same page.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }

    /// A frame for it with that content. Called without any lock.
    pub(super) fn filled(&self, content: &[u8]) -> Result<Filled, Exhausted> {
        let at = self.0.keeper.allocate(&mut |to| {
            to.copy_from_slice(content);
            true
        })?;
        Ok(Filled { keeper: self.0.keeper.clone(), at })
    }

    /// Gives it a frame that was [filled](Self::filled) for it, if it has none and `is_missing` says, under the page's lock,
    /// that none was taken from here either: then the wait for it ends. If it was not asked for it is on that account.
    ///
    /// # Errors
    /// There is no room on the account: it still waits, if it was asked for.
    pub(super) fn take_up(
        &self,
        filled: &mut Filled,
        pager: &Pager,
        paid: Option<Paid>,
        is_missing: &dyn Fn() -> bool,
    ) -> Result<Option<(Answered, Option<Pager>)>, Exhausted> {
        let owner = self.0.owner();
        let mut content = self.0.content.write();
        // In this order: a page that was here, and that another CPU took, is in the tables by then, or its entry busy.
        let is_wanted = content.at.is_none() && is_missing();
        let Some(at) = filled.at.filter(|_| is_wanted) else { return Ok(None) };
        if content.asked.is_none() {
            content.paid = paid;
        }
        let mut answered = None;
        let (_, asked) = content.come(at, &mut || {
            // Under the page's lock: no other answer comes to its end any more.
            answered = Some(pager.answered(&owner));
            true
        })?;
        filled.at = None;
        Ok(answered.map(|answered| (answered, asked)))
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            // SAFETY: it was allocated there for this value, and no page has it.
            unsafe { self.keeper.free(at) }
        }
    }
}

/// Asks for a page, once for all.
pub(super) fn ask(
    (pager, offset): (&Pager, usize),
    owner: &Counted<dyn PageOwner>,
    demand: Demand,
    is_still_missing: impl FnOnce() -> bool,
) -> Result<Supplied, Exhausted> {
    match pager.enter(owner, 0, offset, demand) {
        Entered::Other(supplied) => Ok(supplied),
        // Another CPU brought the page, or took it away, before this one's ticket was written down.
        Entered::First(_) if !is_still_missing() => Ok(Supplied::Ready),
        Entered::First(asking) => asking.ask(),
    }
}

impl Content {
    /// Its frame comes, if it has none and `admit` allows that: then it is on the account of the one that it was asked for,
    /// and nobody has to be told any more.
    fn come(&mut self, at: PhysAddr, admit: &mut dyn FnMut() -> bool) -> Result<(bool, Option<Pager>), Exhausted> {
        // A ticket may be answered that a CPU was given for a page which had just come by itself.
        if self.at.is_some() {
            return Ok((false, None));
        }
        let payer = self.paid.as_ref().map(|(payer, _)| payer);
        let charge = payer.map(|payer| payer.of(Resource::Frames).charge(1)).transpose()?;
        if !admit() {
            return Ok((false, None));
        }
        if let Some(charge) = charge {
            charge.keep();
        }
        self.at = Some(Frame::page(at));
        Ok((true, self.asked.take()))
    }

    /// Whether it was asked for that one, by that number.
    fn is_for(&self, payer: &Payer, page: usize) -> bool {
        self.paid.as_ref().is_some_and(|(now, number)| now == payer && *number == page)
    }

    /// It is asked for, if it has not come yet: another CPU that waits for it may have had it answered.
    fn ask(&mut self, paid: Option<Paid>, pager: &Pager) {
        if self.at.is_none() {
            (self.paid, self.asked) = (paid, Some(pager.clone()));
        }
    }

    /// It is on no account any more, and not for anybody.
    fn unpay(&mut self) {
        if let Some((payer, _)) = self.paid.take()
            && self.at.is_some()
        {
            payer.of(Resource::Frames).give_back(1);
        }
    }
}

impl Counted<Slot> {
    /// The page as its pager knows it.
    fn owner(&self) -> Counted<dyn PageOwner> {
        self.clone().known_as(|inner| inner)
    }
}

impl Clone for Share {
    fn clone(&self) -> Self {
        // Relaxed: a clone is made of one that counts.
        self.0.sharers.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // AcqRel: what the others did comes before the end of the wait.
        if self.0.sharers.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let asked = self.0.content.write().asked.take();
        if let Some(pager) = asked {
            pager.cancel_pages(&self.0.owner(), &(0..1));
        }
    }
}

impl PageOwner for Slot {
    fn receive(
        &self,
        _page: usize,
        write: &mut dyn FnMut(&mut [u8]) -> bool,
        admit: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Exhausted> {
        let Some(at) = self.keeper.allocate(write)? else { return Ok(false) };
        let came = self.content.write().come(at, admit);
        if !matches!(came, Ok((true, _))) {
            // SAFETY: just allocated, and nothing has seen it.
            unsafe { self.keeper.free(at) }
        }
        // The pager is let go without the lock.
        came.map(|(is_admitted, _)| is_admitted)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let content = self.content.get_mut();
        content.unpay();
        if let Some(frame) = content.at {
            // SAFETY: nothing names the page any more, and CPUs were made to forget it before it was let go.
            unsafe { self.keeper.free(frame.at()) }
        }
    }
}
