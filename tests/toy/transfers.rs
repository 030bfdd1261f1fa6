//! Memory that changes its owner for good, on a board whose CPUs may be deaf.

#[path = "transfers/refused.rs"]
mod refused;

use std::sync::atomic::AtomicBool;

use stage2::{
    Limits,
    loan::{Handover, PageState},
    region::RegionError,
    space::{AreaKind, Resource},
};

use super::*;

type Space = GuestSpace<Machine>;

/// Two spaces of one board, with 4 pages of the first one's own from page 8 on, page `n` of which starts with `n`.
fn pair(board: &Board) -> (Space, Space) {
    let (giver, taker) = (board.space(), board.space());
    giver.map(range(8 * PAGE, 4 * PAGE), LAZY, RW).unwrap();
    for page in 0..4 {
        giver.write_obj(gpa((8 + page) * PAGE), page as u64).unwrap();
    }
    (giver, taker)
}

/// The middle two of the pages.
fn middle() -> stage2::GuestPhysRange {
    range(9 * PAGE, 2 * PAGE)
}

fn donate(giver: &Space, taker: &Space) -> Result<(), Error> {
    giver.donate(middle(), taker, gpa(LARGE), RWX, Handover::Keep)
}

fn is(page: usize, state: PageState) -> Error {
    Error::State { range: range(page * PAGE, PAGE), state }
}

fn value(space: &Space, at: usize) -> Result<u64, Error> {
    space.read_obj(gpa(at))
}

/// What is mapped in both, and how many frames there are.
fn picture(board: &Board, one: &Space, two: &Space) -> (String, String, usize) {
    (one.to_string(), two.to_string(), board.allocated())
}

mod donate {
    use super::*;

    #[test]
    fn the_taker_owns_the_very_frames_and_the_giver_has_nothing() {
        let board = Board::new();
        let (giver, taker) = pair(&board);
        let at = giver.translate(gpa(9 * PAGE)).unwrap().hpa;
        donate(&giver, &taker).unwrap();
        assert_eq!(taker.translate(gpa(LARGE)).unwrap().hpa, at);
        assert_eq!((value(&taker, LARGE), value(&taker, LARGE + PAGE)), (Ok(1), Ok(2)));
        assert_eq!(taker.area(gpa(LARGE)).unwrap().kind, AreaKind::Private);
        assert_eq!(fault(&giver, 9 * PAGE, Access::Read), Outcome::NotMapped);
        assert_eq!((giver.stats().owned_frames, taker.stats().owned_frames), (2, 2));
        drop(giver);
        assert_eq!(value(&taker, LARGE), Ok(1));
        taker.unmap(range(LARGE, 2 * PAGE)).unwrap();
        assert_eq!(board.allocated(), taker.stats().table_frames);
    }

    #[test]
    fn the_giver_is_invalidated_before_the_memory_is_cleaned() {
        for handover in [Handover::Keep, Handover::Zero] {
            let board = Board::new();
            let (giver, taker) = pair(&board);
            let at = giver.translate(gpa(9 * PAGE)).unwrap().hpa;
            board.events();
            board.synchronized();
            giver.donate(middle(), &taker, gpa(LARGE), RWX, handover).unwrap();
            let scope = board.events().into_iter().find_map(|event| match event {
                Event::Invalidated(scope) => Some(scope),
                _ => None,
            });
            assert!(scope.unwrap().range.contains_range(middle()));
            let cleaned: Vec<_> = board.synchronized().into_iter().filter(|(page, ..)| *page == at).collect();
            assert_eq!(cleaned.last(), Some(&(at, PAGE, Content::Code)), "the taker may execute it");
            let left = if handover == Handover::Keep { Ok(1) } else { Ok(0) };
            assert_eq!(value(&taker, LARGE), left);
            assert_eq!(cleaned.first().unwrap().2 == Content::Data, handover == Handover::Zero, "before the zeros");
        }
    }

