//! Changing the map: every call excludes all others while the tables change and the CPUs forget.

use core::ops::Range;

use memory_addr::PAGE_SIZE_4K;
use page_table_multiarch::MappingFlags;

use super::{GuestSpace, State, exclusive::Held, inherit, shared};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level, PhysAddr},
    backend::{Backend, Heritage, Mapping, Offset, Populate},
    counted::Counted,
    error::{Error, RegionError},
    format::{Format, Inexpressible, LeafPolicy, Owner},
    lock::LockFamily,
    pages::{Inherited, Pages},
    platform::Platform,
    region::{Lease, SharedRegion},
    set::{AreaError, MemoryArea},
    table::{Context, Detached, Fill},
};

/// What a mapping puts into a range.
pub(super) struct Incoming {
    pub area: MemoryArea<Backend>,
    pub content: Content,
    /// The permission to write a region, which is revoked if it is dropped.
    pub lease: Option<Lease>,
}

/// What is in an area that is mapped.
pub(super) enum Content {
    /// Nothing until it is touched. The region's handle stays until the area shows it.
    Lazy(Option<SharedRegion>),
    /// This at once.
    Filled(Fill<'static>),
    /// What is inherited.
    Inherited(Heirloom),
}

/// Pages of a frozen region that a space is to inherit.
pub(super) struct Heirloom {
    pub region: SharedRegion,
    pages: Range<usize>,
    /// The number of the first one in the space.
    to: usize,
}

impl Heirloom {
    /// A tree of them, by their numbers in the space.
    pub(super) fn pages(&self) -> Result<Pages, Exhausted> {
        let mut pages = Pages::default();
        self.region.region().pass_on(&mut pages, self.to, self.pages.clone()).map(|()| pages)
    }
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Maps `range`, all of it or nothing.
    ///
    /// What is populated at once is built, zeroed and synchronized before the lock is taken. A fresh mapping needs no
    /// invalidation. It becomes one area with those that it touches and that differ in nothing else. The caller keeps the
    /// caches of a linear area in step, where the guest's memory type differs.
    ///
    /// # Errors
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range;
    /// - [`Error::BadTarget`] for a linear mapping's host addresses;
    /// - [`Error::Flags`] for flags that the format cannot express, or a device as private memory;
    /// - [`Error::Region`] for a region that is too small, or frozen and would be written, or is to be copied on write
    ///   and not frozen;
    /// - [`Error::Overlap`] with the first area in the way;
    /// - [`Error::NoMemory`], [`Error::Limit`];
    /// - [`Error::Invalidation`] if an earlier operation's invalidation still fails.
    pub fn map(&self, range: GuestPhysRange, mapping: Mapping, flags: MappingFlags) -> Result<(), Error> {
        self.check(range)?;
        self.check_flags(range, flags)?;
        let (backend, fill) = match mapping {
            Mapping::Linear { to } => {
                self.check_target(range, to)?;
                (linear(range, to), Some(Fill::linear(to, flags)))
            }
            Mapping::Private { populate, leaf } => {
                check_private(range, flags)?;
                private(populate, leaf, flags)
            }
            mapping => return self.map_region(range, mapping, flags),
        };
        let area = MemoryArea::new(range.start, range.size(), flags, backend);
        self.insert(area, fill)
    }

    /// Maps a part of a region.
    #[inline(never)]
    fn map_region(&self, range: GuestPhysRange, mapping: Mapping, flags: MappingFlags) -> Result<(), Error> {
        let Incoming { area, content, lease } = self.incoming(range, mapping, flags)?;
        match content {
            Content::Lazy(handle) => {
                self.insert(area, None)?;
                drop(handle);
            }
            Content::Filled(fill) => self.insert(area, Some(fill))?,
            Content::Inherited(heirloom) => {
                let region = heirloom.region.region();
                self.insert_inherited(area, || region.heir(), |_| heirloom.pages())?;
            }
        }
        lease.into_iter().for_each(Lease::keep);
        Ok(())
    }

    /// What a mapping puts into `range`, if nothing but the map can refuse it.
    pub(super) fn incoming(
        &self,
        range: GuestPhysRange,
        mapping: Mapping,
        flags: MappingFlags,
    ) -> Result<Incoming, Error> {
        self.check(range)?;
        self.check_flags(range, flags)?;
        let (backend, content) = match mapping {
            Mapping::Linear { to } => {
                self.check_target(range, to)?;
                (linear(range, to), Content::Filled(Fill::linear(to, flags)))
            }
            Mapping::Shared { region, offset } => {
                check_private(range, flags)?;
                let view = Self::view(range, &region, offset)?;
                (Backend::Shared(view), Content::Lazy(Some(region)))
            }
            Mapping::CopyOnWrite { region, offset } => {
                let (heritage, heirloom) = self.heirloom(range, region, offset, flags)?;
                (Backend::CopyOnWrite(heritage), Content::Inherited(heirloom))
            }
            Mapping::Private { populate, leaf } => {
                check_private(range, flags)?;
                let (backend, fill) = private(populate, leaf, flags);
                (backend, fill.map_or(Content::Lazy(None), Content::Filled))
            }
        };
        let lease = match &backend {
            Backend::Shared(view) if shared::writes(flags) => Some(Lease::grant(view.region(), range.size())),
            _ => None,
        };
        let lease = lease.transpose().map_err(|cause| Error::Region { range, cause })?;
        Ok(Incoming { area: MemoryArea::new(range.start, range.size(), flags, backend), content, lease })
    }

