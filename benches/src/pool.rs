//! Host memory as physical memory: a physical address is a pointer, each thread has pages at hand.
#![allow(unsafe_code, reason = "an allocator of host frames")]

use std::{
    alloc::{Layout, alloc_zeroed},
    cell::RefCell,
    ptr::NonNull,
    sync::{Mutex, PoisonError},
};

use memory_addr::{PAGE_SIZE_4K, PhysAddr, VirtAddr};
use page_table_multiarch::PagingHandler;
use stage2::Frames;

use crate::floor::Store;

/// The number of pages that move between a thread and all others at a time.
const BATCH: usize = 256;

/// Pages that no thread has at hand.
static SPARE: Mutex<Vec<Vec<usize>>> = Mutex::new(Vec::new());

thread_local! {
    static AT_HAND: RefCell<AtHand> = const { RefCell::new(AtHand(Vec::new())) };
}

/// The pages of one thread; others get them when it ends.
struct AtHand(Vec<usize>);

impl Drop for AtHand {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.0));
    }
}

/// The allocator. Pages come with whatever was in them, as those of a hypervisor do.
#[derive(Clone, Copy)]
pub struct Pool;

/// One page, without looking at a lock nearly always.
fn take_page() -> usize {
    AT_HAND.with_borrow_mut(|at_hand| {
        if at_hand.0.is_empty() {
            at_hand.0 = refill();
        }
        at_hand.0.pop().expect("a batch is not empty")
    })
}

/// Takes a page back.
fn give_page(at: usize) {
    AT_HAND.with_borrow_mut(|at_hand| {
        at_hand.0.push(at);
        if at_hand.0.len() >= 2 * BATCH {
            give(at_hand.0.split_off(BATCH));
        }
    });
}

/// A page of zeros.
fn take_zeroed_page() -> usize {
    let at = take_page();
    // SAFETY: the page is the caller's alone.
    unsafe { Pool.pointer(PhysAddr::from_usize(at)).write_bytes(0, PAGE_SIZE_4K) }
    at
}

fn give(pages: Vec<usize>) {
    if !pages.is_empty() {
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(pages);
    }
}

fn refill() -> Vec<usize> {
    let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
    spare.unwrap_or_else(|| {
        let first = host_memory(BATCH, PAGE_SIZE_4K);
        (0..BATCH).rev().map(|page| first + page * PAGE_SIZE_4K).collect()
    })
}

/// Pages of the host, never given back to it, which the host has already brought to where they are.
fn host_memory(pages: usize, align: usize) -> usize {
    let layout = Layout::from_size_align(pages * PAGE_SIZE_4K, align).expect("a power of two");
    // SAFETY: the layout is not empty.
    let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).expect("the host has memory for the benches");
    for page in 0..pages {
        // SAFETY: within what was just allocated.
        unsafe { memory.add(page * PAGE_SIZE_4K).write(1) }
    }
    memory.as_ptr().expose_provenance()
}

// SAFETY: a page is in one list or in one hand; addresses are pointers to memory that is never given back.
unsafe impl Frames for Pool {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        let at = if (count, align) == (1, PAGE_SIZE_4K) { take_page() } else { host_memory(count, align) };
        Some(PhysAddr::from_usize(at))
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        (0..count).for_each(|page| give_page(at.as_usize() + page * PAGE_SIZE_4K));
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(at.as_usize())).expect("no page is at 0")
    }

    fn pool(&self) -> Option<usize> {
        Some(0)
    }
}

impl PagingHandler for Pool {
    fn alloc_frames(count: usize, align: usize) -> Option<PhysAddr> {
        Self.allocate(count, align)
    }

    fn dealloc_frames(at: PhysAddr, count: usize) {
        (0..count).for_each(|page| give_page(at.as_usize() + page * PAGE_SIZE_4K));
    }

    fn phys_to_virt(at: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(at.as_usize())
    }
}

impl Store for Pool {
    fn take() -> usize {
        take_page()
    }

    fn take_zeroed() -> usize {
        take_zeroed_page()
    }

    fn give(page: usize) {
        give_page(page);
    }
}
