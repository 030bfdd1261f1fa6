//! Protecting in steps.

use stage2::region::RegionError;

use super::*;

/// Calls `step` until it is done: how often.
fn steps(mut protecting: stage2::space::Protecting<'_, Machine, stage2::lock::Spin>, entries: usize) -> usize {
    let mut count = 1;
    while protecting.step(entries).unwrap() == Progress::More {
        assert!(!protecting.rest().is_empty());
        count += 1;
    }
    assert!(protecting.rest().is_empty());
    assert_eq!(protecting.step(entries), Ok(Progress::Done));
    count
}

#[test]
fn in_steps_of_any_size_comes_to_the_same() {
    let board = Board::new();
    let whole = range(2 * PAGE, 2 * LARGE);
    let space = || {
        let space = board.space();
        space.map(range(0, BLOCK), PAGES, RW).unwrap();
        space.map(range(BLOCK, LARGE), LAZY, RW).unwrap();
        assert_eq!(fault(&space, 3 * BLOCK, Access::Write), Outcome::Resolved);
        space.map(range(LARGE + BLOCK, LARGE), BLOCKS, RW).unwrap();
        space.map(range(2 * LARGE + BLOCK, BLOCK), PAGES, READ).unwrap();
        space
    };
    let expected = space();
    expected.protect(whole, READ).unwrap();
    let mut counts = Vec::new();
    for entries in [1, 2, 7, 100, usize::MAX] {
        let stepped = space();
        counts.push(steps(stepped.protect_in_steps(whole, READ).unwrap(), entries));
        assert_eq!(stepped.to_string(), expected.to_string());
        assert_eq!(stepped.areas(), expected.areas());
        assert_eq!(fault(&stepped, 3 * PAGE, Access::Write), Outcome::Denied { flags: READ });
    }
    assert!(counts.is_sorted_by(|more, fewer| more > fewer), "{counts:?}");
    assert_eq!(counts[4], 1);
}

#[test]
fn leaves_a_part_complete_and_the_rest_untouched() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 2 * BLOCK), PAGES, RW).unwrap();
    let mut protecting = space.protect_in_steps(range(PAGE, BLOCK), READ).unwrap();
    board.events();
    assert_eq!(protecting.step(0), Ok(Progress::More));
    assert_eq!((board.events(), protecting.rest()), (vec![], range(PAGE, BLOCK)));
    for step in 1..=3 {
        assert_eq!(protecting.step(2), Ok(Progress::More));
        let done = 1 + 2 * step;
        assert_eq!(protecting.rest(), range(done * PAGE, BLOCK + PAGE - done * PAGE));
        let scopes = board.events();
        assert!(matches!(scopes[..], [Event::Invalidated(scope)] if scope.range.size() == 2 * PAGE), "{scopes:?}");
        for (page, flags) in [(0, RW), (1, READ), (done - 1, READ), (done, RW), (33, RW)] {
            assert_eq!(space.translate(gpa(page * PAGE)).unwrap().flags, flags, "{page}");
            assert_eq!(space.area(gpa(page * PAGE)).unwrap().flags, flags, "{page}");
        }
        assert_eq!(space.stats().areas, 3, "what is done is one area");
    }
    drop(protecting);
    assert_eq!(space.translate(gpa(7 * PAGE)).unwrap().flags, RW);
    space.protect(range(0, 2 * BLOCK), RW).unwrap();
}

#[test]
fn goes_over_many_areas_without_tables_a_few_at_a_time() {
    let space = Board::new().space();
    for area in 0..20 {
        space.map(range(area * PAGE, PAGE), LAZY, if area % 2 == 0 { RW } else { RWX }).unwrap();
    }
    let mut protecting = space.protect_in_steps(range(0, 20 * PAGE), READ).unwrap();
    assert_eq!(protecting.step(3), Ok(Progress::More));
    assert_eq!(protecting.rest(), range(3 * PAGE, 17 * PAGE));
    // A step that ends between two areas cuts none; the three that have the same flags now are one.
    drop(protecting);
    assert_eq!(space.stats().areas, 18);
}

#[test]
fn to_the_same_flags_cuts_no_area() {
    let space = Board::new().space();
    space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
    space.protect(range(PAGE, PAGE), RW).unwrap();
    assert_eq!(space.stats().areas, 1);
    let _ = steps(space.protect_in_steps(range(PAGE, 4 * PAGE), RW).unwrap(), 1);
    assert_eq!((space.stats().areas, space.stats().leaves), (1, [0, 1, 0, 0, 0]));
    // At one end, and around.
    space.protect(range(PAGE, 2 * PAGE), READ).unwrap();
    space.protect(range(2 * PAGE, 2 * PAGE), READ).unwrap();
    space.protect(range(PAGE, PAGE), READ).unwrap();
    let areas: Vec<_> = space.areas().unwrap().iter().map(|area| (area.range, area.flags)).collect();
    assert_eq!(areas, [(range(0, PAGE), RW), (range(PAGE, 3 * PAGE), READ), (range(4 * PAGE, 28 * PAGE), RW)]);
}