    /// Adds an area, and what is mapped in it at once: in place if that takes no table, else built without the lock.
    fn insert(&self, area: MemoryArea<Backend>, fill: Option<Fill<'_>>) -> Result<(), Error> {
        let range = area.va_range();
        let mut guard = self.exclusive()?;
        let State { areas, table, .. } = &mut *guard;
        // Where the limit of areas is near, it is counted how many there will be.
        if let Some(Fill::Run(leaf)) = &fill
            && self.has_room_for_areas(1)
            && let Some(pages) = table.pages(&self.context, range)
        {
            areas.vacancy(range).map_err(refused)?.fill_joined(area);
            pages.fill(&self.context, leaf);
            return Ok(());
        }
        match fill {
            Some(fill) => self.insert_built(area, guard, fill),
            None => self.insert_empty(area, guard),
        }
    }

    /// Adds an area in which nothing is mapped at once.
    fn insert_empty(&self, area: MemoryArea<Backend>, guard: Held<'_, L>) -> Result<(), Error> {
        // An area that is refused goes after the lock's release: a source may be behind it.
        let mut state = guard;
        self.check_new_area(&state.areas, &area)?;
        let vacancy = state.areas.vacancy(area.va_range()).map_err(refused)?;
        if let Backend::Shared(view) = area.backend() {
            view.show(area.va_range()).map_err(|exhausted| exhausted.at(area.va_range()))?;
        }
        vacancy.fill_joined(area);
        Ok(())
    }

    /// Adds an area, and what is mapped in it, which is built without the lock.
    #[inline(never)]
    fn insert_built(&self, area: MemoryArea<Backend>, guard: Held<'_, L>, fill: Fill<'_>) -> Result<(), Error> {
        let range = area.va_range();
        guard.check_free(range)?;
        self.check_new_area(&guard.areas, &area)?;
        let mut level = guard.table.graft_level(&self.context, range);
        drop(guard);
        loop {
            let make = || Detached::build(&self.context, range, level, fill).map_err(|exhausted| exhausted.at(range));
            let built = self.paying(make)?;
            let mut guard = self.exclusive()?;
            let State { areas, table, .. } = &mut *guard;
            if table.fits(&self.context, &built) {
                self.check_new_area(areas, &area)?;
                areas.vacancy(range).map_err(refused)?.fill_joined(area);
                table.graft(&self.context, built);
                return Ok(());
            }
            // The table that it was built for went meanwhile.
            guard.check_free(range)?;
            level = guard.table.graft_level(&self.context, range);
        }
    }

    /// Refuses flags that the format cannot express.
    pub(super) fn check_flags(&self, range: GuestPhysRange, flags: MappingFlags) -> Result<(), Error> {
        self.context.format.check(flags).map_err(|flags| Error::Flags { range, flags })
    }

    /// What is inherited of a part of a frozen region.
    fn heirloom(
        &self,
        range: GuestPhysRange,
        region: SharedRegion,
        offset: usize,
        flags: MappingFlags,
    ) -> Result<(Heritage, Heirloom), Error> {
        self.check_inherited(range, &region, flags)?;
        Self::check_part(range, &region, offset)?;
        let (to, from) = (inherit::page(range.start), offset / PAGE_SIZE_4K);
        let pages = from..from + range.size() / PAGE_SIZE_4K;
        let supplies = region.region().supplies_of(pages.clone(), to).map_err(|exhausted| exhausted.at(range))?;
        Ok((Heritage::new(range.start, offset, supplies), Heirloom { region, pages, to }))
    }

    /// Adds an area that inherits: `make` makes what a space has that inherits for the first time, and `pass_on` answers the
    /// area's pages.
    pub(super) fn insert_inherited(
        &self,
        area: MemoryArea<Backend>,
        make: impl FnOnce() -> Option<Counted<dyn Inherited>>,
        pass_on: impl FnOnce(&dyn Inherited) -> Result<Pages, Exhausted>,
    ) -> Result<(), Error> {
        let range = area.va_range();
        let mut state = self.exclusive()?;
        self.check_new_area(&state.areas, &area)?;
        let inherited = state.inherit(make).ok_or(Error::NoMemory(range))?;
        let vacancy = state.areas.vacancy(range).map_err(refused)?;
        let failed = |exhausted: Exhausted| exhausted.at(range);
        let comes = pass_on(&*inherited).map_err(failed)?;
        inherit::make_room(&*inherited, || core::iter::once(range), &comes).map_err(failed)?;
        // Nothing fails from here on. What waits already is freed in somebody else's steps.
        let mut budget = if inherited.is_settled() { usize::MAX } else { 0 };
        vacancy.fill_joined(area);
        inherit::put(&*inherited, core::iter::once(range), comes, self.accounts());
        drop(state);
        inherited.free_some(&mut budget);
        Ok(())
    }

