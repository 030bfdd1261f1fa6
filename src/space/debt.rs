//! What a space owes the allocator: memory that no CPU reaches any more, and that was let go of where time is short.
//!
//! It comes from a CPU which answers a fault, whose reference to a region has become the last one while it worked without
//! the space's lock; and from the operation that finishes what an earlier one could not, with the lock held. Neither frees
//! it. A region is put here without any memory; of the rest, what there is no memory to name is freed at once, without the
//! space's lock.
//!
//! It is paid a part at a time, and never with the space's lock held:
//! - every call that takes that lock exclusively pays a [`PART`] before, and one more when it has finished what an earlier
//!   one could not;
//! - a call that frees in steps, or at once, pays with what is left of its budget, up to a part;
//! - an answer to a fault pays nothing, but where memory or the limit would refuse it: then it pays a [`LITTLE`] and the
//!   guest tries again, and it is refused when nothing is owed any more. A call that populates, splits, moves or gives memory
//!   away, and is refused, pays all, a part at a time, until what it needs is there;
//! - the space's end pays all, in steps where it goes in steps.
//!
//! What is owed is on the space's account until it is free. The debt's lock comes behind the space's. Memory is freed with
//! it held, for which only the allocator is called; all else is taken out before, as a source may be behind it, and that
//! may call the space. While one CPU has that out, others pass it over and pay for memory alone.

use core::{
    mem,
    ops::Deref,
    sync::atomic::{AtomicBool, Ordering},
};

use spin::rwlock::{RwLock, RwLockReadGuard};

use super::{GuestSpace, removed::Removed};
use crate::{
    backend::Backend,
    counted::Counted,
    error::{Error, RegionError},
    format::LeafPolicy,
    lock::LockFamily,
    platform::Platform,
    region::RemovedRegions,
    table::Context,
};

/// How many frames of 4 KiB a call frees that has time: one table's leaves, or so.
pub(super) const PART: usize = 512;

/// How many an answer to a fault frees at most.
pub(super) const LITTLE: usize = 16;

/// What is owed.
#[derive(Default)]
pub(super) struct Debt {
    /// Whether anything may be. It is changed with the lock held, and read without: what is passed over stays for the next.
    is_owed: AtomicBool,
    /// Whether a CPU has all but the memory, and brings back what it does not free. It is read and changed with the lock held.
    is_out: AtomicBool,
    owed: RwLock<Owed>,
}

/// What is owed, behind the debt's lock.
#[derive(Default)]
pub(super) struct Owed {
    /// Regions that are at their end: with nothing else owed, all there is.
    regions: RemovedRegions,
    /// All else. A space that owes nothing has no room for it: it is as large as the rest of the space.
    rest: Option<Counted<Removed>>,
}

impl Owed {
    /// All but regions at their end, and what a CPU has out just now.
    pub(super) fn rest(&self) -> Option<&Removed> {
        self.rest.as_deref()
    }

    fn rest_mut(&mut self) -> Option<&mut Removed> {
        self.rest.as_mut().and_then(Counted::sole)
    }

    /// Takes over what is removed, of which nothing is free yet. What there is no memory to name stays.
    fn take_over(&mut self, removed: &mut Removed) {
        self.regions.take_over(&mut removed.regions);
        if removed.is_empty() {
            return;
        }
        if self.rest.is_none() {
            self.rest = Counted::try_new(Removed::default());
        }
        if let Some(rest) = self.rest_mut() {
            rest.take_over(removed);
        }
    }

    /// All but the memory, which others go on to free.
    fn take_out(&mut self) -> Removed {
        let mut out = Removed::default();
        if let Some(rest) = self.rest_mut() {
            let memory = mem::take(&mut rest.memory);
            mem::swap(rest, &mut out);
            rest.memory = memory;
        }
        out.regions.take_over(&mut self.regions);
        out
    }

    /// Puts back what is not free yet, and may be half done. What has come meanwhile is added to it: what there is no memory
    /// to name is left in its place.
    fn put_back(&mut self, out: &mut Removed) {
        self.regions.take_over(&mut out.regions);
        if let Some(rest) = self.rest_mut() {
            let memory = mem::take(&mut rest.memory);
            mem::swap(rest, out);
            rest.memory = memory;
            rest.take_over(out);
        }
        if self.rest().is_some_and(Removed::is_empty) {
            self.rest = None;
        }
    }

    fn is_empty(&self) -> bool {
        self.regions.is_empty() && self.rest.is_none()
    }
}

