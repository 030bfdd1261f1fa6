//! Unmapping in steps.

use super::*;

#[test]
fn is_complete_for_the_guest_before_the_first_step() {
    let board = Board::new();
    let space = board.space();
    mixed(&space);
    let allocated = board.allocated();
    board.events();
    let unmapping = space.unmap_in_steps(range(0, 16 * LARGE)).unwrap();
    assert_eq!(space.stats().areas, 0);
    assert_eq!(space.translate(gpa(0)), None);
    assert_eq!(fault(&space, LARGE, Access::Read), Outcome::NotMapped);
    assert_eq!(board.allocated(), allocated, "nothing is free yet");
    assert_eq!(board.events().iter().filter(|event| matches!(event, Event::Invalidated(_))).count(), 1);
    drop(unmapping);
}

#[test]
fn frees_no_more_than_its_budget_and_all_in_the_end() {
    for budget in [1, 2, 7, 33, 1000, usize::MAX] {
        let board = Board::new();
        let space = board.space();
        let empty = board.allocated();
        mixed(&space);
        let taken = board.allocated() - empty;
        let mut unmapping = space.unmap_in_steps(range(0, 16 * LARGE)).unwrap();
        assert_eq!(all_steps(&board, budget, |budget| unmapping.step(budget)), taken);
        assert_eq!(unmapping.step(budget), Progress::Done);
        drop(unmapping);
        assert_eq!((freed(&board), board.allocated()), (0, empty));
    }
}

#[test]
fn of_cut_blocks_frees_their_middles_alone() {
    for budget in [1, 5, usize::MAX] {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, 3 * LARGE), BLOCKS, RW).unwrap();
        space.write(gpa(0), &[7; PAGE]).unwrap();
        let gone = range(BLOCK + PAGE, 2 * LARGE);
        let mut unmapping = space.unmap_in_steps(gone).unwrap();
        assert_eq!(all_steps(&board, budget, |budget| unmapping.step(budget)), gone.size() / PAGE);
        assert_eq!(space.stats().owned_frames, LARGE / PAGE);
        assert_eq!(space.read_obj::<[u8; 4]>(gpa(PAGE - 4)), Ok([7; 4]));
        // Within one block there is one middle.
        let mut unmapping = space.unmap_in_steps(range(3 * LARGE - 3 * PAGE, PAGE)).unwrap();
        assert_eq!(all_steps(&board, budget, |budget| unmapping.step(budget)), 1);
    }
}

/// H24: a frame that a CPU may still reach holds no links.
#[test]
fn touches_no_frame_before_the_invalidation_is_complete() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    let empty = board.allocated();
    space.map(range(0, 2 * PAGE), PAGES, RW).unwrap();
    space.map(range(BLOCK, PAGE), PAGES, RW).unwrap();
    let pages = [0, PAGE, BLOCK];
    let frames = pages.map(|at| space.translate(gpa(at)).unwrap().hpa);
    for at in pages {
        space.write(gpa(at), &[7; PAGE]).unwrap();
    }
    // SAFETY: the frames are the space's.
    let intact = || frames.iter().all(|&at| unsafe { board.pointer(at).cast::<[u8; PAGE]>().read() } == [7; PAGE]);
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    for _ in 0..2 {
        assert!(matches!(space.unmap_in_steps(range(0, LARGE)), Err(Error::Invalidation { .. })));
        assert!(intact() && space.translate(gpa(0)).is_none());
    }
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    space.map(range(0, LARGE), LAZY, RW).unwrap();
    assert_eq!((intact(), board.allocated()), (false, empty));
}

#[test]
fn allocates_nothing() {
    let board = Board::new();
    let space = board.space();
    let empty = board.allocated();
    mixed(&space);
    board.allow(Some(0));
    let mut unmapping = space.unmap_in_steps(range(0, 16 * LARGE)).unwrap();
    assert_eq!(unmapping.step(10), Progress::More);
    drop(unmapping);
    assert_eq!(board.allocated(), empty);
}

#[test]
fn leaves_the_range_to_others_between_its_steps() {
    let board = Board::new();
    let space = board.space();
    let empty = board.allocated();
    mixed(&space);
    let mut unmapping = space.unmap_in_steps(range(0, 16 * LARGE)).unwrap();
    assert_eq!(unmapping.step(10), Progress::More);
    space.map(range(0, LARGE), LAZY, RW).unwrap();
    assert_eq!(space.read_obj::<[u8; 64]>(gpa(PAGE)), Ok([0; 64]));
    space.write(gpa(2 * PAGE), &[9; 2 * PAGE]).unwrap();
    let mut second = space.unmap_in_steps(range(2 * PAGE, PAGE)).unwrap();
    assert_eq!(unmapping.step(10), Progress::More);
    assert_eq!(second.step(1), Progress::More);
    drop((second, unmapping));
    assert_eq!(space.read_obj::<[u8; 4]>(gpa(3 * PAGE)), Ok([9; 4]));
    space.unmap(range(0, LARGE)).unwrap();
    assert_eq!(board.allocated(), empty);
}

/// Whatever the allocator does, other CPUs go on: `unmap` held the lock while it freed.
#[test]
fn frees_without_the_lock() {
    type Take = fn(&GuestSpace<Machine>);
    let ways: [Take; 3] = [
        |space| space.unmap(range(0, BLOCK)).unwrap(),
        |space| space.unmap(range(0, PAGE)).unwrap(),
        |space| assert_eq!(space.unmap_in_steps(range(0, BLOCK)).unwrap().step(usize::MAX), Progress::Done),
    ];
    for way in ways {
        let board = Board::new();
        let space = Arc::new(board.space());
        space.map(range(0, BLOCK), PAGES, RW).unwrap();
        let (sender, answer) = std::sync::mpsc::channel();
        let (other, heard) = (space.clone(), Arc::new(AtomicU64::new(0)));
        let seen = heard.clone();
        board.on_free(move || {
            std::thread::spawn(move || sender.send(other.map(range(0, PAGE), LAZY, RW)));
            let answer = answer.recv_timeout(PATIENCE);
            seen.store(u64::from(answer == Ok(Ok(()))), Ordering::Relaxed);
        });
        way(&space);
        assert_eq!(heard.load(Ordering::Relaxed), 1, "the range could not be mapped meanwhile");
    }
}

#[test]
fn without_a_budget_does_nothing() {
    let board = Board::new();
    let space = board.space();
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    let mut unmapping = space.unmap_in_steps(range(0, PAGE)).unwrap();
    board.events();
    assert_eq!((unmapping.step(0), freed(&board)), (Progress::More, 0));
}

#[test]
fn of_what_an_allocator_takes_back_whole_goes_page_by_page() {
    let board = Board::with(Reach::Everywhere, Pieces::Whole);
    let space = board.space();
    let empty = board.allocated();
    space.map(range(PAGE, LARGE), BLOCKS, RW).unwrap();
    let taken = board.allocated() - empty;
    let mut unmapping = space.unmap_in_steps(range(0, 2 * LARGE)).unwrap();
    assert_eq!(all_steps(&board, 1, |budget| unmapping.step(budget)), taken);
}
