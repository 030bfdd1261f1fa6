//! Unmapping and protecting one page, which goes a way of its own where its leaf and its area allow that.

use super::*;

/// What happened, without the frames' addresses.
fn log(board: &Board) -> Vec<&'static str> {
    let name = |event: &Event| match event {
        Event::Invalidated(_) => "invalidated",
        Event::Freed(..) => "freed",
        _ => "other",
    };
    board.events().iter().map(name).collect()
}

/// The areas, by pages: where each begins and ends.
fn areas(space: &GuestSpace<Machine>) -> Vec<(usize, usize)> {
    let all = space.areas().unwrap();
    all.iter().map(|area| (area.range.start.as_usize() / PAGE, area.range.end.as_usize() / PAGE)).collect()
}

#[test]
fn goes_from_the_middle_the_start_the_end_and_last_of_all_whole() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    let empty = board.allocated();
    space.map(range(2 * PAGE, 5 * PAGE), PAGES, RW).unwrap();
    for (page, rest) in [
        (4, vec![(0, 1), (2, 4), (5, 7)]),
        (2, vec![(0, 1), (3, 4), (5, 7)]),
        (6, vec![(0, 1), (3, 4), (5, 6)]),
        (3, vec![(0, 1), (5, 6)]),
        (5, vec![(0, 1)]),
    ] {
        board.events();
        space.unmap(range(page * PAGE, PAGE)).unwrap();
        assert_eq!(log(&board), ["invalidated", "freed"], "page {page}");
        assert_eq!(areas(&space), rest, "page {page}");
        let is_there = |at: usize| rest.iter().any(|&(start, end)| (start..end).contains(&at));
        assert!((0..8).all(|at| space.translate(gpa(at * PAGE)).is_some() == is_there(at)), "page {page}");
    }
    assert_eq!(board.allocated(), empty);
    assert_eq!(space.stats().owned_frames, 1);
}

#[test]
fn is_invalidated_as_a_page_while_it_is_marked_and_published_when_it_is_absent() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 3 * PAGE), PAGES, RW).unwrap();
    let table = pages_of(&board, &space);
    let entry = move || {
        // SAFETY: the table is on the board, and only reached as atomics.
        let entry = unsafe { table.get().add(1).as_ref() };
        Toy.decode(Level::PAGE, entry.load(Ordering::Acquire))
    };
    let seen = Arc::new(AtomicU64::new(0));
    let (at_invalidation, at_publication) = (seen.clone(), seen.clone());
    board.on_invalidation(move || {
        at_invalidation.fetch_add(u64::from(matches!(entry(), Entry::Marked(_))), Ordering::Relaxed);
    });
    board.on_publication(move || {
        at_publication.fetch_add(2 * u64::from(entry() == Entry::Absent), Ordering::Relaxed);
    });
    board.events();
    space.unmap(range(PAGE, PAGE)).unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 3, "marked, told, absent");
    let scope = board.events().iter().find_map(|event| match event {
        Event::Invalidated(scope) => Some((scope.range, scope.entries)),
        _ => None,
    });
    assert_eq!(scope, Some((range(PAGE, PAGE), Changed::Leaves(Level::PAGE))));
}

/// A table of pages, which closures take along.
#[derive(Clone, Copy)]
struct Entries(std::ptr::NonNull<AtomicU64>);

// SAFETY: it points into a board that outlives the test's closures, and is only reached as atomics.
unsafe impl Send for Entries {}

impl Entries {
    fn get(self) -> std::ptr::NonNull<AtomicU64> {
        self.0
    }
}

/// The table of the first pages.
fn pages_of(board: &Board, space: &GuestSpace<Machine>) -> Entries {
    let below = |level, table| {
        // SAFETY: as above.
        let first = unsafe { board.pointer(table).cast::<AtomicU64>().as_ref() };
        match Toy.decode(Level(level), first.load(Ordering::Acquire)) {
            Entry::Table(table) => table,
            other => panic!("{other:?}"),
        }
    };
    let root = PhysAddr::from_usize(space.root() as usize);
    Entries(board.pointer(below(1, below(2, below(3, root)))).cast())
}

#[test]
fn of_foreign_memory_is_not_freed() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 3 * PAGE), Mapping::Linear { to: PhysAddr::from_usize(3 * PAGE) }, RW).unwrap();
    board.events();
    space.unmap(range(PAGE, PAGE)).unwrap();
    assert_eq!(log(&board), ["invalidated"]);
    assert_eq!(areas(&space), [(0, 1), (2, 3)]);
}

#[test]
fn that_was_never_touched_needs_no_invalidation() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 3 * PAGE), LAZY, RW).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    board.events();
    space.unmap(range(PAGE, PAGE)).unwrap();
    space.protect(range(2 * PAGE, PAGE), READ).unwrap();
    assert_eq!(board.events(), []);
    assert_eq!(areas(&space), [(0, 1), (2, 3)]);
    assert_eq!(fault(&space, 2 * PAGE, Access::Write), Outcome::Denied { flags: READ });
}

