//! Pages of a region that go for all that show them.

use alloc::vec::Vec;

use memory_addr::PAGE_SIZE_4K;

use super::{GuestSpace, Progress, State, exclusive::Held};
use crate::{
    addr::GuestPhysRange,
    backend::Backend,
    error::Error,
    lock::LockFamily,
    pages::Leaving,
    platform::Platform,
    region::{Cover, RegionError, SharedRegion},
    set::MemoryArea,
    table::{Edit, RemovedMemory},
};

impl SharedRegion {
    /// Takes `size` bytes from `offset` on away for all: a hole is punched. Mappings and handles stay, and the next touch
    /// finds zeros, or the page that a source has, which is asked again.
    ///
    /// `spaces` are those that show any of it, in any order; others may be among them. When it returns no CPU can reach what
    /// was there, no handle reads it, no CPU waits for it, and the frames are free. All their locks are held, in the order of
    /// their addresses, while their tables change; the frames are freed without any.
    /// [`discard_in_steps`](Self::discard_in_steps) frees some at a time.
    ///
    /// # Errors
    /// What is there is still there then, though it may take a fault to reach it.
    /// - [`RegionError::BadSize`], [`RegionError::Unaligned`], [`RegionError::Beyond`] for what is no range of whole pages of
    ///   the region;
    /// - [`RegionError::Frozen`];
    /// - [`RegionError::ShownElsewhere`] if a space that is not among `spaces` shows some of it;
    /// - [`RegionError::Snapshotting`] while a snapshot is being taken of one of them;
    /// - [`RegionError::NoMemory`];
    /// - [`RegionError::Invalidation`]: a CPU could not be told.
    ///
    /// # Example
    /// ```
    /// use stage2::Mapping;
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::{RW, guest, range};
    ///
    /// let (one, two) = (guest(1)?, guest(2)?);
    /// let ring = one.region(0x4000)?;
    /// for space in [&one, &two] {
    ///     space.map(range(0x8000_0000, 0x4000), Mapping::Shared { region: ring.clone(), offset: 0 }, RW)?;
    ///     space.store(0x8000_1000.into(), 42_u32)?;
    /// }
    /// ring.discard(0x1000, 0x1000, [&one, &two])?;
    /// assert_eq!((ring.frames(), two.load::<u32>(0x8000_1000.into())?), (0, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard<'s, P: Platform, L: LockFamily>(
        &self,
        offset: usize,
        size: usize,
        spaces: impl IntoIterator<Item = &'s GuestSpace<P, L>>,
    ) -> Result<(), RegionError> {
        self.discard_in_steps(offset, size, spaces).map(drop)
    }

    /// Discards `size` bytes from `offset` on as [`discard`](Self::discard) does, and leaves the freeing to the caller.
    ///
    /// # Errors
    /// As for [`discard`](Self::discard).
    ///
    /// # Example
    /// ```
    /// use stage2::{Mapping, space::Progress};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::{RW, guest, range};
    ///
    /// let space = guest(1)?;
    /// let heap = space.region(0x10_0000)?;
    /// space.map(range(0x8000_0000, 0x10_0000), Mapping::Shared { region: heap.clone(), offset: 0 }, RW)?;
    /// space.write(0x8000_0000.into(), &[1; 0x10_0000])?;
    /// let mut discarding = heap.discard_in_steps(0, 0x10_0000, [&space])?;
    /// assert_eq!(heap.frames(), 0, "it is gone for all");
    /// while discarding.step(64) == Progress::More {
    ///     // The hypervisor does something else.
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn discard_in_steps<'s, P: Platform, L: LockFamily>(
        &self,
        offset: usize,
        size: usize,
        spaces: impl IntoIterator<Item = &'s GuestSpace<P, L>>,
    ) -> Result<Discarding<'s, P, L>, RegionError> {
        let region = self.size();
        if size == 0 || !size.is_multiple_of(PAGE_SIZE_4K) {
            return Err(RegionError::BadSize { size });
        }
        if !offset.is_multiple_of(PAGE_SIZE_4K) {
            return Err(RegionError::Unaligned { offset, align: PAGE_SIZE_4K });
        }
        if offset.checked_add(size).is_none_or(|end| end > region) {
            return Err(RegionError::Beyond { offset, size, region });
        }
        let pages = offset / PAGE_SIZE_4K..(offset + size) / PAGE_SIZE_4K;
        let out_of_memory = RegionError::NoMemory { offset, size };
        // Where this is refused it is dropped after the locks: what it frees then are tables that showed nothing else.
        let mut discarding = Discarding::of(spaces).ok_or(out_of_memory)?;

        let mut held = lock_all(&discarding.spaces, out_of_memory)?;
        let mut shown = Cover::default();
        for area in held.iter().flat_map(|state| state.areas.iter()) {
            let Some(part) = self.shown_in(area, (offset, size)) else { continue };
            shown.show(part.pages).map_err(|_| out_of_memory)?;
        }
        self.region().prepare_to_lose(&pages, &shown, &mut discarding.pages)?;
        for ((space, tables), state) in discarding.spaces.iter_mut().zip(&mut held) {
            let State { areas, table, .. } = &mut **state;
            for part in areas.iter().filter_map(|area| self.shown_in(area, (offset, size))) {
                let flush = table.edit(&space.context, part.range, Edit::Unmap).map_err(|_| out_of_memory)?;
                flush.detach_or_restore(tables).map_err(|cause| RegionError::Invalidation { cause })?;
            }
        }
        self.region().lose(&pages, &mut discarding.pages);
        drop(held);
        discarding.pages.end_waits();
        Ok(discarding)
    }

    /// What an area shows of `size` bytes from `offset` on.
    fn shown_in(&self, area: &MemoryArea<Backend>, (offset, size): (usize, usize)) -> Option<Shown> {
        let Backend::Shared(view) = area.backend() else { return None };
        if !view.region().is(self.region()) {
            return None;
        }
        let first = view.offset(area.start());
        let (start, end) = (first.max(offset), (first + area.size()).min(offset + size));
        let at = |offset: usize| area.start() + (offset - first);
        (start < end).then(|| Shown {
            range: GuestPhysRange { start: at(start), end: at(end) },
            pages: start / PAGE_SIZE_4K..end / PAGE_SIZE_4K,
        })
    }
}

