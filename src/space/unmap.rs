//! Taking a range away: at once for every CPU, and in steps for the allocator.

use super::{GuestSpace, Progress, State, debt, exclusive::Held, inherit, removed::Removed, shared};
use crate::{
    addr::GuestPhysRange,
    error::Error,
    lock::LockFamily,
    platform::Platform,
    table::{Edit, RemovedPage},
};

/// Memory that no CPU reaches any more, and that is still to be freed: [`GuestSpace::unmap_in_steps`],
/// [`GuestSpace::discard_in_steps`] and [`GuestSpace::replace_in_steps`] make it.
///
/// Dropped, it frees the rest at once. The space's lock is not held meanwhile, and other memory may come to the range.
#[must_use = "dropping it frees everything at once"]
pub struct Unmapping<'s, P: Platform, L: LockFamily> {
    space: &'s GuestSpace<P, L>,
    removed: Removed,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Unmaps `range`, across any areas and through the middle of any block; holes in it are passed over.
    ///
    /// When it returns no CPU can reach what was taken away, and the frames that were the space's own are free, as are those
    /// of a region's pages that no handle and no other mapping shows: they were freed without the space's lock. What was
    /// borrowed is returned. [`unmap_in_steps`](Self::unmap_in_steps) frees some at a time.
    ///
    /// # Errors
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range;
    /// - [`Error::NotMapped`] if no area lies in it;
    /// - [`Error::State`] for memory that is on loan to another space;
    /// - [`Error::NoMemory`], [`Error::Limit`] for the tables that split blocks, or for the area more that is left of one
    ///   which is cut in its middle;
    /// - [`Error::Invalidation`]: see there.
    pub fn unmap(&self, range: GuestPhysRange) -> Result<(), Error> {
        self.check(range)?;
        let mut guard = self.exclusive_over(range)?;
        let Some(taken) = self.take_page(&mut guard, range) else { return self.unmap_any(guard, range) };
        drop(guard);
        if let Some(page) = taken? {
            page.free(&self.context);
        }
        Ok(())
    }

    /// Unmaps any range, under a lock that is given up before anything is freed.
    #[inline(never)]
    fn unmap_any<'s>(&'s self, guard: Held<'s, L>, range: GuestPhysRange) -> Result<(), Error> {
        let (mut removed, mut guard) = (Removed::default(), Some(guard));
        self.paying(|| {
            let guard = guard.take().map_or_else(|| self.exclusive_over(range), Ok)?;
            self.take(guard, range, &mut removed)
        })?;
        self.free_removed(removed);
        Ok(())
    }

    /// Takes a page of plain memory away, if it has a leaf of its own in a table that stays, and gives what is to be freed.
    /// `None` for all else: nothing has changed.
    #[inline]
    fn take_page(&self, state: &mut State, range: GuestPhysRange) -> Option<Result<Option<RemovedPage>, Error>> {
        let State { areas, table, .. } = state;
        if !self.has_room_for_areas(1) {
            // It may cut an area in two: that is counted elsewhere.
            return None;
        }
        let page = shared::plain_page::<P>(areas, range)?;
        let taken = table.unmap_page(&self.context, range)?;
        page.remove();
        Some(taken.map_err(|cause| Error::Invalidation { range, cause }))
    }

    /// Unmaps `range` as [`unmap`](Self::unmap) does, and leaves the freeing to the caller.
    ///
    /// When it returns no CPU can reach what was taken away, and the range is free for other areas. How long it takes
    /// depends on the areas and on the tables that the range's ends cut, not on how much memory it takes away.
    ///
    /// # Errors
    /// As for [`unmap`](Self::unmap).
    pub fn unmap_in_steps(&self, range: GuestPhysRange) -> Result<Unmapping<'_, P, L>, Error> {
        self.check(range)?;
        let mut removed = Removed::default();
        self.paying(|| self.take(self.exclusive_over(range)?, range, &mut removed))?;
        Ok(Unmapping::of(self, removed))
    }

    /// Frees all of what was taken away, without the lock.
    pub(super) fn free_removed(&self, mut removed: Removed) {
        while self.free_some(&mut removed, usize::MAX) == Progress::More {}
    }

    /// Frees some of what was taken away, without the lock, and then some of what is owed.
    fn free_some(&self, removed: &mut Removed, mut budget: usize) -> Progress {
        let progress = removed.step(&self.context, None, &mut budget);
        self.pay(&mut budget.min(debt::PART));
        progress
    }

    /// Takes all of `range` away, under the lock.
    fn take(&self, held: Held<'_, L>, range: GuestPhysRange, into: &mut Removed) -> Result<(), Error> {
        let mut guard = held;
        let State { areas, table, removed, inherited, .. } = &mut *guard;
        let plan = areas.plan(range).map_err(|_| Error::NoMemory(range))?;
        if plan.is_empty() {
            return Err(Error::NotMapped(range));
        }
        self.check_areas(range, plan.len(), 1, || plan.len_carved())?;
        let is_plain = plan.pieces().all(|(area, _)| shared::is_plain(area));
        if let Some(inherited) = inherited.as_ref().filter(|_| !is_plain) {
            let inherits = || {
                let parts = plan.pieces().filter(|(area, _)| inherit::is_inherited(area));
                parts.map(|(_, part)| part)
            };
            let prepared = inherit::prepare_to_leave(&**inherited, inherits);
            prepared.map_err(|exhausted| exhausted.at(range))?;
            if inherits().next().is_some() {
                into.areas.inherited = Some(inherited.clone());
            }
        }
        let flush = table.edit(&self.context, range, Edit::Unmap).map_err(|exhausted| exhausted.at(range))?;
        let flushed = flush.detach(&mut into.memory);
        into.areas.areas = plan.carve();
        match flushed {
            Ok(()) => {
                if !is_plain {
                    into.areas.give_back(self.accounts());
                    drop(guard);
                    into.areas.end_waits();
                }
                Ok(())
            }
            Err(cause) => {
                // A CPU may still reach it: it goes when an exclusive operation has told all CPUs.
                *removed = core::mem::take(&mut into.areas.areas);
                drop(guard);
                self.end_removed_waits();
                Err(Error::Invalidation { range, cause })
            }
        }
    }
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Ends the waits for pages that were removed by an operation which could not tell all CPUs.
    ///
    /// One after the other, as sources are told without any lock. If another CPU has made all forget meanwhile, they are
    /// among what is left to be freed.
    #[cold]
    fn end_removed_waits(&self) {
        let (mut from, mut inherited) = (Some(0), None);
        while from.is_some() {
            let state = self.hold();
            let missing = state.take_removed_missing(&mut from);
            inherited.clone_from(&state.inherited);
            drop(state);
            drop(missing);
        }
        if let Some(inherited) = inherited {
            inherited.end_waits();
        }
    }
}

impl<'s, P: Platform, L: LockFamily> Unmapping<'s, P, L> {
    pub(super) const fn of(space: &'s GuestSpace<P, L>, removed: Removed) -> Self {
        Self { space, removed }
    }

    /// Frees up to `budget` frames of 4 KiB: of memory, of tables, and of regions whose pages nothing else shows.
    /// An area counts as one too. What the allocator takes back only as a whole may exceed the budget.
    pub fn step(&mut self, budget: usize) -> Progress {
        self.space.free_some(&mut self.removed, budget)
    }
}

impl<P: Platform, L: LockFamily> Drop for Unmapping<'_, P, L> {
    fn drop(&mut self) {
        while self.step(usize::MAX) == Progress::More {}
    }
}
