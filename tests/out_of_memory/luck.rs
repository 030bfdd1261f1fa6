//! Which allocations fail: those of the heap, and those of frames with them.

use super::*;

/// Which allocations of this thread fail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Luck {
    Good,
    /// The one after so many, and all behind it.
    From(usize),
    /// The one after so many.
    Once(usize),
}

thread_local! {
    static LUCK: Cell<Luck> = const { Cell::new(Luck::Good) };
    /// Allocations of this thread.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Counts an allocation: whether it may succeed.
pub(super) fn admits() -> bool {
    COUNT.set(COUNT.get() + 1);
    match LUCK.get() {
        Luck::Good => true,
        Luck::From(0) => false,
        Luck::Once(0) => {
            LUCK.set(Luck::Good);
            false
        }
        Luck::From(left) => {
            LUCK.set(Luck::From(left - 1));
            true
        }
        Luck::Once(left) => {
            LUCK.set(Luck::Once(left - 1));
            true
        }
    }
}

/// Runs `work` with some luck: what came of it, and how often it allocated.
pub(super) fn with<R>(luck: Luck, work: impl FnOnce() -> R) -> (R, usize) {
    let (before, count) = (LUCK.replace(luck), COUNT.replace(0));
    let result = work();
    LUCK.set(before);
    (result, COUNT.replace(count))
}

/// The system's allocator, which fails a thread when it is told to.
struct Failing;

// SAFETY: every call is the system allocator's, or a failure, which an allocator may always answer.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !admits() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of `alloc`, which is this one's.
        unsafe { System.alloc(layout) }
    }

    // The default would touch all of what is zeroed, which is a whole memory here.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !admits() {
            return std::ptr::null_mut();
        }
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from the system allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !admits() {
            return std::ptr::null_mut();
        }
        // SAFETY: `at` came from the system allocator, with this layout, and the caller keeps the contract for `size`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;
