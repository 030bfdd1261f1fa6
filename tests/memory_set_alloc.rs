//! What `MemorySet` does when memory runs out: an error, and everything as before.
#![allow(unsafe_code, reason = "an allocator that fails when it is told to is the only way to run out of memory")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use memory_addr::{AddrRange, VirtAddr};
use stage2::{MappingBackend, MappingError, MemoryArea, MemorySet, areas::Few};

thread_local! {
    /// Allocations of this thread that succeed before all fail; `None` is without end.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    /// Allocations of this thread.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which fails a thread when it is told to.
struct Failing;

impl Failing {
    /// Counts an allocation, and answers whether it may succeed.
    fn admits() -> bool {
        COUNT.set(COUNT.get() + 1);
        match LEFT.get() {
            Some(0) => false,
            Some(left) => {
                LEFT.set(Some(left - 1));
                true
            }
            None => true,
        }
    }
}

// SAFETY: every call is the system allocator's, or a failure, which an allocator may always answer.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !Self::admits() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of `alloc`, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from the system allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !Self::admits() {
            return std::ptr::null_mut();
        }
        // SAFETY: `at` came from the system allocator, with this layout, and the caller keeps the contract for `size`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Counts its calls in the page table.
#[derive(Clone)]
struct Calls;

impl MappingBackend for Calls {
    type Addr = VirtAddr;
    type Flags = usize;
    type PageTable = usize;

    fn map(&self, _: VirtAddr, _: usize, _: usize, calls: &mut usize) -> bool {
        *calls += 1;
        true
    }

    fn unmap(&self, _: VirtAddr, _: usize, calls: &mut usize) -> bool {
        *calls += 1;
        true
    }

    fn protect(&self, _: VirtAddr, _: usize, _: usize, calls: &mut usize) -> bool {
        *calls += 1;
        true
    }
}

type Set = MemorySet<Calls>;

/// The number of areas that fill some chunks to the last place.
const FULL: usize = 256;

/// Areas of 8 addresses, one at every multiple of 16.
///
/// Chunks that are filled in order keep room for an eighth of their 64 areas, which come last.
fn full() -> Set {
    let mut set = Set::new();
    let (late, early): (Vec<_>, Vec<_>) = (0..FULL).partition(|index| (28..36).contains(&(index % 64)));
    for index in early.into_iter().chain(late) {
        set.insert(area(index * 16, 8)).unwrap();
    }
    set
}

fn area(start: usize, size: usize) -> MemoryArea<Calls> {
    MemoryArea::new(start.into(), size, start, Calls)
}

fn range(start: usize, size: usize) -> AddrRange<VirtAddr> {
    AddrRange::from_start_size(start.into(), size)
}

fn shown(set: &Set) -> Vec<(usize, usize, usize)> {
    set.iter().map(|area| (area.start().as_usize(), area.size(), area.flags())).collect()
}

/// Runs `operation` on sets made by `make`, with the first allocation failing, then the second, until none does.
/// Each failure must leave the set as it was. Gives the number of failures.
fn fail_each<R>(make: fn() -> Set, mut operation: impl FnMut(&mut Set) -> Result<(), R>) -> usize {
    for left in 0.. {
        let mut set = make();
        let before = shown(&set);
        LEFT.set(Some(left));
        let result = operation(&mut set);
        LEFT.set(None);
        if result.is_ok() {
            return left;
        }
        assert_eq!(shown(&set), before, "allocation {left} failed");
        let room = set.find_free_area(0.into(), 8, range(0, 1 << 20), 8).unwrap();
        set.insert(MemoryArea::new(room, 8, 0, Calls)).unwrap();
    }
    unreachable!()
}

/// Runs an operation on a set, with a page table that counts the backends' calls.
type Operation = fn(&mut Set, &mut usize) -> Result<(), MappingError>;

#[test]
fn the_nth_failing_allocation_of_any_operation_leaves_the_set_as_it_was() {
    let operations: [(&str, Operation); 6] = [
        ("map", |set, calls| set.map(area(8, 8), calls, false)),
        ("map over others", |set, calls| set.map(area(2, 4), calls, true)),
        ("unmap a middle", |set, calls| set.unmap(2.into(), 4, calls)),
        ("protect across chunks", |set, calls| set.protect(2.into(), FULL / 2 * 16, |_| Some(1), calls)),
        ("insert", |set, _| set.insert(area(8, 8)).map_err(|_| MappingError::BadState)),
        ("plan", |set, _| set.plan(range(2, 4)).map(|plan| drop(plan.carve())).map_err(|_| MappingError::BadState)),
    ];
    for (name, operation) in operations {
        let failures = fail_each(full, |set| {
            let mut calls = 0;
            let result = operation(set, &mut calls);
            assert!(result.is_ok() || (result == Err(MappingError::BadState) && calls == 0), "{name}: {result:?}");
            result
        });
        assert!(failures > 0, "{name} allocates");
    }
    assert!(fail_each(Set::new, |set| set.insert(area(0, 8))) > 0);
}

#[test]
fn an_abandoned_plan_changes_nothing() {
    let mut set = full();
    let before = shown(&set);
    drop(set.plan(range(2, 100)).unwrap());
    assert_eq!(shown(&set), before);
}

#[test]
fn carrying_out_a_plan_allocates_nothing() {
    // In the middle of an area, across areas, across chunks, in a hole, over everything.
    let ranges = [range(2, 4), range(4, 40), range(60 * 16 + 4, 80 * 16), range(8, 8), range(0, FULL * 16)];
    for range in ranges {
        for step in 0..3 {
            let mut set = full();
            let plan = set.plan(range).unwrap();
            COUNT.set(0);
            let gone = match step {
                0 => plan.carve(),
                1 => plan.replace_with(7, Calls),
                _ => {
                    plan.replace(|_| 7);
                    Few::new()
                }
            };
            assert_eq!(COUNT.get(), 0, "{range:?}, step {step}");
            drop(gone);
        }
    }
}

#[test]
fn whole_areas_are_unmapped_and_cleared_without_memory() {
    let mut set = full();
    COUNT.set(0);
    set.unmap(16.into(), 16 * 100, &mut 0).unwrap();
    set.unmap(4.into(), 4, &mut 0).unwrap();
    set.clear(&mut 0).unwrap();
    assert_eq!(COUNT.get(), 0);
}

#[test]
fn lookups_and_a_new_set_need_no_memory() {
    let set = full();
    COUNT.set(0);
    assert!(set.find(20.into()).is_some() && set.overlaps(range(20, 50)));
    assert_eq!((set.iter().count(), set.iter_range(range(20, 50)).count()), (FULL, 4));
    assert!(set.find_free_area(0.into(), 8, range(0, 1 << 20), 8).is_some());
    let _ = Set::new();
    assert_eq!(COUNT.get(), 0);
}