/// Pages that a region has lost and no CPU reaches, and that are still to be freed, with the tables that showed nothing
/// else: [`SharedRegion::discard_in_steps`] makes it.
///
/// Dropped, it frees the rest at once. No lock is held meanwhile, and other pages may come to the hole.
#[must_use = "dropping it frees everything at once"]
pub struct Discarding<'s, P: Platform, L: LockFamily> {
    /// The spaces in the order of their locks, each with its tables.
    spaces: Vec<(&'s GuestSpace<P, L>, RemovedMemory)>,
    pages: Leaving,
}

impl<'s, P: Platform, L: LockFamily> Discarding<'s, P, L> {
    /// Nothing yet, of each of some spaces; `None` where there is no memory to name them.
    fn of(spaces: impl IntoIterator<Item = &'s GuestSpace<P, L>>) -> Option<Self> {
        let mut ordered: Vec<(&GuestSpace<P, L>, RemovedMemory)> = Vec::new();
        for space in spaces {
            ordered.try_reserve(1).ok()?;
            ordered.push((space, RemovedMemory::default()));
        }
        ordered.sort_unstable_by_key(|(space, _)| core::ptr::from_ref(&space.state).addr());
        ordered.dedup_by(|(one, _), (other, _)| core::ptr::eq(*one, *other));
        Some(Self { spaces: ordered, pages: Leaving::default() })
    }

    /// Frees up to `budget` frames of 4 KiB, of the region's pages and of tables. What the allocator takes back only as a
    /// whole may exceed the budget.
    pub fn step(&mut self, mut budget: usize) -> Progress {
        self.pages.free_some(&mut budget);
        while let Some((space, tables)) = self.spaces.last_mut() {
            tables.free(&space.context, &mut budget);
            if !tables.is_empty() {
                return Progress::More;
            }
            self.spaces.pop();
        }
        if self.pages.is_empty() { Progress::Done } else { Progress::More }
    }
}

impl<P: Platform, L: LockFamily> Drop for Discarding<'_, P, L> {
    fn drop(&mut self) {
        while self.step(usize::MAX) == Progress::More {}
    }
}

/// A part of a region that an area shows.
struct Shown {
    range: GuestPhysRange,
    pages: core::ops::Range<usize>,
}

/// Takes the locks of spaces in their order, when nothing is left over from earlier in any.
fn lock_all<'s, P: Platform, L: LockFamily>(
    spaces: &[(&'s GuestSpace<P, L>, RemovedMemory)],
    out_of_memory: RegionError,
) -> Result<Vec<Held<'s, L>>, RegionError> {
    let mut held: Vec<Held<'s, L>> = Vec::new();
    held.try_reserve_exact(spaces.len()).map_err(|_| out_of_memory)?;
    for (space, _) in spaces {
        space.pay_part();
    }
    while let Some((space, _)) = spaces.get(held.len()) {
        let state = space.hold();
        state.check_rest().map_err(|_| RegionError::Snapshotting)?;
        if state.table.is_finished() {
            held.push(state);
            continue;
        }
        drop(state);
        held.clear();
        // By itself: what it lets go must go without the others' locks too.
        drop(space.exclusive().map_err(|error| match error {
            Error::Invalidation { cause, .. } => RegionError::Invalidation { cause },
            _ => RegionError::Snapshotting,
        })?);
    }
    Ok(held)
}
