//! Tables in memory: how entries are reached, made and freed. The only unsafe code of the walker.
#![allow(unsafe_code, reason = "reaching a table's entries is what this file is for")]

#[cfg(not(loom))]
pub(super) use core::sync::atomic::AtomicU64;
use core::{ptr::NonNull, slice, sync::atomic::Ordering};

#[cfg(loom)]
pub(super) use loom::sync::atomic::AtomicU64;
use memory_addr::{MemoryAddr, PAGE_SIZE_4K, PhysAddr};

use crate::{
    Content, Format, Frames, Geometry, GuestPhysAddr, Invalidate, Leaf, Level, MappingFlags, Owner, account::Exhausted,
    frame::Owned, metered::Metered,
};

/// What is done with memory before it is freed: what a guest wrote past the caches, or left in them, must not meet the
/// next owner (H14).
pub(super) type Retire<'a> = &'a dyn Fn(NonNull<u8>, usize);

/// Retires memory that no guest ever reached.
pub(super) const UNSEEN: Retire<'static> = &|_, _| {};

/// Retires memory by an architecture's operations.
pub(super) fn retire<R, I: Invalidate<R>>(operations: &I) -> impl Fn(NonNull<u8>, usize) {
    |bytes, len| operations.synchronize(bytes, len, Content::Data)
}

/// What it takes to reach tables: their format and where frames come from.
#[derive(Clone)]
pub(super) struct Context<F, M> {
    pub format: F,
    /// What leaves of the space's own have.
    pub frames: Metered<M>,
    /// What tables have.
    pub tables: Metered<M>,
    pub geometry: Geometry,
}

/// A table's entries, and which addresses they translate.
///
/// A root, a table and a part of a root that is still being built are all the same: a slice.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    /// The entries.
    pub entries: &'a [AtomicU64],
    /// Their level.
    pub level: Level,
    /// The first address that the first entry translates.
    pub base: GuestPhysAddr,
}

impl<F: Format, M: Frames> Context<F, M> {
    pub(super) fn new(format: F, frames: Metered<M>, tables: Metered<M>) -> Self {
        let geometry = format.geometry();
        Self { format, frames, tables, geometry }
    }

    /// The table at `at`, whose entries are of `level`; `gpa` is any address that it translates.
    ///
    /// # Safety
    /// A table of `level` stands at `at` and is not freed during `'a`: it is linked, and the caller holds the space's
    /// lock; or nobody else knows it.
    #[inline]
    pub(super) unsafe fn node<'a>(&self, at: PhysAddr, level: Level, gpa: GuestPhysAddr) -> Node<'a> {
        let pointer = self.tables.pointer(at).cast::<AtomicU64>();
        // SAFETY: the caller's promise; entries are only ever reached as atomics, a table is aligned to its size, and
        // `Frames::pointer` is valid for all of its pages.
        let entries = unsafe { slice::from_raw_parts(pointer.as_ptr(), self.geometry.entries(level)) };
        let base = if level == self.geometry.root_level {
            GuestPhysAddr::from_usize(0)
        } else {
            gpa.align_down(self.geometry.span(Level(level.0 + 1)))
        };
        Node { entries, level, base }
    }

    /// A table of nothing whose entries are of `level`, which nobody else knows yet.
    ///
    /// # Errors
    /// There are no frames for it.
    pub(super) fn new_table(&self, level: Level) -> Result<Owned<'_, Metered<M>>, Exhausted> {
        let owned = self.tables.take(self.table_pages(level))?.zeroed();
        let absent = self.format.absent();
        if absent != 0 {
            // SAFETY: the frames are ours alone, and large enough for a table of `level`.
            let node = unsafe { self.node(owned.at(), level, GuestPhysAddr::from_usize(0)) };
            node.entries.iter().for_each(|entry| entry.store(absent, Ordering::Relaxed));
        }
        Ok(owned)
    }

    /// Frees a table's frames.
    ///
    /// # Safety
    /// The table at `at` is not linked any more, no CPU can walk it, and it is freed once.
    pub(super) unsafe fn free_table(&self, at: PhysAddr, level: Level) {
        // SAFETY: the caller's promise.
        unsafe { self.tables.free(at, self.table_pages(level)) }
    }

    /// Frees `pages` frames from `at` on, if the leaf that mapped them owned them.
    ///
    /// # Safety
    /// No CPU can reach them any more, and they are freed once.
    pub(super) unsafe fn free_leaf(&self, owner: Owner, at: PhysAddr, pages: usize, retire: Retire<'_>) {
        if owner == Owner::Space {
            // SAFETY: the caller's promise; the leaf's mark says that the space allocated them.
            unsafe { self.free_uncounted(at, pages, retire) };
            self.frames.account().give_back(pages);
        }
    }

    /// Frees `pages` frames of the space's own from `at` on. They stay on the account, which the caller brings in order.
    ///
    /// # Safety
    /// As for [`free_leaf`](Self::free_leaf).
    pub(super) unsafe fn free_uncounted(&self, at: PhysAddr, pages: usize, retire: Retire<'_>) {
        retire(self.frames.pointer(at), pages * PAGE_SIZE_4K);
        // SAFETY: the caller's promise.
        unsafe { self.frames.plain().free(at, pages) }
    }

    /// The number of 4 KiB frames under a leaf of `level`.
    pub(super) fn leaf_pages(&self, level: Level) -> usize {
        self.geometry.span(level) / PAGE_SIZE_4K
    }

    /// The number of 4 KiB frames under a table.
    pub(super) fn table_pages(&self, level: Level) -> usize {
        self.geometry.table_pages(level) * (self.geometry.page_size() / PAGE_SIZE_4K)
    }

    /// Brings the caches in step for `len` bytes from the start of a leaf of memory that is not foreign (H14).
    pub(super) fn synchronize<I: Invalidate<F::Root>>(&self, operations: &I, leaf: &Leaf, len: usize) {
        if leaf.owner != Owner::Foreign {
            operations.synchronize(self.frames.pointer(leaf.at), len, Content::of(leaf.flags));
        }
    }

    /// Brings the caches in step for memory that gets other flags, where those need more of them (H14).
    pub(super) fn resynchronize<I: Invalidate<F::Root>>(
        &self,
        operations: &I,
        old: &Leaf,
        len: usize,
        flags: MappingFlags,
    ) {
        let becomes_code = (flags - old.flags).contains(MappingFlags::EXECUTE);
        let changed_type = (flags ^ old.flags).contains(MappingFlags::UNCACHED);
        if becomes_code || changed_type {
            // Lines from before the guest wrote past the caches must go whichever way it changes.
            let uncached = (old.flags | flags) & MappingFlags::UNCACHED;
            self.synchronize(operations, &Leaf { flags: flags | uncached, ..*old }, len);
        }
    }
}
