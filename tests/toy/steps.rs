//! Operations in steps: what is bounded, what holds between two steps, and what it takes to finish.

use stage2::Progress;

use super::*;

/// How many frames of 4 KiB were freed since the events were last looked at.
fn freed(board: &Board) -> usize {
    let pages = |event| if let Event::Freed(_, pages) = event { pages } else { 0 };
    board.events().into_iter().map(pages).sum()
}

/// Calls `step` until it is done: each time up to `budget` frames are freed, and together all.
fn all_steps(board: &Board, budget: usize, mut step: impl FnMut(usize) -> Progress) -> usize {
    board.events();
    let mut all = 0;
    loop {
        let progress = step(budget);
        let now = freed(board);
        assert!(now <= budget, "{now} frames in a step of {budget}");
        all += now;
        if progress == Progress::Done {
            return all;
        }
    }
}

/// Pages, blocks of both sizes and their tables, all of it written.
fn mixed(space: &GuestSpace<Machine>) {
    space.map(range(0, BLOCK + 3 * PAGE), PAGES, RW).unwrap();
    space.map(range(LARGE - 2 * BLOCK, 2 * LARGE), BLOCKS, RW).unwrap();
    space.map(range(8 * LARGE, LARGE), LAZY, RW).unwrap();
    for page in [0, 31, 32, 1023] {
        assert_eq!(fault(space, 8 * LARGE + page * PAGE, Access::Write), Outcome::Resolved);
    }
    space.map(range(10 * LARGE, BLOCK), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).unwrap();
    space.write(gpa(0), &[0xff; 3 * PAGE]).unwrap();
    space.write(gpa(LARGE - PAGE), &[0xff; 3 * PAGE]).unwrap();
}

mod unmap {
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

    /// H24: what a CPU may still reach is no place for links.
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
        let ways: [Take; 2] = [
            |space| space.unmap(range(0, BLOCK)).unwrap(),
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
                let answer = answer.recv_timeout(std::time::Duration::from_secs(10));
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
}

mod regions {
    use super::*;

