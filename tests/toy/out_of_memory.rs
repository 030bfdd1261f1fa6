//! Operations that the allocator fails.

use super::*;

/// Runs an operation with the first, second, … allocation failing until none does: each failure changes nothing.
fn every(prepare: impl Fn(&GuestSpace<Machine>), operation: impl Fn(&GuestSpace<Machine>) -> Result<(), Error>) {
    for allowed in 0.. {
        let board = Board::new();
        let space = board.space();
        prepare(&space);
        let before = (space.to_string(), board.allocated());
        board.allow(Some(allowed));
        let result = operation(&space);
        board.allow(None);
        match result {
            Ok(()) => return assert!(allowed > 0, "nothing was allocated"),
            Err(error) => assert!(matches!(error, Error::NoMemory(_)), "{error}"),
        }
        assert_eq!(space.to_string(), before.0, "after {allowed} allocations");
        // Tables that lead to a leaf may stay; frames may not.
        assert!(board.allocated() <= before.1 + 3, "after {allowed} allocations");
        drop(space);
        assert_eq!(board.allocated(), 0);
    }
}

#[test]
fn a_mapping_is_whole_or_not_there() {
    every(|_| {}, |space| space.map(range(BLOCK - PAGE, BLOCK + 2 * PAGE), PAGES, RW));
    every(|_| {}, |space| space.map(range(PAGE, BLOCK), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW));
}

#[test]
fn cutting_a_block_happens_or_does_not() {
    let block = |space: &GuestSpace<Machine>| space.map(range(0, 2 * LARGE), BLOCKS, RW).unwrap();
    every(block, |space| space.unmap(range(BLOCK + PAGE, LARGE)));
    every(block, |space| space.protect(range(BLOCK + PAGE, LARGE), READ));
}

#[test]
fn a_fault_can_be_taken_again() {
    let lazy = |space: &GuestSpace<Machine>| space.map(range(0, BLOCK), LAZY, RW).unwrap();
    every(lazy, |space| {
        let fault =
            Fault { gpa: gpa(0), access: Access::Write, cause: Cause::Translation, origin: Origin::Instruction };
        space.fault(CpuId(0), fault).map(|outcome| assert_eq!(outcome, Outcome::Resolved))
    });
    every(lazy, |space| space.write(gpa(PAGE), b"x"));
}

#[test]
fn a_relocation_stays_where_it_was() {
    let page = |space: &GuestSpace<Machine>| space.map(range(0, PAGE), PAGES, RW).unwrap();
    every(page, |space| space.relocate(range(0, PAGE)).map(|pages| assert_eq!(pages, 1)));
}

#[test]
fn blocks_become_smaller_ones() {
    let board = Board::new();
    let space = board.space();
    board.allow(Some(0));
    assert!(space.map(range(0, LARGE), BLOCKS, RW).is_err());
    board.allow(None);
    assert_eq!(space.stats().areas, 0);
}
