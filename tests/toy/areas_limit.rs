//! No more areas than a space may have: each operation at the limit, to the area, and whatever is refused changes nothing.

#[path = "areas_limit/random.rs"]
mod random;
#[path = "areas_limit/several.rs"]
mod several;
#[path = "areas_limit/threads.rs"]
mod threads;

use std::num::NonZeroUsize;

use stage2::{
    GuestPhysRange, Limits, SharedRegion, Usage,
    loan::{Handover, Loan},
    pager::{Pager, Source, Supply, Ticket},
    region::Snapshot,
    space::{Area, Progress, Refill, Resource, Stats},
};

use super::*;

type Space = GuestSpace<Machine>;

/// Two guests: of the first one pages 0 to 8 are private, and of the second one pages 64 to 72.
struct Scene {
    board: Board,
    space: Space,
    other: Space,
    kept: Kept,
}

/// What a scene was prepared with.
#[derive(Default)]
struct Kept {
    region: Option<SharedRegion>,
    snapshot: Option<Snapshot>,
    loan: Option<Loan>,
}

/// Everything that can be seen of a scene, as far as limits go.
#[derive(Debug, PartialEq)]
struct Seen(Vec<(String, Vec<Area>, Stats, Usage)>, usize);

impl Scene {
    fn new(prepare: fn(&mut Self)) -> Self {
        let board = Board::new();
        let (space, other) = (board.space(), board.space());
        space.map(pages(0, 8), PAGES, RW).unwrap();
        other.map(pages(64, 8), PAGES, RW).unwrap();
        let mut scene = Self { board, space, other, kept: Kept::default() };
        prepare(&mut scene);
        scene
    }

    fn seen(&self) -> Seen {
        let seen = |space: &Space| {
            let usage = Usage { limits: Limits::default(), ..space.usage() };
            (space.to_string(), space.areas().unwrap(), space.stats(), usage)
        };
        Seen(vec![seen(&self.space), seen(&self.other)], self.board.allocated())
    }
}

/// A source of zeros.
struct Zeros;

impl Source for Zeros {
    fn ask(&self, _: Ticket, _: &mut [u8]) -> Supply {
        Supply::Ready
    }

    fn settled(&self, _: Ticket, _: stage2::pager::Settled) {}
}

fn pager() -> Pager {
    Pager::new(Arc::new(Zeros), NonZeroUsize::new(4).unwrap()).unwrap()
}

fn pages(first: usize, count: usize) -> GuestPhysRange {
    range(first * PAGE, count * PAGE)
}

fn at_most(areas: usize) -> Limits {
    Limits { areas: Some(areas), ..Limits::default() }
}

fn count(space: &Space) -> usize {
    let count = space.areas().unwrap().len();
    assert_eq!((space.usage().areas, space.stats().areas), (count, count));
    count
}

type Prepare = fn(&mut Scene);
type Operation = fn(&Scene) -> Result<(), Error>;

/// An operation that changes the number of areas of `of` by so many, and what a refusal names.
struct Case {
    name: &'static str,
    prepare: Prepare,
    of: fn(&Scene) -> &Space,
    operation: Operation,
    adds: isize,
    names: GuestPhysRange,
}

/// Sees it done wherever the limit allows what there is after it, or it adds nothing, and refused for all lower limits.
fn hold(case: &Case) {
    let Case { name, prepare, of, operation, adds, names } = case;
    let before = count(of(&Scene::new(*prepare)));
    let after = before.checked_add_signed(*adds).unwrap();
    for limit in 0..=after + 1 {
        let scene = Scene::new(*prepare);
        let seen = scene.seen();
        of(&scene).set_limits(at_most(limit));
        let result = operation(&scene);
        let is_refused = after > limit && after > before;
        if is_refused {
            let expected = Error::Limit { range: *names, what: Resource::Areas, limit };
            assert_eq!(result, Err(expected), "{name}: {before} areas, at most {limit}");
            assert_eq!(scene.seen(), seen, "{name}: {before} areas, at most {limit}");
            of(&scene).set_limits(Limits::default());
            assert_eq!(operation(&scene), Ok(()), "{name}, when it may");
        } else {
            assert_eq!(result, Ok(()), "{name}: {before} areas, {after} after it, at most {limit}");
        }
        assert_eq!(count(of(&scene)), after, "{name}");
        let Scene { board, space, other, kept } = scene;
        // It can all go, whatever the limit is.
        space.set_limits(at_most(0));
        other.set_limits(at_most(0));
        while let Some(loan) = space.loans().unwrap().pop() {
            space.reclaim(&loan, &other, Handover::Keep).unwrap();
        }
        drop((kept, space, other));
        assert_eq!(board.allocated(), 0, "{name}: frames are lost");
    }
}

