//! Freezing a running guest's memory, and starting guests from it.

use alloc::vec::Vec;

use memory_addr::PAGE_SIZE_4K;

use super::{GuestSpace, State, inherit};
use crate::{
    account::Exhausted,
    addr::{GuestPhysRange, Level},
    backend::{Backend, Heritage},
    counted::Counted,
    error::{Error, RegionError},
    format::Owner,
    lock::LockFamily,
    ownership::PageState,
    pages::{Inherited, Keeper, Pages, Payer, PlatformKeeper, Supplies, inherited},
    platform::Platform,
    region::{Part, Place, Places, SharedRegion, Snapshot},
    set::{MemoryArea, MemorySet},
    table::{Changes, Context, Table},
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Freezes all private memory of the space, what it inherited and copied too, into a region of its own, while the
    /// guest runs.
    ///
    /// The frames stay where they are, and blocks stay blocks. The space goes on copy-on-write: no CPU can write what
    /// is in the snapshot when it returns, and the next write to each page is a fault, which splits the block that the
    /// page is in. Linear and shared areas are no part of it. What the space has in common with an older snapshot, the
    /// two share; neither keeps the other. The frames are off the space's [account](crate::Limits), until it takes
    /// back what it alone can reach by then: a page that it writes, gives away, shares or moves. It takes the space's
    /// lock for as long as it takes to walk the tables; [`snapshot_in_steps`](Self::snapshot_in_steps) does not, where
    /// the guest is at rest. Nothing but the guest's CPUs may write the memory meanwhile: a device that does must be
    /// at rest.
    ///
    /// # Errors
    /// - [`Error::NotMapped`] if there is no private memory;
    /// - [`Error::State`] if any is on loan, or borrowed: a guest that starts from the snapshot could not have it;
    /// - [`Error::Flags`] for an area whose flags no entry expresses without the writing;
    /// - [`Error::Region`] if pages do not have 4 KiB;
    /// - [`Error::NoMemory`];
    /// - [`Error::Invalidation`]: the memory is copy-on-write, but there is no snapshot of it. See there.
    pub fn snapshot(&self) -> Result<Snapshot, Error>
    where
        P::Invalidate: Clone,
    {
        let (draft, flushed) = {
            let mut guard = self.exclusive()?;
            let mut draft = self.draft(&mut guard)?;
            let State { areas, table, .. } = &mut *guard;
            let range = draft.range;
            draft.reserve(&self.context, table, range)?;
            // Nothing fails from here on but the invalidation.
            draft.adopt(&self.context, table, range);
            let mut changes = Changes::new(range);
            table.freeze(&self.context, range, &mut changes);
            let flush = table.frozen(&self.context, changes);
            draft.unpay_some(self.accounts(), &mut 0, &mut { usize::MAX });
            draft.hand_over(areas);
            (draft, flush.finish())
        };
        flushed.map_err(|cause| Error::Invalidation { range: draft.range, cause })?;
        Ok(draft.into_snapshot())
    }

    /// What a snapshot of all areas starts from.
    pub(super) fn draft(&self, state: &mut State) -> Result<Draft, Error>
    where
        P::Invalidate: Clone,
    {
        let everything = self.context.everything();
        Self::check_not_on_loan(state, everything)?;
        let parts = self.parts(&state.areas)?;
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
            return Err(Error::NotMapped(everything));
        };
        let range = GuestPhysRange { start: first.range.start, end: last.range.end };
        let out_of_memory = Error::NoMemory(range);
        let inherited = state.inherit(inherited).ok_or(out_of_memory)?;
        let keeper = self.keeper(&*inherited).ok_or(out_of_memory)?;
        let supplies = supplies(&state.areas).map_err(|_| out_of_memory)?;
        let places = places(&parts).map_err(|_| out_of_memory)?;
        let size = last.offset + last.range.size();
        inherited.pages().write().span(&inherit::pages(range)).map_err(|_| out_of_memory)?;
        let mut let_go = Vec::new();
        let_go.try_reserve_exact(supplied(&state.areas).count()).map_err(|_| out_of_memory)?;
        let region = SharedRegion::of(size, &keeper, supplies.clone(), places).ok_or(out_of_memory)?;
        region.freeze().map_err(|cause| Error::Region { range, cause })?;
        Ok(Draft { parts, range, region, inherited, keeper, supplies, let_go })
    }

    /// Who allocates the space's pages, for whoever has them in the end.
    pub(super) fn keeper(&self, inherited: &dyn Inherited) -> Option<Counted<dyn Keeper>>
    where
        P::Invalidate: Clone,
    {
        let mut keeper = inherited.keeper().write();
        if keeper.is_none() {
            let (frames, operations) = (self.context.frames.plain().clone(), self.context.operations().clone());
            *keeper = PlatformKeeper::<P>::make(frames, operations);
        }
        keeper.clone()
    }

    /// Maps all that is in a snapshot copy-on-write, at the addresses that it came from, where nothing is: all of it
    /// or nothing. It costs areas; tables come with the first touches, a block at a time where the memory is in
    /// blocks, and frames with the first writes, and with the first touch of what was untouched.
    ///
    /// Into a fresh space it starts a guest; a guest goes back to its own snapshot when its memory is unmapped first.
    ///
    /// # Errors
    /// - [`Error::BeyondInput`], [`Error::Flags`], [`Error::Region`] if the space is of another kind than the one that the
    ///   snapshot is of;
    /// - [`Error::Overlap`] with the first area in the way;
    /// - [`Error::NoMemory`]; [`Error::Limit`] of the space's areas, with the range from the first of the snapshot's to the last;
    /// - [`Error::Invalidation`] if an earlier operation's invalidation still fails.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let region = snapshot.region().region();
        for part in snapshot.parts() {
            self.check(part.range)?;
            self.check_inherited(part.range, snapshot.region(), part.flags)?;
        }
        let ends = snapshot.parts().first().zip(snapshot.parts().last());
        let everything = ends.map_or(self.context.everything(), |(first, last)| GuestPhysRange {
            start: first.range.start,
            end: last.range.end,
        });
        Self::check_page_size(everything)?;
        let mut state = self.exclusive()?;
        for part in snapshot.parts() {
            if let Some(other) = state.areas.overlap(part.range) {
                return Err(Error::Overlap { range: part.range, with: other.va_range() });
            }
        }
        let heir = |part: &Part| {
            let heritage = Heritage::new(part.range.start, part.offset, region.supplies().cloned());
            MemoryArea::new(part.range.start, part.range.size(), part.flags, Backend::CopyOnWrite(heritage))
        };
        let after = || state.areas.len_with(snapshot.parts().iter().map(heir));
        self.check_areas(everything, state.areas.len(), snapshot.parts().len(), after)?;
        let inherited = state.inherit(inherited).ok_or(Error::NoMemory(everything))?;
        let ranges = || snapshot.parts().iter().map(|part| part.range);
        let mut comes = Pages::default();
        for part in snapshot.parts() {
            let first = part.offset / PAGE_SIZE_4K;
            let pages = first..first + part.range.size() / PAGE_SIZE_4K;
            let passed_on = region.pass_on(&mut comes, inherit::page(part.range.start), pages);
            passed_on.map_err(|exhausted| exhausted.at(part.range))?;
        }
        inherit::make_room(&*inherited, ranges, &comes).map_err(|exhausted| exhausted.at(everything))?;
        for (index, part) in snapshot.parts().iter().enumerate() {
            if state.areas.insert(heir(part)).is_err() {
                ranges().take(index).for_each(|range| state.areas.remove_whole(range));
                return Err(Error::NoMemory(part.range));
            }
        }
        // Nothing fails from here on. What waits already is freed in somebody else's steps.
        let mut budget = if inherited.is_settled() { usize::MAX } else { 0 };
        inherit::put(&*inherited, ranges(), comes, self.accounts());
        ranges().for_each(|range| state.areas.join_all(range));
        drop(state);
        inherited.free_some(&mut budget);
        Ok(())
    }

    /// What a snapshot is made of: private areas, and such as were inherited.
    fn parts(&self, areas: &MemorySet<Backend>) -> Result<Vec<Part>, Error> {
        let own = || areas.iter().filter(|area| !matches!(area.backend(), Backend::Linear(_) | Backend::Shared(_)));
        let mut parts = Vec::new();
        let mut offset = 0;
        parts.try_reserve_exact(own().count()).map_err(|_| Error::NoMemory(self.context.everything()))?;
        for area in own() {
            let (range, flags) = (area.va_range(), area.flags());
            if let Backend::Borrowed(_) = area.backend() {
                return Err(Self::page_is(range.start, PageState::Borrowed));
            }
            self.check_flags(range, Owner::Frozen.limit(flags))?;
            Self::check_page_size(range)?;
            parts.push(Part { range, flags, offset });
            offset += range.size();
        }
        Ok(parts)
    }

    /// Refuses pages that are not a region's.
    pub(super) fn check_page_size(range: GuestPhysRange) -> Result<(), Error> {
        let page_size = Context::<P>::span(Level::PAGE);
        if page_size == PAGE_SIZE_4K {
            return Ok(());
        }
        Err(Error::Region { range, cause: RegionError::PageSize { page_size } })
    }
}

