//! What the caches are told (H14).

use super::*;

const UNCACHED: MappingFlags = RW.union(MappingFlags::UNCACHED);

/// Where the page at `at` is in the host's memory.
fn frame(space: &GuestSpace<Machine>, at: usize) -> PhysAddr {
    space.translate(gpa(at)).expect("it is mapped").hpa
}

/// A copy of what the caches held in place of what the guest wrote past them lost the guest's data, also on CPUs
/// that force write-back elsewhere.
#[test]
fn hide_nothing_of_uncached_memory_that_moves() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, PAGE), PAGES, UNCACHED).unwrap();
    let from = frame(&space, 0);
    board.synchronized();
    space.relocate(range(0, PAGE)).unwrap();
    let expected = [(from, PAGE, Content::Uncached), (frame(&space, 0), PAGE, Content::Uncached)];
    assert_eq!(board.synchronized(), expected);
}

/// Cached again, the memory had lines from before it was written past the caches.
#[test]
fn hide_nothing_of_memory_that_was_uncached() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, PAGE), PAGES, UNCACHED).unwrap();
    board.synchronized();
    space.protect(range(0, PAGE), RW).unwrap();
    assert_eq!(board.synchronized(), [(frame(&space, 0), PAGE, Content::Uncached)]);
}

/// Only whole leaves were brought in step: a page in the middle of a block was executed as its last owner's code.
#[test]
fn are_in_step_with_the_changed_part_of_a_block() {
    let board = Board::new();
    for (new, content) in [(RWX, Content::Code), (UNCACHED, Content::Uncached)] {
        let space = board.space();
        space.map(range(0, LARGE), BLOCKS, RW).unwrap();
        board.synchronized();
        space.protect(range(BLOCK + PAGE, 2 * PAGE), new).unwrap();
        let part = frame(&space, BLOCK + PAGE);
        assert_eq!(board.synchronized(), [(part, 2 * PAGE, content)]);
    }
}

/// A word stored into a line that the guest had written past the caches took the rest of the line back with it.
#[test]
fn hold_nothing_old_when_the_hypervisor_writes() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, PAGE), PAGES, RWX).unwrap();
    let at = frame(&space, 0) + 8;
    board.synchronized();
    space.store(gpa(8), 1_u64).unwrap();
    let expected = [(at, 8, Content::Data), (at, 8, Content::Code)];
    assert_eq!(board.synchronized(), expected);
    assert_eq!(space.compare_exchange(gpa(8), 1_u64, 2), Ok(Ok(1)));
    assert_eq!(board.synchronized(), expected);
}
