//! Areas that touch and agree are one, whichever calls made them: what a guest does for long leaves no trace.

use stage2::loan::Handover;

use super::*;

fn areas(space: &GuestSpace<Machine>) -> Vec<(usize, usize)> {
    let all = space.areas().unwrap();
    all.iter().map(|area| (area.range.start.as_usize() / PAGE, area.range.end.as_usize() / PAGE)).collect()
}

#[test]
fn become_one_in_whatever_order_they_are_mapped() {
    for mapping in [PAGES, LAZY] {
        let space = Board::new().space();
        for page in (0..512).step_by(2).chain((1..512).step_by(2)) {
            space.map(range(page * PAGE, PAGE), mapping.clone(), RW).unwrap();
        }
        assert_eq!(areas(&space), [(0, 512)]);
        space.unmap(range(0, 512 * PAGE)).unwrap();
        assert_eq!((space.stats().areas, space.usage().frames, space.usage().table_frames), (0, 0, 1));
    }
}

#[test]
fn of_linear_memory_become_one_where_they_go_on_in_the_host_too() {
    let space = Board::new().space();
    let linear = |page: usize| Mapping::Linear { to: PhysAddr::from_usize(page * PAGE) };
    for (page, to) in [(0, 10), (1, 11), (2, 13), (3, 14), (5, 16)] {
        space.map(range(page * PAGE, PAGE), linear(to), RW).unwrap();
    }
    assert_eq!(areas(&space), [(0, 2), (2, 4), (5, 6)]);
}

#[test]
fn that_differ_stay_apart() {
    let space = Board::new().space();
    for (page, mapping, flags) in
        [(0, PAGES, RW), (1, PAGES, READ), (2, BLOCKS, READ), (3, LAZY_BLOCKS, READ), (5, LAZY, READ)]
    {
        space.map(range(page * PAGE, PAGE), mapping, flags).unwrap();
    }
    let region = space.region(2 * PAGE).unwrap();
    for page in [6, 7] {
        let mapping = Mapping::Shared { region: region.clone(), offset: (7 - page) * PAGE };
        space.map(range(page * PAGE, PAGE), mapping, READ).unwrap();
    }
    assert_eq!(areas(&space), [(0, 1), (1, 2), (2, 4), (5, 6), (6, 7), (7, 8)]);
}

#[test]
fn are_one_again_when_a_page_came_back() {
    let space = Board::new().space();
    space.map(range(0, 512 * PAGE), PAGES, RW).unwrap();
    for page in 0..512 {
        space.unmap(range(page * PAGE, PAGE)).unwrap();
        space.map(range(page * PAGE, PAGE), PAGES, RW).unwrap();
        space.protect(range(page * PAGE, PAGE), READ).unwrap();
        space.protect(range(page * PAGE, PAGE), RW).unwrap();
        assert_eq!(areas(&space), [(0, 512)], "page {page}");
    }
    // Several pages go another way than one.
    space.protect(range(3 * PAGE, 5 * PAGE), READ).unwrap();
    space.protect(range(PAGE, 9 * PAGE), READ).unwrap();
    assert_eq!(areas(&space), [(0, 1), (1, 10), (10, 512)]);
    space.protect(range(0, 20 * PAGE), RW).unwrap();
    assert_eq!(areas(&space), [(0, 512)]);
}

#[test]
fn become_one_when_memory_comes_by_a_transfer() {
    let board = Board::new();
    let (giver, taker) = (board.space(), board.space());
    giver.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
    taker.map(range(0, PAGE), BLOCKS, RW).unwrap();
    taker.map(range(2 * PAGE, PAGE), BLOCKS, RW).unwrap();
    giver.donate(range(3 * PAGE, PAGE), &taker, gpa(PAGE), RW, Handover::Zero).unwrap();
    assert_eq!((areas(&taker), areas(&giver)), (vec![(0, 3)], vec![(0, 3), (4, 8)]));
    drop(giver.make_shared(range(5 * PAGE, PAGE)).unwrap());
    assert_eq!(areas(&giver), [(0, 3), (4, 5), (5, 6), (6, 8)]);
    giver.make_private(range(5 * PAGE, PAGE), Handover::Keep).unwrap();
    assert_eq!(areas(&giver), [(0, 3), (4, 8)]);
}

/// Two kinds of private memory become one region's, and private again.
#[test]
fn become_one_when_all_of_them_change_their_kind() {
    let space = Board::new().space();
    space.map(range(0, 2 * PAGE), PAGES, RW).unwrap();
    space.map(range(2 * PAGE, 2 * PAGE), BLOCKS, RW).unwrap();
    assert_eq!(areas(&space), [(0, 2), (2, 4)]);
    drop(space.make_shared(range(0, 4 * PAGE)).unwrap());
    assert_eq!(areas(&space), [(0, 4)]);
}

/// How they came to be told apart is no matter any more.
#[test]
fn become_one_in_a_snapshot_and_in_what_starts_from_it() {
    let board = Board::new();
    let (parent, child) = (board.space(), board.space());
    parent.map(range(0, 2 * PAGE), PAGES, RW).unwrap();
    parent.map(range(2 * PAGE, 2 * PAGE), BLOCKS, RW).unwrap();
    parent.store(gpa(2 * PAGE), 7_u64).unwrap();
    let snapshot = parent.snapshot().unwrap();
    child.restore(&snapshot).unwrap();
    for space in [&parent, &child] {
        assert_eq!((areas(space), space.load(gpa(2 * PAGE))), (vec![(0, 4)], Ok(7_u64)));
    }
    child.unmap(range(PAGE, PAGE)).unwrap();
    assert_eq!(areas(&child), [(0, 1), (2, 4)]);
}
