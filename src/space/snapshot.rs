//! Freezing a running guest's memory, and starting guests from it.

use alloc::vec::Vec;

use page_table_multiarch::MappingFlags;

use super::{GuestSpace, State};
use crate::{
    account::Exhausted,
    addr::{GuestPhysRange, Level},
    backend::Backend,
    error::{Error, RegionError},
    lock::LockFamily,
    platform::Platform,
    region::{Part, SharedRegion, Snapshot, View, Window, offset_of},
    set::{MemoryArea, MemorySet},
    table::{Changes, Context, Table},
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Freezes all private memory of the space, what it inherited and copied too, into a region of its own, while the
    /// guest runs.
    ///
    /// The frames stay where they are. The space goes on copy-on-write: no CPU can write what is in the snapshot when it
    /// returns, and the next write to each page is a fault. Linear and shared areas are no part of it. A snapshot of
    /// memory that was inherited keeps the older region too. The frames are the region's from now on, and off the space's
    /// [limit](crate::Limits). It takes the space's lock for as long as it takes to walk the tables;
    /// [`snapshot_in_steps`](Self::snapshot_in_steps) does not, where the guest is at rest. Nothing but the guest's CPUs
    /// may write the memory meanwhile: a device that does must be at rest.
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
        let mut guard = self.exclusive()?;
        let draft = self.draft(&guard)?;
        let State { areas, table, .. } = &mut *guard;
        let range = draft.range;
        draft.reserve(&self.context, table, range)?;
        // Nothing fails from here on but the invalidation.
        draft.adopt(&self.context, table, range);
        let mut changes = Changes::new(range);
        table.freeze(&self.context, range, &mut changes);
        let flush = table.frozen(&self.context, changes);
        draft.hand_over(areas);
        flush.finish().map_err(|cause| Error::Invalidation { range, cause })?;
        Ok(draft.into_snapshot())
    }

    /// What a snapshot of all areas starts from.
    pub(super) fn draft(&self, state: &State) -> Result<Draft, Error>
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
        let region = self.region(last.offset + last.range.size()).map_err(|_| out_of_memory)?;
        region.reserve_bases(state.areas.len()).map_err(|_| out_of_memory)?;
        let window = Window::open(region.region()).ok_or(out_of_memory)?;
        region.freeze().map_err(|cause| Error::Region { range, cause })?;
        Ok(Draft { parts, range, region, window })
    }

    /// Maps all that is in a snapshot copy-on-write, at the addresses that it came from, where nothing is: all of it or
    /// nothing. It costs areas; tables come with the first touches, and frames with the first writes.
    ///
    /// Into a fresh space it starts a guest; a guest goes back to its own snapshot when its memory is unmapped first.
    ///
    /// # Errors
    /// - [`Error::BeyondInput`], [`Error::Flags`], [`Error::Region`] if the space is of another kind than the one that the
    ///   snapshot is of;
    /// - [`Error::Overlap`] with the first area in the way;
    /// - [`Error::NoMemory`];
    /// - [`Error::Invalidation`] if an earlier operation's invalidation still fails.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let region = snapshot.region();
        let mut everything = self.context.everything();
        for part in snapshot.parts() {
            self.check(part.range)?;
            self.check_inherited(part.range, region, part.flags)?;
            everything = part.range;
        }
        Self::check_page_size(everything)?;
        let window = Window::open(region.region()).ok_or(Error::NoMemory(everything))?;
        let mut state = self.exclusive()?;
        for part in snapshot.parts() {
            if let Some(other) = state.areas.overlap(part.range) {
                return Err(Error::Overlap { range: part.range, with: other.va_range() });
            }
        }
        for (index, part) in snapshot.parts().iter().enumerate() {
            let backend = Backend::CopyOnWrite(View::new(window.clone(), part.range.start, part.offset));
            let area = MemoryArea::new(part.range.start, part.range.size(), part.flags, backend);
            if state.areas.insert(area).is_err() {
                snapshot.parts()[..index].iter().for_each(|part| state.areas.remove_whole(part.range));
                return Err(Error::NoMemory(part.range));
            }
        }
        snapshot.parts().iter().for_each(|part| state.areas.join_all(part.range));
        Ok(())
    }

    /// What a snapshot is made of: private areas, and such as were inherited, side by side.
    fn parts(&self, areas: &MemorySet<Backend>) -> Result<Vec<Part>, Error> {
        let own = || areas.iter().filter(|area| !matches!(area.backend(), Backend::Linear(_) | Backend::Shared(_)));
        let mut parts = Vec::new();
        let mut offset = 0;
        parts.try_reserve_exact(own().count()).map_err(|_| Error::NoMemory(self.context.everything()))?;
        for area in own() {
            let (range, flags) = (area.va_range(), area.flags());
            if let Backend::Borrowed(_) = area.backend() {
                return Err(Self::page_is(range.start, crate::ownership::PageState::Borrowed));
            }
            self.check_flags(range, crate::format::Owner::Frozen.limit(flags))?;
            Self::check_page_size(range)?;
            parts.push(Part { range, flags, offset });
            offset += range.size();
        }
        Ok(parts)
    }

    /// Refuses pages that are not a region's.
    pub(super) fn check_page_size(range: GuestPhysRange) -> Result<(), Error> {
        let page_size = Context::<P>::span(Level::PAGE);
        if page_size == memory_addr::PAGE_SIZE_4K {
            return Ok(());
        }
        Err(Error::Region { range, cause: RegionError::PageSize { page_size } })
    }
}

