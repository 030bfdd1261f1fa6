//! The end of a space.

use super::*;

#[test]
fn gives_everything_back_after_everything_was_forgotten() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, LARGE), BLOCKS, RW).unwrap();
    space.map(range(LARGE, LARGE), PAGES, RW).unwrap();
    space.unmap(range(PAGE, BLOCK)).unwrap();
    board.events();
    drop(space);
    assert_eq!(board.events()[0], Event::InvalidatedAll);
    assert_eq!(board.allocated(), 0);
}

#[test]
fn leaks_rather_than_frees_under_a_cpu_in_the_guest() {
    let board = Board::new();
    let space = board.space();
    space.enter(CpuId(2), VcpuId(0)).unwrap();
    let allocated = board.allocated();
    drop(space);
    assert_eq!(board.allocated(), allocated);
}

/// What it shares with a snapshot that is gone is reached by that CPU as what it has for itself is.
#[test]
fn leaks_what_it_inherited_too() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 4 * PAGE), LAZY, RW).unwrap();
    space.write(gpa(0), &[7; 2 * PAGE]).unwrap();
    drop(space.snapshot().unwrap());
    space.enter(CpuId(2), VcpuId(0)).unwrap();
    let allocated = board.allocated();
    drop(space);
    assert_eq!(board.allocated(), allocated);
}
