//! Protecting: what is invalidated, split, refused.

use super::*;

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

#[test]
fn in_steps_is_refused_again_whatever_the_step() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
    // A hole behind it.
    let mut protecting = space.protect_in_steps(range(0, 6 * PAGE), READ).unwrap();
    for entries in [usize::MAX, 1, usize::MAX] {
        let refused = Err(Error::NotMapped(range(4 * PAGE, 2 * PAGE)));
        assert_eq!(protecting.step(entries), refused, "{entries}");
    }
    drop(protecting);
    assert_eq!(space.area(gpa(0)).unwrap().flags, RW);
}

#[test]
fn in_steps_keeps_its_regions_from_being_frozen_though_the_first_step_had_no_memory() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 2 * BLOCK), BLOCKS, READ).unwrap();
    let region = space.region(2 * PAGE).unwrap();
    space.map(range(2 * BLOCK, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, READ).unwrap();
    let mut protecting = space.protect_in_steps(range(PAGE, 2 * BLOCK + PAGE), RW).unwrap();
    board.allow(Some(0));
    assert!(matches!(protecting.step(usize::MAX), Err(Error::NoMemory(_))));
    board.allow(None);
    assert_eq!(protecting.step(1), Ok(stage2::space::Progress::More));
    assert!(region.freeze().is_err());
}
