//! What is refused, for whatever reason, changes nothing: what was to be populated for it is not.

use std::ops::Range;

use stage2::{
    space::{Area, Stats},
    {GuestPhysRange, Usage},
};

use super::*;

/// How one space gives another its memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Share,
    Lend,
    Donate,
}

const WAYS: [Way; 3] = [Way::Share, Way::Lend, Way::Donate];

/// From the middle of a block on: a block that is untouched, pages of which one was touched, and two areas whose tables
/// are missing.
const GIVEN: Range<usize> = BLOCK / 2..3 * BLOCK + 4 * PAGE;

/// How many of its pages are untouched.
const UNTOUCHED: usize = 32 + 31 + 4;

impl Way {
    fn give(self, range: GuestPhysRange, giver: &Space, taker: &Space, flags: MappingFlags) -> Result<(), Error> {
        match self {
            Self::Share => giver.share(range, taker, gpa(LARGE), flags).map(drop),
            Self::Lend => giver.lend(range, taker, gpa(LARGE), flags).map(drop),
            Self::Donate => giver.donate(range, taker, gpa(LARGE), flags, Handover::Keep),
        }
    }

    fn give_all(self, giver: &Space, taker: &Space) -> Result<(), Error> {
        self.give(given(), giver, taker, RW)
    }
}

fn given() -> GuestPhysRange {
    range(GIVEN.start, GIVEN.len())
}

fn place() -> GuestPhysRange {
    range(LARGE, GIVEN.len())
}

/// Two spaces of a board, the first one with what is given.
fn sparse(board: &Board) -> (Space, Space) {
    let (giver, taker) = (board.space(), board.space());
    giver.map(range(0, BLOCK), BLOCKS, RW).unwrap();
    giver.map(range(BLOCK, BLOCK), LAZY_BLOCKS, RW).unwrap();
    giver.map(range(2 * BLOCK, BLOCK), LAZY, RW).unwrap();
    giver.map(range(3 * BLOCK, 2 * PAGE), LAZY, RW).unwrap();
    giver.map(range(3 * BLOCK + 2 * PAGE, 2 * PAGE), LAZY, RWX).unwrap();
    giver.write_obj(gpa(2 * BLOCK + 5 * PAGE), 5_u64).unwrap();
    (giver, taker)
}

/// Everything that can be seen of a space, as far as its limits go.
#[derive(Debug, PartialEq)]
struct Seen {
    map: String,
    areas: Vec<Area>,
    stats: Stats,
    usage: Usage,
    pages: Vec<(PageState, Option<PhysAddr>)>,
}

fn seen(space: &Space) -> Seen {
    let pages = (0..4 * BLOCK).chain(LARGE..LARGE + 4 * BLOCK).step_by(PAGE).map(gpa);
    let usage = Usage { limits: Limits::default(), ..space.usage() };
    Seen {
        map: space.to_string(),
        areas: space.areas().unwrap(),
        stats: space.stats(),
        usage,
        pages: pages.map(|at| (space.page_state(at), space.translate(at).map(|there| there.hpa))).collect(),
    }
}

fn both(board: &Board, giver: &Space, taker: &Space) -> (Seen, Seen, usize, usize) {
    (seen(giver), seen(taker), giver.loans().unwrap().len(), board.allocated())
}

/// Gives all in every way on a board on which `obstruct` has put something in the way: it is refused as `is_it` says, and
/// nothing has changed. When `clear` has taken it away again all of it is given.
fn refused(
    obstruct: impl Fn(&Space, &Space),
    is_it: impl Fn(Way, Error) -> bool,
    clear: impl Fn(&Space, &Space),
    ways: &[Way],
) {
    for &way in ways {
        let board = Board::new();
        let (giver, taker) = sparse(&board);
        obstruct(&giver, &taker);
        let before = both(&board, &giver, &taker);
        let refusal = way.give_all(&giver, &taker).expect_err("something is in the way");
        assert!(is_it(way, refusal), "{way:?}: {refusal}");
        assert_eq!(both(&board, &giver, &taker), before, "{way:?}: {refusal}");
        clear(&giver, &taker);
        is_given(&board, way, giver, taker);
    }
}

/// Gives all of it: each side has what it should, and nothing is lost.
fn is_given(board: &Board, way: Way, giver: Space, taker: Space) {
    way.give_all(&giver, &taker).unwrap();
    has_all(way, &giver, &taker);
    drop((giver, taker));
    assert_eq!(board.allocated(), 0);
}