    #[test]
    fn that_were_mapped_for_the_last_time_go_in_steps() {
        for budget in [1, 3, usize::MAX] {
            let board = Board::new();
            let space = board.space();
            let empty = board.allocated();
            let region = space.region(600 * PAGE).unwrap();
            region.writer().unwrap().write(PAGE, &vec![1; 513 * PAGE]).unwrap();
            space.map(range(0, 600 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
            space.protect(range(8 * PAGE, PAGE), READ).unwrap();
            assert_eq!(fault(&space, 2 * PAGE, Access::Write), Outcome::Resolved);
            let tables = board.allocated() - empty - 513;
            drop(region);
            let mut unmapping = space.unmap_in_steps(range(0, 600 * PAGE)).unwrap();
            assert_eq!(all_steps(&board, budget, |budget| unmapping.step(budget)), 513 + tables);
            assert_eq!(board.allocated(), empty);
        }
    }

    #[test]
    fn that_somebody_else_has_stay() {
        let board = Board::new();
        let (space, other) = (board.space(), board.space());
        let region = space.region(4 * PAGE).unwrap();
        let shared = || Mapping::Shared { region: region.clone(), offset: 0 };
        for space in [&space, &other] {
            space.map(range(0, 4 * PAGE), shared(), RW).unwrap();
            space.write(gpa(0), b"here").unwrap();
        }
        space.unmap(range(0, 4 * PAGE)).unwrap();
        assert_eq!((region.frames(), other.read_obj::<[u8; 4]>(gpa(0))), (1, Ok(*b"here")));
        drop(region);
        other.write(gpa(3 * PAGE), b"stay").unwrap();
        let mut unmapping = other.unmap_in_steps(range(0, 2 * PAGE)).unwrap();
        board.events();
        assert_eq!((unmapping.step(usize::MAX), freed(&board)), (Progress::Done, 0));
        assert_eq!(other.read_obj::<[u8; 4]>(gpa(2 * PAGE)), Ok([0; 4]));
    }

    #[test]
    fn that_stood_behind_others_go_in_steps_too() {
        for budget in [1, 2, usize::MAX] {
            let board = Board::new();
            let space = board.space();
            let empty = board.allocated();
            space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
            space.map(range(BLOCK, 8 * PAGE), PAGES, RW).unwrap();
            for turn in 0..4 {
                let _snapshot = space.snapshot().unwrap();
                space.write(gpa(turn * PAGE), &[1; PAGE]).unwrap();
                space.write(gpa(BLOCK + turn * PAGE), &[1; PAGE]).unwrap();
            }
            let taken = board.allocated() - empty;
            let mut unmapping = space.unmap_in_steps(range(0, LARGE)).unwrap();
            assert_eq!(all_steps(&board, budget, |budget| unmapping.step(budget)), taken);
            assert_eq!(board.allocated(), empty);
        }
    }

    /// Each snapshot's region keeps the one before. That went by a call within the call that freed this one.
    #[test]
    fn of_a_long_line_of_snapshots_need_no_deep_stack() {
        let line = || {
            let board = Board::new();
            for handle_goes_last in [true, false] {
                let space = board.space();
                space.map(range(0, PAGE), PAGES, RW).unwrap();
                let mut last = (0..2000).map(|_| space.snapshot().unwrap()).last();
                if handle_goes_last {
                    space.unmap(range(0, PAGE)).unwrap();
                }
                last.take();
                drop(space);
                assert_eq!(board.allocated(), 0);
            }
        };
        std::thread::Builder::new().stack_size(128 << 10).spawn(line).unwrap().join().unwrap();
    }
}

mod dismantle {
    use super::*;

    #[test]
    fn frees_no_more_than_its_budget_and_all_in_the_end() {
        for budget in [1, 10, usize::MAX] {
            let board = Board::new();
            let space = board.space();
            mixed(&space);
            let region = space.region(4 * PAGE).unwrap();
            let kept = space.region(4 * PAGE).unwrap();
            for (at, region) in [(20 * LARGE, &region), (24 * LARGE, &kept)] {
                space.map(range(at, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
                space.write(gpa(at), &[1; 3 * PAGE]).unwrap();
            }
            drop(region);
            let taken = board.allocated() - 3;
            let Ok(mut dismantling) = space.dismantle() else { panic!("nobody is inside") };
            assert_eq!(all_steps(&board, budget, |budget| dismantling.step(budget)), taken);
            drop(dismantling);
            assert_eq!((board.allocated(), kept.freeze()), (3, Ok(())), "nobody writes it any more");
            drop(kept);
            assert_eq!(board.allocated(), 0);
        }
    }

    #[test]
    fn gives_the_space_back_while_a_cpu_is_inside() {
        let board = Board::new();
        let space = board.space();
        mixed(&space);
        space.enter(CpuId(2), VcpuId(0)).unwrap();
        let Err((space, error)) = space.dismantle() else { panic!("CPU 2 is inside") };
        assert_eq!(error, Error::InGuest(CpuId(2)));
        assert_eq!(space.read_obj::<[u8; 2]>(gpa(LARGE)), Ok([0xff; 2]));
        space.leave(CpuId(2)).unwrap();
        let Ok(mut dismantling) = space.dismantle() else { panic!("nobody is inside") };
        assert_eq!(dismantling.step(1), Progress::More);
        drop(dismantling);
        assert_eq!(board.allocated(), 0);
    }

    /// What waits for its invalidation is freed with the rest, once.
    #[test]
    fn ends_what_could_not_be_finished() {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let space = board.space();
        mixed(&space);
        space.enter(CpuId(3), VcpuId(3)).unwrap();
        board.deafen(Some(CpuId(3)));
        let across = range(LARGE + PAGE, LARGE - 2 * PAGE);
        assert!(matches!(space.unmap(across), Err(Error::Invalidation { .. })));
        space.leave(CpuId(3)).unwrap();
        let Ok(mut dismantling) = space.dismantle() else { panic!("nobody is inside") };
        assert!(all_steps(&board, 9, |budget| dismantling.step(budget)) > LARGE / PAGE);
        drop(dismantling);
        assert_eq!(board.allocated(), 0);
    }

    #[test]
    fn comes_after_every_cpu_was_made_to_forget() {
        let board = Board::new();
        let space = board.space();
        mixed(&space);
        board.events();
        let Ok(dismantling) = space.dismantle() else { panic!("nobody is inside") };
        assert_eq!(board.events(), [Event::InvalidatedAll]);
        drop(dismantling);
    }
}
