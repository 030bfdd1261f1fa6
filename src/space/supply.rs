//! Memory that comes from a source: a CPU that misses a page has it brought, without any lock.

use alloc::vec::Vec;

use memory_addr::PAGE_SIZE_4K;
use page_table_multiarch::MappingFlags;

use super::{
    GuestSpace, State,
    copy::Copied,
    fault::{Later, Verdict},
    shared::writes,
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
    region::{Behind, SharedRegion, View, behind, end_waits, supply},
    set::{MemoryArea, Plan},
    source::{Pager, Supplied},
    table::{Context, Found},
};

/// Pages that a space has lost. When this is dropped, without any lock, the waits for them end.
pub(super) struct EndedWaits(pub Vec<(View, GuestPhysRange)>);

impl Drop for EndedWaits {
    fn drop(&mut self) {
        self.0.iter().for_each(|(view, part)| end_waits(view, *part));
    }
}

/// The pieces of `plan` whose pages come from a source.
pub(super) fn lost_pages(plan: &Plan<'_, Backend>) -> Result<Vec<(View, GuestPhysRange)>, Error> {
    let sourced = || {
        plan.pieces().filter_map(|(area, part)| match area.backend() {
            Backend::Shared(view) | Backend::CopyOnWrite(view) => view.region().supply().map(|_| (view, part)),
            _ => None,
        })
    };
    let mut lost = Vec::new();
    lost.try_reserve_exact(sourced().count()).map_err(|_| Error::NoMemory(plan.range()))?;
    lost.extend(sourced().map(|(view, part)| (view.clone(), part)));
    Ok(lost)
}

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

/// Whether a source has not brought the page yet, as far as that is seen at once.
pub(super) fn is_unsupplied(view: &View, fault: &Fault) -> bool {
    view.region().supply().is_some() && view.region().reading().frame(view.page(fault.gpa)).is_none()
}

/// Whether a page of an area that may be written comes from a source for this guest alone, which then takes it at once.
pub(super) fn is_left_to(area: &MemoryArea<Backend>, view: &View) -> bool {
    view.region().supply().is_some() && writes(area.flags()) && view.region().reading().is_alone()
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
        let brought = match behind(view.region(), view.page(gpa)) {
            Behind::Frame => Ok(Supplied::Ready),
            Behind::Nothing => self.populate_region(view, gpa).map(|()| Supplied::Ready),
            Behind::Source(..) if !self.has_room_for(view) => Err(self.context.frames.account().refusal()),
            Behind::Source(region, page) => supply(&region, page, || self.is_still_missing(view, gpa)),
        };
        brought.map_err(|exhausted| exhausted.at(Context::<P>::page_of(gpa)))
    }

    /// Gives the page of a region at `gpa` a frame, if it is still missing there when the frame has been allocated.
    ///
    /// That is decided under the space's lock. While another CPU holds it exclusively and looks through the region's
    /// pages, as [`make_private`](Self::make_private) does, no page comes; and none comes that this mapping does not show
    /// any more, for the region would keep its frame and no guest reach it.
    fn populate_region(&self, view: &View, gpa: GuestPhysAddr) -> Result<(), Exhausted> {
        // Before the guard: what is not needed is freed after the lock's release.
        let mut fresh = view.region().fresh()?;
        let state = self.state.shared(super::any_cpu());
        fresh.put(view.page(gpa), || self.is_missing(&state, view, gpa)).map(|_| ())
    }

    /// Has all of a range brought that its regions' sources have not brought yet.
    pub(super) fn bring_range(&self, range: GuestPhysRange) -> Result<(), Error> {
        let missing = || missing_page(&self.state.shared(super::any_cpu()), range);
        while let Some((gpa, view)) = missing() {
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
        let book = view.region().reading();
        let taken = view.region().supply().is_some() && book.is_frozen() && book.is_alone();
        !taken || book.frames() < self.context.frames.account().room()
    }

    /// Whether a page is still missing at `gpa`, after a ticket for it was written down.
    ///
    /// First the region is looked at: a page that was brought before it was, and that another CPU took from there, is in the
    /// tables by then, or its entry busy.
    fn is_still_missing(&self, view: &View, gpa: GuestPhysAddr) -> bool {
        let state = self.state.shared(super::any_cpu());
        let missing = matches!(behind(view.region(), view.page(gpa)), Behind::Source(..));
        missing && self.is_missing(&state, view, gpa)
    }

    /// Whether the view is still what stands behind `gpa`, and no entry has a page of it there.
    ///
    /// A CPU that takes the page out of the region makes its entry busy first.
    fn is_missing(&self, state: &State, view: &View, gpa: GuestPhysAddr) -> bool {
        let area = state.areas.find(gpa).map(MemoryArea::backend);
        matches!(area, Some(Backend::Shared(now) | Backend::CopyOnWrite(now)) if now == view)
            && matches!(state.table.find(&self.context, gpa), Found::Absent(_))
    }
}
