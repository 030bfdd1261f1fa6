//! Unmapping: what is invalidated when, and what stays.

use super::*;

#[test]
fn frees_nothing_before_the_invalidation() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 3 * BLOCK), PAGES, RW).unwrap();
    board.events();
    space.unmap(range(PAGE, 2 * BLOCK)).unwrap();
    let events = board.events();
    let freed = events.iter().position(|event| matches!(event, Event::Freed(..))).unwrap();
    let invalidated = events.iter().position(|event| matches!(event, Event::Invalidated(_))).unwrap();
    assert!(invalidated < freed, "{events:?}");
}

#[test]
fn invalidates_once_however_large_the_range() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 3 * LARGE), PAGES, RW).unwrap();
    board.events();
    space.unmap(range(PAGE, 2 * LARGE)).unwrap();
    let count = board.events().iter().filter(|event| matches!(event, Event::Invalidated(_))).count();
    assert_eq!(count, 1);
}

#[test]
fn of_untouched_memory_needs_no_invalidation() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, LARGE), LAZY, RW).unwrap();
    board.events();
    space.unmap(range(0, LARGE)).unwrap();
    assert_eq!(board.events(), []);
}

#[test]
fn covers_the_whole_span_of_a_table_that_goes() {
    let board = Board::new();
    let space = board.space();
    space.map(range(BLOCK + 3 * PAGE, PAGE), PAGES, RW).unwrap();
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    board.events();
    space.unmap(range(BLOCK + 3 * PAGE, PAGE)).unwrap();
    let scopes = scopes(&board);
    assert_eq!(scopes, [(range(BLOCK, BLOCK), Changed::Tables)]);
    assert_eq!(space.stats().leaves, [1, 0, 0, 0, 0]);
}

#[test]
fn of_pages_alone_names_their_level() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
    board.events();
    space.unmap(range(PAGE, 2 * PAGE)).unwrap();
    assert_eq!(scopes(&board), [(range(PAGE, 2 * PAGE), Changed::Leaves(Level::PAGE))]);
}

#[test]
fn splits_the_block_that_it_cuts_and_keeps_the_rest() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, LARGE), BLOCKS, RW).unwrap();
    assert_eq!(space.stats().leaves, [0, 0, 1, 0, 0]);
    let at = |address| space.translate(gpa(address)).map(|found| found.hpa);
    let start = at(0).unwrap();
    board.events();
    space.unmap(range(BLOCK + PAGE, PAGE)).unwrap();
    assert_eq!(scopes(&board), [(range(0, LARGE), Changed::Leaves(Level(2)))]);
    assert_eq!(at(BLOCK + PAGE), None);
    for page in (0..LARGE).step_by(PAGE).filter(|&page| page != BLOCK + PAGE) {
        assert_eq!(at(page), Some(start + page), "{page:#x}");
    }
    assert_eq!(space.stats().leaves, [31, 31, 0, 0, 0]);
    assert_eq!(space.stats().owned_frames, 32 * 32 - 1);
}

/// H12, H22: the CPU notes a first write while the pieces of the block are being made.
#[test]
fn loses_no_write_that_the_hardware_notes_meanwhile() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
    let hardware = board.clone();
    let entry = move |table: PhysAddr, index: usize| {
        // SAFETY: tables are on the board, and are only reached as atomics.
        unsafe { hardware.pointer(table).cast::<AtomicU64>().add(index).as_ref() }.load(Ordering::Acquire)
    };
    let below = |level, raw| match Toy.decode(Level(level), raw) {
        Entry::Table(table) => table,
        other => panic!("{other:?}"),
    };
    let table = below(2, entry(below(3, entry(PhysAddr::from_usize(space.root() as usize), 0)), 0));
    let used = |level, raw| match Toy.decode(Level(level), raw) {
        Entry::Leaf(leaf) => leaf.used,
        other => panic!("{other:?}"),
    };
    assert_eq!(used(1, entry(table, 0)), Used::Accessed);
    let hardware = board.clone();
    board.on_allocation(move || {
        // SAFETY: as above.
        let block = unsafe { hardware.pointer(table).cast::<AtomicU64>().as_ref() };
        block.store(Toy.touched(Level(1), block.load(Ordering::Acquire), Access::Write), Ordering::Release);
    });
    space.unmap(range(0, PAGE)).unwrap();
    let pieces = below(1, entry(table, 0));
    assert!((1..32).all(|piece| used(0, entry(pieces, piece)) == Used::Dirty));
}

