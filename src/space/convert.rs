//! Private memory that becomes a region's, and the other way round, where it stands: for a guest that asks to share
//! some of its memory, or to share it no longer.

use memory_addr::PAGE_SIZE_4K;
use page_table_multiarch::MappingFlags;

use super::{GuestSpace, State, inherit, removed::Removed, shared, supply::missing_page};
use crate::{
    addr::GuestPhysRange,
    backend::Backend,
    error::Error,
    format::{Leaf, LeafPolicy, Owner},
    lock::{LockFamily, SpaceLock},
    ownership::{Handover, PageState},
    pages::Pool,
    platform::Platform,
    region::{Lease, SharedRegion, View},
    table::{Context, Found, Supplement},
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Makes private memory a region's, which others may then map: the whole range, from offset 0 on.
    ///
    /// Nothing is copied and nothing changes for the guest; no CPU has to forget anything but where a block must be split
    /// at an end of the range. What is untouched yet stays so, in the region. The frames are off the space's
    /// [limit](crate::Limits), as all of a region's.
    ///
    /// # Errors
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range;
    /// - [`Error::Region`] if pages do not have 4 KiB;
    /// - [`Error::NotMapped`] with the first hole, [`Error::State`] with the first page that is not the space's own;
    /// - [`Error::NoMemory`], [`Error::Limit`] for the tables that split blocks;
    /// - [`Error::Invalidation`]: nothing became the region's. See there.
    pub fn make_shared(&self, range: GuestPhysRange) -> Result<SharedRegion, Error>
    where
        P::Invalidate: Clone,
    {
        self.check(range)?;
        Self::check_page_size(range)?;
        let out_of_memory = Error::NoMemory(range);
        let region = self.region(range.size()).map_err(|_| out_of_memory)?;
        let mut guard = self.exclusive()?;
        Self::check_own_areas(&guard, range)?;
        self.unshare(&mut guard, range)?;
        self.check_convertible(&guard, range)?;
        let State { areas, table, .. } = &mut *guard;
        let (keeper, first) = (region.region().keeper().clone(), inherit::page(range.start));
        region.fill(|pages| {
            table.own_memory(&self.context, range, |run| {
                let run = inherit::pages(run.range);
                pages.reserve(run.start - first..run.end - first, &keeper).map_err(|_| out_of_memory)
            })
        })?;
        let view = View::new(region.region(), range.start, 0).ok_or(out_of_memory)?;
        let plan = areas.plan(range).map_err(|_| out_of_memory)?;
        let lease = plan.pieces().filter(|(area, _)| shared::writes(area.flags())).map(|(_, part)| part.size()).sum();
        let lease = Lease::grant(region.region(), lease).map_err(|cause| Error::Region { range, cause })?;
        view.show(range).map_err(|_| out_of_memory)?;
        self.split_at_ends(table, range).inspect_err(|_| view.hide(range))?;
        // Nothing fails from here on.
        let mut bytes = 0;
        let Ok(()) = region.fill(|pages| {
            table.own_memory(&self.context, range, |run| {
                let frames =
                    run.pieces().flat_map(|(at, size)| (0..size).step_by(PAGE_SIZE_4K).map(move |byte| at + byte));
                pages.put_all(inherit::page(run.range.start) - first, frames);
                bytes += run.range.size();
                Ok::<_, core::convert::Infallible>(())
            })
        });
        self.context.frames.account().give_back(bytes / PAGE_SIZE_4K);
        table.change_owners(&self.context, range, Owner::Space, Owner::Shared);
        let replaced = plan.rebase(|| Backend::Shared(view.clone()));
        areas.join_all(range);
        lease.keep();
        drop(guard);
        // What stood behind its copies goes without the lock.
        self.free_removed(Removed::of(replaced));
        Ok(region)
    }

    /// Makes a region's memory the space's own, where this space's mapping of it is the last and no handle is left.
    ///
    /// Nothing is copied; the guest keeps access, even while it is zeroed, where asked for. What is untouched yet
    /// stays so, but what comes from a source must have come. What of the region is not in the range any more is freed.
    ///
    /// # Errors
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range;
    /// - [`Error::NotMapped`] with the first hole, [`Error::State`] with the first page that is not a region's;
    /// - [`Error::Region`] with [`InUse`](crate::region::RegionError::InUse) while anything else maps the region or has a
    ///   handle, and for a frozen one;
    /// - [`Error::Allocators`] for a region whose frames this space does not free;
    /// - [`Error::NotYet`], [`Error::SourceFailed`] with the first page that its source has not brought, and was asked for;
    /// - [`Error::NoMemory`], [`Error::Limit`];
    /// - [`Error::Invalidation`]: nothing changed. See there.
    pub fn make_private(&self, range: GuestPhysRange, handover: Handover) -> Result<(), Error> {
        self.check(range)?;
        self.check_sole(&self.state.shared(super::any_cpu()), range)?;
        let mut guard = loop {
            // What its source has not brought yet would be lost with the region.
            self.bring_range(range)?;
            let guard = self.exclusive()?;
            self.check_sole(&guard, range)?;
            if missing_page(&guard, range).is_none() {
                break guard;
            }
        };
        self.map_all_there_is(&guard, range)?;
        let State { areas, table, .. } = &mut *guard;
        let memory = table.extents_of(&self.context, range, Owner::Shared).ok_or(Error::NoMemory(range))?;
        let account = self.context.frames.account();
        let charge = account.charge(memory.size() / PAGE_SIZE_4K).map_err(|exhausted| exhausted.at(range))?;
        let plan = areas.plan(range).map_err(|_| Error::NoMemory(range))?;
        let leases = shared::lost_leases(&plan, MappingFlags::empty())?;
        if let Err(error) = self.split_at_ends(table, range) {
            return Err(shared::keep(leases, error));
        }
        // Nothing fails from here on. The regions have the frames that were found, and no other: pages come only with the
        // space's lock held.
        for (area, part) in plan.pieces() {
            if let Backend::Shared(view) = area.backend() {
                view.region().take(view.page(part.start), part.size());
                view.hide(part);
            }
        }
        if handover == Handover::Zero {
            let flags = plan.pieces().fold(MappingFlags::empty(), |all, (area, _)| all | area.flags());
            self.context.hand_over(self.context.operations(), &memory, handover, flags, flags);
        }
        table.change_owners(&self.context, range, Owner::Shared, Owner::Space);
        charge.keep();
        let replaced = plan.rebase(|| Backend::Private(LeafPolicy::Pages));
        areas.join_all(range);
        drop(guard);
        drop((leases, replaced));
        Ok(())
    }

    /// Refuses what others reach too, or a source is behind.
    fn check_convertible(&self, state: &State, range: GuestPhysRange) -> Result<(), Error> {
        for area in state.areas.iter_range(range) {
            let Backend::CopyOnWrite(heritage) = area.backend() else { continue };
            let mut gpa = area.start().max(range.start);
            while gpa < area.end().min(range.end) {
                let page = Context::<P>::page_of(gpa);
                gpa = match state.table.find(&self.context, gpa) {
                    Found::Leaf { leaf: Leaf { owner: Owner::Space, .. }, span, .. } => span.end,
                    Found::Absent(_)
                        if heritage.source(inherit::page(gpa)).is_none() && state.look(gpa).at.is_none() =>
                    {
                        page.end
                    }
                    _ => return Err(Self::page_is(gpa, PageState::Frozen)),
                };
            }
        }
        Ok(())
    }

    /// Refuses what is not from end to end memory of regions that no other guest or handle can reach.
    fn check_sole(&self, state: &State, range: GuestPhysRange) -> Result<(), Error> {
        let pool = Pool::of(self.context.frames.plain());
        let mut gpa = range.start;
        while gpa < range.end {
            let area = super::transfer::area_at(state, gpa, range)?;
            let other = match area.backend() {
                Backend::Shared(view) => {
                    view.region().check_sole().map_err(|cause| Error::Region { range: area.va_range(), cause })?;
                    if pool.is_none() || view.region().pool() != pool {
                        return Err(Error::Allocators(area.va_range()));
                    }
                    gpa = area.end();
                    continue;
                }
                Backend::Private(_) | Backend::CopyOnWrite(_) => state.table.page_state(&self.context, gpa),
                Backend::Linear(_) => Some(PageState::Foreign),
                Backend::Borrowed(_) => Some(PageState::Borrowed),
            };
            return Err(Self::page_is(gpa, other.unwrap_or(PageState::Nothing)));
        }
        Ok(())
    }

    /// Maps every page of the regions behind a range that has a frame: handles, or other guests, may have populated it.
    fn map_all_there_is(&self, state: &State, range: GuestPhysRange) -> Result<(), Error> {
        for area in state.areas.iter_range(range) {
            let mut gpa = area.start().max(range.start);
            while gpa < area.end().min(range.end) {
                gpa = if let Found::Leaf { span, .. } = state.table.find(&self.context, gpa) {
                    span.end
                } else {
                    self.map_page(state, area, gpa)?;
                    Context::<P>::page_of(gpa).end
                };
            }
        }
        Ok(())
    }
}
