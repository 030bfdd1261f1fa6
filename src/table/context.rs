//! What every operation on a space's tables needs: made once, owned by the space, lent to each operation.

use memory_addr::{MemoryAddr, PAGE_SIZE_4K};
use page_table_multiarch::MappingFlags;

use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Entry, Format, Leaf, LeafPolicy, Owner},
    frame::{Frames, Pieces},
    invalidate::{Content, Invalidate},
    metered::Metered,
    platform::{Platform, Root},
    shootdown::Shootdown,
};

/// The format of a space's tables, where their frames come from, and the CPUs that walk them.
pub(crate) struct Context<P: Platform> {
    pub(crate) format: P::Format,
    /// The width of an address that the tables translate.
    pub(crate) input_bits: u32,
    /// What leaves of the space's own memory have.
    pub(crate) frames: Metered<P::Frames>,
    /// What tables have.
    pub(crate) tables: Metered<P::Frames>,
    pub(crate) shootdown: Shootdown<P::Invalidate, Root<P>>,
}

impl<P: Platform> Context<P> {
    /// The architecture's operations.
    #[inline]
    pub(crate) fn operations(&self) -> &P::Invalidate {
        self.shootdown.operations()
    }

    /// log2 of the span of an entry of `level`.
    #[inline]
    pub(crate) const fn shift(level: Level) -> u32 {
        P::Format::PAGE_SHIFT + P::Format::INDEX_BITS * level.0 as u32
    }

    /// The bytes that an entry of `level` translates.
    #[inline]
    pub(crate) const fn span(level: Level) -> usize {
        1 << Self::shift(level)
    }

    /// The number of 4 KiB frames that a leaf of `level` maps.
    #[inline]
    pub(crate) const fn leaf_pages(level: Level) -> usize {
        Self::span(level) / PAGE_SIZE_4K
    }

    /// The first address that the tables do not translate.
    #[inline]
    pub(crate) fn limit(&self) -> usize {
        1 << self.input_bits
    }

    /// All addresses that the tables translate.
    pub(crate) fn everything(&self) -> GuestPhysRange {
        GuestPhysRange { start: 0.into(), end: self.limit().into() }
    }

    /// The addresses of the entry of `level` that translates `gpa`.
    #[inline]
    pub(crate) fn entry_range(level: Level, gpa: GuestPhysAddr) -> GuestPhysRange {
        let start = gpa.align_down(Self::span(level));
        GuestPhysRange { start, end: start.wrapping_add(Self::span(level)) }
    }

    /// The page that `gpa` lies in.
    #[inline]
    pub(crate) fn page_of(gpa: GuestPhysAddr) -> GuestPhysRange {
        Self::entry_range(Level::PAGE, gpa)
    }

    /// The number of entries in a table whose entries are of `level`.
    #[inline]
    pub(crate) fn entries(&self, level: Level) -> usize {
        let (root_level, root_bits) = self.format.root_shape();
        if level == root_level { 1 << root_bits } else { 1 << P::Format::INDEX_BITS }
    }

    /// The number of 4 KiB frames that a table takes whose entries are of `level`.
    #[inline]
    pub(crate) fn table_pages(&self, level: Level) -> usize {
        let page = 1 << P::Format::PAGE_SHIFT;
        (self.entries(level) * size_of::<u64>()).div_ceil(page) * (page / PAGE_SIZE_4K)
    }

    /// Whether private memory may have leaves of `level`.
    pub(crate) fn allows(&self, policy: LeafPolicy, level: Level) -> bool {
        let blocks = policy == LeafPolicy::Largest && self.frames.pieces() == Pieces::Any;
        level == Level::PAGE || (blocks && self.format.maps(level))
    }

    /// [`Format::leaf`] by a call: for what takes much longer than the encoding.
    #[inline(never)]
    pub(super) fn encode(&self, level: Level, leaf: &Leaf) -> u64 {
        self.format.leaf(level, leaf)
    }

    /// [`Format::decode`] by a call: for what takes much longer than the decoding.
    #[inline(never)]
    pub(super) fn decode(&self, level: Level, entry: u64) -> Entry {
        self.format.decode(level, entry)
    }

    /// Brings the caches in step for `len` bytes from the start of a leaf of memory that is not foreign (H14).
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its result in memory cost a tenth of a fault")]
    pub(crate) fn synchronize(&self, leaf: &Leaf, len: usize) {
        let content = Content::of(leaf.flags);
        if leaf.owner != Owner::Foreign && self.operations().synchronizes(content) {
            self.operations().synchronize(self.frames.pointer(leaf.at), len, content);
        }
    }

    /// Brings the caches in step for memory that gets other flags, where those need more of them (H14).
    pub(super) fn resynchronize(&self, old: &Leaf, len: usize, flags: MappingFlags) {
        if needs_resynchronization(old.flags, flags) {
            // Lines from before the guest wrote past the caches must go whichever way it changes.
            let uncached = (old.flags | flags) & MappingFlags::UNCACHED;
            self.synchronize(&Leaf { flags: flags | uncached, ..*old }, len);
        }
    }

    /// Brings memory in step that guests reached, before it goes back to the allocator: what they wrote past the caches,
    /// or left in them, must not meet the next owner (H14).
    #[inline]
    pub(super) fn retire(&self, at: memory_addr::PhysAddr, pages: usize) {
        if self.operations().synchronizes(Content::Data) {
            self.operations().synchronize(self.frames.pointer(at), pages * PAGE_SIZE_4K, Content::Data);
        }
    }
}

/// Whether a change of flags concerns the caches: memory becomes code, or its type changes.
#[inline]
pub(super) fn needs_resynchronization(old: MappingFlags, new: MappingFlags) -> bool {
    (new - old).contains(MappingFlags::EXECUTE) || (new ^ old).contains(MappingFlags::UNCACHED)
}
