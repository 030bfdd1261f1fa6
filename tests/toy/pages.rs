//! A few pages in one table have short ways of their own: what they look at before they take one.

use super::*;

/// Pages here and there, each with its address in it.
fn pages(board: &Board, at: &[usize]) -> GuestSpace<Machine> {
    let space = board.space();
    for &at in at {
        space.map(range(at, PAGE), PAGES, RW).unwrap();
        space.write_obj(gpa(at), at as u64).unwrap();
    }
    space
}

fn assert_alone(space: &GuestSpace<Machine>, at: &[usize]) {
    for &at in at {
        assert_eq!(space.read_obj(gpa(at)), Ok(at as u64), "{at:#x}");
    }
    let (stats, usage) = (space.stats(), space.usage());
    assert_eq!(stats.leaves, [at.len(), 0, 0, 0, 0]);
    assert_eq!((stats.owned_frames, stats.table_frames), (usage.frames, usage.table_frames));
}

/// A table goes with its last page: one that is far from what goes keeps it, on either side.
#[test]
fn far_from_what_goes_keep_their_table() {
    for kept in [0, 1, 30, 31].map(|page| page * PAGE) {
        let board = Board::new();
        let space = pages(&board, &[kept, 14 * PAGE, 16 * PAGE]);
        space.unmap(range(13 * PAGE, 5 * PAGE)).unwrap();
        assert_alone(&space, &[kept]);
        space.unmap(range(kept, PAGE)).unwrap();
        assert_eq!((space.stats().table_frames, board.allocated()), (1, 1));
    }
}

/// Likewise where a range covers a part of a table at its start, at its end or at both, and nothing else is mapped.
#[test]
fn below_the_ends_of_a_range_keep_the_tables_above() {
    for kept in [&[BLOCK][..], &[3 * BLOCK + 9 * PAGE], &[BLOCK, 3 * BLOCK + 9 * PAGE], &[BLOCK + 2 * PAGE]] {
        let board = Board::new();
        let space = pages(&board, &[BLOCK + 5 * PAGE, 2 * BLOCK, 3 * BLOCK + PAGE]);
        for &at in kept {
            space.map(range(at, PAGE), PAGES, RW).unwrap();
            space.write_obj(gpa(at), at as u64).unwrap();
        }
        space.unmap(range(BLOCK + 4 * PAGE, 2 * BLOCK)).unwrap();
        assert_alone(&space, kept);
    }
}

/// What is absent or stays the same between two pages hides neither of them.
#[test]
fn of_other_kinds_in_between_are_passed_over() {
    let board = Board::new();
    let space = pages(&board, &[0, 2 * PAGE, 3 * PAGE, 6 * PAGE, 9 * PAGE]);
    let device = Mapping::Linear { to: PhysAddr::from_usize(LARGE) };
    space.map(range(4 * PAGE, PAGE), device.clone(), READ | MappingFlags::DEVICE).unwrap();
    space.unmap(range(PAGE, 6 * PAGE)).unwrap();
    assert_alone(&space, &[0, 9 * PAGE]);
    assert_eq!(space.unmap(range(PAGE, 6 * PAGE)), Err(Error::NotMapped(range(PAGE, 6 * PAGE))));
    assert_eq!(board.allocated(), 6);

    // Likewise of a change that breaks: it is marked, and made when no CPU has the old one.
    space.map(range(2 * PAGE, 4 * PAGE), device, READ).unwrap();
    space.protect(range(3 * PAGE, PAGE), READ | MappingFlags::DEVICE).unwrap();
    space.protect(range(2 * PAGE, 4 * PAGE), READ | MappingFlags::DEVICE).unwrap();
    let found: Vec<_> = (2..6).map(|page| space.translate(gpa(page * PAGE)).map(|found| found.flags)).collect();
    assert_eq!(found, [Some(READ | MappingFlags::DEVICE); 4]);
}

/// A mapping that needs no table is the same as one that is built and grafted.
#[test]
fn mapped_into_a_table_that_is_there_are_those_that_were_asked_for() {
    let board = Board::new();
    let space = pages(&board, &[0]);
    let to = PhysAddr::from_usize(LARGE);
    for (start, count) in [(1, 1), (2, 1), (3, 9), (12, 20)] {
        let allocated = board.allocated();
        let target = to + start * PAGE;
        space.map(range(start * PAGE, count * PAGE), Mapping::Linear { to: target }, READ).unwrap();
        assert_eq!(board.allocated(), allocated);
    }
    for page in 1..32 {
        let found = space.translate(gpa(page * PAGE)).unwrap();
        assert_eq!((found.hpa, found.flags, found.size), (to + page * PAGE, READ, PAGE));
    }
    assert_eq!(space.translate(gpa(BLOCK)), None);
}

/// Entries are published to the walkers, whether or not an invalidation follows.
#[test]
fn are_published_whichever_way_they_change() {
    type Change = fn(&GuestSpace<Machine>);
    let changes: [(&str, Change); 5] = [
        ("map", |s| s.map(range(PAGE, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, READ).unwrap()),
        ("raise", |s| s.protect(range(4 * PAGE, PAGE), RWX).unwrap()),
        ("raise all", |s| s.protect(range(4 * PAGE, 2 * BLOCK), RWX).unwrap()),
        ("break", |s| s.protect(range(8 * PAGE, PAGE), READ | MappingFlags::UNCACHED).unwrap()),
        ("break across tables", |s| s.protect(range(8 * PAGE, BLOCK), READ | MappingFlags::UNCACHED).unwrap()),
    ];
    for (name, change) in changes {
        let board = Board::new();
        let space = board.space();
        space.map(range(4 * PAGE, 2 * BLOCK), PAGES, RW).unwrap();
        board.published();
        change(&space);
        assert!(board.published() > 0, "{name}");
    }
}

/// H14: what becomes code is brought in step page by page, and what stays as it was is not.
#[test]
fn that_become_code_are_brought_in_step() {
    let board = Board::new();
    let space = pages(&board, &[0, PAGE, 2 * PAGE]);
    space.protect(range(2 * PAGE, PAGE), RWX).unwrap();
    let at = [0, PAGE].map(|at| (space.translate(gpa(at)).unwrap().hpa, PAGE, Content::of(RWX)));
    board.synchronized();
    space.protect(range(0, 3 * PAGE), RWX).unwrap();
    assert_eq!(board.synchronized(), at);
}
