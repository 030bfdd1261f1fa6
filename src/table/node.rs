//! Tables in memory: how entries are reached, made and freed. The only unsafe code of the walker.
#![allow(unsafe_code, reason = "reaching a table's entries is what this file is for")]

#[cfg(not(loom))]
pub(super) use core::sync::atomic::AtomicU64;
use core::{slice, sync::atomic::Ordering};

#[cfg(loom)]
pub(super) use loom::sync::atomic::AtomicU64;
use memory_addr::{MemoryAddr, PAGE_SIZE_4K, PhysAddr};

use super::{context::Context, entry::Slot, walk::Chunk};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::Format,
    frame::{Frames, Owned},
    metered::Metered,
    platform::Platform,
};

/// A table's entries, and which addresses they translate.
///
/// A root, a table and a part of a table that is still being built are all the same: a slice.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    /// The entries.
    pub entries: &'a [AtomicU64],
    /// Their level.
    pub level: Level,
    /// The first address that the first entry translates.
    pub base: GuestPhysAddr,
}

/// Where a descent ends: at an entry that points to no table.
struct Lowest<'a> {
    /// The table that the entry is in.
    table: PhysAddr,
    level: Level,
    entry: &'a AtomicU64,
    /// What is in the entry.
    raw: u64,
}

impl<P: Platform> Context<P> {
    /// The entries of the table at `at`, which are of `level`.
    ///
    /// # Safety
    /// A table of `level` stands at `at` and is not freed during `'a`: it is linked, and the caller holds the space's
    /// lock; or it is the caller's own.
    #[inline]
    unsafe fn table<'a>(&self, at: PhysAddr, level: Level) -> &'a [AtomicU64] {
        let pointer = self.tables.pointer(at).cast::<AtomicU64>();
        // SAFETY: the caller's promise; entries are only ever reached as atomics, a table is aligned to its size, and
        // `Frames::pointer` is valid for all of its pages.
        unsafe { slice::from_raw_parts(pointer.as_ptr(), self.entries(level)) }
    }

    /// The table at `at`, whose entries are of `level`; `base` is the first address that it translates.
    ///
    /// # Safety
    /// A table of `level` stands at `at` and is not freed during `'a`: it is linked, and the caller holds the space's
    /// lock; or it is the caller's own.
    #[inline]
    pub(super) unsafe fn node<'a>(&self, at: PhysAddr, level: Level, base: GuestPhysAddr) -> Node<'a> {
        // SAFETY: the caller's promise.
        Node { entries: unsafe { self.table(at, level) }, level, base }
    }

