//! Another mapping in the place of what is mapped: what is there then, what went, and what is refused.

use std::{
    num::NonZeroUsize,
    sync::mpsc::channel,
    thread::{self, JoinHandle},
};

use stage2::{
    Limits, SharedRegion,
    loan::{Handover, PageState},
    pager::{Pager, Settled, Source, Supply, Ticket, Waiting},
    space::{AreaKind, Progress, Stats},
};

use super::*;

/// A source that has a page's number in each page, and the first page later.
struct Image;

impl Source for Image {
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
        page[0] = (ticket.offset() / PAGE) as u8;
        if ticket.offset() == 0 { Supply::Later } else { Supply::Ready }
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

/// What may be there before, and what may come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Hole,
    Lazy,
    Pages,
    Blocks,
    Linear,
    Shared,
    Inherited,
    Sourced,
    /// Private memory that was in a snapshot, which is gone.
    Checkpointed,
}

const BEFORE: [Kind; 9] = [
    Kind::Hole,
    Kind::Lazy,
    Kind::Pages,
    Kind::Blocks,
    Kind::Linear,
    Kind::Shared,
    Kind::Inherited,
    Kind::Sourced,
    Kind::Checkpointed,
];
const AFTER: [Kind; 6] = [Kind::Lazy, Kind::Pages, Kind::Blocks, Kind::Linear, Kind::Shared, Kind::Inherited];

/// What all spaces of a test may map.
struct Stage {
    board: Board,
    shared: SharedRegion,
    frozen: SharedRegion,
    pager: Pager,
}

impl Stage {
    fn on(board: Board) -> Self {
        let space = board.space();
        let region = |first: u64| {
            let region = space.region(3 * BLOCK).unwrap();
            let writer = region.writer().unwrap();
            (0..6).for_each(|page| writer.store(page * 16 * PAGE, first + page as u64).unwrap());
            drop(writer);
            region
        };
        let (shared, frozen) = (region(100), region(200));
        frozen.freeze().unwrap();
        let pager = Pager::new(Arc::new(Image), NonZeroUsize::MIN).unwrap();
        Self { board, shared, frozen, pager }
    }

    fn new() -> Self {
        Self::on(Board::new())
    }

    fn mapping(&self, kind: Kind, from: usize) -> Mapping {
        match kind {
            Kind::Lazy => LAZY,
            Kind::Pages => PAGES,
            Kind::Blocks => BLOCKS,
            Kind::Linear => Mapping::Linear { to: PhysAddr::from_usize(LARGE + from) },
            Kind::Shared => Mapping::Shared { region: self.shared.clone(), offset: from },
            Kind::Inherited => Mapping::CopyOnWrite { region: self.frozen.clone(), offset: from },
            Kind::Hole | Kind::Sourced | Kind::Checkpointed => panic!("{kind:?} is no mapping"),
        }
    }

    /// A space with three blocks of a kind, of which every 16th page was touched.
    fn space(&self, kind: Kind) -> GuestSpace<Machine> {
        let (space, all) = (self.board.space(), range(0, 3 * BLOCK));
        match kind {
            Kind::Hole => return space,
            Kind::Sourced => space.map_from(all, &self.pager, PAGE, RW).unwrap(),
            Kind::Checkpointed => space.map(all, BLOCKS, RW).unwrap(),
            _ => space.map(all, self.mapping(kind, 0), RW).unwrap(),
        }
        for page in 0..6 {
            if kind != Kind::Linear {
                space.store(gpa(page * 16 * PAGE), 10 + page as u64).unwrap();
                let _: u64 = space.load(gpa((page * 16 + 1) * PAGE)).unwrap();
            }
        }
        if kind == Kind::Checkpointed {
            drop(space.snapshot().unwrap());
        }
        space
    }

    /// Frames that are no table's.
    fn held(&self, space: &GuestSpace<Machine>) -> usize {
        self.board.allocated() - space.stats().table_frames
    }
}

/// Everything that can be seen of a space, with all of it touched.
fn picture(space: &GuestSpace<Machine>) -> (Vec<stage2::space::Area>, Stats, stage2::Usage, Vec<Option<u64>>) {
    let words = (0..96).map(|page| space.load(gpa(page * PAGE)).ok()).collect();
    let stats = Stats { invalidations: stage2::invalidate::Invalidations::default(), faults: 0, ..space.stats() };
    (space.areas().unwrap(), stats, space.usage(), words)
}

/// A page, some within a block, a block, and all of it.
const PARTS: [(usize, usize); 5] =
    [(16 * PAGE, PAGE), (5 * PAGE, 20 * PAGE), (BLOCK, BLOCK), (30 * PAGE, 40 * PAGE), (0, 3 * BLOCK)];

