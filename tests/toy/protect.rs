//! Protecting: what is invalidated, split, refused.

use std::{
    sync::atomic::AtomicBool,
    thread::{scope, yield_now},
};

use stage2::format::{Leaf, Owner};

use super::*;

/// How often the hardware notes accesses in all leaves of a table.
const TURNS: usize = 2000;

#[test]
fn invalidates_what_it_restricts_and_nothing_else() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, BLOCK), PAGES, RW).unwrap();
    let invalidations = |flags| {
        board.events();
        space.protect(range(PAGE, 2 * PAGE), flags).unwrap();
        board.events().iter().filter(|event| matches!(event, Event::Invalidated(_))).count()
    };
    assert_eq!(invalidations(READ), 1);
    assert_eq!(invalidations(READ), 0);
    assert_eq!(invalidations(RWX), 0);
    assert_eq!(invalidations(RW), 1);
    assert_eq!(invalidations(RW | MappingFlags::UNCACHED), 1, "another memory type: break, then make");
    assert_eq!(space.translate(gpa(PAGE)).unwrap().flags, RW | MappingFlags::UNCACHED);
    assert_eq!(space.translate(gpa(0)).unwrap().flags, RW);
}

#[test]
fn splits_the_block_that_it_cuts() {
    let space = Board::new().space();
    space.map(range(0, LARGE), BLOCKS, RW).unwrap();
    space.protect(range(BLOCK - PAGE, BLOCK), READ).unwrap();
    for page in (0..LARGE).step_by(PAGE) {
        let inside = (BLOCK - PAGE..2 * BLOCK - PAGE).contains(&page);
        assert_eq!(space.translate(gpa(page)).unwrap().flags, if inside { READ } else { RW }, "{page:#x}");
    }
    assert_eq!(space.stats().leaves, [64, 30, 0, 0, 0]);
}

#[test]
fn with_the_same_flags_splits_nothing() {
    let space = Board::new().space();
    space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
    space.protect(range(PAGE, PAGE), RW).unwrap();
    assert_eq!(space.stats().leaves, [0, 1, 0, 0, 0]);
}

#[test]
fn names_the_hole_and_changes_nothing() {
    let space = Board::new().space();
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    space.map(range(3 * PAGE, PAGE), PAGES, RW).unwrap();
    let before = space.to_string();
    assert_eq!(space.protect(range(0, 4 * PAGE), READ), Err(Error::NotMapped(range(PAGE, 2 * PAGE))));
    assert_eq!(space.protect(range(0, 2 * PAGE), READ), Err(Error::NotMapped(range(PAGE, PAGE))));
    assert_eq!(space.to_string(), before);
}

#[test]
fn reaches_memory_that_is_populated_later() {
    let space = Board::new().space();
    space.map(range(0, 2 * PAGE), LAZY, RW).unwrap();
    space.protect(range(0, PAGE), READ).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Denied { flags: READ });
    assert_eq!(fault(&space, 0, Access::Read), Outcome::Resolved);
    assert_eq!(space.translate(gpa(0)).unwrap().flags, READ);
    assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Resolved);
}

/// H12: a CPU notes accesses in leaves at any moment, whatever locks there are. A plain store to a leaf, between whose load
/// and store one was noted, forgot it.
#[test]
fn loses_no_access_that_the_hardware_notes_meanwhile() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, BLOCK), PAGES, RW).unwrap();
    let entries = first_pages(&board, &space);
    let leaf =
        |used| Toy.leaf(Level::PAGE, &Leaf { at: PhysAddr::from_usize(0), flags: RW, owner: Owner::Space, used });
    let accessed = leaf(Used::Accessed) ^ leaf(Used::Not);
    let is_over = AtomicBool::new(false);
    let mut lost = 0;
    scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                space.protect(range(0, BLOCK), READ).unwrap();
                space.protect(range(0, BLOCK), RW).unwrap();
            }
        });
        for _ in 0..TURNS {
            for entry in entries {
                entry.fetch_or(accessed, Ordering::AcqRel);
            }
            // On one CPU too, the other thread comes in between.
            yield_now();
            lost += entries.iter().filter(|entry| entry.fetch_and(!accessed, Ordering::AcqRel) & accessed == 0).count();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(lost, 0, "of {} accesses", TURNS * entries.len());
}

/// The entries of the table that translates the first block of a space.
fn first_pages<'b>(board: &'b Board, space: &GuestSpace<Machine>) -> &'b [AtomicU64] {
    let mut table = PhysAddr::from_usize(space.root() as usize);
    for level in [3, 2, 1] {
        // SAFETY: tables are on the board, and are only reached as atomics.
        let entry = unsafe { board.pointer(table).cast::<AtomicU64>().as_ref() };
        match Toy.decode(Level(level), entry.load(Ordering::Acquire)) {
            Entry::Table(below) => table = below,
            other => panic!("{other:?}"),
        }
    }
    // SAFETY: as above; a table has 32 entries.
    unsafe { std::slice::from_raw_parts(board.pointer(table).cast().as_ptr(), 32) }
}