    #[test]
    fn blocks_go_as_blocks_where_they_fit_and_empty_tables_go() {
        let board = Board::new();
        let (giver, taker) = (board.space(), board.space());
        giver.map(range(0, 3 * BLOCK), BLOCKS, RW).unwrap();
        giver.donate(range(BLOCK / 2, BLOCK / 2 + BLOCK), &taker, gpa(LARGE - BLOCK / 2), RW, Handover::Keep).unwrap();
        assert_eq!(
            (giver.stats().leaves[..2].to_vec(), taker.stats().leaves[..2].to_vec()),
            (vec![16, 1], vec![16, 1])
        );
        giver.donate(range(0, BLOCK / 2), &taker, gpa(0), RW, Handover::Keep).unwrap();
        giver.donate(range(2 * BLOCK, BLOCK), &taker, gpa(PAGE * 17), RW, Handover::Keep).unwrap();
        assert_eq!((giver.stats().table_frames, giver.stats().areas), (1, 0));
        assert_eq!(taker.stats().owned_frames, 96);
        taker.unmap(range(0, 2 * LARGE)).unwrap();
        assert_eq!(board.allocated(), giver.stats().table_frames + taker.stats().table_frames);
    }

    /// What was allocated page by page is freed so, even where it came to lie side by side.
    #[test]
    fn pages_side_by_side_are_no_block() {
        let board = Board::new();
        let (giver, taker) = (board.space(), board.space());
        // As many frames first as it takes for the pages to come to lie where a block could.
        let is_aligned = |space: &Space| space.translate(gpa(0)).unwrap().hpa.as_usize().is_multiple_of(BLOCK);
        for count in 1..100 {
            board.allocate(count, PAGE).expect("a frame");
            giver.map(range(0, BLOCK), PAGES, RW).unwrap();
            if is_aligned(&giver) {
                break;
            }
            giver.unmap(range(0, BLOCK)).unwrap();
        }
        let at = |page: usize| giver.translate(gpa(page * PAGE)).unwrap().hpa;
        assert!(is_aligned(&giver) && (0..32).all(|page| at(page) == at(0) + page * PAGE));
        giver.donate(range(0, BLOCK), &taker, gpa(0), RW, Handover::Keep).unwrap();
        assert_eq!(taker.stats().leaves[..2], [32, 0]);
    }

    #[test]
    fn what_is_no_space_of_ones_own_to_give_is_refused() {
        let board = Board::new();
        let (giver, taker) = pair(&board);
        let before = picture(&board, &giver, &taker);
        assert_eq!(donate(&giver, &giver), Err(Error::SameSpace(middle())));
        assert_eq!(donate(&giver, &Board::new().space()), Err(Error::Allocators(middle())));
        let device = RW | MappingFlags::DEVICE;
        let refused = giver.donate(middle(), &taker, gpa(LARGE), device, Handover::Keep);
        assert!(matches!(refused, Err(Error::Flags { range: place, .. }) if place == range(LARGE, 2 * PAGE)));
        let hole = Error::NotMapped(range(12 * PAGE, PAGE));
        assert_eq!(giver.donate(range(11 * PAGE, 2 * PAGE), &taker, gpa(0), RW, Handover::Keep), Err(hole));
        assert_eq!(picture(&board, &giver, &taker), before);
        giver.share(range(10 * PAGE, PAGE), &taker, gpa(0), RW).unwrap();
        assert_eq!(donate(&giver, &taker), Err(is(10, PageState::SharedOut)));
        let borrowed = taker.donate(range(0, PAGE), &giver, gpa(0), RW, Handover::Keep);
        assert_eq!(borrowed, Err(is(0, PageState::Borrowed)));
    }

    #[test]
    fn a_cpu_that_cannot_be_told_keeps_what_it_has() {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let (giver, taker) = pair(&board);
        let before = picture(&board, &giver, &taker);
        giver.enter(CpuId(3), VcpuId(3)).unwrap();
        board.deafen(Some(CpuId(3)));
        let failed = giver.donate(middle(), &taker, gpa(LARGE), RW, Handover::Zero);
        assert!(matches!(failed, Err(Error::Invalidation { range, .. }) if range == middle()));
        giver.leave(CpuId(3)).unwrap();
        board.deafen(None);
        assert_eq!(picture(&board, &giver, &taker), before);
        assert_eq!(value(&giver, 9 * PAGE), Ok(1), "it is not zeroed under its eyes");
        donate(&giver, &taker).unwrap();
    }

