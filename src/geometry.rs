//! The shape of a tree of tables: nothing but arithmetic.

use memory_addr::MemoryAddr;

use crate::addr::{GuestPhysAddr, GuestPhysRange, Level};

/// The shape of a tree: how an address selects an entry at each level.
///
/// A root that is wider than other tables (Arm's concatenated tables, the ×4 root of RISC-V) just has more index
/// bits. Every table of the other levels has 2^`index_bits` entries of eight bytes.
///
/// # Example
/// ```
/// use stage2::{Level, format::Geometry};
///
/// // A 40-bit space of 4 KiB pages: two tables of 512 entries side by side are the root.
/// let geometry = Geometry { page_shift: 12, index_bits: 9, root_level: Level(2), root_index_bits: 10 };
/// assert_eq!(geometry.input_bits(), 40);
/// assert_eq!(geometry.span(Level(1)), 2 << 20);
/// assert_eq!(geometry.index(Level(2), (0xff_c000_0000).into()), 1023);
/// assert_eq!(geometry.table_pages(Level(2)), 2);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// log2 of a page's size in bytes.
    pub page_shift: u32,
    /// log2 of the number of entries in a table below the root.
    pub index_bits: u32,
    /// The level of the root's entries.
    pub root_level: Level,
    /// log2 of the number of entries in the root.
    pub root_index_bits: u32,
}

impl Geometry {
    /// The number of bits in a guest-physical address that the tree translates.
    #[must_use]
    #[inline]
    pub const fn input_bits(&self) -> u32 {
        self.shift(self.root_level) + self.root_index_bits
    }

    /// The first address that the tree does not translate.
    #[must_use]
    #[inline]
    pub const fn limit(&self) -> usize {
        1 << self.input_bits()
    }

    /// A page's size in bytes.
    #[must_use]
    #[inline]
    pub const fn page_size(&self) -> usize {
        1 << self.page_shift
    }

    /// log2 of the span of an entry of `level`.
    #[must_use]
    #[inline]
    pub const fn shift(&self, level: Level) -> u32 {
        self.page_shift + self.index_bits * level.0 as u32
    }

    /// The bytes that an entry of `level` covers.
    #[must_use]
    #[inline]
    pub const fn span(&self, level: Level) -> usize {
        1 << self.shift(level)
    }

    /// The number of entries in a table whose entries are of `level`.
    #[must_use]
    #[inline]
    pub const fn entries(&self, level: Level) -> usize {
        if level.0 == self.root_level.0 { 1 << self.root_index_bits } else { 1 << self.index_bits }
    }

    /// The index that `gpa` selects in a table whose entries are of `level`.
    ///
    /// `gpa` lies below [`limit`](Self::limit).
    #[must_use]
    #[inline]
    pub fn index(&self, level: Level, gpa: GuestPhysAddr) -> usize {
        (gpa.as_usize() >> self.shift(level)) & (self.entries(level) - 1)
    }

    /// The pages that a table takes whose entries are of `level`.
    #[must_use]
    #[inline]
    pub const fn table_pages(&self, level: Level) -> usize {
        (self.entries(level) * size_of::<u64>()).div_ceil(self.page_size())
    }

    /// The aligned range of the entry of `level` that translates `gpa`.
    #[must_use]
    #[inline]
    pub fn entry_range(&self, level: Level, gpa: GuestPhysAddr) -> GuestPhysRange {
        let start = gpa.align_down(self.span(level));
        GuestPhysRange { start, end: start.wrapping_add(self.span(level)) }
    }
}
