//! Memory of regions in a space: which areas may write it, and how its pages come into the tables.

use page_table_multiarch::MappingFlags;

use super::{GuestSpace, State, inherit};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, Level, PhysAddr},
    backend::Backend,
    error::{Error, RegionError},
    fault::Fault,
    format::{Format, Leaf, Owner, Used},
    invalidate::{Content, Invalidate},
    lock::LockFamily,
    platform::Platform,
    region::{Lease, SharedRegion, View},
    set::{Few, MemoryArea, MemorySet, Plan, Within},
    table::{Context, Installed},
};

/// The level of the blocks that regions have, and that may be inherited.
const BLOCK: Level = Level(1);

/// No CPU reaches an area that is gone any more: what it borrowed is returned, and it neither shows nor writes a region.
pub(super) fn give_back(area: &MemoryArea<Backend>) {
    match area.backend() {
        Backend::Borrowed(loan) => loan.terms().give_back(area.va_range()),
        Backend::Shared(view) => {
            view.hide(area.va_range());
            if writes(area.flags()) {
                drop(Lease::kept(view.region(), area.size()));
            }
        }
        _ => {}
    }
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// A region of `size` bytes of this space's allocator, which any space may map.
    ///
    /// # Errors
    /// As for [`SharedRegion::new`].
    pub fn region(&self, size: usize) -> Result<SharedRegion, RegionError>
    where
        P::Invalidate: Clone,
    {
        SharedRegion::new::<P>(self.context.frames.plain().clone(), self.context.operations().clone(), size)
    }

    /// What a mapping of `range` sees of a region from `offset` on.
    pub(super) fn view(range: GuestPhysRange, region: &SharedRegion, offset: usize) -> Result<View, Error> {
        Self::check_part(range, region, offset)?;
        View::new(region.region(), range.start, offset).ok_or(Error::NoMemory(range))
    }

    /// Refuses a mapping of what is no part of a region.
    pub(super) fn check_part(range: GuestPhysRange, region: &SharedRegion, offset: usize) -> Result<(), Error> {
        let failed = |cause| Err(Error::Region { range, cause });
        let (page_size, size) = (Context::<P>::span(Level::PAGE), range.size());
        Self::check_page_size(range)?;
        if !offset.is_multiple_of(page_size) {
            return failed(RegionError::Unaligned { offset, align: page_size });
        }
        if offset.checked_add(size).is_none_or(|end| end > region.size()) {
            return failed(RegionError::Beyond { offset, size, region: region.size() });
        }
        Ok(())
    }

    /// Puts what a guest touched of a region, or inherited, into the tables, with the lock that is held: as a block, where an
    /// entry of level `most` is absent and a block stands behind it, else as a page. `None` if there is no frame.
    pub(super) fn map_present(
        &self,
        state: &State,
        area: &MemoryArea<Backend>,
        fault: &Fault,
        most: Level,
    ) -> Result<Option<Installed>, Error> {
        let Some(leaf) = (most >= BLOCK).then(|| self.block_leaf(state, area, fault)).flatten() else {
            return self.map_page(state, area, fault.gpa);
        };
        let block = Context::<P>::entry_range(BLOCK, fault.gpa);
        self.check_frame(block, leaf.at + (block.size() - 1))?;
        if Content::of(leaf.flags) != Content::Data {
            // For loads and stores its caches are in step (H14).
            self.context.synchronize(&leaf, block.size());
        }
        let installed = state.table.seek_again(&self.context, fault.gpa).install_borrowed(&self.context, BLOCK, &leaf);
        self.context.operations().publish();
        installed.map(Some).map_err(|exhausted| exhausted.at(Context::<P>::page_of(fault.gpa)))
    }

    /// The leaf for a block of a region, or one that was inherited, if one leaf may map all of it and allow the access.
    fn block_leaf(&self, state: &State, area: &MemoryArea<Backend>, fault: &Fault) -> Option<Leaf> {
        let block = Context::<P>::entry_range(BLOCK, fault.gpa);
        let is_mappable = self.context.format.maps(BLOCK)
            && area.va_range().contains_range(block)
            && self.fits(BLOCK, area.flags(), fault.access);
        if !is_mappable {
            return None;
        }
        let (at, owner) = match area.backend() {
            Backend::Shared(view) => (view.block(block), Owner::Shared),
            // What a source brought, and the guest alone has, is taken page by page: it comes so too, and is no block.
            Backend::CopyOnWrite(_) => {
                let inherited = state.inherited.as_deref();
                let (first, pages) = (inherit::page(block.start), Context::<P>::leaf_pages(BLOCK));
                (inherited.and_then(|inherited| inherited.block(first, pages)), Owner::Frozen)
            }
            _ => return None,
        };
        Some(Leaf { at: at?, flags: owner.limit(area.flags()), owner, used: Used::Accessed })
    }

    /// Puts a page of a region, or one that was inherited, into the tables, with the lock that is held; `None` if there is no
    /// frame.
    pub(super) fn map_page(
        &self,
        state: &State,
        area: &MemoryArea<Backend>,
        gpa: GuestPhysAddr,
    ) -> Result<Option<Installed>, Error> {
        let Some(leaf) = self.leaf_of(state, area, gpa)? else { return Ok(None) };
        let installed = state.table.seek_again(&self.context, gpa).install_borrowed(&self.context, Level::PAGE, &leaf);
        self.context.operations().publish();
        installed.map(Some).map_err(|exhausted| exhausted.at(Context::<P>::page_of(gpa)))
    }

    /// The leaf for a page of a region, or one that was inherited, with which its caches are in step; `None` if there is no
    /// frame.
    #[inline]
    pub(super) fn leaf_of(
        &self,
        state: &State,
        area: &MemoryArea<Backend>,
        gpa: GuestPhysAddr,
    ) -> Result<Option<Leaf>, Error> {
        let (at, owner) = match area.backend() {
            Backend::Shared(view) => (view.frame(gpa), Owner::Shared),
            Backend::CopyOnWrite(_) => (state.look(gpa).at, Owner::Frozen),
            _ => return Ok(None),
        };
        let Some(at) = at else { return Ok(None) };
        let leaf = Leaf { at, flags: owner.limit(area.flags()), owner, used: Used::Accessed };
        self.check_frame(Context::<P>::page_of(gpa), at)?;
        if Content::of(leaf.flags) != Content::Data {
            // For loads and stores its caches are in step (H14).
            self.context.synchronize_page(&leaf);
        }
        Ok(Some(leaf))
    }

    /// Refuses an address that no entry holds: the region may be of another kind of machine.
    fn check_frame(&self, range: GuestPhysRange, to: PhysAddr) -> Result<(), Error> {
        let bits = self.context.format.output_bits();
        if to.as_usize() >> bits == 0 { Ok(()) } else { Err(Error::BadTarget { range, to, bits }) }
    }
}