    #[test]
    fn out_of_memory_gives_nothing() {
        let board = Board::new();
        let (giver, taker) = (board.space(), board.space());
        giver.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        giver.write_obj(gpa(PAGE), 5_u64).unwrap();
        let before = picture(&board, &giver, &taker);
        for allowed in 0.. {
            board.allow(Some(allowed));
            let result = giver.donate(range(PAGE, 2 * PAGE), &taker, gpa(0), RW, Handover::Zero);
            board.allow(None);
            if result.is_ok() {
                assert_eq!(allowed, 4, "three tables of the taker's, one that splits");
                break;
            }
            assert_eq!(
                result,
                Err(Error::NoMemory(if allowed < 3 { range(0, 2 * PAGE) } else { range(PAGE, 2 * PAGE) }))
            );
            assert_eq!(picture(&board, &giver, &taker), before);
            assert_eq!(value(&giver, PAGE), Ok(5));
        }
        assert_eq!((value(&taker, 0), giver.stats().owned_frames, taker.stats().owned_frames), (Ok(0), 30, 2));
    }

    #[test]
    fn the_frames_move_from_one_limit_to_the_other() {
        let board = Board::new();
        let (giver, taker) = pair(&board);
        taker.set_limits(Limits { frames: Some(1), ..Limits::default() });
        let before = (picture(&board, &giver, &taker), giver.usage(), taker.usage());
        let refused = Error::Limit { range: range(LARGE, 2 * PAGE), what: Resource::Frames, limit: 1 };
        assert_eq!(donate(&giver, &taker), Err(refused));
        assert_eq!((picture(&board, &giver, &taker), giver.usage(), taker.usage()), before);
        taker.set_limits(Limits { frames: Some(2), ..Limits::default() });
        donate(&giver, &taker).unwrap();
        assert_eq!((giver.usage().frames, taker.usage().frames), (2, 2));
        taker.unmap(range(LARGE, 2 * PAGE)).unwrap();
        assert_eq!(taker.usage().frames, 0);
    }

    #[test]
    fn a_copy_is_given_without_what_it_was_copied_from() {
        let board = Board::new();
        let (giver, taker) = pair(&board);
        let snapshot = giver.snapshot().unwrap();
        assert_eq!(donate(&giver, &taker), Err(is(9, PageState::Frozen)));
        giver.write_obj(gpa(9 * PAGE), 7_u64).unwrap();
        giver.write_obj(gpa(10 * PAGE), 8_u64).unwrap();
        donate(&giver, &taker).unwrap();
        drop((giver, snapshot));
        assert_eq!((value(&taker, LARGE), value(&taker, LARGE + PAGE)), (Ok(7), Ok(8)));
        drop(taker);
        assert_eq!(board.allocated(), 0);
    }
}

mod convert {
    use super::*;