fn has_all(way: Way, giver: &Space, taker: &Space) {
    let pages = GIVEN.len() / PAGE;
    for page in 0..pages {
        let written = GIVEN.start + page * PAGE == 2 * BLOCK + 5 * PAGE;
        assert_eq!(value(taker, LARGE + page * PAGE), Ok(if written { 5 } else { 0 }), "{way:?}: page {page}");
    }
    let first = giver.page_state(gpa(GIVEN.start));
    let (frames, lent, state) = match way {
        Way::Share => (32 + 32 + 32 + 4, 0, PageState::SharedOut),
        Way::Lend => (32 + 32 + 32 + 4, pages, PageState::Lent),
        Way::Donate => (16, 0, PageState::Nothing),
    };
    assert_eq!((giver.usage().frames, giver.stats().lent_frames, first), (frames, lent, state), "{way:?}");
    assert_eq!(giver.page_state(gpa(GIVEN.end - PAGE)), state, "{way:?}");
    assert_eq!(taker.usage().frames, if way == Way::Donate { pages } else { 0 });
    assert_eq!(giver.usage().table_frames, giver.stats().table_frames);
}

#[test]
fn what_is_untouched_is_given_as_zeros() {
    for way in WAYS {
        let board = Board::new();
        let (giver, taker) = sparse(&board);
        is_given(&board, way, giver, taker);
    }
}

#[test]
fn where_the_taker_has_something() {
    let last = range(place().end.as_usize() - PAGE, PAGE);
    let overlap = |_, refusal| refusal == Error::Overlap { range: place(), with: last };
    let map = |_: &Space, taker: &Space| taker.map(last, LAZY, READ).unwrap();
    refused(map, overlap, |_, taker| taker.unmap(last).unwrap(), &WAYS);
}

#[test]
fn what_the_giver_may_not_do_itself() {
    let last = range(GIVEN.end - 2 * PAGE, 2 * PAGE);
    let denied = |_, refusal| refusal == Error::Denied { range: last, flags: READ };
    let protect = |flags| move |giver: &Space, _: &Space| giver.protect(last, flags).unwrap();
    refused(protect(READ), denied, protect(RWX), &[Way::Share, Way::Lend]);
    let flags = |_, refusal| matches!(refusal, Error::Flags { range, .. } if range == last);
    refused(protect(RW | MappingFlags::UNCACHED), flags, protect(RWX), &[Way::Share]);
}

#[test]
fn what_is_not_the_givers_own_in_part() {
    let last = range(GIVEN.end - PAGE, PAGE);
    let lend = |giver: &Space, taker: &Space| drop(giver.lend(last, taker, gpa(0), RW).unwrap());
    let is_lent = |_, refusal| refusal == Error::State { range: last, state: PageState::Lent };
    let reclaim = |giver: &Space, taker: &Space| {
        let loan = giver.loans().unwrap().remove(0);
        giver.reclaim(&loan, taker, Handover::Keep).unwrap();
    };
    refused(lend, is_lent, reclaim, &WAYS);
    let kept = std::cell::RefCell::new(None);
    let copy = |giver: &Space, _: &Space| {
        giver.unmap(last).unwrap();
        let region = giver.region(PAGE).unwrap();
        region.writer().unwrap().write_obj(0, 0_u64).unwrap();
        region.freeze().unwrap();
        giver.map(last, Mapping::CopyOnWrite { region: region.clone(), offset: 0 }, RW).unwrap();
        kept.replace(Some(region));
    };
    let is_frozen = |_, refusal| refusal == Error::State { range: last, state: PageState::Frozen };
    refused(copy, is_frozen, |_, _| drop(kept.take()), &WAYS);
}

#[test]
fn more_than_the_taker_may_have() {
    let frames = |frames| Limits { frames: Some(frames), ..Limits::default() };
    let limit = |_: &Space, taker: &Space| taker.set_limits(frames(GIVEN.len() / PAGE - 1));
    let is_limit =
        |_, refusal| matches!(refusal, Error::Limit { range, what: Resource::Frames, .. } if range == place());
    refused(limit, is_limit, |_, taker| taker.set_limits(Limits::default()), &[Way::Donate]);
}

