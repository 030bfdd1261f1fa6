//! The hypervisor's heap, and the pool of frames for the guest.
#![allow(unsafe_code, reason = "the board's memory")]

use alloc::collections::VecDeque;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use buddy_system_allocator::{FrameAllocator, LockedHeap};
use memory_addr::PAGE_SIZE_4K;
use spin::Mutex;
use stage2::{Frames, PhysAddr, frames::Pieces};

#[global_allocator]
static HEAP: LockedHeap<32> = LockedHeap::empty();

/// The bytes of the heap.
const HEAP_SIZE: usize = 64 << 20;

/// Gives the heap its memory. Once, before anything allocates.
pub fn init_heap() {
    // SAFETY: memory of the board that nothing else uses: the program ends below it.
    unsafe { HEAP.lock().init(crate::arch::HEAP_START, HEAP_SIZE) };
}

/// The frames for tables and the guest's memory.
#[derive(Clone, Copy)]
pub struct Pool(&'static Mutex<State>);

/// Whether freed frames are watched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// They are free at once.
    Off,
    /// They are poisoned, kept aside, and looked at before they are used again.
    Poison,
}

struct State {
    free: FrameAllocator<32>,
    watch: Watch,
    /// Freed frames, oldest first.
    aside: VecDeque<(usize, usize)>,
    pages_aside: usize,
    allocated: usize,
}

/// How many pages are kept aside.
const MOST_ASIDE: usize = 4096;

static CHECKED: AtomicU64 = AtomicU64::new(0);
static SPOILED: AtomicU64 = AtomicU64::new(0);

static STATE: Mutex<State> = Mutex::new(State {
    free: FrameAllocator::new(),
    watch: Watch::Off,
    aside: VecDeque::new(),
    pages_aside: 0,
    allocated: 0,
});

impl Pool {
    /// The pool of the memory from `start` to `end`.
    pub fn new(start: usize, end: usize, watch: Watch) -> Self {
        let mut state = STATE.lock();
        state.free.add_frame(start / PAGE_SIZE_4K, end / PAGE_SIZE_4K);
        state.watch = watch;
        drop(state);
        Self(&STATE)
    }

    /// How many pages were looked at before they were used again, and in how many the poison was gone.
    pub fn poison() -> (u64, u64) {
        (CHECKED.load(Ordering::Relaxed), SPOILED.load(Ordering::Relaxed))
    }

    /// How many pages are allocated.
    #[must_use]
    pub fn allocated(&self) -> usize {
        self.0.lock().allocated
    }

    /// Looks at everything that is kept aside.
    pub fn check_all(&self) {
        let mut state = self.0.lock();
        while state.release_oldest() {}
    }
}

impl State {
    fn set_aside(&mut self, first: usize, count: usize) {
        (first..first + count).for_each(poison);
        self.aside.push_back((first, count));
        self.pages_aside += count;
        while self.pages_aside > MOST_ASIDE && self.release_oldest() {}
    }

    /// Gives the oldest frames back to the allocator, if their poison is still there.
    fn release_oldest(&mut self) -> bool {
        let Some((first, count)) = self.aside.pop_front() else { return false };
        self.pages_aside -= count;
        for page in first..first + count {
            CHECKED.fetch_add(1, Ordering::Relaxed);
            if !is_poisoned(page) {
                SPOILED.fetch_add(1, Ordering::Relaxed);
                crate::line!("hv: frame {:#x} was written after it was freed", page * PAGE_SIZE_4K);
            }
        }
        (first..first + count).for_each(|page| self.free.dealloc(page, 1));
        true
    }
}

/// The words of a page.
fn words(page: usize) -> &'static [AtomicU64] {
    // SAFETY: a freed page, which only the pool uses.
    unsafe { core::slice::from_raw_parts((page * PAGE_SIZE_4K) as *const AtomicU64, PAGE_SIZE_4K / 8) }
}

/// What stands in word `index` of a poisoned page: no zeros, no address, different everywhere.
fn pattern(page: usize, index: usize) -> u64 {
    (page as u64 ^ (index as u64) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

fn poison(page: usize) {
    for (index, word) in words(page).iter().enumerate() {
        word.store(pattern(page, index), Ordering::Relaxed);
    }
}

fn is_poisoned(page: usize) -> bool {
    words(page).iter().enumerate().all(|(index, word)| word.load(Ordering::Relaxed) == pattern(page, index))
}

// SAFETY: the pool's memory is the board's and has no other use; it is mapped where it stands; the allocator gives each
// frame to one owner at a time.
unsafe impl Frames for Pool {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        // Blocks of the buddy system are aligned to their size.
        let size = count.max(align / PAGE_SIZE_4K).next_power_of_two();
        let mut state = self.0.lock();
        let first = state.free.alloc(size)?;
        (first + count..first + size).for_each(|page| state.free.dealloc(page, 1));
        state.allocated += count;
        drop(state);
        Some(PhysAddr::from_usize(first * PAGE_SIZE_4K))
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        let mut state = self.0.lock();
        let first = at.as_usize() / PAGE_SIZE_4K;
        state.allocated -= count;
        match state.watch {
            Watch::Off => (first..first + count).for_each(|page| state.free.dealloc(page, 1)),
            Watch::Poison => state.set_aside(first, count),
        }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(at.as_usize())).unwrap_or(NonNull::dangling())
    }

    fn pool(&self) -> Option<usize> {
        Some(core::ptr::from_ref(self.0).addr())
    }

    fn pieces(&self) -> Pieces {
        Pieces::Any
    }
}