    #[test]
    fn private_memory_becomes_a_regions_in_place_and_nothing_is_invalidated() {
        let board = Board::new();
        let (giver, taker) = pair(&board);
        giver.map(range(12 * PAGE, PAGE), LAZY, READ).unwrap();
        let before = (giver.translate(gpa(9 * PAGE)), board.allocated());
        board.events();
        let region = giver.make_shared(range(9 * PAGE, 4 * PAGE)).unwrap();
        assert_eq!(board.events(), []);
        assert_eq!((giver.translate(gpa(9 * PAGE)), board.allocated()), before);
        assert_eq!((region.size(), region.frames()), (4 * PAGE, 3), "what was not touched stays so");
        assert_eq!(giver.stats().shared_frames, 3);
        assert_eq!(giver.area(gpa(11 * PAGE)).unwrap().kind, AreaKind::Shared(0));
        assert_eq!(giver.area(gpa(12 * PAGE)).unwrap().kind, AreaKind::Shared(3 * PAGE));
        assert_eq!(region.read_obj::<u64>(PAGE), Ok(2));
        assert_eq!(region.freeze(), Err(RegionError::Written { mapped: 3 * PAGE, handles: 0 }), "the guest may write");
        taker.map(range(0, PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
        taker.write_obj(gpa(0), 6_u64).unwrap();
        assert_eq!((value(&giver, 9 * PAGE), value(&giver, 8 * PAGE)), (Ok(6), Ok(0)));
        drop((giver, taker));
        assert_eq!(board.allocated(), 0);
    }

    #[test]
    fn a_region_becomes_private_when_no_other_space_has_it() {
        let board = Board::new();
        let (giver, _) = pair(&board);
        let region = giver.make_shared(middle()).unwrap();
        let in_use =
            |mappings, handles| Err(Error::Region { range: middle(), cause: RegionError::InUse { mappings, handles } });
        giver.map(range(0, PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, READ).unwrap();
        assert_eq!(giver.make_private(middle(), Handover::Keep), in_use(2, 1));
        giver.unmap(range(0, PAGE)).unwrap();
        let writer = region.writer().unwrap();
        assert_eq!(giver.make_private(middle(), Handover::Keep), in_use(1, 2));
        drop((region, writer));
        assert_eq!(giver.make_private(middle(), Handover::Keep), Ok(()));
        assert_eq!((giver.page_state(gpa(9 * PAGE)), value(&giver, 9 * PAGE)), (PageState::Owned, Ok(1)));
        assert_eq!(giver.make_private(middle(), Handover::Keep), Err(is(9, PageState::Owned)));
        giver.unmap(range(8 * PAGE, 4 * PAGE)).unwrap();
        assert_eq!(board.allocated(), giver.stats().table_frames);
    }

    #[test]
    fn a_regions_frames_are_on_no_spaces_limit() {
        let board = Board::new();
        let (space, _) = pair(&board);
        drop(space.make_shared(middle()).unwrap());
        assert_eq!(space.usage().frames, 2);
        space.set_limits(Limits { frames: Some(3), ..Limits::default() });
        let refused = Error::Limit { range: middle(), what: Resource::Frames, limit: 3 };
        assert_eq!(space.make_private(middle(), Handover::Keep), Err(refused));
        assert_eq!((space.page_state(gpa(9 * PAGE)), space.usage().frames), (PageState::Region, 2));
        space.set_limits(Limits::default());
        space.make_private(middle(), Handover::Keep).unwrap();
        assert_eq!(space.usage().frames, 4);
        space.unmap(range(8 * PAGE, 4 * PAGE)).unwrap();
        assert_eq!(space.usage().frames, 0);
    }

    /// Pages that a handle wrote and no guest mapped yet are the region's, too.
    #[test]
    fn what_others_populated_comes_along_and_the_rest_of_the_region_is_freed() {
        let board = Board::new();
        let space = board.space();
        let region = space.region(4 * PAGE).unwrap();
        for page in 0..3_usize {
            region.writer().unwrap().write_obj(page * PAGE, page as u64 + 5).unwrap();
        }
        space.map(range(0, 4 * PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
        let before = board.allocated();
        space.make_private(range(PAGE, 3 * PAGE), Handover::Keep).unwrap();
        assert_eq!((value(&space, 0), value(&space, PAGE), value(&space, 2 * PAGE)), (Ok(5), Ok(6), Ok(7)));
        assert_eq!((space.stats().owned_frames, space.stats().shared_frames), (2, 1));
        space.unmap(range(0, PAGE)).unwrap();
        assert_eq!((value(&space, PAGE), value(&space, 3 * PAGE)), (Ok(6), Ok(0)));
        space.unmap(range(0, 4 * PAGE)).unwrap();
        assert_eq!(board.allocated(), before - 3);
    }

    #[test]
    fn zeroing_is_a_choice() {
        for (handover, left) in [(Handover::Keep, 1), (Handover::Zero, 0)] {
            let board = Board::new();
            let (space, _) = pair(&board);
            drop(space.make_shared(middle()).unwrap());
            space.make_private(middle(), handover).unwrap();
            assert_eq!((value(&space, 9 * PAGE), value(&space, 11 * PAGE)), (Ok(left), Ok(3)));
        }
    }

    #[test]
    fn blocks_stay_blocks_and_are_split_at_the_ends() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, 2 * BLOCK), BLOCKS, RW).unwrap();
        space.write_obj(gpa(BLOCK), 4_u64).unwrap();
        drop(space.make_shared(range(PAGE, 2 * BLOCK - PAGE)).unwrap());
        assert_eq!(space.stats().leaves[..2], [32, 1]);
        assert_eq!((space.stats().owned_frames, space.stats().shared_frames), (1, 63));
        space.make_private(range(PAGE, BLOCK), Handover::Keep).unwrap();
        assert_eq!((space.stats().owned_frames, space.stats().shared_frames), (1 + 32, 31));
        assert_eq!(value(&space, BLOCK), Ok(4));
        drop(space);
        assert_eq!(board.allocated(), 0);
    }

    #[test]
    fn what_is_not_private_or_not_a_regions_is_refused() {
        let board = Board::new();
        let (space, other) = pair(&board);
        space.map(range(0, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
        assert_eq!(space.make_shared(range(0, PAGE)), Err(is(0, PageState::Foreign)));
        assert_eq!(space.make_private(range(0, PAGE), Handover::Keep), Err(is(0, PageState::Foreign)));
        assert_eq!(space.make_shared(range(11 * PAGE, 2 * PAGE)), Err(Error::NotMapped(range(12 * PAGE, PAGE))));
        space.lend(range(8 * PAGE, PAGE), &other, gpa(0), RW).unwrap();
        assert_eq!(space.make_shared(range(8 * PAGE, 2 * PAGE)), Err(is(8, PageState::Lent)));
        assert_eq!(other.make_shared(range(0, PAGE)), Err(is(0, PageState::Borrowed)));
        assert_eq!(other.make_private(range(0, PAGE), Handover::Keep), Err(is(0, PageState::Borrowed)));
        let region = space.region(PAGE).unwrap();
        region.freeze().unwrap();
        space.map(range(PAGE, PAGE), Mapping::CopyOnWrite { region: region.clone(), offset: 0 }, RW).unwrap();
        region.writer().unwrap_err();
        drop(space.make_shared(range(PAGE, PAGE)).expect("nothing was inherited there"));
        space.unmap(range(PAGE, PAGE)).unwrap();
        space.map(range(2 * PAGE, PAGE), Mapping::Shared { region, offset: 0 }, READ).unwrap();
        let frozen = Error::Region { range: range(2 * PAGE, PAGE), cause: RegionError::Frozen };
        assert_eq!(space.make_private(range(2 * PAGE, PAGE), Handover::Keep), Err(frozen));
        let foreign = Board::new().space().region(PAGE).unwrap();
        space.map(range(3 * PAGE, PAGE), Mapping::Shared { region: foreign, offset: 0 }, RW).unwrap();
        let allocators = Error::Allocators(range(3 * PAGE, PAGE));
        assert_eq!(space.make_private(range(3 * PAGE, PAGE), Handover::Keep), Err(allocators));
    }

    #[test]
    fn out_of_memory_converts_nothing() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        let before = space.to_string();
        board.allow(Some(0));
        assert_eq!(space.make_shared(range(PAGE, PAGE)), Err(Error::NoMemory(range(PAGE, PAGE))));
        board.allow(None);
        assert_eq!(space.to_string(), before);
        drop(space.make_shared(range(0, BLOCK)).unwrap());
        let before = space.to_string();
        board.allow(Some(0));
        let refused = space.make_private(range(PAGE, PAGE), Handover::Zero);
        assert_eq!(refused, Err(Error::NoMemory(range(PAGE, PAGE))));
        board.allow(None);
        assert_eq!(space.to_string(), before);
    }

    /// Guests fault, and the hypervisor reads, while memory goes back and forth. Each CPU goes on until the last conversion.
    #[test]
    fn conversion_under_faults_loses_nothing() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, 8 * PAGE), LAZY, RW).unwrap();
        let done = AtomicBool::new(false);
        // Answers how many rounds there were.
        let work = &|cpu: usize| {
            let mut round = 0_u64;
            while round == 0 || !round.is_multiple_of(8) || !done.load(Ordering::Acquire) {
                let page = round as usize % 8 * PAGE;
                let _ = fault(&space, page, Access::Write);
                space.write_obj(gpa(page + 64 * cpu), round).unwrap();
                assert_eq!(value(&space, page + 64 * cpu), Ok(round));
                round += 1;
            }
            round
        };
        let rounds = std::thread::scope(|scope| {
            let workers = [0, 1].map(|cpu| scope.spawn(move || work(cpu)));
            for _ in 0..if cfg!(miri) { 10 } else { 1000 } {
                drop(space.make_shared(range(2 * PAGE, 4 * PAGE)).unwrap());
                space.make_private(range(2 * PAGE, 4 * PAGE), Handover::Keep).unwrap();
            }
            done.store(true, Ordering::Release);
            workers.map(|worker| worker.join().unwrap())
        });
        for (cpu, rounds) in rounds.into_iter().enumerate() {
            for page in 0..8 {
                assert_eq!(value(&space, page * PAGE + 64 * cpu), Ok(rounds - 8 + page as u64));
            }
        }
        assert_eq!(space.usage().frames, 8);
        space.unmap(range(0, 8 * PAGE)).unwrap();
        assert_eq!((board.allocated(), space.usage().frames), (space.stats().table_frames, 0));
    }
}