    /// The lowest entry that translates `gpa`, from the root at `root` on, and what is in it.
    ///
    /// # Safety
    /// The root stands during `'a`, and the caller holds the space's lock as long.
    #[inline]
    pub(super) unsafe fn descend<'a>(&self, root: PhysAddr, gpa: GuestPhysAddr) -> (Slot<'a>, u64) {
        // SAFETY: the caller's promise.
        let Lowest { entry, raw, level, .. } = unsafe { self.lowest(root, gpa) };
        (Slot { entry, level, start: gpa.align_down(Self::span(level)) }, raw)
    }

    /// The table of pages that translates all of `range`, from the root at `root` on, if there is one.
    ///
    /// # Safety
    /// As for [`descend`](Self::descend).
    #[inline]
    pub(super) unsafe fn descend_to_pages<'a>(&self, root: PhysAddr, range: GuestPhysRange) -> Option<Node<'a>> {
        let table_shift = Self::shift(Level(1));
        let (first, last) = (range.start.as_usize(), range.end.as_usize() - 1);
        let (root_level, _) = self.format.root_shape();
        if first >> table_shift != last >> table_shift || root_level == Level::PAGE {
            return None;
        }
        // SAFETY: the caller's promise.
        let Lowest { table, level, .. } = unsafe { self.lowest(root, range.start) };
        // SAFETY: likewise; the table was come to from the root.
        let node = || unsafe { self.node(table, level, range.start.align_down(1_usize << table_shift)) };
        (level == Level::PAGE).then(node)
    }

    /// Where a descent from the root at `root` to `gpa` ends.
    ///
    /// # Safety
    /// As for [`descend`](Self::descend).
    #[inline]
    unsafe fn lowest<'a>(&self, root: PhysAddr, gpa: GuestPhysAddr) -> Lowest<'a> {
        let (mut level, _) = self.format.root_shape();
        let mut shift = Self::shift(level);
        let mut index = gpa.as_usize() >> shift;
        let mut table = root;
        loop {
            // SAFETY: the root stands, and what an entry points to stands as long as the lock is held: removing a table
            // takes the lock exclusively. The index is below the number of entries: `gpa` is below the limit.
            let entry = unsafe { self.tables.pointer(table).cast::<AtomicU64>().add(index).as_ref() };
            // Acquire: what the entry points to was filled before it was linked.
            let raw = entry.load(Ordering::Acquire);
            if level == Level::PAGE {
                return Lowest { table, level, entry, raw };
            }
            let Some(below) = self.format.next_table(level, raw) else { return Lowest { table, level, entry, raw } };
            table = below;
            level = level.below();
            shift -= P::Format::INDEX_BITS;
            index = gpa.as_usize() >> shift & ((1 << P::Format::INDEX_BITS) - 1);
        }
    }

    /// The table that a valid entry of `level`, which translates from `start` on, points to.
    #[inline]
    pub(super) fn below<'a>(&self, level: Level, start: GuestPhysAddr, table: PhysAddr) -> Node<'a> {
        // SAFETY: every caller read the address from an entry under the space's lock, or in tables of its own, and the
        // table stays until the exclusive section that removes it; see `Table`.
        unsafe { self.node(table, level.below(), start) }
    }

    /// The entry over `gpa` in the table that `slot` points to.
    #[inline]
    pub(super) fn slot_below<'a>(&self, slot: &Slot<'a>, table: PhysAddr, gpa: GuestPhysAddr) -> Slot<'a> {
        let node = self.below(slot.level, slot.start, table);
        let entry = &node.entries[node.index::<P>(gpa)];
        Slot { entry, level: node.level, start: gpa.align_down(Self::span(node.level)) }
    }

    /// A table without mappings whose entries are of `level`, which is the caller's own.
    ///
    /// # Errors
    /// There are no frames for it.
    pub(super) fn new_table(&self, level: Level) -> Result<Owned<'_, Metered<P::Frames>>, Exhausted> {
        new_table(&self.format, &self.tables, self.entries(level), self.table_pages(level))
    }

    /// A table whose entries, of `level`, are `first` and what follows by steps of `step`: it is never zeroed. It is the
    /// caller's own.
    ///
    /// # Errors
    /// There are no frames for it.
    pub(super) fn new_run(
        &self,
        level: Level,
        first: u64,
        step: u64,
    ) -> Result<Owned<'_, Metered<P::Frames>>, Exhausted> {
        let owned = self.tables.take(self.table_pages(level))?;
        let entries = self.tables.pointer(owned.at()).cast::<u64>();
        let mut raw = first;
        for index in 0..self.entries(level) {
            // SAFETY: the frames are this value's alone, and large enough for a table of `level`.
            unsafe { entries.add(index).write(raw) };
            raw = raw.wrapping_add(step);
        }
        Ok(owned)
    }

    /// Whether no entry of a group of a dead table's, from the index `first` on, has one of the bits of `owned`.
    ///
    /// They are read as plain words, which takes a quarter of the instructions of as many atomic loads.
    ///
    /// # Safety
    /// The table at `at` is not linked any more, and no CPU walks it: at most a walker's last accessed or dirty mark, which
    /// `owned` is not about, still lands in it. It has that many entries.
    #[inline]
    pub(super) unsafe fn owns_none<const GROUP: usize>(&self, at: PhysAddr, first: usize, owned: u64) -> bool {
        // SAFETY: the caller's promise.
        let group = unsafe { self.tables.pointer(at).cast::<u64>().add(first).cast::<[u64; GROUP]>().read() };
        group.iter().fold(0, |all, raw| all | raw) & owned == 0
    }

    /// Frees a table's frames.
    ///
    /// # Safety
    /// The table at `at` is not linked any more, no CPU can walk it, and it is freed once.
    pub(super) unsafe fn free_table(&self, at: PhysAddr, level: Level) {
        // SAFETY: the caller's promise.
        unsafe { self.tables.free(at, self.table_pages(level)) }
    }

    /// Frees `pages` frames of the space's own memory from `at` on. They stay on the account, which the caller corrects.
    ///
    /// # Safety
    /// No CPU can reach them any more, and they are freed once.
    #[inline]
    pub(super) unsafe fn free_frames(&self, at: PhysAddr, pages: usize) {
        self.retire(at, pages);
        // SAFETY: the caller's promise.
        unsafe { self.frames.plain().free(at, pages) }
    }

    /// Copies whole pages from `from` to memory that is the caller's alone.
    ///
    /// # Safety
    /// Both are `pages` pages of allocated memory, and neither a CPU in the guest nor the hypervisor writes the source.
    pub(super) unsafe fn copy_frames(&self, from: PhysAddr, to: PhysAddr, pages: usize) {
        for page in 0..pages {
            let source = self.frames.pointer(from + page * PAGE_SIZE_4K);
            let target = self.frames.pointer(to + page * PAGE_SIZE_4K);
            // SAFETY: the caller's promise; the target is the caller's alone.
            unsafe { source.copy_to_nonoverlapping(target, PAGE_SIZE_4K) };
        }
    }
}

