//! The board's memory, as the tests hand it out.
#![allow(unsafe_code, reason = "frames, and words of physical memory")]

use core::{
    ops::Range,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering},
};

use hypervisor::memory::{Pool, Watch};
use memory_addr::PAGE_SIZE_4K;
use stage2::{Frames, PhysAddr, frames::Pieces};

/// No limit.
const UNLIMITED: usize = usize::MAX;

/// How many more allocations succeed.
static LEFT: AtomicUsize = AtomicUsize::new(UNLIMITED);

/// The pool, which can be told to fail.
#[derive(Clone, Copy)]
pub struct Board(Pool);

impl Board {
    /// Memory that is left. Once.
    #[must_use]
    pub fn new(memory: Range<usize>) -> Self {
        Self(Pool::new(memory.start, memory.end, Watch::Poison))
    }

    /// How many pages are allocated.
    #[must_use]
    pub fn allocated(self) -> usize {
        self.0.allocated()
    }

    /// Lets `count` more allocations succeed and no other, or all of them.
    pub fn allow(count: Option<usize>) {
        LEFT.store(count.unwrap_or(UNLIMITED), Ordering::SeqCst);
    }

    /// Looks at all freed frames: how many were looked at, and how many were written after they were freed.
    #[must_use]
    pub fn spoiled(self) -> (u64, u64) {
        self.0.check_all();
        Pool::poison()
    }
}

/// Takes one from what is left.
fn may_allocate() -> bool {
    let take = |left| if left == UNLIMITED { Some(left) } else { usize::checked_sub(left, 1) };
    LEFT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
}

/// Writes into each line of some pages, as a former owner would have: memory that was never used is zero under an
/// emulator, and would hide that it is not zeroed.
fn spoil(pages: NonNull<u8>, count: usize) {
    let lines = (0..count * PAGE_SIZE_4K).step_by(64);
    // SAFETY: the pages were just allocated, and have no other owner yet.
    lines.for_each(|line| unsafe { pages.add(line).cast::<u64>().write_volatile(0x5901_1ed0_5901_1ed1) });
}

// SAFETY: all of it is the pool's, which keeps the promise.
unsafe impl Frames for Board {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        let at = if may_allocate() { self.0.allocate(count, align) } else { None }?;
        spoil(self.pointer(at), count);
        Some(at)
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        // SAFETY: of the caller's promise.
        unsafe { self.0.free(at, count) }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        self.0.pointer(at)
    }

    fn pieces(&self) -> Pieces {
        self.0.pieces()
    }

    fn pool(&self) -> Option<usize> {
        self.0.pool()
    }
}

/// Reads a word of physical memory.
#[must_use]
pub fn peek(at: PhysAddr) -> u64 {
    // SAFETY: the program maps all of the board where it stands; scenarios ask for memory that is there.
    unsafe { core::ptr::with_exposed_provenance::<u64>(at.as_usize()).read_volatile() }
}

/// Writes a word of physical memory.
pub fn poke(at: PhysAddr, value: u64) {
    // SAFETY: as above, and the page is no space's.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(at.as_usize()).write_volatile(value) }
}