    /// Refuses to copy on write what may still change, or what no entry expresses without the writing.
    pub(super) fn check_inherited(
        &self,
        range: GuestPhysRange,
        region: &SharedRegion,
        flags: MappingFlags,
    ) -> Result<(), Error> {
        self.check_copied(range, flags)?;
        if region.region().is_frozen() {
            return Ok(());
        }
        Err(Error::Region { range, cause: RegionError::NotFrozen })
    }

    /// Refuses flags of memory to be copied on write that no entry expresses without the writing.
    pub(super) fn check_copied(&self, range: GuestPhysRange, flags: MappingFlags) -> Result<(), Error> {
        check_private(range, flags)?;
        self.check_flags(range, Owner::Frozen.limit(flags))
    }

    /// Refuses host addresses that no entry holds.
    fn check_target(&self, range: GuestPhysRange, to: PhysAddr) -> Result<(), Error> {
        let bits = self.context.format.output_bits();
        let aligned = to.as_usize() & (Context::<P>::span(Level::PAGE) - 1) == 0;
        let fits = to.as_usize().checked_add(range.size()).is_some_and(|end| end <= 1 << bits);
        if aligned && fits { Ok(()) } else { Err(Error::BadTarget { range, to, bits }) }
    }
}

/// Refuses the first hole in a range, of which `pieces` are the areas, each with its part of the range in order, and what
/// `check` refuses of the parts before it.
pub(super) fn check_whole<'a>(
    range: GuestPhysRange,
    pieces: impl Iterator<Item = (&'a MemoryArea<Backend>, GuestPhysRange)>,
    mut check: impl FnMut(&MemoryArea<Backend>, GuestPhysRange) -> Result<(), Error>,
) -> Result<(), Error> {
    let GuestPhysRange { mut start, end } = range;
    for (area, part) in pieces {
        if part.start > start {
            return Err(Error::NotMapped(GuestPhysRange { start, end: part.start }));
        }
        check(area, part)?;
        start = part.end;
    }
    if start < end { Err(Error::NotMapped(GuestPhysRange { start, end })) } else { Ok(()) }
}

/// Refuses flags that make a device of private memory, or memory of a linear area's device.
pub(super) fn check_kind(area: &MemoryArea<Backend>, range: GuestPhysRange, flags: MappingFlags) -> Result<(), Error> {
    let was_device = area.flags().contains(MappingFlags::DEVICE);
    match area.backend() {
        Backend::Private(_) | Backend::Shared(_) | Backend::CopyOnWrite(_) => check_private(range, flags),
        Backend::Linear(_) if was_device && !flags.contains(MappingFlags::DEVICE) => {
            Err(Error::NotMemory(area.va_range()))
        }
        Backend::Linear(_) => Ok(()),
        Backend::Borrowed(loan) if loan.flags().contains(flags) => Ok(()),
        Backend::Borrowed(loan) => Err(Error::Denied { range: area.va_range(), flags: loan.flags() }),
    }
}

/// Linear memory.
const fn linear(range: GuestPhysRange, to: PhysAddr) -> Backend {
    Backend::Linear(Offset::new(range.start, to))
}

/// Private memory, and what is in it at once.
fn private(populate: Populate, leaf: LeafPolicy, flags: MappingFlags) -> (Backend, Option<Fill<'static>>) {
    (Backend::Private(leaf), (populate == Populate::Now).then_some(Fill::Own(leaf, flags)))
}

/// Refuses device flags for memory.
pub(super) fn check_private(range: GuestPhysRange, flags: MappingFlags) -> Result<(), Error> {
    if flags.contains(MappingFlags::DEVICE) {
        return Err(Error::Flags { range, flags: Inexpressible(flags) });
    }
    Ok(())
}

/// Why the set did not take an area.
fn refused(error: AreaError<GuestPhysAddr>) -> Error {
    match error {
        AreaError::Empty(range) => Error::Empty(range),
        AreaError::Overlap { range, with } => Error::Overlap { range, with },
        AreaError::NoMemory(range) => Error::NoMemory(range),
    }
}

impl State {
    /// The areas in a range, and what of each lies in it.
    pub(super) fn parts(&self, range: GuestPhysRange) -> impl Iterator<Item = (&MemoryArea<Backend>, GuestPhysRange)> {
        self.areas.iter_range(range).map(move |area| {
            (area, GuestPhysRange { start: area.start().max(range.start), end: area.end().min(range.end) })
        })
    }

    /// Refuses a range in which an area lies.
    fn check_free(&self, range: GuestPhysRange) -> Result<(), Error> {
        match self.areas.overlap(range) {
            Some(other) => Err(Error::Overlap { range, with: other.va_range() }),
            None => Ok(()),
        }
    }
}