/// Where the parts are in the tree: each page at the number of its guest-physical address.
fn places(parts: &[Part]) -> Result<Places, Exhausted> {
    let mut places = Vec::new();
    places.try_reserve_exact(parts.len()).map_err(|_| Exhausted::Memory)?;
    places.extend(
        parts.iter().map(|part| Place { first: part.offset / PAGE_SIZE_4K, places: inherit::pages(part.range) }),
    );
    Ok(Places::new(places))
}

/// The sources behind all that was inherited.
fn supplies(areas: &MemorySet<Backend>) -> Result<Option<Supplies>, Exhausted> {
    Supplies::joined(|| supplied(areas).flat_map(|(pages, supplies)| supplies.within(pages)))
}

/// The pages of each area that sources are behind, and those.
fn supplied(areas: &MemorySet<Backend>) -> impl Iterator<Item = (core::ops::Range<usize>, &Supplies)> {
    areas.iter().filter_map(|area| match area.backend() {
        Backend::CopyOnWrite(heritage) => Some((inherit::pages(area.va_range()), heritage.supplies()?)),
        _ => None,
    })
}

/// A snapshot that is not complete yet.
pub(super) struct Draft {
    parts: Vec<Part>,
    /// From the first part's start to the last one's end.
    range: GuestPhysRange,
    /// Frozen: nothing writes it, and nothing else knows it yet.
    region: SharedRegion,
    /// The space's, where the frames go.
    inherited: Counted<dyn Inherited>,
    keeper: Counted<dyn Keeper>,
    supplies: Option<Supplies>,
    /// What was behind the areas before. It goes without the space's lock, since a source may go with it. There is room.
    let_go: Vec<Supplies>,
}

