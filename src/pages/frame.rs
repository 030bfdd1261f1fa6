//! A frame as a tree names it.

use memory_addr::{PAGE_SIZE_4K, PhysAddr};

/// A frame of 4 KiB, and how large the memory is, aligned to its size, that was allocated at once and that it is a part of.
///
/// Only such frames side by side may be mapped by one leaf: the space that comes to own the leaf in the end frees them in one
/// piece, and an allocator need not take back in one piece what it did not give so.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The address, and below a page's size, where it has no bits, log2 of how many pages were allocated at once.
    packed: usize,
}

impl Frame {
    /// A frame that was allocated by itself.
    #[inline]
    pub(crate) const fn page(at: PhysAddr) -> Self {
        Self { packed: at.as_usize() }
    }

    /// Those of memory that was allocated at once, whose size is a power of two, and that is aligned to it.
    #[inline]
    pub(crate) fn all(at: PhysAddr, size: usize) -> impl Iterator<Item = Self> {
        let packed = at.as_usize() | (size / PAGE_SIZE_4K).trailing_zeros() as usize;
        (0..size).step_by(PAGE_SIZE_4K).map(move |byte| Self { packed: packed + byte })
    }

    /// Its address.
    #[inline]
    pub(crate) const fn at(self) -> PhysAddr {
        PhysAddr::from_usize(self.packed & !(PAGE_SIZE_4K - 1))
    }

    /// Whether it was allocated at once with the others of so many pages, aligned to their size, that it lies in.
    pub(crate) const fn is_of_block(self, pages: usize) -> bool {
        self.packed & (PAGE_SIZE_4K - 1) >= pages.trailing_zeros() as usize
    }
}
