//! Taking the memory of a range away while its areas stay: a balloon, a guest that reports what it does not use.

use super::{GuestSpace, State, Unmapping, edit, exclusive::Held, inherit, removed::Removed, shared};
use crate::{
    addr::GuestPhysRange,
    backend::Backend,
    error::Error,
    format::LeafPolicy,
    lock::LockFamily,
    ownership::PageState,
    platform::Platform,
    set::{MemoryArea, Plan},
    table::{Edit, RemovedPage},
};

/// What a guest finds at its next touch of memory that was [discarded](GuestSpace::discard).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refill {
    /// Zeros. Memory that came from a source has nothing to do with it any more.
    Zeros,
    /// What the source has, where one is behind it: it is asked again. Zeros elsewhere.
    Source,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Takes the memory of `range` away, all of which is mapped, and leaves its areas: a balloon is inflated, a guest has
    /// said that it does not use its pages.
    ///
    /// When it returns no CPU can reach what was there. The frames that were the space's own are free, and what it inherited
    /// is left, as by [`unmap`](Self::unmap). The guest's next touch finds what `refill` says. A mapping of a region loses
    /// its leaves alone: the next touch finds the region's page, which
    /// [`SharedRegion::discard`](crate::SharedRegion::discard) takes away for all. No CPU waits any longer for a page that
    /// a source was to bring. [`discard_in_steps`](Self::discard_in_steps) frees some at a time.
    ///
    /// # Errors
    /// Nothing has changed then.
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range;
    /// - [`Error::NotMapped`] with the first hole;
    /// - [`Error::State`] with the first page that is not the space's to give up: linear, borrowed, on loan;
    /// - [`Error::NoMemory`], [`Error::Limit`] for the tables that split blocks, and for the areas that are cut where memory
    ///   has nothing to do with its source any more;
    /// - [`Error::Invalidation`]: a CPU could not be told.
    ///
    /// # Example
    /// ```
    /// use stage2::{LeafPolicy, Mapping, Populate, space::Refill};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::{RW, guest, range};
    ///
    /// let space = guest(1)?;
    /// let private = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
    /// space.map(range(0x8000_0000, 0x4000), private, RW)?;
    /// space.store(0x8000_1000.into(), 7_u32)?;
    /// space.discard(range(0x8000_1000, 0x1000), Refill::Zeros)?;
    /// assert_eq!(space.usage().frames, 0, "it costs nothing");
    /// assert_eq!(space.load::<u32>(0x8000_1000.into())?, 0, "and is still there");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard(&self, range: GuestPhysRange, refill: Refill) -> Result<(), Error> {
        self.check(range)?;
        let mut guard = self.exclusive_over(range)?;
        let Some(taken) = self.discard_page(&mut guard, range) else { return self.discard_any(guard, range, refill) };
        drop(guard);
        if let Some(page) = taken? {
            page.free(&self.context);
        }
        Ok(())
    }

    /// Discards any range, under a lock that is given up before anything is freed.
    #[inline(never)]
    fn discard_any<'s>(&'s self, guard: Held<'s, L>, range: GuestPhysRange, refill: Refill) -> Result<(), Error> {
        let (mut removed, mut guard) = (Removed::default(), Some(guard));
        self.paying(|| {
            let guard = guard.take().map_or_else(|| self.exclusive_over(range), Ok)?;
            self.empty(guard, range, refill, &mut removed)
        })?;
        self.free_removed(removed);
        Ok(())
    }

    /// Discards `range` as [`discard`](Self::discard) does, and leaves the freeing to the caller.
    ///
    /// # Errors
    /// As for [`discard`](Self::discard).
    pub fn discard_in_steps(&self, range: GuestPhysRange, refill: Refill) -> Result<Unmapping<'_, P, L>, Error> {
        self.check(range)?;
        let mut removed = Removed::default();
        self.paying(|| self.empty(self.exclusive_over(range)?, range, refill, &mut removed))?;
        Ok(Unmapping::of(self, removed))
    }

    /// Takes a page of private memory away, if it has a leaf of its own in a table that stays, and gives what is to be
    /// freed. `None` for all else: nothing has changed.
    #[inline]
    fn discard_page(&self, state: &mut State, range: GuestPhysRange) -> Option<Result<Option<RemovedPage>, Error>> {
        let State { areas, table, .. } = state;
        let page = shared::plain_page::<P>(areas, range)?;
        if !matches!(page.area().backend(), Backend::Private(_)) {
            return None;
        }
        let taken = table.unmap_page(&self.context, range)?;
        Some(taken.map_err(|cause| {
            if let Some(mut flush) = table.unfinished(&self.context) {
                flush.restore();
            }
            Error::Invalidation { range, cause }
        }))
    }

    /// Takes the memory of all of `range` away, under the lock.
    #[inline(never)]
    fn empty(
        &self,
        mut guard: Held<'_, L>,
        range: GuestPhysRange,
        refill: Refill,
        into: &mut Removed,
    ) -> Result<(), Error> {
        let State { areas, table, inherited, .. } = &mut *guard;
        let plan = areas.plan(range).map_err(|_| Error::NoMemory(range))?;
        Self::check_discardable(&plan)?;
        // Where no source is to be asked any more the memory becomes private.
        let private = Backend::Private(LeafPolicy::Pages);
        if refill == Refill::Zeros {
            self.check_areas(range, plan.len(), 2, || {
                plan.len_changed(|area| (area.flags(), if is_supplied(area) { &private } else { area.backend() }))
            })?;
        }
        let inherits = || plan.pieces().filter(|(area, _)| inherit::is_inherited(area)).map(|(_, part)| part);
        let inherited = inherited.as_ref().filter(|_| inherits().next().is_some());
        if let Some(inherited) = inherited {
            inherit::prepare_to_leave(&**inherited, inherits).map_err(|exhausted| exhausted.at(range))?;
        }
        let flush = table.edit(&self.context, range, Edit::Unmap).map_err(|exhausted| exhausted.at(range))?;
        let flushed = flush.detach_or_restore(&mut into.memory);
        flushed.map_err(|cause| Error::Invalidation { range, cause })?;
        // Nothing fails from here on.
        if let Some(inherited) = inherited {
            inherits().for_each(|part| inherited.cut(&inherit::pages(part), self.accounts()));
            into.areas.inherited = Some(inherited.clone());
            if refill == Refill::Zeros {
                into.areas.areas = plan.rebase(|area| is_supplied(area).then(|| private.clone()));
                areas.join_all(range);
            }
        }
        drop(guard);
        into.areas.end_waits();
        Ok(())
    }

    /// Refuses holes, and memory that is not the space's to give up.
    fn check_discardable(plan: &Plan<'_, Backend>) -> Result<(), Error> {
        edit::check_whole(plan.range(), plan.pieces(), |area, part| match area.backend() {
            Backend::Private(_) | Backend::Shared(_) | Backend::CopyOnWrite(_) => Ok(()),
            Backend::Linear(_) => Err(Self::page_is(part.start, PageState::Foreign)),
            Backend::Borrowed(_) => Err(Self::page_is(part.start, PageState::Borrowed)),
        })
    }
}

/// Whether sources may be behind what an area has not touched yet.
fn is_supplied(area: &MemoryArea<Backend>) -> bool {
    matches!(area.backend(), Backend::CopyOnWrite(heritage) if heritage.supplies().is_some())
}