impl Draft {
    /// From the first area's start to the last one's end.
    pub(super) fn range(&self) -> GuestPhysRange {
        self.range
    }

    /// Makes room for the frames that are in `range`. Whole leaves: their ends do not cut any.
    pub(super) fn reserve<P: Platform>(
        &self,
        context: &Context<P>,
        table: &Table,
        range: GuestPhysRange,
    ) -> Result<(), Error> {
        let mut pages = self.inherited.pages().write();
        table.own_memory(context, range, |run| {
            let reserved = pages.reserve(inherit::pages(run.range), &self.keeper);
            reserved.map_err(|exhausted| exhausted.at(self.range))
        })
    }

    /// Has the frames that are in `range` be inherited, for which there is room: they are off the space's account.
    pub(super) fn adopt<P: Platform>(&self, context: &Context<P>, table: &Table, range: GuestPhysRange) {
        let (mut pages, mut bytes) = (self.inherited.pages().write(), 0);
        let Ok(()) = table.own_memory(context, range, |run| {
            inherit::put_run(&mut pages, inherit::page(run.range.start), run);
            bytes += run.range.size();
            Ok::<_, core::convert::Infallible>(())
        });
        drop(pages);
        context.frames.account().give_back(bytes / PAGE_SIZE_4K);
    }

    /// Takes pages that a source brought off the space's account, from the number `next` on: whether all are. It comes before
    /// they are shared.
    pub(super) fn unpay_some(&self, payer: &Payer, next: &mut usize, budget: &mut usize) -> bool {
        self.inherited.unpay_some(payer, next, budget)
    }

    /// Has the areas inherit, and the region share what they do.
    pub(super) fn hand_over(&mut self, areas: &mut MemorySet<Backend>) {
        let Self { parts, supplies: all, let_go, .. } = self;
        let mut parts = parts.iter();
        areas.each_backend(|_, backend| {
            let supplies = match backend {
                Backend::Private(_) => None,
                Backend::CopyOnWrite(heritage) => heritage.supplies().and_then(|before| {
                    let_go.push(before.clone());
                    all.clone()
                }),
                _ => return,
            };
            if let Some(part) = parts.next() {
                *backend = Backend::CopyOnWrite(Heritage::new(part.range.start, part.offset, supplies));
            }
        });
        areas.join_all(self.range);
        let pages = self.inherited.share();
        self.region.fill(|all| *all = pages);
    }

    /// The snapshot.
    pub(super) fn into_snapshot(self) -> Snapshot {
        Snapshot::new(self.region, self.parts)
    }
}
