//! Memory goes and its areas stay: what the next touch finds, what is free by then, and what is refused.

use std::num::NonZeroUsize;

use stage2::{
    loan::{Handover, PageState},
    pager::{Pager, Settled, Source, Supply, Ticket, Waiting},
    space::{AreaKind, Progress, Refill},
};

use super::*;

/// A source of which every page starts with its number and a count of how often it was asked.
#[derive(Default)]
struct Counting {
    asked: AtomicU64,
    cancelled: AtomicU64,
    later: bool,
}

impl Source for Counting {
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        page[..8].copy_from_slice(&((ticket.offset() / PAGE) as u64 * 100 + asked).to_le_bytes());
        if self.later { Supply::Later } else { Supply::Ready }
    }

    fn settled(&self, _: Ticket, how: Settled) {
        if how == Settled::Cancelled {
            self.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn pager(later: bool) -> (Arc<Counting>, Pager) {
    let source = Arc::new(Counting { later, ..Counting::default() });
    (source.clone(), Pager::new(source, NonZeroUsize::new(4).unwrap()).unwrap())
}

/// Frames that are no table's.
fn held(board: &Board, spaces: &[&GuestSpace<Machine>]) -> usize {
    board.allocated() - spaces.iter().map(|space| space.stats().table_frames).sum::<usize>()
}

/// Eight pages, each of which has its number in it.
fn numbered(board: &Board, mapping: Mapping) -> GuestSpace<Machine> {
    let space = board.space();
    space.map(range(0, 8 * PAGE), mapping, RW).unwrap();
    (0..8).for_each(|page| space.store(gpa(page * PAGE), page as u64 + 1).unwrap());
    space
}

fn contents(space: &GuestSpace<Machine>) -> Vec<u64> {
    (0..8).map(|page| space.load(gpa(page * PAGE)).unwrap()).collect()
}

#[test]
fn private_memory_is_zeros_again_and_free() {
    let board = Board::new();
    let space = numbered(&board, LAZY);
    space.discard(range(PAGE, PAGE), Refill::Zeros).unwrap();
    space.discard(range(3 * PAGE, 3 * PAGE), Refill::Zeros).unwrap();
    assert_eq!((held(&board, &[&space]), space.usage().frames, space.stats().areas), (4, 4, 1));
    assert_eq!(contents(&space), [1, 0, 3, 0, 0, 0, 7, 8]);
    // Its last page, and with it the table.
    space.discard(range(0, 8 * PAGE), Refill::Source).unwrap();
    assert_eq!((held(&board, &[&space]), space.stats().table_frames, space.usage().frames), (0, 1, 0));
    assert_eq!(fault(&space, 7 * PAGE, Access::Write), Outcome::Resolved);
    assert_eq!(contents(&space), [0; 8]);
}

#[test]
fn a_part_of_a_block_goes_and_the_rest_stays() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, 2 * BLOCK), BLOCKS, RW).unwrap();
    for page in 0..64 {
        space.store(gpa(page * PAGE), page as u64 + 1).unwrap();
    }
    space.discard(range(30 * PAGE, 4 * PAGE), Refill::Zeros).unwrap();
    assert_eq!((held(&board, &[&space]), space.stats().leaves[0], space.stats().areas), (60, 60, 1));
    for page in 0..64 {
        let there = if (30..34).contains(&page) { 0 } else { page as u64 + 1 };
        assert_eq!(space.load(gpa(page * PAGE)), Ok(there));
    }
}

#[test]
fn no_cpu_reaches_it_when_it_returns() {
    let board = Board::new();
    let space = numbered(&board, LAZY);
    for part in [range(PAGE, PAGE), range(2 * PAGE, 3 * PAGE)] {
        board.events();
        space.discard(part, Refill::Zeros).unwrap();
        let events = board.events();
        let told = events.iter().position(|event| matches!(event, Event::Invalidated(scope) if scope.range == part));
        let freed = events.iter().position(|event| matches!(event, Event::Freed(..)));
        assert!(told.unwrap() < freed.unwrap(), "{events:?}");
    }
}

#[test]
fn what_was_inherited_is_left_to_others() {
    let board = Board::new();
    let parent = numbered(&board, LAZY);
    let (one, two) = (board.space(), board.space());
    let snapshot = parent.snapshot().unwrap();
    one.restore(&snapshot).unwrap();
    two.restore(&snapshot).unwrap();
    drop(snapshot);
    one.store(gpa(0), 50_u64).unwrap();
    assert_eq!(one.load(gpa(PAGE)), Ok(2_u64));
    one.discard(range(0, 4 * PAGE), Refill::Source).unwrap();
    assert_eq!((held(&board, &[&parent, &one, &two]), one.stats().copied_frames), (8, 0));
    assert_eq!(contents(&one), [0, 0, 0, 0, 5, 6, 7, 8]);
    assert_eq!((contents(&parent), contents(&two)), ((1..9).collect(), (1..9).collect()));
    parent.discard(range(0, 8 * PAGE), Refill::Zeros).unwrap();
    two.discard(range(0, 8 * PAGE), Refill::Zeros).unwrap();
    assert_eq!((held(&board, &[&parent, &one, &two]), contents(&one)), (8, vec![0, 0, 0, 0, 5, 6, 7, 8]));
    one.discard(range(0, 8 * PAGE), Refill::Zeros).unwrap();
    assert_eq!(held(&board, &[&parent, &one, &two]), 0);
}

