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
    set::MemoryArea,
    table::{Context, Fill, Found, Gaps},
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Makes private memory a region's, which others may then map: the whole range, from offset 0 on.
    ///
    /// Nothing is copied and nothing changes for the guest; no CPU has to forget anything but where a block must be split
    /// at an end of the range. What is untouched yet stays so, in the region. The frames are off the space's
    /// [limit](crate::Limits), as all of a region's. What is refused changes nothing, but that for want of memory, or at a
    /// limit, what was left to the space alone of a snapshot is its own again, and on its account.
    ///
    /// # Errors
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range;
    /// - [`Error::Region`] if pages do not have 4 KiB;
    /// - [`Error::NotMapped`] with the first hole, [`Error::State`] with the first page that is not the space's own;
    /// - [`Error::NoMemory`], [`Error::Limit`] for the tables that split blocks, and for the areas that are cut;
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
        Self::check_not_on_loan(&guard, range)?;
        let view = View::new(region.region(), range.start, 0).ok_or(out_of_memory)?;
        let shared = Backend::Shared(view.clone());
        self.check_areas(range, guard.areas.len(), 2, || {
            guard.areas.len_changed(range, |area| (area.flags(), &shared))
        })?;
        self.check_convertible(&guard, range)?;
        self.unshare(&mut guard, range)?;
        let State { areas, table, .. } = &mut *guard;
        let (keeper, first) = (region.region().keeper().clone(), inherit::page(range.start));
        region.fill(|pages| {
            table.own_memory(&self.context, range, |run| {
                let run = inherit::pages(run.range);
                pages.reserve(run.start - first..run.end - first, &keeper).map_err(|_| out_of_memory)
            })
        })?;
        let plan = areas.plan(range).map_err(|_| out_of_memory)?;
        let lease = plan.pieces().filter(|(area, _)| shared::writes(area.flags())).map(|(_, part)| part.size()).sum();
        let lease = Lease::grant(region.region(), lease).map_err(|cause| Error::Region { range, cause })?;
        view.show(range).map_err(|_| out_of_memory)?;
        self.split_at_ends(table, range).inspect_err(|_| view.hide(range))?;
        // Nothing fails from here on.
        let mut bytes = 0;
        let Ok(()) = region.fill(|pages| {
            table.own_memory(&self.context, range, |run| {
                inherit::put_run(pages, inherit::page(run.range.start) - first, run);
                bytes += run.range.size();
                Ok::<_, core::convert::Infallible>(())
            })
        });
        self.context.frames.account().give_back(bytes / PAGE_SIZE_4K);
        table.change_owners(&self.context, range, Owner::Space, Owner::Shared);
        let replaced = plan.rebase(|_| Some(shared.clone()));
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
    /// stays so, but what comes from a source must have come. What of the region is not in the range any more is freed. What
    /// is refused changes nothing, but that pages which a source brought for it stay in the region.
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
        self.paying(|| self.take_over(range, handover))
    }

    /// Makes a region's memory the space's own.
    fn take_over(&self, range: GuestPhysRange, handover: Handover) -> Result<(), Error> {
        {
            let state = self.state.shared(super::any_cpu());
            self.check_sole(&state, range)?;
            self.check_private_areas(&state, range)?;
            self.check_room_for_sourced(&state, range)?;
        }
        let mut guard = loop {
            // What its source has not brought yet would be lost with the region.
            self.bring_range(range)?;
            let guard = self.exclusive()?;
            self.check_sole(&guard, range)?;
            if missing_page(&guard, range).is_none() {
                break guard;
            }
        };
        self.check_private_areas(&guard, range)?;
        let unmapped = self.unmapped(&guard, range)?.build(&self.context).map_err(|exhausted| exhausted.at(range))?;
        let State { areas, table, .. } = &mut *guard;
        let memory = table.extents_of(&self.context, range, Owner::Shared, &unmapped).ok_or(Error::NoMemory(range))?;
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
            self.context.hand_over(self.context.operations(), memory.pages(), handover, flags, flags);
        }
        unmapped.graft(&self.context, table);
        table.change_owners(&self.context, range, Owner::Shared, Owner::Space);
        charge.keep();
        let replaced = plan.rebase(|_| Some(Backend::Private(LeafPolicy::Pages)));
        areas.join_all(range);
        drop(guard);
        drop((leases, replaced));
        Ok(())
    }

    /// Refuses what would make too many areas, when a range becomes private: exact with the lock held exclusively.
    fn check_private_areas(&self, state: &State, range: GuestPhysRange) -> Result<(), Error> {
        let (areas, private) = (&state.areas, Backend::Private(LeafPolicy::Pages));
        self.check_areas(range, areas.len(), 2, || areas.len_changed(range, |area| (area.flags(), &private)))
    }

    /// Refuses what others reach too, or a source is behind. What is left to the space alone can be made its own.
    fn check_convertible(&self, state: &State, range: GuestPhysRange) -> Result<(), Error> {
        for area in state.areas.iter_range(range) {
            let Backend::CopyOnWrite(heritage) = area.backend() else { continue };
            let mut gpa = area.start().max(range.start);
            while gpa < area.end().min(range.end) {
                let page = Context::<P>::page_of(gpa);
                gpa = match state.table.find(&self.context, gpa) {
                    Found::Leaf { leaf: Leaf { owner: Owner::Space, .. }, span, .. } => span.end,
                    Found::Leaf { leaf: Leaf { owner: Owner::Frozen, .. }, span, .. } if self.is_left(state, span) => {
                        span.end
                    }
                    // Of a block of which others reach a part, the rest is left.
                    Found::Leaf { leaf: Leaf { owner: Owner::Frozen, .. }, .. } | Found::Absent(_)
                        if self.is_left(state, page) =>
                    {
                        page.end
                    }
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

    /// Every page of the regions behind a range that has a frame and no leaf: handles, or other guests, may have populated
    /// it. The lock is held exclusively.
    fn unmapped(&self, state: &State, range: GuestPhysRange) -> Result<Gaps, Error> {
        let mut unmapped = Gaps::default();
        for (area, part) in state.parts(range) {
            state.table.page_states(&self.context, part, |level, gap, page| {
                if page != PageState::Nothing {
                    return Ok(());
                }
                for page in inherit::each_page(gap) {
                    if let Some(leaf) = self.leaf_of(state, area, page.start)? {
                        let pushed = unmapped.push::<P>(page, level, Fill::Run(leaf));
                        pushed.map_err(|exhausted| exhausted.at(range))?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(unmapped)
    }

    /// Refuses what the limit will, before a source is asked for pages that would be brought in vain.
    fn check_room_for_sourced(&self, state: &State, range: GuestPhysRange) -> Result<(), Error> {
        let is_sourced = |area: &MemoryArea<Backend>| match area.backend() {
            Backend::Shared(view) => view.region().supplies().is_some(),
            _ => false,
        };
        if !state.areas.iter_range(range).any(is_sourced) {
            return Ok(());
        }
        let frames = state.parts(range).map(|(area, part)| match area.backend() {
            Backend::Shared(view) if view.region().supplies().is_none() => {
                inherit::each_page(part).filter(|page| view.frame(page.start).is_some()).count()
            }
            _ => part.size() / PAGE_SIZE_4K,
        });
        self.check_room(range, frames.sum())
    }
}