/// Whether an area's memory is the space's alone, or nothing that the crate keeps: no region and no loan is behind it.
#[inline]
pub(super) fn is_plain(area: &MemoryArea<Backend>) -> bool {
    matches!(area.backend(), Backend::Linear(_) | Backend::Private(_))
}

/// The edit of a page that lies in plain memory; `None` for any other range, and without memory.
#[inline]
pub(super) fn plain_page<P: Platform>(
    areas: &mut MemorySet<Backend>,
    range: GuestPhysRange,
) -> Option<Within<'_, Backend>> {
    if range.size() != Context::<P>::span(Level::PAGE) {
        return None;
    }
    areas.within(range).filter(|page| is_plain(page.area()))
}

/// The permissions to write that the pieces of `plan` have, and would not have with `flags`; without flags, all.
pub(super) fn lost_leases(plan: &Plan<'_, Backend>, flags: MappingFlags) -> Result<Few<Lease>, Error> {
    changed_leases(
        plan,
        |area| writes(area.flags()) && !writes(flags),
        |view, part| Ok(Lease::kept(view.region(), part)),
    )
}

/// The permissions to write that the pieces of `plan` need with `flags`, and do not have yet.
pub(super) fn new_leases(plan: &Plan<'_, Backend>, flags: MappingFlags) -> Result<Few<Lease>, Error> {
    changed_leases(plan, |area| !writes(area.flags()) && writes(flags), |view, part| Lease::grant(view.region(), part))
}

fn changed_leases(
    plan: &Plan<'_, Backend>,
    changes: impl Fn(&MemoryArea<Backend>) -> bool,
    lease: impl Fn(&View, usize) -> Result<Lease, RegionError>,
) -> Result<Few<Lease>, Error> {
    let shared = || {
        plan.pieces().filter(|(area, _)| changes(area)).filter_map(|(area, part)| match area.backend() {
            Backend::Shared(view) => Some((view, part)),
            _ => None,
        })
    };
    let mut leases = Few::with_room(shared().count()).map_err(|_| Error::NoMemory(plan.range()))?;
    for (view, part) in shared() {
        leases.push(lease(view, part.size()).map_err(|cause| Error::Region { range: part, cause })?);
    }
    Ok(leases)
}

/// Leaves the leases where they were, since nothing changed for the reason `error`.
pub(super) fn keep(leases: Few<Lease>, error: Error) -> Error {
    leases.into_iter().for_each(Lease::keep);
    error
}

/// Whether a guest may write.
pub(super) fn writes(flags: MappingFlags) -> bool {
    flags.contains(MappingFlags::WRITE)
}

impl State {
    /// The space's memory is lost, and with it what stands behind its areas.
    pub(super) fn leak(&mut self) {
        core::mem::forget(core::mem::take(&mut self.areas));
        core::mem::forget(core::mem::take(&mut self.removed));
        core::mem::forget(core::mem::take(&mut self.removed_leases));
        core::mem::forget(core::mem::take(&mut self.loans));
        core::mem::forget(self.inherited.take());
    }
}