/// A snapshot that is not complete yet.
pub(super) struct Draft {
    parts: Vec<Part>,
    /// From the first part's start to the last one's end.
    range: GuestPhysRange,
    /// Where the frames go. Frozen: nothing writes it, and nothing else knows it yet.
    region: SharedRegion,
    window: Window,
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
        // A block may reach across areas that touch: they are side by side in the region too.
        let mut filling = self.region.filling();
        table.own_memory(context, range, |run| {
            // Areas that touch are side by side in the region too: a run may reach across them.
            let offset = offset_of(&self.parts, run.range.start).ok_or(Exhausted::Memory);
            let room = offset.and_then(|offset| filling.reserve(offset, run.range.size()));
            room.map_err(|exhausted| exhausted.at(self.range))
        })
    }

    /// Gives the region the frames that are in `range`, for which there is room: they are off the space's account.
    pub(super) fn adopt<P: Platform>(&self, context: &Context<P>, table: &Table, range: GuestPhysRange) {
        let (mut filling, mut bytes) = (self.region.filling(), 0);
        let Ok(()) = table.own_memory(context, range, |run| {
            if let Some(offset) = offset_of(&self.parts, run.range.start) {
                filling.adopt(offset, run.pieces());
                bytes += run.range.size();
            }
            Ok::<_, core::convert::Infallible>(())
        });
        context.frames.account().give_back(bytes / memory_addr::PAGE_SIZE_4K);
    }

    /// Puts the region behind the areas, and what stood behind them behind the region.
    pub(super) fn hand_over(&self, areas: &mut MemorySet<Backend>) {
        areas.each_backend(|range, backend| {
            if matches!(backend, Backend::Linear(_) | Backend::Shared(_)) {
                return;
            }
            let Some(offset) = offset_of(&self.parts, range.start) else { return };
            let new = Backend::CopyOnWrite(View::new(self.window.clone(), range.start, offset));
            if let Backend::CopyOnWrite(view) = core::mem::replace(backend, new) {
                self.region.inherit(&Part { range, flags: MappingFlags::empty(), offset }, view);
            }
        });
        // What was told apart by what stood behind it before may agree now.
        areas.join_all(self.range);
    }

    /// The snapshot.
    pub(super) fn into_snapshot(self) -> Snapshot {
        Snapshot::new(self.region, self.parts)
    }
}
