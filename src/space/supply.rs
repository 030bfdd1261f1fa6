//! Memory that comes from a source: a CPU that misses a page has it brought, without any lock.

use memory_addr::PAGE_SIZE_4K;
use page_table_multiarch::MappingFlags;

use super::{
    GuestSpace, State,
    copy::Copied,
    fault::{Later, Verdict},
    inherit,
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange},
    backend::{Backend, Heritage},
    cpu_id::CpuId,
    error::{Error, RegionError},
    fault::{Fault, Outcome},
    lock::{LockFamily, SpaceLock},
    pages::{Asker, Pages, Supplies, Supply, inherited},
    platform::Platform,
    region::{Behind, SharedRegion},
    set::MemoryArea,
    source::{Demand, Pager, Supplied},
    table::{Context, Found},
};

/// The first page of a range that a source is behind and has not brought yet.
pub(super) fn missing_page(state: &State, range: GuestPhysRange) -> Option<(GuestPhysAddr, &Backend)> {
    state.areas.iter_range(range).find_map(|area| {
        let Backend::Shared(view) = area.backend() else { return None };
        view.region().supplies()?;
        let (start, end) = (area.start().max(range.start), area.end().min(range.end));
        let mut pages = (start.as_usize()..end.as_usize()).step_by(PAGE_SIZE_4K).map(GuestPhysAddr::from_usize);
        let missing = pages.find(|&gpa| matches!(view.region().behind(view.page(gpa)), Behind::Source(..)));
        missing.map(|gpa| (gpa, area.backend()))
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
    /// The pages become the space's as the guest touches them: nothing is copied. No CPU waits any longer for what was
    /// unmapped before it was brought. A [snapshot](Self::snapshot) has the source behind it for pages not touched yet; each
    /// is brought once for all that share it then.
    ///
    /// A page is on the space's account from the moment it is asked for, if no other space and no snapshot waits for it too:
    /// at the limit none is.
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
        self.check_copied(range, flags)?;
        Self::check_page_size(range)?;
        let supply = Supply::new(pager, offset, range.size()).map_err(|cause| Error::Region { range, cause })?;
        let supplies = Supplies::one(supply);
        let supplies = supplies.map_err(|_| Error::NoMemory(range))?.moved(0, inherit::page(range.start));
        let heritage = Heritage::new(range.start, 0, Some(supplies));
        let area = MemoryArea::new(range.start, range.size(), flags, Backend::CopyOnWrite(heritage));
        self.insert_inherited(area, inherited, |inherited| {
            let keeper = self.keeper(inherited).ok_or(Exhausted::Memory)?;
            Ok(Pages::supplied_by(&keeper))
        })
    }

    /// Has a page of a region brought, and the fault answered if that has been done.
    pub(super) fn fetch(&self, cpu: CpuId, fault: &Fault, backend: &Backend) -> Result<Outcome, Error> {
        match self.bring(backend, fault.gpa, Demand::Now)? {
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

    /// Brings the page that is missing at `gpa`, where `backend` stood behind it. No lock is held.
    pub(super) fn bring(&self, backend: &Backend, gpa: GuestPhysAddr, demand: Demand) -> Result<Supplied, Error> {
        let missing = Missing { space: self, backend, gpa, demand };
        let brought = match backend {
            Backend::Shared(view) => view.bring(gpa, &missing),
            Backend::CopyOnWrite(heritage) => self.ask(heritage, &missing),
            _ => Ok(Supplied::Ready),
        };
        brought.map_err(|exhausted| exhausted.at(Context::<P>::page_of(gpa)))
    }

    /// Has the source behind inherited memory bring a page.
    fn ask(&self, heritage: &Heritage, missing: &Missing<'_, P, L>) -> Result<Supplied, Exhausted> {
        let page = inherit::page(missing.gpa);
        let inherited = self.state.shared(super::any_cpu()).inherited.clone();
        match (inherited, heritage.source(page)) {
            (Some(inherited), Some(source)) => inherited.bring(page, source, self.accounts(), missing),
            _ => Ok(Supplied::Ready),
        }
    }

    /// Has all of a range brought that its regions' sources have not brought yet.
    pub(super) fn bring_range(&self, range: GuestPhysRange) -> Result<(), Error> {
        // With what was left over finished: no page comes where an entry is about to go.
        let kept = |(gpa, backend): (_, &Backend)| (gpa, self.keep(backend));
        let missing = || self.exclusive().map(|state| missing_page(&state, range).map(kept));
        while let Some((gpa, backend)) = missing()? {
            let range = Context::<P>::page_of(gpa);
            match self.bring(&backend, gpa, Demand::Now)? {
                Supplied::Ready => {}
                Supplied::NotYet(ticket) => return Err(Error::NotYet { range, ticket }),
                Supplied::Failed(ticket) => return Err(Error::SourceFailed { range, ticket }),
            }
        }
        Ok(())
    }
}

/// Where the source has a page that has not come, in bytes, if there is one.
pub(super) fn missing_offset(state: &State, area: &MemoryArea<Backend>, gpa: GuestPhysAddr) -> Option<usize> {
    let has_come = match area.backend() {
        Backend::Shared(view) => view.frame(gpa).is_some(),
        _ => state.look(gpa).at.is_some(),
    };
    source_offset(area, gpa).filter(|_| !has_come)
}

/// Where the source behind an area has a page, in bytes, if there is one.
pub(super) fn source_offset(area: &MemoryArea<Backend>, gpa: GuestPhysAddr) -> Option<usize> {
    match area.backend() {
        Backend::Shared(view) => view.source_offset(gpa),
        Backend::CopyOnWrite(heritage) => heritage.source(inherit::page(gpa)).map(|(_, offset)| offset),
        _ => None,
    }
}

/// A page that a guest misses.
pub(super) struct Missing<'s, P: Platform, L: LockFamily> {
    pub(super) space: &'s GuestSpace<P, L>,
    /// What stood behind its address.
    pub(super) backend: &'s Backend,
    pub(super) gpa: GuestPhysAddr,
    pub(super) demand: Demand,
}

impl<P: Platform, L: LockFamily> Asker for Missing<'_, P, L> {
    fn hold(&self, then: &mut dyn FnMut(&dyn Fn() -> bool)) {
        let state = self.space.state.shared(super::any_cpu());
        then(&|| {
            // While a snapshot is taken in steps, no page comes to be on the space's account.
            state.check_rest().is_ok()
                && state.has(self.gpa, self.backend)
                && matches!(
                    state.table.seek_again(&self.space.context, self.gpa).found(&self.space.context),
                    Found::Absent(_)
                )
        });
    }

    fn demand(&self) -> Demand {
        self.demand
    }
}
