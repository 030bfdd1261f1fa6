//! What a hundred guests take that start from one snapshot and write a hundredth of it, heap and frames together.
#![allow(unsafe_code, unused_crate_dependencies, reason = "an allocator that counts; shared dependencies")]

#[path = "../examples/host/mod.rs"]
#[allow(dead_code, reason = "the examples need more of it")]
mod host;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{LeafPolicy, Mapping, Populate};

/// Bytes on the heap. Those that are aligned to pages are frames.
static HEAP: AtomicUsize = AtomicUsize::new(0);
static FRAMES: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which counts.
struct Counting;

fn count(layout: Layout) -> &'static AtomicUsize {
    if layout.align() >= PAGE { &FRAMES } else { &HEAP }
}

// SAFETY: every call is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout).fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout).fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` came from the system allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const RAM: usize = 0x8000_0000;
const PAGES: usize = 16 * 1024;
const FORKS: usize = 100;
const WRITTEN: usize = PAGES / 100 + 1;

fn held() -> (usize, usize) {
    (HEAP.load(Ordering::Relaxed), FRAMES.load(Ordering::Relaxed))
}

/// Heap and frames that the forks of 64 MiB take, and the snapshot they start from, when each has written some pages.
fn forks(page: fn(usize) -> usize) -> (usize, usize) {
    let parent = host::guest(1).expect("memory");
    let private = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };
    parent.map(host::range(RAM, PAGES * PAGE), private, host::RW).expect("memory");
    let before = held();
    let snapshot = parent.snapshot().expect("memory");
    let mut forks = Vec::new();
    for _ in 0..FORKS {
        let fork = host::guest(2).expect("memory");
        fork.restore(&snapshot).expect("memory");
        for write in 0..WRITTEN {
            fork.store((RAM + page(write) * PAGE).into(), 7_u64).expect("memory");
        }
        forks.push(fork);
    }
    let after = held();
    (after.0 - before.0, after.1 - before.1)
}

/// Before pages were kept in trees it was 1,539,320 bytes of heap in either case, with 81,510,400 and 69,222,400 of frames;
/// a tenth more is allowed.
#[test]
fn take_little_more_than_the_frames_that_they_wrote() {
    for (name, page, allowed) in [
        ("far apart", (|write| write * 99) as fn(usize) -> usize, (1_539_320 + 81_510_400) / 10 * 11),
        ("side by side", |write| 4000 + write, (1_539_320 + 69_222_400) / 10 * 11),
    ] {
        let (heap, frames) = forks(page);
        println!("{name}: {heap} bytes of heap, {frames} of frames");
        assert!(frames >= FORKS * WRITTEN * PAGE, "{name}: what was written is in frames of its own");
        assert!(heap + frames <= allowed, "{name}: {heap} bytes of heap, {frames} of frames");
    }
}