/// A limit that leaves the giver, or the taker, one more each time, until all is given.
fn up_to_the_limit(what: Resource, of: impl for<'s> Fn(&'s Space, &'s Space) -> &'s Space, way: Way) -> usize {
    for left in 0.. {
        let board = Board::new();
        let (giver, taker) = sparse(&board);
        let limited = of(&giver, &taker);
        let usage = limited.usage();
        limited.set_limits(match what {
            Resource::Frames => Limits { frames: Some(usage.frames + left), ..Limits::default() },
            Resource::TableFrames => Limits { table_frames: Some(usage.table_frames + left), ..Limits::default() },
            Resource::Areas => Limits { areas: Some(usage.areas + left), ..Limits::default() },
        });
        let before = both(&board, &giver, &taker);
        let Err(refusal) = way.give_all(&giver, &taker) else {
            has_all(way, &giver, &taker);
            return left;
        };
        assert!(matches!(refusal, Error::Limit { what: named, .. } if named == what), "{way:?}: {refusal}");
        assert_eq!(both(&board, &giver, &taker), before, "{way:?}, {left} left: {refusal}");
        limited.set_limits(Limits::default());
        is_given(&board, way, giver, taker);
    }
    unreachable!("without end");
}

#[test]
fn more_than_the_giver_may_have_frames_to_the_frame() {
    for way in WAYS {
        assert_eq!(up_to_the_limit(Resource::Frames, |giver, _| giver, way), UNTOUCHED);
    }
}

/// One table splits the block at the start, and one is for what has none. The taker has pages, but of blocks that fit.
#[test]
fn more_than_either_may_have_tables_to_the_table() {
    for way in WAYS {
        assert_eq!(up_to_the_limit(Resource::TableFrames, |giver, _| giver, way), 2);
        let (_, taker) = sparse(&Board::new());
        let before = taker.usage().table_frames;
        let board = Board::new();
        let (giver, taker) = sparse(&board);
        way.give_all(&giver, &taker).unwrap();
        let tables = taker.usage().table_frames - before;
        assert_eq!(up_to_the_limit(Resource::TableFrames, |_, taker| taker, way), tables);
    }
}

#[test]
fn more_than_the_taker_may_have_areas() {
    for way in WAYS {
        assert_eq!(up_to_the_limit(Resource::Areas, |_, taker| taker, way), 1);
    }
}

#[test]
fn for_lack_of_memory() {
    for way in WAYS {
        for allowed in 0.. {
            let board = Board::new();
            let (giver, taker) = sparse(&board);
            let before = both(&board, &giver, &taker);
            board.allow(Some(allowed));
            let result = way.give_all(&giver, &taker);
            board.allow(None);
            match result {
                Ok(()) => {
                    assert!(allowed > 36, "{way:?}: {allowed} allocations");
                    has_all(way, &giver, &taker);
                    break;
                }
                Err(error) => assert!(matches!(error, Error::NoMemory(_)), "{way:?}: {error}"),
            }
            assert_eq!(both(&board, &giver, &taker), before, "{way:?} after {allowed} allocations");
            is_given(&board, way, giver, taker);
        }
    }
}

/// A CPU that cannot be told: what it reached before it still does, and of what was untouched nothing is there.
#[test]
fn since_a_cpu_cannot_be_told() {
    for way in [Way::Lend, Way::Donate] {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let (giver, taker) = sparse(&board);
        let part = range(BLOCK, 2 * BLOCK);
        let picture = || (picture(&board, &giver, &taker), giver.usage(), taker.usage());
        let before = picture();
        giver.enter(CpuId(3), VcpuId(3)).unwrap();
        board.deafen(Some(CpuId(3)));
        let refusal = way.give(part, &giver, &taker, RW);
        assert!(matches!(refusal, Err(Error::Invalidation { .. })), "{way:?}: {refusal:?}");
        giver.leave(CpuId(3)).unwrap();
        board.deafen(None);
        assert_eq!(picture(), before, "{way:?}");
        way.give(part, &giver, &taker, RW).unwrap();
    }
}

/// Memory that was populated for a transfer, and that another CPU populated meanwhile.
#[test]
fn no_page_that_a_guest_touched_meanwhile_is_lost() {
    for way in WAYS {
        let board = Board::new();
        let (giver, taker) = sparse(&board);
        let giver = Arc::new(giver);
        let at = 3 * BLOCK + 3 * PAGE;
        let guest = Arc::clone(&giver);
        board.on_allocation(move || guest.write_obj(gpa(at), 9_u64).unwrap());
        way.give_all(&giver, &taker).unwrap();
        assert_eq!(value(&taker, LARGE + at - GIVEN.start), Ok(9), "{way:?}");
        drop((giver, taker));
        board.on_allocation(|| ());
        assert_eq!(board.allocated(), 0, "{way:?}");
    }
}

