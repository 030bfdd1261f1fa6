//! Regions that go in steps.

use super::*;

#[test]
fn that_were_mapped_for_the_last_time_go_in_steps() {
    for budget in [1, 3, usize::MAX] {
        let board = Board::new();
        let space = board.space();
        let empty = board.allocated();
        let region = space.region(600 * PAGE).unwrap();
        region.writer().unwrap().write(PAGE, &vec![1; 513 * PAGE]).unwrap();
        space.map(range(0, 600 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        space.protect(range(8 * PAGE, PAGE), READ).unwrap();
        assert_eq!(fault(&space, 2 * PAGE, Access::Write), Outcome::Resolved);
        let tables = board.allocated() - empty - 513;
        drop(region);
        let mut unmapping = space.unmap_in_steps(range(0, 600 * PAGE)).unwrap();
        assert_eq!(all_steps(&board, budget, |budget| unmapping.step(budget)), 513 + tables);
        assert_eq!(board.allocated(), empty);
    }
}

#[test]
fn that_another_space_has_stay_until_it_lets_go_of_each_page() {
    let board = Board::new();
    let (space, other) = (board.space(), board.space());
    let region = space.region(4 * PAGE).unwrap();
    let shared = || Mapping::Shared { region: region.clone(), offset: 0 };
    for space in [&space, &other] {
        space.map(range(0, 4 * PAGE), shared(), RW).unwrap();
        space.write(gpa(0), b"here").unwrap();
    }
    space.unmap(range(0, 4 * PAGE)).unwrap();
    assert_eq!((region.frames(), other.read_obj::<[u8; 4]>(gpa(0))), (1, Ok(*b"here")));
    drop(region);
    other.write(gpa(3 * PAGE), b"stay").unwrap();
    let mut unmapping = other.unmap_in_steps(range(0, 2 * PAGE)).unwrap();
    board.events();
    assert_eq!((unmapping.step(usize::MAX), freed(&board)), (Progress::Done, 1));
    assert_eq!(other.read_obj::<[[u8; 4]; 1]>(gpa(3 * PAGE)), Ok([*b"stay"]));
}

#[test]
fn that_stood_behind_others_go_in_steps_too() {
    for budget in [1, 2, usize::MAX] {
        let board = Board::new();
        let space = board.space();
        let empty = board.allocated();
        space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
        space.map(range(BLOCK, 8 * PAGE), PAGES, RW).unwrap();
        for turn in 0..4 {
            let _snapshot = space.snapshot().unwrap();
            space.write(gpa(turn * PAGE), &[1; PAGE]).unwrap();
            space.write(gpa(BLOCK + turn * PAGE), &[1; PAGE]).unwrap();
        }
        let taken = board.allocated() - empty;
        let mut unmapping = space.unmap_in_steps(range(0, LARGE)).unwrap();
        assert_eq!(all_steps(&board, budget, |budget| unmapping.step(budget)), taken);
        assert_eq!(board.allocated(), empty);
    }
}

/// Each snapshot's region keeps the one before it. Each was freed by a call within the call that freed the next one.
#[test]
fn of_a_long_line_of_snapshots_need_no_deep_stack() {
    let line = || {
        let board = Board::new();
        for handle_goes_last in [true, false] {
            let space = board.space();
            space.map(range(0, PAGE), PAGES, RW).unwrap();
            let mut last = (0..2000).map(|_| space.snapshot().unwrap()).last();
            if handle_goes_last {
                space.unmap(range(0, PAGE)).unwrap();
            }
            last.take();
            drop(space);
            assert_eq!(board.allocated(), 0);
        }
    };
    std::thread::Builder::new().stack_size(128 << 10).spawn(line).unwrap().join().unwrap();
}