#[test]
fn of_a_region_ends_what_the_region_has_of_it() {
    let board = Board::new();
    let space = board.space();
    let region = space.region(3 * PAGE).unwrap();
    space.map(range(0, 3 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    for page in 0..3 {
        assert_eq!(fault(&space, page * PAGE, Access::Write), Outcome::Resolved);
    }
    let allocated = board.allocated();
    space.unmap(range(0, PAGE)).unwrap();
    assert!(region.freeze().is_err(), "two pages may be written");
    space.protect(range(PAGE, PAGE), READ).unwrap();
    assert!(region.freeze().is_err(), "one page may be written");
    space.unmap(range(2 * PAGE, PAGE)).unwrap();
    region.freeze().unwrap();
    assert_eq!(board.allocated(), allocated, "the frames are the region's");
}

#[test]
fn takes_the_table_that_it_leaves_empty() {
    for other in [1, 2, 31] {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, PAGE), PAGES, RW).unwrap();
        space.map(range(other * PAGE, PAGE), PAGES, RW).unwrap();
        let tables = space.stats().table_frames;
        space.unmap(range(0, PAGE)).unwrap();
        assert_eq!(space.stats().table_frames, tables, "page {other} stays");
        space.unmap(range(other * PAGE, PAGE)).unwrap();
        assert_eq!(space.stats().table_frames, 1, "page {other} was the last");
    }
}

/// A CPU that cannot be told holds the page up, whatever way it went.
#[test]
fn that_a_cpu_cannot_be_told_of_waits() {
    for size in [PAGE, 2 * PAGE] {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let space = board.space();
        space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
        space.enter(CpuId(3), VcpuId(0)).unwrap();
        board.deafen(Some(CpuId(3)));
        let allocated = board.allocated();
        let error = space.unmap(range(2 * PAGE, size)).unwrap_err();
        assert!(matches!(error, Error::Invalidation { range: at, .. } if at == range(2 * PAGE, size)), "{error}");
        assert_eq!(board.allocated(), allocated);
        assert_eq!(areas(&space), [(0, 2), (2 + size / PAGE, 8)]);
        board.deafen(None);
        space.leave(CpuId(3)).unwrap();
        // The next operation finishes it first, and it is freed once.
        space.map(range(2 * PAGE, size), LAZY, RW).unwrap();
        assert_eq!(board.allocated(), allocated - size / PAGE);
        assert!(space.translate(gpa(2 * PAGE)).is_none());
    }
}

#[test]
fn that_is_protected_and_a_cpu_cannot_be_told_of_is_told_of_later() {
    for size in [PAGE, 2 * PAGE] {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let space = board.space();
        space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
        space.enter(CpuId(3), VcpuId(0)).unwrap();
        board.deafen(Some(CpuId(3)));
        assert!(matches!(space.protect(range(2 * PAGE, size), READ), Err(Error::Invalidation { .. })));
        assert_eq!(space.translate(gpa(2 * PAGE)).unwrap().flags, READ);
        assert_eq!(areas(&space), [(0, 2), (2, 2 + size / PAGE), (2 + size / PAGE, 8)]);
        assert!(matches!(space.unmap(range(0, PAGE)), Err(Error::Invalidation { .. })), "it comes first");
        assert!(space.translate(gpa(0)).is_some());
        board.deafen(None);
        space.leave(CpuId(3)).unwrap();
        space.unmap(range(0, PAGE)).unwrap();
    }
}

/// A change in place, one by break-before-make, one that concerns the caches, and none.
#[test]
fn changes_as_the_format_says() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 3 * PAGE), PAGES, RW).unwrap();
    let change = |flags| {
        board.events();
        board.published();
        board.synchronized();
        space.protect(range(PAGE, PAGE), flags).unwrap();
        let found = |at: usize| space.translate(gpa(at * PAGE)).unwrap().flags;
        assert_eq!([found(0), found(1), found(2)], [RW, flags, RW]);
        assert_eq!(space.areas().unwrap().iter().find(|area| area.range.contains(gpa(PAGE))).unwrap().flags, flags);
        (log(&board).len(), board.published(), board.synchronized().len())
    };
    assert_eq!(change(READ), (1, 0, 0), "less");
    assert_eq!(change(READ), (0, 1, 0), "the same");
    assert_eq!(change(RW), (0, 1, 0), "more");
    assert_eq!(change(RWX), (0, 1, 1), "code");
    assert_eq!(change(RW), (1, 0, 0), "less again");
    assert_eq!(change(RW | MappingFlags::UNCACHED), (1, 1, 1), "broken and made");
}

#[test]
fn is_refused_what_its_area_cannot_be() {
    let space = Board::new().space();
    space.map(range(0, 2 * PAGE), PAGES, RW).unwrap();
    let before = space.to_string();
    let flags = READ | MappingFlags::DEVICE;
    assert!(matches!(space.protect(range(0, PAGE), flags), Err(Error::Flags { .. })));
    assert_eq!(space.to_string(), before);
}