/// What unmapping and mapping comes to.
#[test]
fn whatever_was_there_the_new_mapping_is() {
    for (start, size) in PARTS {
        for before in BEFORE {
            for after in AFTER {
                let what = format!("{before:?} by {after:?} at {start:#x}, {size:#x}");
                let (one, two) = (Stage::new(), Stage::new());
                let (space, other) = (one.space(before), two.space(before));
                let part = range(start, size);
                space.replace(part, one.mapping(after, start), RWX).expect(&what);
                if before != Kind::Hole {
                    other.unmap(part).unwrap();
                }
                other.map(part, two.mapping(after, start), RWX).unwrap();
                assert_eq!(one.held(&space), two.held(&other), "{what}");
                assert_eq!(picture(&space), picture(&other), "{what}");
                assert_eq!(one.held(&space), two.held(&other), "{what}, touched");
                drop((space, other));
                drop((one.shared, one.frozen));
                assert_eq!(one.board.allocated(), 0, "{what}, in the end");
            }
        }
    }
}

/// It is one area with its neighbours where they agree.
#[test]
fn a_page_that_comes_back_is_one_with_its_neighbours() {
    let stage = Stage::new();
    let space = stage.space(Kind::Lazy);
    space.replace(range(3 * PAGE, PAGE), stage.mapping(Kind::Shared, 0), RW).unwrap();
    assert_eq!((space.stats().areas, space.load(gpa(3 * PAGE))), (3, Ok(100_u64)));
    space.replace(range(3 * PAGE, PAGE), LAZY, RW).unwrap();
    assert_eq!((space.stats().areas, space.load(gpa(3 * PAGE))), (1, Ok(0_u64)));
    let kind = space.area(gpa(3 * PAGE)).unwrap().kind;
    assert_eq!((kind, stage.shared.freeze()), (AreaKind::Private, Ok(())), "nothing can write it any more");
}

/// A guest that goes back to its template, page by page or whole.
#[test]
fn memory_goes_back_to_its_template() {
    let stage = Stage::new();
    let space = stage.space(Kind::Inherited);
    let before = stage.held(&space);
    for part in [range(0, PAGE), range(0, 3 * BLOCK)] {
        space.replace(part, stage.mapping(Kind::Inherited, 0), RW).unwrap();
        assert_eq!(space.load(gpa(0)), Ok(200_u64));
    }
    assert_eq!((stage.held(&space), space.stats().areas, space.usage().frames), (before - 12, 1, 0));
    assert!((0..6).all(|page| space.load(gpa(page * 16 * PAGE)) == Ok(200 + page as u64)));
}

#[test]
fn what_went_is_free_in_bounded_steps() {
    let stage = Stage::new();
    let space = stage.space(Kind::Checkpointed);
    let mut going = space.replace_in_steps(range(PAGE, 2 * BLOCK), LAZY, RW).unwrap();
    assert_eq!(space.load(gpa(PAGE)), Ok(0_u64));
    let mut left = stage.held(&space);
    while going.step(3) == Progress::More {
        let now = stage.held(&space);
        assert!(left - now <= 3, "a step of 3 freed {}", left - now);
        left = now;
    }
}

#[test]
fn no_cpu_waits_for_what_went() {
    let stage = Stage::new();
    let space = stage.board.space();
    space.map_from(range(0, 2 * PAGE), &stage.pager, 0, RW).unwrap();
    let Outcome::NotYet(ticket) = fault(&space, 0, Access::Read) else { panic!("it was brought") };
    space.replace(range(0, PAGE), LAZY, RW).unwrap();
    assert_eq!((stage.pager.state(ticket), space.load(gpa(0))), (Waiting::Over, Ok(0_u64)));
}

/// A CPU that touches it while it is replaced finds what was there, or what is there now.
#[test]
fn no_cpu_finds_a_hole_in_between() {
    for after in AFTER {
        let stage = Stage::new();
        let space = Arc::new(stage.space(Kind::Pages));
        let (sent, waits) = channel::<JoinHandle<Outcome>>();
        let other = space.clone();
        stage.board.on_invalidation(move || {
            let (begins, begun) = channel();
            let touch = thread::spawn(move || {
                begins.send(()).unwrap();
                fault(&other, 2 * PAGE, Access::Read)
            });
            begun.recv().unwrap();
            sent.send(touch).unwrap();
        });
        space.replace(range(PAGE, 2 * PAGE), stage.mapping(after, 0), RW).unwrap();
        let outcome = waits.recv().unwrap().join().unwrap();
        assert!(matches!(outcome, Outcome::Resolved | Outcome::Retry), "{after:?}: {outcome:?}");
        assert!(space.translate(gpa(2 * PAGE)).is_some() || outcome == Outcome::Retry);
    }
}