mod make_private {
    use super::*;

    /// Six pages that a handle wrote, of which the guest has touched one, and two that are untouched: over the end of a
    /// table.
    fn region(board: &Board) -> Space {
        let space = board.space();
        let region = space.region(8 * PAGE).unwrap();
        for page in (0..7_usize).filter(|page| *page != 3) {
            region.writer().unwrap().write_obj(page * PAGE, page as u64 + 1).unwrap();
        }
        space.map(whole(), Mapping::Shared { region, offset: 0 }, RW).unwrap();
        assert_eq!(value(&space, whole().start.as_usize() + PAGE), Ok(2));
        space
    }

    fn whole() -> GuestPhysRange {
        range(BLOCK - 4 * PAGE, 8 * PAGE)
    }

    fn is_private(space: &Space) {
        space.make_private(whole(), Handover::Keep).unwrap();
        assert_eq!((space.usage().frames, space.stats().owned_frames, space.stats().shared_frames), (6, 6, 0));
        space.set_limits(Limits::default());
        for page in 0..8 {
            let left = if page == 3 || page == 7 { 0 } else { page as u64 + 1 };
            assert_eq!(value(space, whole().start.as_usize() + page * PAGE), Ok(left));
        }
    }

    fn all(board: &Board, space: &Space) -> (Seen, usize) {
        (seen(space), board.allocated())
    }

    #[test]
    fn at_a_limit() {
        // As many frames as there are, and the one table that is missing.
        for (what, needed) in [(Resource::Frames, 6), (Resource::TableFrames, 1)] {
            for left in 0..needed {
                let board = Board::new();
                let space = region(&board);
                let before = all(&board, &space);
                let table_frames = before.0.usage.table_frames + left;
                space.set_limits(match what {
                    Resource::Frames => Limits { frames: Some(left), ..Limits::default() },
                    Resource::TableFrames => Limits { table_frames: Some(table_frames), ..Limits::default() },
                    Resource::Areas => Limits { areas: Some(left), ..Limits::default() },
                });
                let refused = space.make_private(whole(), Handover::Zero);
                assert!(matches!(refused, Err(Error::Limit { what: named, .. }) if named == what), "{refused:?}");
                assert_eq!(all(&board, &space), before, "{left} left of {what}");
                space.set_limits(Limits {
                    frames: Some(6),
                    table_frames: Some(before.0.usage.table_frames + 1),
                    ..Limits::default()
                });
                is_private(&space);
                drop(space);
                assert_eq!(board.allocated(), 0);
            }
        }
    }

    #[test]
    fn for_lack_of_memory() {
        let board = Board::new();
        let space = region(&board);
        let before = all(&board, &space);
        board.allow(Some(0));
        let part = range(BLOCK, PAGE);
        assert_eq!(space.make_private(part, Handover::Zero), Err(Error::NoMemory(part)));
        assert_eq!(space.make_private(whole(), Handover::Zero), Err(Error::NoMemory(whole())));
        board.allow(None);
        assert_eq!(all(&board, &space), before);
        board.allow(Some(1));
        space.make_private(whole(), Handover::Keep).expect("one table is missing");
        board.allow(None);
    }

    /// A block that is cut at the other end of the range, for which there is no table.
    #[test]
    fn where_a_block_cannot_be_cut() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        space.map(range(BLOCK, BLOCK), LAZY, RW).unwrap();
        let region = space.make_shared(range(0, 2 * BLOCK)).unwrap();
        region.writer().unwrap().write_obj(BLOCK, 3_u64).unwrap();
        drop(region);
        let before = all(&board, &space);
        let part = range(PAGE, BLOCK);
        for (allowed, refused) in [(0, true), (1, true), (2, false)] {
            board.allow(Some(allowed));
            let result = space.make_private(part, Handover::Keep);
            board.allow(None);
            assert_eq!(result, if refused { Err(Error::NoMemory(part)) } else { Ok(()) }, "{allowed} allocations");
            if refused {
                assert_eq!(all(&board, &space), before, "{allowed} allocations");
            }
        }
        assert_eq!((value(&space, BLOCK), space.usage().frames), (Ok(3), BLOCK / PAGE - 1 + 1));
    }
}
