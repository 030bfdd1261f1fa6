//! Taking a range away: at once for every CPU, and in steps for the allocator.

use page_table_multiarch::MappingFlags;

use super::{
    GuestSpace, Progress, State,
    removed::Removed,
    shared,
    supply::{self, EndedWaits},
};
use crate::{addr::GuestPhysRange, error::Error, lock::LockFamily, platform::Platform, table::Edit};

/// A range that no CPU reaches any more, and whose memory is still to be freed:
/// [`GuestSpace::unmap_in_steps`] makes it.
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
    /// When it returns no CPU can reach what was taken away, and the frames that were the space's own are free: those
    /// were freed without the space's lock. What was borrowed is returned.
    /// [`unmap_in_steps`](Self::unmap_in_steps) frees some at a time.
    ///
    /// # Errors
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range;
    /// - [`Error::NotMapped`] if no area lies in it;
    /// - [`Error::State`] for memory that is on loan to another space;
    /// - [`Error::NoMemory`], [`Error::Limit`] for the tables that split blocks;
    /// - [`Error::Invalidation`]: see there.
    pub fn unmap(&self, range: GuestPhysRange) -> Result<(), Error> {
        let mut removed = Removed::default();
        let is_plain = self.take(range, &mut removed)?;
        if !is_plain || !removed.memory.is_empty() {
            while self.free_some(&mut removed, usize::MAX) == Progress::More {}
        }
        Ok(())
    }

    /// Unmaps `range` as [`unmap`](Self::unmap) does, and leaves the freeing to the caller.
    ///
    /// When it returns no CPU can reach what was taken away, and the range is free for other areas. How long it takes
    /// depends on the areas and on the tables that the range's ends cut, not on how much memory it takes away.
    ///
    /// # Errors
    /// As for [`unmap`](Self::unmap).
    pub fn unmap_in_steps(&self, range: GuestPhysRange) -> Result<Unmapping<'_, P, L>, Error> {
        let mut removed = Removed::default();
        self.take(range, &mut removed)?;
        Ok(Unmapping { space: self, removed })
    }

    /// Frees some of what was taken away, without the lock.
    fn free_some(&self, removed: &mut Removed, budget: usize) -> Progress {
        removed.step(&self.context, None, budget)
    }

    /// Takes all of `range` away, under the lock. Whether no region and no loan was behind it, so that its areas hold
    /// nothing.
    fn take(&self, range: GuestPhysRange, into: &mut Removed) -> Result<bool, Error> {
        self.check(range)?;
        // All CPUs that wait for pages which go are told when the lock is free again.
        let _ended;
        let mut guard = self.exclusive()?;
        Self::check_not_on_loan(&guard, range)?;
        let State { areas, table, removed, .. } = &mut *guard;
        let plan = areas.plan(range).map_err(|_| Error::NoMemory(range))?;
        if plan.is_empty() {
            return Err(Error::NotMapped(range));
        }
        let mut lost = None;
        let is_plain = plan.pieces().all(|(area, _)| shared::is_plain(area));
        if !is_plain {
            lost = Some(supply::lost_pages(&plan)?);
            into.areas.leases = shared::lost_leases(&plan, MappingFlags::empty())?;
        }
        let flush = match table.edit(&self.context, range, Edit::Unmap) {
            Ok(flush) => flush,
            Err(exhausted) => {
                return Err(shared::keep(core::mem::take(&mut into.areas.leases), exhausted.at(range)));
            }
        };
        _ended = lost.map(EndedWaits);
        let flushed = flush.detach(&mut into.memory);
        into.areas.areas = plan.carve();
        match flushed {
            Ok(()) => {
                if !is_plain {
                    into.areas.give_back();
                }
                Ok(is_plain)
            }
            Err(cause) => {
                // A CPU may still reach it: it goes when an exclusive operation has told all CPUs.
                *removed = core::mem::take(&mut into.areas);
                Err(Error::Invalidation { range, cause })
            }
        }
    }
}

impl<P: Platform, L: LockFamily> Unmapping<'_, P, L> {
    /// Frees up to `budget` frames of 4 KiB: of memory, of tables, and of regions that were mapped here for the last time.
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