impl Debt {
    /// Whether anything may be owed.
    #[inline]
    pub(super) fn is_owed(&self) -> bool {
        // Relaxed: the lock orders what is owed.
        self.is_owed.load(Ordering::Relaxed)
    }

    /// Takes over what is removed, of which nothing is free yet. What there is no memory to name stays: the caller frees it.
    pub(super) fn add(&self, removed: &mut Removed) {
        let mut owed = self.owed.write();
        owed.take_over(removed);
        self.is_owed.store(true, Ordering::Relaxed);
    }

    /// Pays until `budget`, in frames of 4 KiB, is used up, or nothing is owed. Called without any lock.
    #[cold]
    fn pay<P: Platform>(&self, context: &Context<P>, budget: &mut usize) {
        let mut rest = {
            let mut owed = self.owed.write();
            if let Some(rest) = owed.rest_mut() {
                rest.memory.free(context, budget);
            }
            if *budget == 0 || self.is_out.swap(true, Ordering::Relaxed) {
                return;
            }
            owed.take_out()
        };
        let _ = rest.step(context, None, budget);
        {
            let mut owed = self.owed.write();
            owed.put_back(&mut rest);
            self.is_out.store(false, Ordering::Relaxed);
            self.is_owed.store(!owed.is_empty(), Ordering::Relaxed);
        }
        while rest.step(context, None, &mut { usize::MAX }) == super::Progress::More {}
    }

    /// Nothing of it is out, since no call is under way: one that panicked may have lost what it had.
    pub(super) fn is_back(&mut self) {
        *self.is_out.get_mut() = false;
    }

    /// What is owed, for an audit: it stays as it is while the guard is held.
    pub(super) fn reading(&self) -> RwLockReadGuard<'_, Owed> {
        self.owed.read()
    }
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Pays until `budget` is used up, or nothing is owed. Called without any lock.
    #[inline]
    pub(super) fn pay(&self, budget: &mut usize) {
        if self.debt.is_owed() {
            self.debt.pay(&self.context, budget);
        }
    }

    /// Pays a part of what is owed. Called without any lock.
    #[inline]
    pub(super) fn pay_part(&self) {
        self.pay(&mut { PART });
    }

    /// Pays up to `budget` for a call that was refused with this error, if that may have been for want of it: whether there
    /// is more room now. Called without any lock.
    #[cold]
    pub(super) fn pays_for(&self, error: &Error, budget: usize) -> bool {
        let mut left = budget;
        let in_use = |cause: &RegionError| matches!(cause, RegionError::InUse { .. });
        let may_be = match error {
            Error::NoMemory(_) | Error::Limit { .. } => true,
            // A mapping that is still to be let go of is one.
            Error::Region { cause, .. } => in_use(cause),
            _ => false,
        };
        if may_be {
            self.pay(&mut left);
        }
        left < budget
    }

    /// Makes a call, and makes it again while it is refused for want of what is owed: a part more is paid each time. Called
    /// without any lock.
    #[inline]
    pub(super) fn paying<R>(&self, mut call: impl FnMut() -> Result<R, Error>) -> Result<R, Error> {
        loop {
            match call() {
                Err(error) if self.pays_for(&error, PART) => {}
                answer => return answer,
            }
        }
    }

    /// What is behind an area, for a CPU that is about to let go of the space's lock.
    pub(super) fn keep(&self, backend: &Backend) -> Kept<'_, P, L> {
        Kept { space: self, backend: backend.clone() }
    }
}

/// What was behind an area when the space's lock was held.
///
/// The area may go meanwhile, and all else that has its region: the region is then freed as a debt is.
pub(super) struct Kept<'s, P: Platform, L: LockFamily> {
    space: &'s GuestSpace<P, L>,
    backend: Backend,
}

impl<P: Platform, L: LockFamily> Deref for Kept<'_, P, L> {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

impl<P: Platform, L: LockFamily> Drop for Kept<'_, P, L> {
    fn drop(&mut self) {
        let nothing = Backend::Private(LeafPolicy::Pages);
        let Backend::Shared(view) = mem::replace(&mut self.backend, nothing) else { return };
        let mut regions = RemovedRegions::default();
        regions.add(view);
        if !regions.is_empty() {
            regions.step(&mut { LITTLE });
            if !regions.is_empty() {
                self.space.debt.add(&mut Removed { regions, ..Removed::default() });
            }
        }
    }
}
