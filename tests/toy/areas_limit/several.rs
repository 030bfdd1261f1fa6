//! Snapshots, restores, and what goes between two guests.

use super::*;

#[test]
fn what_changes_no_area() {
    let fork: Prepare = |scene| {
        scene.space.protect(pages(3, 2), READ).unwrap();
        scene.kept.snapshot = Some(scene.other.snapshot().unwrap());
    };
    cases(&[
        ("a snapshot", fork, |scene| scene.space.snapshot().map(drop), 0, pages(0, 8)),
        ("a snapshot in steps", fork, |scene| scene.space.snapshot_in_steps()?.finish().map(drop), 0, pages(0, 8)),
        ("a move", fork, |scene| scene.space.relocate(pages(0, 8)).map(drop), 0, pages(0, 8)),
        ("a touch", NOTHING, |scene| scene.space.store(gpa(0), 7_u64), 0, pages(0, 1)),
    ]);
}

#[test]
fn a_restore() {
    // Of the other guest there are two parts that touch, and one apart.
    let fork: Prepare = |scene| {
        scene.other.protect(pages(70, 2), READ).unwrap();
        scene.other.map(pages(74, 2), LAZY, RW).unwrap();
        scene.kept.snapshot = Some(scene.other.snapshot().unwrap());
    };
    // Two of different kinds, which the snapshot has apart, and which are one where it is restored.
    let kinds: Prepare = |scene| {
        scene.other.map(pages(72, 2), BLOCKS, RW).unwrap();
        scene.kept.snapshot = Some(scene.other.snapshot().unwrap());
    };
    // A part of what the snapshot has is there already.
    let beside: Prepare = |scene| {
        let snapshot = scene.other.snapshot().unwrap();
        scene.space.restore(&snapshot).unwrap();
        scene.other.unmap(pages(66, 6)).unwrap();
        scene.space.unmap(pages(64, 2)).unwrap();
        scene.kept.snapshot = Some(scene.other.snapshot().unwrap());
    };
    let restore = |scene: &Scene| scene.space.restore(scene.kept.snapshot.as_ref().unwrap());
    cases(&[
        ("of three", fork, restore, 3, pages(64, 12)),
        ("of two that are one", kinds, restore, 1, pages(64, 10)),
        ("beside its brother", beside, restore, 0, pages(64, 2)),
    ]);
}

#[test]
fn a_transfer_at_either_side() {
    let share = |scene: &Scene| scene.space.share(pages(3, 2), &scene.other, gpa(80 * PAGE), RW).map(drop);
    let lend = |scene: &Scene| scene.space.lend(pages(3, 2), &scene.other, gpa(72 * PAGE), RW).map(drop);
    let donate = |scene: &Scene| scene.space.donate(pages(3, 2), &scene.other, gpa(80 * PAGE), RW, Handover::Keep);
    let beside: Prepare = |scene| scene.other.map(pages(82, 2), BLOCKS, RW).unwrap();
    let between: Prepare = |scene| {
        scene.other.map(pages(82, 2), BLOCKS, RW).unwrap();
        scene.other.map(pages(78, 2), BLOCKS, RW).unwrap();
    };
    // What is left to it of a snapshot is made its own only when nothing is in the way.
    let left: Prepare = |scene| drop(scene.space.snapshot().unwrap());
    let (at, all) = (pages(80, 2), pages(3, 2));
    let case = |name, prepare, of, operation, adds, names| hold(&Case { name, prepare, of, operation, adds, names });
    case("shared, at its owner", NOTHING, first as fn(&Scene) -> &Space, share, 0, all);
    case("shared", NOTHING, second, share, 1, at);
    case("shared of a snapshot", left, second, share, 1, at);
    case("lent, at its owner", NOTHING, first, lend, 0, all);
    case("lent", NOTHING, second, lend, 1, pages(72, 2));
    case("given, at its owner", NOTHING, first, donate, 1, all);
    case("given, at its owner, of a snapshot", left, first, donate, 1, all);
    case("given", NOTHING, second, donate, 1, at);
    case("given beside the same", beside, second, donate, 0, at);
    case("given between the same", between, second, donate, -1, at);
}

#[test]
fn what_is_taken_back() {
    let loan: Prepare =
        |scene| scene.kept.loan = Some(scene.space.lend(pages(0, 8), &scene.other, gpa(80 * PAGE), RW).unwrap());
    let cut: Prepare = |scene| {
        scene.kept.loan = Some(scene.space.share(pages(0, 8), &scene.other, gpa(80 * PAGE), RW).unwrap());
        scene.other.unmap(pages(82, 1)).unwrap();
        scene.other.map(pages(82, 1), LAZY, RW).unwrap();
        scene.other.protect(pages(86, 2), READ).unwrap();
    };
    let case = |name, prepare, operation, adds, names| {
        hold(&Case { name, prepare, of: second, operation, adds, names });
    };
    let middle: Operation =
        |scene| scene.space.reclaim_part(scene.kept.loan.as_ref().unwrap(), pages(3, 2), &scene.other, Handover::Keep);
    let end: Operation =
        |scene| scene.space.reclaim_part(scene.kept.loan.as_ref().unwrap(), pages(6, 2), &scene.other, Handover::Keep);
    // From within the first of its three areas into the last.
    let across: Operation =
        |scene| scene.space.reclaim_part(scene.kept.loan.as_ref().unwrap(), pages(1, 6), &scene.other, Handover::Keep);
    let whole: Operation = |scene| scene.space.reclaim(scene.kept.loan.as_ref().unwrap(), &scene.other, Handover::Keep);
    case("the middle", loan, middle, 1, pages(83, 2));
    case("the end", loan, end, 0, pages(86, 2));
    case("all", loan, whole, -1, pages(80, 8));
    case("one of several", cut, across, -1, pages(81, 6));
    case("several", cut, whole, -3, pages(80, 8));
}
