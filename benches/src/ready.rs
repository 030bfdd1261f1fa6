//! Frames that stand ready in a list, for a program of one thread: so cheap that their cost hides nothing.
#![allow(unsafe_code, reason = "an allocator of host frames")]

use std::{
    alloc::{Layout, alloc_zeroed},
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use memory_addr::{PAGE_SIZE_4K, PhysAddr, VirtAddr};
use page_table_multiarch::PagingHandler;
use stage2::{Frames, frames::Contents};

/// As many frames as a list can hold: 512 MiB.
const MOST: usize = 1 << 17;
/// How many frames stand ready where no bench asked for more.
const STOCK: usize = 1024;

/// A stack of addresses. Its operations are not atomic: one thread uses it.
struct List {
    len: AtomicUsize,
    pages: [AtomicUsize; MOST],
}

impl List {
    #[allow(clippy::large_stack_arrays, reason = "made for statics, by the compiler")]
    const fn new() -> Self {
        Self { len: AtomicUsize::new(0), pages: [const { AtomicUsize::new(0) }; MOST] }
    }

    #[inline]
    fn pop(&self) -> Option<usize> {
        let last = self.len.load(Relaxed).checked_sub(1)?;
        self.len.store(last, Relaxed);
        Some(self.pages.get(last)?.load(Relaxed))
    }

    #[inline]
    fn push(&self, page: usize) {
        let len = self.len.load(Relaxed);
        if let Some(place) = self.pages.get(len) {
            place.store(page, Relaxed);
            self.len.store(len + 1, Relaxed);
        }
    }
}

/// Frames of zeros.
static READY: List = List::new();
/// Frames that came back. They are not zero any more, and not given out again.
static USED: List = List::new();

/// Has at least so many frames ready.
pub fn stock(pages: usize) {
    let pages = (pages + STOCK).saturating_sub(READY.len.load(Relaxed));
    assert!(pages <= MOST, "a list holds {MOST} frames");
    let first = host_memory(pages, PAGE_SIZE_4K);
    (0..pages).rev().for_each(|page| READY.push(first + page * PAGE_SIZE_4K));
}

/// Zeroed pages of the host, never given back to it.
fn host_memory(pages: usize, align: usize) -> usize {
    let layout = Layout::from_size_align(pages * PAGE_SIZE_4K, align).expect("a power of two");
    // SAFETY: the layout is not empty.
    let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("the host has memory for the benches");
    memory.as_ptr().expose_provenance()
}

/// A frame of zeros.
#[inline]
#[must_use]
pub fn take() -> usize {
    READY.pop().expect("the bench has as many frames ready as it needs")
}

/// Takes a frame back.
#[inline]
pub fn give(page: usize) {
    USED.push(page);
}

/// How many bytes the last allocation of several frames took.
static TOGETHER: AtomicUsize = AtomicUsize::new(0);

/// How many bytes the last allocation of several frames took, if there was one since this was asked.
pub fn taken_together() -> usize {
    TOGETHER.swap(0, Relaxed)
}

#[cold]
fn take_several(count: usize, align: usize) -> usize {
    TOGETHER.store(count * PAGE_SIZE_4K, Relaxed);
    host_memory(count, align)
}

#[inline]
fn pointer(at: PhysAddr) -> NonNull<u8> {
    NonNull::new(std::ptr::with_exposed_provenance_mut(at.as_usize())).expect("no page is at 0")
}

/// The allocator. `ZEROED`: it says that its frames are zero; else the crate zeroes those whose contents matter.
#[derive(Clone, Copy)]
pub struct Ready<const ZEROED: bool>;

// SAFETY: a frame is in one list or has one owner; addresses are pointers to memory that is never given back.
unsafe impl<const ZEROED: bool> Frames for Ready<ZEROED> {
    #[inline]
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        let at = if count == 1 { READY.pop()? } else { take_several(count, align) };
        Some(PhysAddr::from_usize(at))
    }

    #[inline]
    unsafe fn free(&self, at: PhysAddr, count: usize) {
        (0..count).for_each(|page| give(at.as_usize() + page * PAGE_SIZE_4K));
    }

    #[inline]
    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        pointer(at)
    }

    #[inline]
    fn contents(&self) -> Contents {
        if ZEROED { Contents::Zeroed } else { Contents::Unknown }
    }

    #[inline]
    fn pool(&self) -> Option<usize> {
        Some(0)
    }
}

/// For crates that know the trait of `page_table_multiarch`.
impl PagingHandler for Ready<true> {
    #[inline]
    fn alloc_frames(count: usize, align: usize) -> Option<PhysAddr> {
        Self.allocate(count, align)
    }

    #[inline]
    fn dealloc_frames(at: PhysAddr, count: usize) {
        (0..count).for_each(|page| give(at.as_usize() + page * PAGE_SIZE_4K));
    }

    #[inline]
    fn phys_to_virt(at: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(at.as_usize())
    }
}

/// The same frames, whose taking and giving back is not counted: callgrind is told to leave the two functions out.
#[derive(Clone, Copy)]
pub struct Uncounted;

#[inline(never)]
fn uncounted_take(count: usize, align: usize) -> Option<PhysAddr> {
    Ready::<true>.allocate(count, align)
}

#[inline(never)]
fn uncounted_give(at: PhysAddr, count: usize) {
    (0..count).for_each(|page| give(at.as_usize() + page * PAGE_SIZE_4K));
}

// SAFETY: as for `Ready`.
unsafe impl Frames for Uncounted {
    #[inline]
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        uncounted_take(count, align)
    }

    #[inline]
    unsafe fn free(&self, at: PhysAddr, count: usize) {
        uncounted_give(at, count);
    }

    #[inline]
    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        pointer(at)
    }

    #[inline]
    fn contents(&self) -> Contents {
        Contents::Zeroed
    }

    #[inline]
    fn pool(&self) -> Option<usize> {
        Some(0)
    }
}
