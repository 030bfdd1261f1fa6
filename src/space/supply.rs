//! Memory that comes from a source: a CPU that misses a page has it brought, without any lock.

use memory_addr::PAGE_SIZE_4K;
use page_table_multiarch::MappingFlags;

use super::{
    GuestSpace, State,
    copy::Copied,
    fault::{Later, Verdict},
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange},
    backend::{Backend, Mapping},
    cpu_id::CpuId,
    error::{Error, RegionError},
    fault::{Fault, Outcome},
    lock::{LockFamily, SpaceLock},
    platform::Platform,
    region::{Asker, Behind, SharedRegion, View, behind},
    set::MemoryArea,
    source::{Pager, Supplied},
    table::{Context, Found},
};

/// The first page of a range that a source is behind and has not brought yet.
pub(super) fn missing_page(state: &State, range: GuestPhysRange) -> Option<(GuestPhysAddr, View)> {
    state.areas.iter_range(range).find_map(|area| {
        let Backend::Shared(view) = area.backend() else { return None };
        view.region().supply()?;
        let (start, end) = (area.start().max(range.start), area.end().min(range.end));
        let mut pages = (start.as_usize()..end.as_usize()).step_by(PAGE_SIZE_4K).map(GuestPhysAddr::from_usize);
        let missing = pages.find(|&gpa| matches!(behind(view.region(), view.page(gpa)), Behind::Source(..)));
        missing.map(|gpa| (gpa, view.clone()))
    })
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// A region of `size` bytes of this space's allocator, whose pages come from a source, from `offset` bytes on there.
    ///
    /// # Errors
    /// As for [`SharedRegion::from_source`].
    pub fn region_from(&self, size: usize, pager: &Pager, offset: usize) -> Result<SharedRegion, RegionError>
    where
        P::Invalidate: Clone,
    {
        let (frames, operations) = (self.context.frames.plain().clone(), self.context.operations().clone());
        SharedRegion::from_source::<P>(frames, operations, size, pager, offset)
    }

    /// Maps private memory whose pages come from a source, from `offset` bytes on there: each when it is first touched.
    ///
    /// It is a frozen region of its own that nothing else has, mapped [copy-on-write](Mapping::CopyOnWrite), whose pages
    /// become the space's as the guest touches them: nothing is copied. No CPU waits any longer for what was
    /// unmapped before it was brought. A [snapshot](Self::snapshot) has the source behind it for pages not touched yet.
    ///
    /// A page is on the space's account when the guest has it. At the limit none is asked for: pages that were brought
    /// and not touched again are at most as many as the limit leaves room for, and those that are pending.
    ///
    /// # Errors
    /// As for [`map`](Self::map) of a frozen region; [`Error::Region`] for an offset that is no multiple of 4 KiB, or
    /// that overflows with the size.
    pub fn map_from(
        &self,
        range: GuestPhysRange,
        pager: &Pager,
        offset: usize,
        flags: MappingFlags,
    ) -> Result<(), Error>
    where
        P::Invalidate: Clone,
    {
        self.check(range)?;
        let failed = |cause| Error::Region { range, cause };
        let region = self.region_from(range.size(), pager, offset).map_err(|cause| match cause {
            RegionError::NoMemory { .. } => Error::NoMemory(range),
            cause => failed(cause),
        })?;
        region.freeze().map_err(failed)?;
        self.map(range, Mapping::CopyOnWrite { region, offset: 0 }, flags)
    }

    /// Has a page of a region brought, and the fault answered if that has been done.
    pub(super) fn fetch(&self, cpu: CpuId, fault: &Fault, view: &View) -> Result<Outcome, Error> {
        match self.bring(view, fault.gpa)? {
            Supplied::NotYet(ticket) => return Ok(Outcome::NotYet(ticket)),
            Supplied::Failed(ticket) => return Ok(Outcome::SourceFailed(ticket)),
            Supplied::Ready => {}
        }
        let later = match self.judge(&self.state.shared(cpu), fault)? {
            Verdict::Answer(outcome) => return Ok(outcome),
            Verdict::Later(later) => later,
        };
        match later {
            Later::Copy if matches!(self.copy(cpu, fault)?, Copied::Done) => Ok(Outcome::Resolved),
            // The map changed meanwhile.
            _ => Ok(Outcome::Retry),
        }
    }

    /// Brings the page of a region that is missing at `gpa`. No lock is held.
    pub(super) fn bring(&self, view: &View, gpa: GuestPhysAddr) -> Result<Supplied, Error> {
        let brought = view.bring(gpa, &Missing { space: self, view, gpa });
        brought.map_err(|exhausted| exhausted.at(Context::<P>::page_of(gpa)))
    }

    /// Has all of a range brought that its regions' sources have not brought yet.
    pub(super) fn bring_range(&self, range: GuestPhysRange) -> Result<(), Error> {
        // With what was left over finished: no page comes where an entry is about to go.
        let missing = || self.exclusive().map(|state| missing_page(&state, range));
        while let Some((gpa, view)) = missing()? {
            let range = Context::<P>::page_of(gpa);
            match self.bring(&view, gpa)? {
                Supplied::Ready => {}
                Supplied::NotYet(ticket) => return Err(Error::NotYet { range, ticket }),
                Supplied::Failed(ticket) => return Err(Error::SourceFailed { range, ticket }),
            }
        }
        Ok(())
    }

    /// Whether the space may have one more page of a frozen region that is left to it alone: those that were brought and not
    /// yet taken are on no account, so that they would be without limit. What is shared is never on it.
    pub(super) fn has_room_for(&self, view: &View) -> bool {
        view.region().untaken().is_none_or(|untaken| self.has_room_beside(untaken))
    }

    /// Whether the space may have one more page, beside so many that are on no account.
    fn has_room_beside(&self, untaken: usize) -> bool {
        untaken < self.context.frames.account().room()
    }
}

/// A page that a guest misses.
struct Missing<'s, P: Platform, L: LockFamily> {
    space: &'s GuestSpace<P, L>,
    /// What stood behind its address.
    view: &'s View,
    gpa: GuestPhysAddr,
}

impl<P: Platform, L: LockFamily> Asker for Missing<'_, P, L> {
    fn hold(&self, then: &mut dyn FnMut(&dyn Fn() -> bool)) {
        let state = self.space.state.shared(super::any_cpu());
        then(&|| {
            let area = state.areas.find(self.gpa).map(MemoryArea::backend);
            matches!(area, Some(Backend::Shared(now) | Backend::CopyOnWrite(now)) if now == self.view)
                && matches!(state.table.find(&self.space.context, self.gpa), Found::Absent(_))
        });
    }

    fn check_room(&self, untaken: usize) -> Result<(), Exhausted> {
        if self.space.has_room_beside(untaken) { Ok(()) } else { Err(self.space.context.frames.account().refusal()) }
    }
}
