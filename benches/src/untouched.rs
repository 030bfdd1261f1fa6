//! Frames that take host memory only once they are touched: those of the tables do, those of the guest do not. So 64 GiB
//! can be had, in pages of 4 KiB, and no CPU's cache is in what is measured.
#![allow(unsafe_code, reason = "an allocator of host frames")]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use stage2::{Frames, frames::Contents};

use crate::machine::GIB_PAGES;

/// A piece of the host's addresses: 4 GiB, since hosts refuse more in one piece than they have.
const PIECE_PAGES: usize = 4 * GIB_PAGES;
/// The largest block that a root or a leaf is aligned to.
const ALIGN: usize = 512 * PAGE_SIZE_4K;
/// No alignment of its own: else the host's allocator would write the zeros, and so touch it all.
const LAYOUT: Layout = match Layout::from_size_align(PIECE_PAGES * PAGE_SIZE_4K + ALIGN, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("a layout"),
};

/// Frames in the order of their addresses, none of them twice.
#[derive(Clone)]
pub struct Untouched(Arc<Reserve>);

struct Reserve {
    pieces: Vec<NonNull<u8>>,
    taken: AtomicUsize,
}

// SAFETY: the memory is reached through `Frames::pointer` under the crate's rules.
unsafe impl Send for Reserve {}
// SAFETY: as above.
unsafe impl Sync for Reserve {}

impl Untouched {
    /// At least so many, and an eighth more for tables.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        let count = (pages + pages / 8 + 1024).div_ceil(PIECE_PAGES);
        // SAFETY: the layout is not empty.
        let piece = |_| NonNull::new(unsafe { alloc_zeroed(LAYOUT) }).expect("the host has addresses for the benches");
        Self(Arc::new(Reserve { pieces: (0..count).map(piece).collect(), taken: AtomicUsize::new(1) }))
    }

    /// How many were given out.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.taken.load(Relaxed)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        for piece in &self.pieces {
            // SAFETY: allocated in `new` by the same layout; no allocator is left.
            unsafe { dealloc(piece.as_ptr(), LAYOUT) }
        }
    }
}

// SAFETY: each page is given out once; addresses are offsets in memory that stays as long as an allocator does.
unsafe impl Frames for Untouched {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        // A root of several pages is aligned to its size, which divides a piece's.
        let room = count + align / PAGE_SIZE_4K - 1;
        let first = self.0.taken.fetch_add(room, Relaxed);
        let within = first + room <= self.0.pieces.len() * PIECE_PAGES;
        within.then(|| PhysAddr::from_usize((first * PAGE_SIZE_4K).next_multiple_of(align)))
    }

    unsafe fn free(&self, _: PhysAddr, _: usize) {}

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        let (piece, offset) =
            (at.as_usize() / (PIECE_PAGES * PAGE_SIZE_4K), at.as_usize() % (PIECE_PAGES * PAGE_SIZE_4K));
        let start = self.0.pieces[piece];
        // SAFETY: an address that was given out, in the piece that it was given out of.
        unsafe { start.add(start.align_offset(ALIGN) + offset) }
    }

    fn contents(&self) -> Contents {
        Contents::Zeroed
    }

    fn pool(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.0).addr())
    }
}