#[test]
fn a_source_is_asked_again_or_never() {
    let board = Board::new();
    let space = board.space();
    let (source, pager) = pager(false);
    space.map_from(range(0, 8 * PAGE), &pager, 4 * PAGE, RW).unwrap();
    assert_eq!(space.load(gpa(PAGE)), Ok(501_u64));
    space.store(gpa(PAGE), 1_u64).unwrap();
    space.discard(range(0, 2 * PAGE), Refill::Source).unwrap();
    assert_eq!((held(&board, &[&space]), space.usage().frames, space.stats().areas), (0, 0, 1));
    assert_eq!((space.load(gpa(PAGE)), space.load(gpa(0))), (Ok(502_u64), Ok(403_u64)));
    space.discard(range(0, 2 * PAGE), Refill::Zeros).unwrap();
    assert_eq!((space.load(gpa(PAGE)), space.load(gpa(0))), (Ok(0_u64), Ok(0_u64)));
    assert_eq!(space.load(gpa(2 * PAGE)), Ok(604_u64));
    assert_eq!((source.asked.load(Ordering::Relaxed), space.usage().frames), (4, 3));
    let kinds: Vec<_> =
        space.areas().unwrap().iter().map(|area| (area.range, area.kind == AreaKind::Private)).collect();
    assert_eq!(kinds, [(range(0, 2 * PAGE), true), (range(2 * PAGE, 6 * PAGE), false)]);
}