fn first(scene: &Scene) -> &Space {
    &scene.space
}

fn second(scene: &Scene) -> &Space {
    &scene.other
}

const NOTHING: Prepare = |_| {};

/// Cases of the first guest.
fn cases(all: &[(&'static str, Prepare, Operation, isize, GuestPhysRange)]) {
    for &(name, prepare, operation, adds, names) in all {
        hold(&Case { name, prepare, of: first, operation, adds, names });
    }
}

#[test]
fn a_mapping() {
    cases(&[
        ("apart", NOTHING, |scene| scene.space.map(pages(20, 2), PAGES, RW), 1, pages(20, 2)),
        ("lazy", NOTHING, |scene| scene.space.map(pages(20, 2), LAZY, RW), 1, pages(20, 2)),
        (
            "blocks",
            NOTHING,
            |scene| scene.space.map(range(2 * BLOCK, 3 * BLOCK), BLOCKS, RW),
            1,
            range(2 * BLOCK, 3 * BLOCK),
        ),
        ("that goes on", NOTHING, |scene| scene.space.map(pages(8, 2), PAGES, RW), 0, pages(8, 2)),
        ("that goes on lazily", NOTHING, |scene| scene.space.map(pages(8, 2), LAZY, RW), 0, pages(8, 2)),
        ("of other flags", NOTHING, |scene| scene.space.map(pages(8, 2), PAGES, READ), 1, pages(8, 2)),
        (
            "between two",
            |scene| scene.space.map(pages(9, 3), PAGES, RW).unwrap(),
            |scene| scene.space.map(pages(8, 1), PAGES, RW),
            -1,
            pages(8, 1),
        ),
        (
            "between two that differ",
            |scene| scene.space.map(pages(9, 3), PAGES, READ).unwrap(),
            |scene| scene.space.map(pages(8, 1), PAGES, READ),
            0,
            pages(8, 1),
        ),
        (
            "linear",
            NOTHING,
            |scene| scene.space.map(pages(9, 2), Mapping::Linear { to: PhysAddr::from_usize(9 * PAGE) }, RW),
            1,
            pages(9, 2),
        ),
        (
            "linear, that goes on",
            |scene| scene.space.map(pages(9, 2), Mapping::Linear { to: PhysAddr::from_usize(9 * PAGE) }, RW).unwrap(),
            |scene| scene.space.map(pages(11, 2), Mapping::Linear { to: PhysAddr::from_usize(11 * PAGE) }, RW),
            0,
            pages(11, 2),
        ),
    ]);
}

#[test]
fn a_mapping_of_a_region_or_a_source() {
    let region: Prepare = |scene| scene.kept.region = Some(scene.space.region(4 * PAGE).unwrap());
    let frozen: Prepare = |scene| {
        let region = scene.space.region(4 * PAGE).unwrap();
        region.freeze().unwrap();
        scene.kept.region = Some(region);
    };
    cases(&[
        (
            "shared",
            region,
            |scene| {
                let region = scene.kept.region.clone().unwrap();
                scene.space.map(pages(8, 4), Mapping::Shared { region, offset: 0 }, RW)
            },
            1,
            pages(8, 4),
        ),
        (
            "copied on write",
            frozen,
            |scene| {
                let region = scene.kept.region.clone().unwrap();
                scene.space.map(pages(8, 4), Mapping::CopyOnWrite { region, offset: 0 }, RW)
            },
            1,
            pages(8, 4),
        ),
        (
            "copied on write, that goes on",
            |scene| {
                let region = scene.space.region(4 * PAGE).unwrap();
                region.freeze().unwrap();
                let mapping = Mapping::CopyOnWrite { region: region.clone(), offset: 0 };
                scene.space.map(pages(8, 2), mapping, RW).unwrap();
                scene.kept.region = Some(region);
            },
            |scene| {
                let region = scene.kept.region.clone().unwrap();
                scene.space.map(pages(10, 2), Mapping::CopyOnWrite { region, offset: 2 * PAGE }, RW)
            },
            0,
            pages(10, 2),
        ),
        ("from a source", NOTHING, |scene| scene.space.map_from(pages(8, 4), &pager(), 0, RW), 1, pages(8, 4)),
    ]);
}

#[test]
fn an_unmap() {
    let apart: Prepare = |scene| scene.space.map(pages(10, 4), PAGES, READ).unwrap();
    cases(&[
        ("a page of the middle", NOTHING, |scene| scene.space.unmap(pages(3, 1)), 1, pages(3, 1)),
        ("the middle", NOTHING, |scene| scene.space.unmap(pages(3, 2)), 1, pages(3, 2)),
        ("in steps", NOTHING, |scene| scene.space.unmap_in_steps(pages(3, 2)).map(drop), 1, pages(3, 2)),
        ("the first page", NOTHING, |scene| scene.space.unmap(pages(0, 1)), 0, pages(0, 1)),
        ("the end", NOTHING, |scene| scene.space.unmap(pages(5, 30)), 0, pages(5, 30)),
        ("all", NOTHING, |scene| scene.space.unmap(pages(0, 8)), -1, pages(0, 8)),
        ("the ends of two", apart, |scene| scene.space.unmap(pages(6, 6)), 0, pages(6, 6)),
        ("one and the start of another", apart, |scene| scene.space.unmap(pages(0, 12)), -1, pages(0, 12)),
    ]);
}

#[test]
fn other_flags() {
    let three: Prepare = |scene| scene.space.protect(pages(3, 2), READ).unwrap();
    cases(&[
        ("for a page of the middle", NOTHING, |scene| scene.space.protect(pages(3, 1), READ), 2, pages(3, 1)),
        ("for the middle", NOTHING, |scene| scene.space.protect(pages(3, 2), READ), 2, pages(3, 2)),
        ("for the first page", NOTHING, |scene| scene.space.protect(pages(0, 1), READ), 1, pages(0, 1)),
        ("for the end", NOTHING, |scene| scene.space.protect(pages(5, 3), READ), 1, pages(5, 3)),
        ("for all", NOTHING, |scene| scene.space.protect(pages(0, 8), READ), 0, pages(0, 8)),
        ("that it has", NOTHING, |scene| scene.space.protect(pages(3, 1), RW), 0, pages(3, 1)),
        ("that its neighbours have", three, |scene| scene.space.protect(pages(3, 2), RW), -2, pages(3, 2)),
        ("that one neighbour has", three, |scene| scene.space.protect(pages(4, 1), RW), 0, pages(4, 1)),
        ("for a page beside those", three, |scene| scene.space.protect(pages(5, 1), READ), 0, pages(5, 1)),
        ("for one apart", three, |scene| scene.space.protect(pages(6, 1), READ), 2, pages(6, 1)),
        ("across a border", three, |scene| scene.space.protect(pages(4, 2), READ), 0, pages(4, 2)),
        (
            "in steps",
            NOTHING,
            |scene| {
                let mut protecting = scene.space.protect_in_steps(pages(3, 4), READ)?;
                while protecting.step(1)? == Progress::More {}
                Ok(())
            },
            2,
            pages(3, 4),
        ),
    ]);
}

/// The whole is one area with other flags, but when a part of it is done there are two.
#[test]
fn a_step_that_would_make_one_more_than_the_whole() {
    let scene = Scene::new(NOTHING);
    scene.space.set_limits(at_most(1));
    let mut protecting = scene.space.protect_in_steps(pages(0, 8), READ).unwrap();
    let before = scene.seen();
    let refused = Error::Limit { range: pages(0, 8), what: Resource::Areas, limit: 1 };
    assert_eq!(protecting.step(1), Err(refused));
    assert_eq!((scene.seen(), protecting.rest()), (before, pages(0, 8)));
    scene.space.set_limits(at_most(2));
    assert_eq!(protecting.step(1), Ok(Progress::More));
    assert_eq!(count(&scene.space), 2);
    scene.space.set_limits(at_most(1));
    assert_eq!(protecting.step(usize::MAX), Ok(Progress::Done), "it makes no more");
    assert_eq!(count(&scene.space), 1);
}

#[test]
fn a_discard() {
    let sourced: Prepare = |scene| scene.space.map_from(pages(16, 8), &pager(), 0, RW).unwrap();
    let two: Prepare = |scene| {
        scene.space.map_from(pages(16, 8), &pager(), 0, RW).unwrap();
        scene.space.map(pages(24, 2), LAZY, RW).unwrap();
    };
    cases(&[
        ("of private memory", NOTHING, |scene| scene.space.discard(pages(3, 1), Refill::Zeros), 0, pages(3, 1)),
        ("for the source", sourced, |scene| scene.space.discard(pages(18, 2), Refill::Source), 0, pages(18, 2)),
        ("for zeros", sourced, |scene| scene.space.discard(pages(18, 2), Refill::Zeros), 2, pages(18, 2)),
        (
            "in steps",
            sourced,
            |scene| scene.space.discard_in_steps(pages(18, 2), Refill::Zeros).map(drop),
            2,
            pages(18, 2),
        ),
        ("of all, for zeros", sourced, |scene| scene.space.discard(pages(16, 8), Refill::Zeros), 0, pages(16, 8)),
        ("beside what is private", two, |scene| scene.space.discard(pages(22, 2), Refill::Zeros), 0, pages(22, 2)),
        ("of all beside it", two, |scene| scene.space.discard(pages(16, 9), Refill::Zeros), -1, pages(16, 9)),
    ]);
}

#[test]
fn a_replacement() {
    let page: Prepare = |scene| scene.space.replace(pages(3, 2), PAGES, READ).unwrap();
    cases(&[
        ("of the middle", NOTHING, |scene| scene.space.replace(pages(3, 2), PAGES, READ), 2, pages(3, 2)),
        ("by the same", NOTHING, |scene| scene.space.replace(pages(3, 2), LAZY, RW), 0, pages(3, 2)),
        ("of nothing", NOTHING, |scene| scene.space.replace(pages(20, 2), LAZY, RW), 1, pages(20, 2)),
        ("of nothing beside it", NOTHING, |scene| scene.space.replace(pages(8, 2), LAZY, RW), 0, pages(8, 2)),
        ("of the end and beyond", NOTHING, |scene| scene.space.replace(pages(6, 4), LAZY_BLOCKS, RW), 1, pages(6, 4)),
        ("by what is around it", page, |scene| scene.space.replace(pages(3, 2), PAGES, RW), -2, pages(3, 2)),
        (
            "in steps, by a region",
            NOTHING,
            |scene| {
                let mapping = Mapping::Shared { region: scene.space.region(2 * PAGE).unwrap(), offset: 0 };
                scene.space.replace_in_steps(pages(3, 2), mapping, RW).map(drop)
            },
            2,
            pages(3, 2),
        ),
        (
            "by what is inherited",
            NOTHING,
            |scene| {
                let region = scene.space.region(2 * PAGE).unwrap();
                region.freeze().unwrap();
                scene.space.replace(pages(3, 2), Mapping::CopyOnWrite { region, offset: 0 }, RW)
            },
            2,
            pages(3, 2),
        ),
    ]);
}

#[test]
fn memory_that_becomes_a_regions_and_private_again() {
    let shared: Prepare = |scene| drop(scene.space.make_shared(pages(0, 8)).unwrap());
    let middle: Prepare = |scene| drop(scene.space.make_shared(pages(3, 2)).unwrap());
    let kinds: Prepare = |scene| scene.space.map(pages(8, 4), BLOCKS, RW).unwrap();
    let left: Prepare = |scene| drop(scene.space.snapshot().unwrap());
    cases(&[
        ("the middle", NOTHING, |scene| scene.space.make_shared(pages(3, 2)).map(drop), 2, pages(3, 2)),
        ("all", NOTHING, |scene| scene.space.make_shared(pages(0, 8)).map(drop), 0, pages(0, 8)),
        ("two kinds", kinds, |scene| scene.space.make_shared(pages(0, 12)).map(drop), -1, pages(0, 12)),
        ("what a snapshot left", left, |scene| scene.space.make_shared(pages(3, 2)).map(drop), 2, pages(3, 2)),
        (
            "private, in the middle",
            shared,
            |scene| scene.space.make_private(pages(3, 2), Handover::Keep),
            2,
            pages(3, 2),
        ),
        ("private, all", shared, |scene| scene.space.make_private(pages(0, 8), Handover::Zero), 0, pages(0, 8)),
        ("private again", middle, |scene| scene.space.make_private(pages(3, 2), Handover::Keep), -2, pages(3, 2)),
    ]);
}

/// What is there already stays, and can go; nothing is added.
#[test]
fn a_limit_below_what_is_there() {
    let space = Board::new().space();
    for page in 0..200 {
        space.map(pages(page * 2, 1), LAZY, RW).unwrap();
    }
    space.set_limits(at_most(100));
    assert_eq!((count(&space), space.usage().limits), (200, at_most(100)));
    let refused = |part| Err(Error::Limit { range: part, what: Resource::Areas, limit: 100 });
    assert_eq!(space.map(pages(1000, 1), LAZY, RW), refused(pages(1000, 1)));
    space.map(pages(1, 1), LAZY, RW).expect("it joins two");
    space.unmap(pages(1, 2)).expect("it leaves the ends of both");
    assert_eq!(count(&space), 199);
    for page in (101..200).rev() {
        space.unmap(pages(page * 2, 1)).unwrap();
    }
    assert_eq!((count(&space), space.map(pages(1000, 1), LAZY, RW)), (100, refused(pages(1000, 1))));
    space.unmap(pages(0, 1)).unwrap();
    space.map(pages(1000, 1), LAZY, RW).unwrap();
    space.set_limits(Limits::default());
    space.map(pages(2000, 1), LAZY, RW).unwrap();
    assert_eq!((count(&space), space.usage().limits), (101, Limits::default()));
}

/// A space starts with its limits.
#[test]
fn a_limit_from_the_start() {
    let board = Board::new();
    let space = Space::new(stage2::Config { limits: at_most(1), ..board.config() }).unwrap();
    assert_eq!(space.usage(), Usage { areas: 0, limits: at_most(1), ..space.usage() });
    space.map(pages(0, 1), LAZY, RW).unwrap();
    assert!(matches!(space.map(pages(2, 1), LAZY, RW), Err(Error::Limit { what: Resource::Areas, limit: 1, .. })));
}

/// What a failed operation had removed is an area no more, and what comes back is one.
#[test]
fn what_a_deaf_cpu_leaves() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    space.map(pages(0, 8), PAGES, RW).unwrap();
    space.set_limits(at_most(2));
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.discard(pages(2, 2), Refill::Zeros), Err(Error::Invalidation { .. })));
    assert_eq!(count(&space), 1);
    assert!(matches!(space.unmap(pages(2, 2)), Err(Error::Invalidation { .. })));
    assert_eq!(count(&space), 2);
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    assert!(matches!(space.unmap(pages(5, 1)), Err(Error::Limit { what: Resource::Areas, limit: 2, .. })));
    assert_eq!(count(&space), 2);
}
