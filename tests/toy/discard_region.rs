//! Pages of a region that go for all that show them.

use std::{num::NonZeroUsize, sync::mpsc::channel, thread};

use stage2::{
    SharedRegion,
    invalidate::Unreachable,
    pager::{Pager, Settled, Source, Supply, Ticket, Waiting},
    region::RegionError,
};

use super::*;

type Space = GuestSpace<Machine>;

/// Two guests that show eight pages, the second one at another address and from the third on only; each page has its number.
fn shown(board: &Board) -> (Space, Space, SharedRegion) {
    let (one, two) = (board.space(), board.space());
    let region = one.region(8 * PAGE).unwrap();
    one.map(range(0, 8 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    two.map(range(BLOCK, 6 * PAGE), Mapping::Shared { region: region.clone(), offset: 2 * PAGE }, RW).unwrap();
    (0..8).for_each(|page| one.store(gpa(page * PAGE), page as u64 + 1).unwrap());
    (2..8).for_each(|page| assert_eq!(two.load(gpa(BLOCK + (page - 2) * PAGE)), Ok(page as u64 + 1)));
    (one, two, region)
}

fn discard(region: &SharedRegion, offset: usize, size: usize, spaces: &[&Space]) -> Result<(), RegionError> {
    region.discard(offset, size, spaces.iter().map(|space| &***space))
}

/// What the handle reads of each page.
fn contents(region: &SharedRegion) -> Vec<u64> {
    (0..8).map(|page| region.load(page * PAGE).unwrap()).collect()
}

#[test]
fn are_zeros_for_all_and_free() {
    let board = Board::new();
    let (one, two, region) = shown(&board);
    let before = board.allocated();
    discard(&region, PAGE, 3 * PAGE, &[&two, &one, &two]).unwrap();
    assert_eq!((before - board.allocated(), region.frames()), (3, 5));
    assert_eq!(contents(&region), [1, 0, 0, 0, 5, 6, 7, 8]);
    assert_eq!((one.stats().shared_frames, two.stats().shared_frames), (5, 4));
    // And shared as before.
    one.store(gpa(3 * PAGE), 9_u64).unwrap();
    assert_eq!((two.load(gpa(BLOCK + PAGE)), region.load(3 * PAGE)), (Ok(9_u64), Ok(9_u64)));
    assert_eq!((one.load(gpa(2 * PAGE)), two.load(gpa(BLOCK))), (Ok(0_u64), Ok(0_u64)));
    discard(&region, 0, 8 * PAGE, &[&one, &two]).unwrap();
    assert_eq!((region.frames(), one.stats().areas, two.stats().areas), (0, 1, 1));
    drop((one, two, region));
    assert_eq!(board.allocated(), 0);
}

/// Of a space that has it twice, and of no space at all.
#[test]
fn are_gone_from_every_mapping() {
    let board = Board::new();
    let (one, two, region) = shown(&board);
    one.map(range(LARGE, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    assert_eq!(one.load(gpa(LARGE)), Ok(1_u64));
    discard(&region, 0, PAGE, &[&one]).unwrap();
    assert_eq!((one.load(gpa(LARGE)), one.load(gpa(0))), (Ok(0_u64), Ok(0_u64)));
    let alone = two.region(2 * PAGE).unwrap();
    alone.writer().unwrap().store(PAGE, 3_u64).unwrap();
    discard(&alone, 0, 2 * PAGE, &[]).unwrap();
    assert_eq!((alone.load(PAGE), alone.frames()), (Ok(0_u64), 0));
}

#[test]
fn are_freed_when_all_cpus_were_told() {
    let board = Board::new();
    let (one, two, region) = shown(&board);
    board.events();
    discard(&region, 2 * PAGE, PAGE, &[&one, &two]).unwrap();
    let events = board.events();
    let told = |at: usize| {
        let wanted = range(at, PAGE);
        events.iter().position(|event| matches!(event, Event::Invalidated(scope) if scope.range == wanted)).unwrap()
    };
    let freed = events.iter().position(|event| matches!(event, Event::Freed(..))).unwrap();
    assert!(told(2 * PAGE) < freed && told(BLOCK) < freed, "{events:?}");
}

/// A source that brings pages later.
struct Later;

impl Source for Later {
    fn ask(&self, _: Ticket, _: &mut [u8]) -> Supply {
        Supply::Later
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

#[test]
fn are_asked_for_again_where_a_source_has_them() {
    for in_steps in [false, true] {
        let board = Board::new();
        let space = board.space();
        let pager = Pager::new(Arc::new(Later), NonZeroUsize::new(4).unwrap()).unwrap();
        let region = space.region_from(2 * PAGE, &pager, 0).unwrap();
        space.map(range(0, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        let waits = |at| match fault(&space, at, Access::Read) {
            Outcome::NotYet(ticket) => ticket,
            other => panic!("{other:?}"),
        };
        let (one, two) = (waits(0), waits(PAGE));
        pager.complete(one, Ok(&[1; PAGE])).unwrap();
        assert_eq!(space.load(gpa(0)), Ok(1_u8));
        // Before anything is freed.
        let discarding = in_steps.then(|| region.discard_in_steps(0, 2 * PAGE, [&*space]).unwrap());
        if !in_steps {
            discard(&region, 0, 2 * PAGE, &[&space]).unwrap();
        }
        assert_eq!((pager.state(two), region.frames()), (Waiting::Over, 0));
        assert_eq!((waits(0).offset(), waits(PAGE).offset()), (0, PAGE));
        drop(discarding);
    }
}

/// The hypervisor reads it by a handle meanwhile.
#[test]
fn stay_while_a_handle_reads_them() {
    let board = Board::new();
    let (one, two, region) = shown(&board);
    let (other, allocated, watched) = (region.clone(), board.allocated(), board.clone());
    let (one, two) = (Arc::new(one), Arc::new(two));
    let (done, is_done) = channel();
    let spaces = (one.clone(), two.clone());
    board.on_synchronization(move || {
        let discards = thread::spawn(move || discard(&other, 4 * PAGE, PAGE, &[&spaces.0, &spaces.1]).unwrap());
        // Long enough for it to come as far as it can.
        thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(watched.allocated(), allocated, "it was freed under the handle");
        done.send(discards).unwrap();
    });
    assert_eq!(region.load(4 * PAGE), Ok(5_u64));
    is_done.recv().unwrap().join().unwrap();
    assert_eq!((region.load(4 * PAGE), allocated - board.allocated()), (Ok(0_u64), 1));
}

mod refused {
    use super::*;

    #[test]
    fn for_bad_ranges_and_frozen_regions() {
        let board = Board::new();
        let (one, two, region) = shown(&board);
        let of_both = |offset, size| discard(&region, offset, size, &[&one, &two]);
        assert_eq!(of_both(0, 0), Err(RegionError::BadSize { size: 0 }));
        assert_eq!(of_both(0, 5), Err(RegionError::BadSize { size: 5 }));
        assert_eq!(of_both(8, PAGE), Err(RegionError::Unaligned { offset: 8, align: PAGE }));
        let beyond = |offset, size| Err(RegionError::Beyond { offset, size, region: 8 * PAGE });
        assert_eq!(of_both(7 * PAGE, 2 * PAGE), beyond(7 * PAGE, 2 * PAGE));
        assert_eq!(of_both(usize::MAX & !(PAGE - 1), 2 * PAGE), beyond(usize::MAX & !(PAGE - 1), 2 * PAGE));
        drop((one, two));
        region.freeze().unwrap();
        let frozen = discard(&region, 0, PAGE, &[]);
        assert_eq!((frozen, region.frames()), (Err(RegionError::Frozen), 8));
    }

    #[test]
    fn while_another_space_shows_some_of_it() {
        let board = Board::new();
        let (one, two, region) = shown(&board);
        let elsewhere = |offset, size| Err(RegionError::ShownElsewhere { offset, size });
        assert_eq!(discard(&region, PAGE, 2 * PAGE, &[&one]), elsewhere(PAGE, 2 * PAGE));
        assert_eq!(discard(&region, PAGE, 2 * PAGE, &[&two]), elsewhere(PAGE, 2 * PAGE));
        assert_eq!(contents(&region), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((one.stats().shared_frames, two.stats().shared_frames), (8, 6));
        discard(&region, 0, 2 * PAGE, &[&one]).unwrap();
        two.unmap(range(BLOCK, PAGE)).unwrap();
        discard(&region, 2 * PAGE, PAGE, &[&one]).unwrap();
        assert_eq!(contents(&region), [0, 0, 0, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn while_a_cpu_of_any_of_them_cannot_be_told() {
        for second in [false, true] {
            let board = Board::with(Reach::ThisCpu, Pieces::Any);
            let (one, two, region) = shown(&board);
            let deaf = if second { &two } else { &one };
            deaf.enter(CpuId(3), VcpuId(0)).unwrap();
            board.deafen(Some(CpuId(3)));
            let cause = Unreachable(CpuId(3));
            let discarded = discard(&region, PAGE, 6 * PAGE, &[&one, &two]);
            assert_eq!(discarded, Err(RegionError::Invalidation { cause }));
            assert_eq!((contents(&region), region.frames()), ((1..9).collect(), 8));
            board.deafen(None);
            deaf.leave(CpuId(3)).unwrap();
            assert_eq!((one.load(gpa(2 * PAGE)), two.load(gpa(BLOCK))), (Ok(3_u64), Ok(3_u64)));
            discard(&region, PAGE, 6 * PAGE, &[&one, &two]).unwrap();
            assert_eq!(contents(&region), [1, 0, 0, 0, 0, 0, 0, 8]);
        }
    }

    /// What one of them could not finish is finished first, which must not wait for the other.
    #[test]
    fn not_for_what_was_left_over() {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let (one, two, region) = shown(&board);
        for space in [&one, &two] {
            space.map(range(4 * BLOCK, PAGE), PAGES, RW).unwrap();
            space.enter(CpuId(3), VcpuId(0)).unwrap();
            board.deafen(Some(CpuId(3)));
            assert!(space.unmap(range(4 * BLOCK, PAGE)).is_err());
            let cause = Unreachable(CpuId(3));
            let discarded = discard(&region, 0, PAGE, &[&one, &two]);
            assert_eq!(discarded, Err(RegionError::Invalidation { cause }));
            board.deafen(None);
            space.leave(CpuId(3)).unwrap();
            discard(&region, 0, PAGE, &[&one, &two]).unwrap();
        }
        assert_eq!((one.usage().frames, two.usage().frames), (0, 0));
    }

    #[test]
    fn while_a_snapshot_is_taken_of_one_of_them() {
        let board = Board::new();
        let (one, two, region) = shown(&board);
        two.map(range(4 * BLOCK, PAGE), PAGES, RW).unwrap();
        let taking = two.snapshot_in_steps().unwrap();
        assert_eq!(discard(&region, 0, PAGE, &[&one, &two]), Err(RegionError::Snapshotting));
        drop(taking);
        discard(&region, 0, PAGE, &[&one, &two]).unwrap();
    }
}
