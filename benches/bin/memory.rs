//! How many bytes an empty space takes: the value itself, and what it has on the heap.
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use stage2_benches::{
    machine::{Arm, Ept, Kind, Space, space_of},
    ready::{Ready, stock},
};

/// What one CPU's space may take, and what each further CPU may add.
const LIMIT: usize = 1024;
const LIMIT_PER_CPU: usize = 256;

/// The system's heap, whose bytes in use are counted.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: it only passes on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

fn main() {
    println!("<!-- begin: bytes -->");
    println!("| an empty space, bytes | the value | heap | together | must |\n|---|---|---|---|---|");
    for cpus in [1, 2, 4] {
        line::<Ept>(cpus);
        line::<Arm>(cpus);
    }
    println!("<!-- end: bytes -->");
}

fn line<K: Kind>(cpus: usize) {
    stock(0);
    let before = IN_USE.load(Relaxed);
    let space: Space<K, _> = space_of(Ready::<true>, cpus);
    let heap = IN_USE.load(Relaxed) - before - beside_heap();
    let value = size_of_val(&space);
    let (total, limit) = (value + heap, LIMIT + LIMIT_PER_CPU * (cpus - 1));
    let mark = if total > limit { "**" } else { "" };
    println!("| {}, {cpus} CPUs | {value} | {heap} | {mark}{total}{mark} | ≤ {limit} |", K::NAME);
}

/// A root of several frames comes from the same heap: an allocation of its own, which belongs to the tables.
fn beside_heap() -> usize {
    stage2_benches::ready::taken_together()
}