#[test]
fn no_cpu_waits_for_it_any_longer() {
    for (refill, in_steps) in
        [(Refill::Source, false), (Refill::Zeros, false), (Refill::Source, true), (Refill::Zeros, true)]
    {
        let board = Board::new();
        let space = board.space();
        let (source, pager) = pager(true);
        space.map_from(range(0, 8 * PAGE), &pager, 0, RW).unwrap();
        let Outcome::NotYet(ticket) = fault(&space, PAGE, Access::Read) else { panic!("it was brought") };
        space.discard(range(2 * PAGE, PAGE), refill).unwrap();
        assert_eq!(pager.state(ticket), Waiting::NotYet);
        let all = range(0, 4 * PAGE);
        // Before anything is freed.
        let discarding = in_steps.then(|| space.discard_in_steps(all, refill).unwrap());
        if !in_steps {
            space.discard(all, refill).unwrap();
        }
        assert_eq!((pager.state(ticket), source.cancelled.load(Ordering::Relaxed)), (Waiting::Over, 1));
        assert!(pager.complete(ticket, Ok(&[1; PAGE])).is_err());
        drop(discarding);
        match (fault(&space, PAGE, Access::Read), refill) {
            (Outcome::NotYet(again), Refill::Source) => assert_ne!(again, ticket),
            (Outcome::Resolved, Refill::Zeros) => assert_eq!(space.load(gpa(PAGE)), Ok(0_u64)),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_mapping_of_a_region_finds_the_regions_page() {
    let board = Board::new();
    let (one, two) = (board.space(), board.space());
    let region = one.region(8 * PAGE).unwrap();
    for space in [&one, &two] {
        space.map(range(0, 8 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    }
    one.store(gpa(PAGE), 5_u64).unwrap();
    one.discard(range(0, 8 * PAGE), Refill::Zeros).unwrap();
    assert_eq!((one.stats().shared_frames, held(&board, &[&one, &two])), (0, 1));
    assert_eq!((one.load(gpa(PAGE)), two.load(gpa(PAGE))), (Ok(5_u64), Ok(5_u64)));
}

#[test]
fn it_is_free_in_bounded_steps() {
    let board = Board::new();
    let space = numbered(&board, LAZY);
    drop(space.snapshot().unwrap());
    (0..4).for_each(|page| space.store(gpa(page * PAGE), 9_u64).unwrap());
    let mut discarding = space.discard_in_steps(range(0, 8 * PAGE), Refill::Zeros).unwrap();
    assert_eq!(space.load(gpa(0)), Ok(0_u64), "nothing is reached any more");
    let mut left = held(&board, &[&space]);
    while discarding.step(2) == Progress::More {
        let now = held(&board, &[&space]);
        assert!(left - now <= 2, "a step of 2 freed {}", left - now);
        left = now;
    }
    drop(discarding);
    assert_eq!(held(&board, &[&space]), 1);
}

mod refused {
    use super::*;

    /// What a discard must leave as it is.
    fn picture(space: &GuestSpace<Machine>) -> (Vec<u64>, stage2::space::Stats, usize) {
        let contents = contents(space);
        let stats =
            stage2::space::Stats { invalidations: stage2::invalidate::Invalidations::default(), ..space.stats() };
        (contents, stats, space.usage().frames)
    }

    #[test]
    fn are_holes_and_what_is_not_the_spaces_own() {
        let board = Board::new();
        let (space, other) = (numbered(&board, PAGES), board.space());
        let device = Mapping::Linear { to: PhysAddr::from_usize(LARGE) };
        space.map(range(10 * PAGE, PAGE), device, RW | MappingFlags::DEVICE).unwrap();
        other.map(range(0, PAGE), PAGES, RW).unwrap();
        let lent = other.lend(range(0, PAGE), &space, gpa(11 * PAGE), RW).unwrap();
        let shared = space.share(range(7 * PAGE, PAGE), &other, gpa(BLOCK), RW).unwrap();
        let before = picture(&space);
        let state = |at: usize, state| Err(Error::State { range: range(at * PAGE, PAGE), state });
        for refill in [Refill::Zeros, Refill::Source] {
            let discard = |start, pages| space.discard(range(start * PAGE, pages * PAGE), refill);
            assert_eq!(discard(2, 6), state(7, PageState::SharedOut));
            assert_eq!(discard(10, 1), state(10, PageState::Foreign));
            assert_eq!(discard(11, 1), state(11, PageState::Borrowed));
            assert_eq!(other.discard(range(0, PAGE), refill), state(0, PageState::Lent));
            assert_eq!(discard(9, 1), Err(Error::NotMapped(range(9 * PAGE, PAGE))));
            assert_eq!(discard(8, 0), Err(Error::Empty(range(8 * PAGE, 0))));
            assert_eq!(space.discard(range(1, PAGE), refill), Err(Error::Misaligned(range(1, PAGE))));
        }
        assert_eq!(picture(&space), before);
        space.reclaim(&shared, &other, Handover::Keep).unwrap();
        let hole = Err(Error::NotMapped(range(8 * PAGE, 2 * PAGE)));
        assert_eq!(space.discard(range(0, 11 * PAGE), Refill::Zeros), hole);
        assert_eq!(picture(&space).0, before.0);
        drop(lent);
    }

    /// A page, pages with their table, and a part of a block.
    #[test]
    fn when_a_cpu_cannot_be_told_nothing_has_changed() {
        let cases: [(Mapping, usize, usize); 4] = [(LAZY, 1, 1), (LAZY, 1, 3), (PAGES, 0, 8), (BLOCKS, 3, 2)];
        for (mapping, first, count) in cases {
            let board = Board::with(Reach::ThisCpu, Pieces::Any);
            let space = board.space();
            space.map(range(0, BLOCK), mapping, RW).unwrap();
            (0..8).for_each(|page| space.store(gpa(page * PAGE), page as u64 + 1).unwrap());
            let (part, before, allocated) = (range(first * PAGE, count * PAGE), picture(&space), board.allocated());
            space.enter(CpuId(3), VcpuId(0)).unwrap();
            board.deafen(Some(CpuId(3)));
            for part in [part, range(0, BLOCK)] {
                let cause = stage2::invalidate::Unreachable(CpuId(3));
                assert_eq!(space.discard(part, Refill::Zeros), Err(Error::Invalidation { range: part, cause }));
                assert_eq!((picture(&space), board.allocated()), (before.clone(), allocated));
            }
            board.deafen(None);
            space.leave(CpuId(3)).unwrap();
            space.discard(part, Refill::Zeros).unwrap();
            let left = contents(&space).iter().filter(|&&content| content > 0).count();
            assert_eq!(left, 8 - count);
        }
    }

    #[test]
    fn when_a_cpu_cannot_be_told_what_was_inherited_stays() {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let space = board.space();
        let (source, pager) = pager(false);
        space.map_from(range(0, 8 * PAGE), &pager, 0, RW).unwrap();
        space.store(gpa(0), 7_u64).unwrap();
        let snapshot = space.snapshot().unwrap();
        space.store(gpa(PAGE), 8_u64).unwrap();
        let before = picture(&space);
        space.enter(CpuId(3), VcpuId(0)).unwrap();
        board.deafen(Some(CpuId(3)));
        for refill in [Refill::Zeros, Refill::Source] {
            assert!(matches!(space.discard(range(0, 8 * PAGE), refill), Err(Error::Invalidation { .. })));
            assert_eq!(picture(&space), before);
        }
        board.deafen(None);
        assert_eq!(source.asked.load(Ordering::Relaxed), 8);
        space.leave(CpuId(3)).unwrap();
        drop((snapshot, space));
        assert_eq!(board.allocated(), 0);
    }

    #[test]
    fn without_memory_to_split_a_block() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        (0..8).for_each(|page| space.store(gpa(page * PAGE), page as u64 + 1).unwrap());
        let before = picture(&space);
        board.allow(Some(0));
        assert_eq!(space.discard(range(PAGE, PAGE), Refill::Zeros), Err(Error::NoMemory(range(PAGE, PAGE))));
        board.allow(None);
        assert_eq!(picture(&space), before);
    }
}
