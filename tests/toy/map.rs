//! Mapping: leaves, tables, and what is refused.

use super::*;

#[test]
fn uses_the_largest_leaves_between_unaligned_ends() {
    let board = Board::new();
    let space = board.space();
    space.map(range(BLOCK - PAGE, LARGE + BLOCK + 2 * PAGE), BLOCKS, RW).unwrap();
    // One page; blocks up to the next large boundary; what is left of the second large block; one page.
    assert_eq!(space.stats().leaves, [2, 33, 0, 0, 0]);
    assert_eq!(space.stats().owned_frames, 2 + 33 * 32);
    space.map(range(4 * LARGE, LARGE), BLOCKS, RW).unwrap();
    assert_eq!(space.stats().leaves, [2, 33, 1, 0, 0]);
}

#[test]
fn needs_no_invalidation() {
    let board = Board::new();
    let space = board.space();
    board.events();
    space.map(range(0, 4 * BLOCK), PAGES, RW).unwrap();
    space.map(range(LARGE, BLOCK), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
    assert!(board.events().iter().all(|event| matches!(event, Event::Allocated(..) | Event::Freed(..))));
}

#[test]
fn of_a_lazy_area_builds_no_table() {
    let board = Board::new();
    let space = board.space();
    let before = board.allocated();
    space.map(range(0, LARGE), LAZY, RW).unwrap();
    assert_eq!(board.allocated(), before);
}

#[test]
fn shares_the_tables_that_are_there() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    let tables = space.stats().table_frames;
    space.map(range(PAGE, PAGE), PAGES, RW).unwrap();
    assert_eq!(space.stats().table_frames, tables);
    assert_eq!(board.allocated(), tables + 2);
}

#[test]
fn refuses_and_names_what_is_wrong_with_a_range() {
    let board = Board::new();
    let space = board.space();
    let limit = 1 << 34;
    let empty = range(PAGE, 0);
    assert_eq!(space.map(empty, LAZY, RW), Err(Error::Empty(empty)));
    let odd = range(PAGE + 1, PAGE);
    assert_eq!(space.map(odd, LAZY, RW), Err(Error::Misaligned(odd)));
    let beyond = range(limit - PAGE, 2 * PAGE);
    assert_eq!(space.map(beyond, LAZY, RW), Err(Error::BeyondInput { range: beyond, bits: 34 }));
    space.map(range(limit - PAGE, PAGE), PAGES, RW).unwrap();
    assert_eq!(space.translate(gpa(limit)), None);
    assert_eq!(space.translate(gpa(0)), None, "the last page of a wide root is not the first of a narrow one");
}

#[test]
fn refuses_a_target_that_no_entry_holds() {
    let space = Board::new().space();
    let area = range(0, 2 * PAGE);
    for to in [1, (1 << 40) - PAGE, usize::MAX - PAGE + 1] {
        let to = PhysAddr::from_usize(to);
        let refused = Err(Error::BadTarget { range: area, to, bits: 40 });
        assert_eq!(space.map(area, Mapping::Linear { to }, RW), refused);
    }
    assert_eq!(space.stats().areas, 0);
}

#[test]
fn names_both_ranges_of_an_overlap_and_changes_nothing() {
    let board = Board::new();
    let space = board.space();
    space.map(range(4 * PAGE, 2 * PAGE), PAGES, RW).unwrap();
    let before = (space.to_string(), board.allocated());
    for start in [0, 5 * PAGE, 4 * PAGE] {
        let asked = range(start, 5 * PAGE);
        let overlap = Error::Overlap { range: asked, with: range(4 * PAGE, 2 * PAGE) };
        assert_eq!(space.map(asked, PAGES, RW), Err(overlap));
    }
    assert_eq!((space.to_string(), board.allocated()), before);
}

#[test]
fn refuses_a_device_as_private_memory() {
    let space = Board::new().space();
    let device = RW | MappingFlags::DEVICE;
    assert!(matches!(space.map(range(0, PAGE), LAZY, device), Err(Error::Flags { .. })));
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    assert!(matches!(space.protect(range(0, PAGE), device), Err(Error::Flags { .. })));
}

#[test]
fn takes_the_host_frame_at_address_zero() {
    let space = Board::new().space();
    space.map(range(PAGE, BLOCK), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
    assert_eq!(space.translate(gpa(PAGE)).map(|found| found.hpa), Some(PhysAddr::from_usize(0)));
    assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Retry);
}

#[test]
fn uses_pages_where_the_allocator_takes_no_pieces() {
    let board = Board::with(Reach::Everywhere, Pieces::Whole);
    let space = board.space();
    space.map(range(0, LARGE), BLOCKS, RW).unwrap();
    assert_eq!(space.stats().leaves, [32 * 32, 0, 0, 0, 0]);
}
