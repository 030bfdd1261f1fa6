//! What an empty space costs in memory: itself, and what it has on the heap.
#![allow(unsafe_code, unused_crate_dependencies, reason = "an allocator that counts; shared dependencies")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr::NonNull,
};

use memory_addr::PAGE_SIZE_4K;
use stage2::{
    Config, Frames, GuestSpace, Limits, PhysAddr, Platform,
    aarch64::{Capabilities, IdRegisters, Stage2, Vmid},
};
use stage2_model::NoGuest;

thread_local! {
    /// Bytes that this thread has on the heap.
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts.
struct Counting;

// SAFETY: every call is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.set(HELD.get() + layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.set(HELD.get() - layout.size().cast_signed());
        // SAFETY: `at` came from the system allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Frames that are not on the heap that is counted.
#[derive(Clone, Copy)]
struct Host;

fn layout(pages: usize, align: usize) -> Layout {
    Layout::from_size_align(pages * PAGE_SIZE_4K, align).expect("a power of two")
}

// SAFETY: the memory is the system allocator's, and is reached where it is.
unsafe impl Frames for Host {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        // SAFETY: a layout of at least one page is not empty.
        let at = unsafe { System.alloc(layout(count, align.max(PAGE_SIZE_4K))) };
        (!at.is_null()).then(|| PhysAddr::from_usize(at.expose_provenance()))
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        // SAFETY: it came from `allocate`. The system allocator needs the size and whether the alignment is a large one.
        unsafe { System.dealloc(self.pointer(at).as_ptr(), layout(count, PAGE_SIZE_4K)) }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(at.as_usize())).expect("not at 0")
    }
}

struct Host64;

impl Platform for Host64 {
    type Format = Stage2;
    type Frames = Host;
    type Invalidate = NoGuest;
}

/// A space for so many CPUs, and how many bytes it has on the heap.
fn empty(cpus: usize) -> (GuestSpace<Host64>, usize) {
    let capabilities = Capabilities::from_registers(IdRegisters { mmfr0: 0x5, ..IdRegisters::default() });
    let config = Config {
        format: Stage2::new(&capabilities, 40, Vmid(1)).expect("the CPU can"),
        frames: Host,
        invalidate: NoGuest,
        cpus,
        limits: Limits::default(),
    };
    let before = HELD.get();
    let space = GuestSpace::new(config).expect("there is memory");
    (space, (HELD.get() - before).try_into().expect("it has some"))
}

/// Of what CPUs write often each has three lines, of 64 bytes: one of the lock, one of counters, two of whether it is in the
/// guest.
#[test]
fn a_space_costs_256_bytes_a_cpu_on_the_heap_and_one_line() {
    for cpus in [1, 2, 4] {
        let (space, heap) = empty(cpus);
        println!("{cpus} CPUs: {} bytes, and {heap} on the heap", size_of_val(&space));
        assert!(heap <= 64 + 256 * cpus, "{heap} bytes on the heap with {cpus} CPUs");
    }
}

/// Beyond 16 CPUs they share the lock's and the counters' lines.
#[test]
fn many_cpus_share_lines() {
    let (_space, heap) = empty(64);
    assert!(heap <= 64 + 16 * 128 + 64 * 128, "{heap} bytes on the heap");
}

#[test]
fn what_a_space_has_on_the_heap_goes_with_it() {
    let before = HELD.get();
    drop(empty(4));
    assert_eq!(HELD.get(), before);
}