#[test]
fn is_refused_before_anything_changed() {
    let board = Board::new();
    let space = board.space();
    let region = space.region(2 * PAGE).unwrap();
    region.freeze().unwrap();
    space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
    let frozen = Mapping::Shared { region, offset: 0 };
    space.map(range(8 * PAGE, 2 * PAGE), frozen, READ).unwrap();
    space
        .map(range(10 * PAGE, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW | MappingFlags::DEVICE)
        .unwrap();
    space.map(range(20 * PAGE, PAGE), PAGES, RW).unwrap();
    let before = space.to_string();
    let refusal = |start, pages, flags| {
        let mut protecting = space.protect_in_steps(range(start, pages * PAGE), flags).unwrap();
        let error = protecting.step(1).unwrap_err();
        assert_eq!(protecting.rest(), range(start, pages * PAGE));
        error
    };
    let writable = refusal(0, 10, RWX);
    assert_eq!(writable, Error::Region { range: range(8 * PAGE, 2 * PAGE), cause: RegionError::Frozen });
    assert_eq!(refusal(0, 11, READ), Error::NotMemory(range(10 * PAGE, PAGE)));
    assert_eq!(refusal(10 * PAGE, 11, RW | MappingFlags::DEVICE), Error::NotMapped(range(11 * PAGE, 9 * PAGE)));
    assert_eq!(space.to_string(), before);
    assert!(matches!(space.protect_in_steps(range(1, PAGE), READ), Err(Error::Misaligned(_))));
}

#[test]
fn names_what_others_took_meanwhile_and_goes_on_when_it_is_back() {
    let space = Board::new().space();
    space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
    let mut protecting = space.protect_in_steps(range(0, 8 * PAGE), READ).unwrap();
    assert_eq!(protecting.step(2), Ok(Progress::More));
    space.unmap(range(3 * PAGE, PAGE)).unwrap();
    assert_eq!(protecting.step(3), Err(Error::NotMapped(range(3 * PAGE, PAGE))));
    assert_eq!(protecting.rest(), range(2 * PAGE, 6 * PAGE));
    assert_eq!(space.translate(gpa(2 * PAGE)).unwrap().flags, RW);
    space.map(range(3 * PAGE, PAGE), LAZY, RW).unwrap();
    assert_eq!(protecting.step(usize::MAX), Ok(Progress::Done));
    assert_eq!(fault(&space, 3 * PAGE, Access::Write), Outcome::Denied { flags: READ });
}

#[test]
fn keeps_regions_from_being_frozen_until_it_ends() {
    let space = Board::new().space();
    let regions = [0, 8 * PAGE].map(|at| {
        let region = space.region(8 * PAGE).unwrap();
        space.map(range(at, 8 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, READ).unwrap();
        region
    });
    (0..16).for_each(|page| assert_eq!(fault(&space, page * PAGE, Access::Read), Outcome::Resolved));
    let mut protecting = space.protect_in_steps(range(0, 16 * PAGE), RW).unwrap();
    assert_eq!(protecting.step(1), Ok(Progress::More));
    // The first step counted all of the range as writable.
    assert!(matches!(regions[1].freeze(), Err(RegionError::Written { .. })));
    assert_eq!(protecting.step(4), Ok(Progress::More));
    drop(protecting);
    assert_eq!(regions[0].freeze(), Err(RegionError::Written { mapped: 5 * PAGE, handles: 0 }));
    assert_eq!(regions[1].freeze(), Ok(()));
    space.protect(range(0, 8 * PAGE), READ).unwrap();
    assert_eq!(regions[0].freeze(), Ok(()));
}

#[test]
fn that_a_cpu_cannot_be_told_of_is_tried_again() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
    let whole = range(0, 8 * PAGE);
    let mut protecting = space.protect_in_steps(whole, READ).unwrap();
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    for _ in 0..2 {
        assert!(matches!(protecting.step(2), Err(Error::Invalidation { .. })));
        assert_eq!(protecting.rest(), whole);
    }
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    while protecting.step(2).unwrap() == Progress::More {}
    assert_eq!((space.stats().areas, space.area(gpa(0)).unwrap().range), (1, whole));
    assert_eq!(space.translate(gpa(7 * PAGE)).unwrap().flags, READ);
}

#[test]
fn without_memory_for_a_split_leaves_what_is_done() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 4 * BLOCK), BLOCKS, RW).unwrap();
    let mut protecting = space.protect_in_steps(range(0, 2 * BLOCK + PAGE), READ).unwrap();
    board.allow(Some(0));
    assert_eq!(protecting.step(2), Ok(Progress::More));
    let rest = range(2 * BLOCK, PAGE);
    assert_eq!(protecting.step(2), Err(Error::NoMemory(rest)));
    assert_eq!((protecting.rest(), space.translate(gpa(2 * BLOCK)).unwrap().flags), (rest, RW));
    board.allow(None);
    assert_eq!(protecting.step(2), Ok(Progress::Done));
    assert_eq!(space.stats().areas, 2);
}