#[test]
fn splits_the_blocks_at_both_ends() {
    let board = Board::new();
    let space = board.space();
    let empty = board.allocated();
    space.map(range(0, 4 * BLOCK), BLOCKS, RW).unwrap();
    space.unmap(range(PAGE, 3 * BLOCK)).unwrap();
    assert_eq!(space.stats().leaves, [32, 0, 0, 0, 0]);
    assert!(space.translate(gpa(PAGE - 1)).is_some());
    assert!(space.translate(gpa(PAGE)).is_none());
    assert!(space.translate(gpa(3 * BLOCK + PAGE - 1)).is_none());
    assert!(space.translate(gpa(3 * BLOCK + PAGE)).is_some());
    space.unmap(range(0, 4 * BLOCK)).unwrap();
    assert_eq!(board.allocated(), empty);
}

#[test]
fn passes_over_holes_and_takes_what_is_behind_them() {
    let board = Board::new();
    let space = board.space();
    let empty = board.allocated();
    space.map(range(2 * PAGE, PAGE), PAGES, RW).unwrap();
    space.map(range(LARGE, PAGE), LAZY, RW).unwrap();
    space.map(range(3 * LARGE, BLOCK), BLOCKS, RW).unwrap();
    space.unmap(range(0, 4 * LARGE)).unwrap();
    assert_eq!(space.stats().areas, 0);
    assert_eq!(board.allocated(), empty);
}

/// The hole is an entry of a table that stays, and of one table the range is only a part.
#[test]
fn of_what_begins_with_a_hole_takes_what_is_behind_it() {
    for (behind, end) in [(2 * PAGE, BLOCK), (3 * BLOCK, LARGE), (3 * LARGE, 4 * LARGE)] {
        let space = Board::new().space();
        space.map(range(0, PAGE), PAGES, RW).unwrap();
        space.map(range(behind, PAGE), PAGES, RW).unwrap();
        space.unmap(range(PAGE, end - PAGE)).unwrap();
        assert_eq!((space.stats().areas, space.stats().owned_frames), (1, 1), "{behind:#x}");
        assert!(space.translate(gpa(behind)).is_none());
    }
}

#[test]
fn of_nothing_says_so() {
    let space = Board::new().space();
    assert_eq!(space.unmap(range(0, PAGE)), Err(Error::NotMapped(range(0, PAGE))));
}

#[test]
fn leaves_room_for_a_block_where_pages_were() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, BLOCK), PAGES, RW).unwrap();
    for page in (0..BLOCK).step_by(PAGE) {
        space.unmap(range(page, PAGE)).unwrap();
    }
    assert_eq!(space.stats().table_frames, 1);
    space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
    assert_eq!(space.stats().leaves, [0, 1, 0, 0, 0]);
}

#[test]
fn gives_no_frame_back_that_is_not_the_spaces_own() {
    let board = Board::new();
    let space = board.space();
    let empty = board.allocated();
    space.map(range(0, 2 * BLOCK), Mapping::Linear { to: PhysAddr::from_usize(BLOCK) }, RW).unwrap();
    space.unmap(range(PAGE, BLOCK)).unwrap();
    space.unmap(range(0, 2 * BLOCK)).unwrap();
    assert_eq!(board.allocated(), empty);
}

fn scopes(board: &Board) -> Vec<(stage2::GuestPhysRange, Changed)> {
    let scope = |event| match event {
        Event::Invalidated(scope) => Some((scope.range, scope.entries)),
        _ => None,
    };
    board.events().into_iter().filter_map(scope).collect()
}