/// The root of new tables.
///
/// # Errors
/// There are no frames for it.
pub(super) fn new_root<'t, F: Format, M: Frames>(
    format: &F,
    tables: &'t Metered<M>,
) -> Result<Owned<'t, Metered<M>>, Exhausted> {
    let geometry = format.geometry();
    let (entries, pages) = (geometry.entries(geometry.root_level), geometry.table_pages(geometry.root_level));
    let pages = pages * (geometry.page_size() / PAGE_SIZE_4K);
    new_table(format, tables, entries, pages)
}

/// A table without mappings, which is the caller's own.
fn new_table<'t, F: Format, M: Frames>(
    format: &F,
    tables: &'t Metered<M>,
    entries: usize,
    pages: usize,
) -> Result<Owned<'t, Metered<M>>, Exhausted> {
    let owned = tables.take(pages)?.zeroed();
    let absent = format.absent();
    if absent != 0 {
        let first = tables.pointer(owned.at()).cast::<u64>();
        for index in 0..entries {
            // SAFETY: the frames are this value's alone, and large enough for so many entries.
            unsafe { first.add(index).write(absent) };
        }
    }
    Ok(owned)
}

impl<'a> Node<'a> {
    /// The index of the entry that translates `gpa`.
    #[inline]
    pub(super) fn index<P: Platform>(&self, gpa: GuestPhysAddr) -> usize {
        (gpa.as_usize() - self.base.as_usize()) >> Context::<P>::shift(self.level)
    }

    /// The entry that translates `gpa`.
    #[inline]
    pub(super) fn slot<P: Platform>(&self, gpa: GuestPhysAddr) -> Slot<'a> {
        let entry = &self.entries[self.index::<P>(gpa)];
        Slot { entry, level: self.level, start: gpa.align_down(Context::<P>::span(self.level)) }
    }

    /// The entries of a table of pages that translate `range`.
    #[inline]
    pub(super) fn chunk<P: Platform>(&self, range: GuestPhysRange) -> Chunk<'a> {
        let last = self.index::<P>(GuestPhysAddr::from_usize(range.end.as_usize() - 1));
        let entries = &self.entries[self.index::<P>(range.start)..=last];
        Chunk { entries, level: self.level, span: range, part: range }
    }
}
