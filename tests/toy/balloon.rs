//! A part of a mapping goes while the rest stays: what nothing can reach any more is free, whatever stood behind it.

use stage2::{SharedRegion, loan::Handover, pager::Pager};

use super::*;

/// What a guest of eight pages, all of them populated, may stand on.
type Make = fn(&Board) -> GuestSpace<Machine>;

fn populated(board: &Board) -> GuestSpace<Machine> {
    let space = board.space();
    space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
    space
}

fn checkpointed(board: &Board) -> GuestSpace<Machine> {
    let space = populated(board);
    drop(space.snapshot().unwrap());
    space
}

fn restored(board: &Board) -> GuestSpace<Machine> {
    let (parent, space) = (populated(board), board.space());
    space.restore(&parent.snapshot().unwrap()).unwrap();
    space
}

fn converted(board: &Board) -> GuestSpace<Machine> {
    let space = populated(board);
    drop(space.make_shared(range(0, 8 * PAGE)).unwrap());
    space
}

fn shared(board: &Board) -> GuestSpace<Machine> {
    let space = board.space();
    let region = space.region(8 * PAGE).unwrap();
    space.map(range(0, 8 * PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
    (0..8).for_each(|page| assert_eq!(fault(&space, page * PAGE, Access::Write), Outcome::Resolved));
    space
}

/// Frames that are no table's.
fn held(board: &Board, spaces: &[&GuestSpace<Machine>]) -> usize {
    board.allocated() - spaces.iter().map(|space| space.stats().table_frames).sum::<usize>()
}

#[test]
fn half_of_a_guest_gives_back_half_of_its_memory() {
    let ways: [(&str, Make); 4] =
        [("checkpointed", checkpointed), ("restored", restored), ("converted", converted), ("shared", shared)];
    for (way, make) in ways {
        let board = Board::new();
        let space = make(&board);
        assert_eq!(held(&board, &[&space]), 8, "{way}");
        space.unmap(range(PAGE, PAGE)).unwrap();
        assert_eq!(held(&board, &[&space]), 7, "{way}");
        space.unmap(range(3 * PAGE, 4 * PAGE)).unwrap();
        assert_eq!(held(&board, &[&space]), 3, "{way}");
        // The rest is still there.
        for page in 0..8 {
            assert_eq!(space.load::<u8>(gpa(page * PAGE)).is_ok(), [0, 2, 7].contains(&page), "{way}");
        }
        space.unmap(range(0, 8 * PAGE)).unwrap();
        assert_eq!(held(&board, &[&space]), 0, "{way}");
    }
}

/// A handle, another guest, a checkpoint: each can still reach it.
#[test]
fn what_others_reach_stays() {
    let board = Board::new();
    let space = shared(&board);
    let region = space.region(2 * PAGE).unwrap();
    space.map(range(BLOCK, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    space.store(gpa(BLOCK), 3_u64).unwrap();
    let before = held(&board, &[&space]);
    space.unmap(range(BLOCK, PAGE)).unwrap();
    assert_eq!((held(&board, &[&space]), region.load(0)), (before, Ok(3_u64)));

    let (parent, child) = (populated(&board), board.space());
    parent.store(gpa(PAGE), 5_u64).unwrap();
    child.restore(&parent.snapshot().unwrap()).unwrap();
    parent.unmap(range(PAGE, PAGE)).unwrap();
    assert_eq!(child.load(gpa(PAGE)), Ok(5_u64));
    let snapshot = child.snapshot().unwrap();
    child.unmap(range(PAGE, PAGE)).unwrap();
    assert_eq!(snapshot.region().load(PAGE), Ok(5_u64));
    drop((parent, child, snapshot, space, region));
    assert_eq!(board.allocated(), 0);
}

#[test]
fn frames_are_freed_in_bounded_steps_and_without_the_lock() {
    let board = Board::new();
    let space = checkpointed(&board);
    let mut unmapping = space.unmap_in_steps(range(0, 6 * PAGE)).unwrap();
    let mut left = 8;
    loop {
        let progress = unmapping.step(2);
        let now = held(&board, &[&space]);
        assert!(left - now <= 2, "a step of 2 freed {}", left - now);
        left = now;
        if progress == stage2::space::Progress::Done {
            break;
        }
    }
    assert_eq!(left, 2);
    drop(unmapping);
    let space = Arc::new(space);
    let other = space.clone();
    let (done, is_done) = std::sync::mpsc::channel();
    board.on_free(move || {
        std::thread::spawn(move || done.send(other.map(range(0, PAGE), LAZY, RW)));
        assert_eq!(is_done.recv_timeout(PATIENCE), Ok(Ok(())));
    });
    space.unmap(range(7 * PAGE, PAGE)).unwrap();
    assert_eq!(space.stats().areas, 2);
}

/// Until every CPU was told, one may still read it.
#[test]
fn frames_stay_as_long_as_a_cpu_cannot_be_told() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = checkpointed(&board);
    space.enter(CpuId(3), VcpuId(0)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.unmap(range(0, 2 * PAGE)), Err(Error::Invalidation { .. })));
    assert_eq!(held(&board, &[&space]), 8);
    board.deafen(None);
    space.leave(CpuId(3)).unwrap();
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    assert_eq!(held(&board, &[&space]), 6);
}

/// What the guest's copies were copied from went with the snapshot.
#[test]
fn a_transfer_finds_nothing_behind_copies() {
    let board = Board::new();
    let (space, taker) = (populated(&board), board.space());
    let snapshot = space.snapshot().unwrap();
    for page in 0..3 {
        space.store(gpa(page * PAGE), 1_u8).unwrap();
    }
    drop(snapshot);
    assert_eq!(held(&board, &[&space, &taker]), 8, "three copies");
    space.donate(range(0, PAGE), &taker, gpa(0), RW, Handover::Keep).unwrap();
    assert_eq!(held(&board, &[&space, &taker]), 8);
    let region: SharedRegion = space.make_shared(range(PAGE, PAGE)).unwrap();
    assert_eq!((held(&board, &[&space, &taker]), region.frames()), (8, 1));
    space.unmap(range(2 * PAGE, PAGE)).unwrap();
    assert_eq!(held(&board, &[&space, &taker]), 8 - 1);
}

/// Answers at once.
struct Ready;

impl stage2::pager::Source for Ready {
    fn ask(&self, _: stage2::pager::Ticket, _: &mut [u8]) -> stage2::pager::Supply {
        stage2::pager::Supply::Ready
    }

    fn settled(&self, _: stage2::pager::Ticket, _: stage2::pager::Settled) {}
}

/// Pages of a source that are only read are on no account, but count against the room; they make it again.
#[test]
fn what_was_read_and_unmapped_makes_room() {
    let board = Board::new();
    let space = board.space();
    space.set_limits(stage2::Limits { frames: Some(4), ..stage2::Limits::default() });
    let pager = Pager::new(Arc::new(Ready), std::num::NonZeroUsize::MIN).unwrap();
    space.map_from(range(0, 16 * PAGE), &pager, 0, READ).unwrap();
    for page in 0..16 {
        assert_eq!(fault(&space, page * PAGE, Access::Read), Outcome::Resolved, "page {page}");
        if page >= 3 {
            space.unmap(range((page - 3) * PAGE, PAGE)).unwrap();
        }
    }
    assert_eq!(held(&board, &[&space]), 3);
}
