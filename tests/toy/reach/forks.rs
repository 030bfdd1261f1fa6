//! Guests from one template: whatever the order in which they write, unmap and die, a page is there as long as one of
//! them reaches it.

use super::{machine::space, *};

/// How many pages the template has.
const COUNT: usize = 16;

type Space = GuestSpace<Host>;

fn part(pages: Range<usize>) -> stage2::GuestPhysRange {
    super::super::range(pages.start * PAGE, pages.len() * PAGE)
}

/// A template with all its pages, its snapshot, and a guest from it for each of `pooled`.
fn family<const N: usize>(board: &Board, pooled: [bool; N]) -> (Space, Snapshot, [Space; N]) {
    let template = space(board, true);
    template.map(part(0..COUNT), LAZY, RW).unwrap();
    write(&template, 0..COUNT, 1000);
    let snapshot = template.snapshot().unwrap();
    let children = pooled.map(|pooled| {
        let child = space(board, pooled);
        child.restore(&snapshot).unwrap();
        child
    });
    (template, snapshot, children)
}

fn write(space: &Space, pages: Range<usize>, value: u64) {
    pages.for_each(|page| space.store(gpa(page * PAGE), value + page as u64).unwrap());
}

fn has(space: &Space, pages: Range<usize>, value: u64) {
    pages.for_each(|page| assert_eq!(space.load(gpa(page * PAGE)), Ok(value + page as u64), "page {page}"));
}

/// All that two guests may be: with a pool, and without.
const PAIRS: [[bool; 2]; 4] = [[true, true], [true, false], [false, true], [false, false]];

#[test]
fn two_that_wrote_everything_have_twice_the_template() {
    for pair in PAIRS {
        let board = Board::new();
        let (template, snapshot, [one, two]) = family(&board, pair);
        drop((template, snapshot));
        assert_eq!(held(&board, [&one, &two]), COUNT);
        for page in 0..COUNT {
            write(&one, page..page + 1, 100);
            assert_eq!(held(&board, [&one, &two]), COUNT + page + 1, "{pair:?}");
        }
        for page in 0..COUNT {
            write(&two, page..page + 1, 200);
            assert_eq!(held(&board, [&one, &two]), 2 * COUNT, "{pair:?}: page {page}");
        }
        has(&one, 0..COUNT, 100);
        has(&two, 0..COUNT, 200);
        assert_eq!([&one, &two].map(|space| space.usage().frames), [COUNT; 2]);
        drop(one);
        assert_eq!(held(&board, [&two]), COUNT);
        drop(two);
        assert_eq!(board.allocated(), 0);
    }
}

/// The snapshot and the template itself go one after the other, in either order, and before or after the writing.
#[test]
fn the_template_stays_as_long_as_something_of_it_does() {
    for pair in PAIRS {
        for snapshot_first in [true, false] {
            let board = Board::new();
            let (template, snapshot, [one, two]) = family(&board, pair);
            write(&one, 0..COUNT, 100);
            write(&two, 0..COUNT, 200);
            assert_eq!(held(&board, [&template, &one, &two]), 3 * COUNT);
            if snapshot_first {
                drop(snapshot);
                assert_eq!(held(&board, [&template, &one, &two]), 3 * COUNT);
                has(&template, 0..COUNT, 1000);
                drop(template);
            } else {
                drop(template);
                assert_eq!(held(&board, [&one, &two]), 3 * COUNT);
                assert_eq!(snapshot.region().load(PAGE), Ok(1001_u64));
                drop(snapshot);
            }
            assert_eq!(held(&board, [&one, &two]), 2 * COUNT, "{pair:?}");
        }
    }
}

#[test]
fn what_is_left_of_the_family_is_exact() {
    for pair in PAIRS {
        let board = Board::new();
        let (template, snapshot, [one, two]) = family(&board, pair);
        write(&one, 0..5, 100);
        assert_eq!(held(&board, [&template, &one, &two]), COUNT + 5);
        drop((template, snapshot));
        assert_eq!(held(&board, [&one, &two]), COUNT + 5);
        drop(one);
        assert_eq!(held(&board, [&two]), COUNT);
        has(&two, 0..COUNT, 1000);
        write(&two, 0..COUNT, 200);
        assert_eq!((held(&board, [&two]), two.usage().frames), (COUNT, COUNT), "{pair:?}");
    }
}

/// The one that unmaps is the last that could reach these pages.
#[test]
fn what_the_sibling_has_copied_goes_with_the_last_mapping() {
    for pair in PAIRS {
        let board = Board::new();
        let (template, snapshot, [one, two]) = family(&board, pair);
        drop((template, snapshot));
        write(&one, 0..COUNT / 2, 100);
        assert_eq!(held(&board, [&one, &two]), COUNT + COUNT / 2);
        two.unmap(part(0..COUNT / 2)).unwrap();
        assert_eq!(held(&board, [&one, &two]), COUNT, "{pair:?}");
        has(&one, 0..COUNT / 2, 100);
        has(&one, COUNT / 2..COUNT, 1000);
        has(&two, COUNT / 2..COUNT, 1000);
    }
}

#[test]
fn what_the_sibling_has_unmapped_goes_with_the_last_mapping() {
    for pair in PAIRS {
        let board = Board::new();
        let (template, snapshot, [one, two]) = family(&board, pair);
        drop((template, snapshot));
        one.unmap(part(0..COUNT / 2)).unwrap();
        assert_eq!(held(&board, [&one, &two]), COUNT);
        for page in 0..COUNT / 2 {
            two.unmap(part(page..page + 1)).unwrap();
            assert_eq!(held(&board, [&one, &two]), COUNT - page - 1, "{pair:?}");
        }
        // Memory that comes back there is new.
        for space in [&one, &two] {
            space.map(part(0..COUNT / 2), LAZY, RW).unwrap();
            assert_eq!(space.load(gpa(0)), Ok(0_u64));
        }
        assert_eq!(held(&board, [&one, &two]), COUNT / 2 + 2);
    }
}

/// What was inherited twice is let go twice: by a guest that was forked from a fork.
#[test]
fn the_pages_of_grandparents_go_too() {
    let board = Board::new();
    let (template, snapshot, [child]) = family(&board, [true]);
    drop((template, snapshot));
    write(&child, 0..4, 100);
    let grandchild = space(&board, true);
    grandchild.restore(&child.snapshot().unwrap()).unwrap();
    // The child was alone, and took what it wrote.
    assert_eq!(held(&board, [&child, &grandchild]), COUNT);
    write(&grandchild, 2..8, 200);
    assert_eq!(held(&board, [&child, &grandchild]), COUNT + 6);
    child.unmap(part(0..6)).unwrap();
    assert_eq!(held(&board, [&child, &grandchild]), COUNT + 6 - 4);
    drop(child);
    assert_eq!(held(&board, [&grandchild]), COUNT);
    has(&grandchild, 0..2, 100);
    has(&grandchild, 2..8, 200);
    has(&grandchild, 8..COUNT, 1000);
}