/// The table that it was built for goes before the lock is taken again.
#[test]
fn tables_that_change_meanwhile_are_found_again() {
    let stage = Stage::new();
    let space = Arc::new(stage.board.space());
    space.map(range(0, 2 * PAGE), PAGES, RW).unwrap();
    let other = space.clone();
    stage.board.on_allocation(move || other.unmap(range(0, PAGE)).unwrap());
    space.replace(range(PAGE, PAGE), PAGES, RWX).unwrap();
    assert_eq!((space.load(gpa(PAGE)), space.stats().areas, space.usage().frames), (Ok(0_u64), 1, 1));
}

mod refused {
    use super::*;

    #[test]
    fn for_what_map_refuses_or_what_is_on_loan() {
        let stage = Stage::new();
        let (space, other) = (stage.space(Kind::Pages), stage.board.space());
        let loan = space.share(range(PAGE, PAGE), &other, gpa(0), RW).unwrap();
        let before = picture(&space);
        let lent = Error::State { range: range(PAGE, PAGE), state: PageState::SharedOut };
        for kind in AFTER {
            assert_eq!(space.replace(range(0, BLOCK), stage.mapping(kind, 0), RW), Err(lent));
        }
        let device = space.replace(range(0, PAGE), LAZY, RW | MappingFlags::DEVICE);
        assert!(matches!(device, Err(Error::Flags { .. })));
        let written = space.replace(range(0, PAGE), Mapping::Shared { region: stage.frozen.clone(), offset: 0 }, RW);
        assert!(matches!(written, Err(Error::Region { .. })));
        let open = space.replace(range(0, PAGE), Mapping::CopyOnWrite { region: stage.shared.clone(), offset: 0 }, RW);
        assert!(matches!(open, Err(Error::Region { .. })));
        assert_eq!(picture(&space), before);
        space.reclaim(&loan, &other, Handover::Keep).unwrap();
    }

    #[test]
    fn at_a_limit_that_has_no_room_for_both() {
        let stage = Stage::new();
        let space = stage.space(Kind::Pages);
        space.set_limits(Limits { frames: Some(97), ..Limits::default() });
        let before = picture(&space);
        assert!(matches!(space.replace(range(0, 2 * PAGE), PAGES, RW), Err(Error::Limit { .. })));
        assert_eq!(picture(&space), before);
        space.replace(range(0, PAGE), PAGES, RW).unwrap();
        assert_eq!(space.usage().frames, 96);
    }

    /// For as long as a CPU cannot be told, everything is as before, whatever comes and whatever was there.
    #[test]
    fn while_a_cpu_cannot_be_told() {
        for (start, size) in PARTS {
            for before in BEFORE.into_iter().filter(|&before| before != Kind::Hole) {
                for after in AFTER {
                    let what = format!("{before:?} by {after:?} at {start:#x}, {size:#x}");
                    let stage = Stage::on(Board::with(Reach::ThisCpu, Pieces::Any));
                    let space = stage.space(before);
                    let (picture_before, held) = (picture(&space), stage.held(&space));
                    space.enter(CpuId(3), VcpuId(0)).unwrap();
                    stage.board.deafen(Some(CpuId(3)));
                    let replaced = space.replace(range(start, size), stage.mapping(after, start), RWX);
                    assert!(matches!(replaced, Err(Error::Invalidation { .. })), "{what}: {replaced:?}");
                    stage.board.deafen(None);
                    space.leave(CpuId(3)).unwrap();
                    assert_eq!((picture(&space), stage.held(&space)), (picture_before, held), "{what}");
                    space.replace(range(start, size), stage.mapping(after, start), RWX).expect(&what);
                    drop((space, stage.shared, stage.frozen));
                    assert_eq!(stage.board.allocated(), 0, "{what}");
                }
            }
        }
    }

    /// Whichever frame it is that cannot be had.
    #[test]
    fn without_memory() {
        for before in BEFORE {
            for after in AFTER {
                let what = format!("{before:?} by {after:?}");
                for left in 0.. {
                    let stage = Stage::new();
                    let space = stage.space(before);
                    let (picture_before, held) = (picture(&space), stage.held(&space));
                    stage.board.allow(Some(left));
                    let replaced = space.replace(range(5 * PAGE, BLOCK), stage.mapping(after, 0), RW);
                    stage.board.allow(None);
                    if replaced.is_ok() {
                        break;
                    }
                    assert_eq!(replaced, Err(Error::NoMemory(range(5 * PAGE, BLOCK))), "{what}");
                    assert_eq!((picture(&space), stage.held(&space)), (picture_before, held), "{what}: {left}");
                }
            }
        }
    }
}
