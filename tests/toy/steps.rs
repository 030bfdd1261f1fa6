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

mod loans {
    use super::*;

    /// What a lender that is no more left to its borrower.
    #[test]
    fn that_are_nobody_elses_go_in_steps() {
        for budget in [1, 4, usize::MAX] {
            let board = Board::new();
            let (lender, borrower) = (board.space(), board.space());
            let empty = board.allocated() / 2;
            lender.map(range(0, 20 * PAGE), PAGES, RW).unwrap();
            drop(lender.share(range(0, 20 * PAGE), &borrower, gpa(LARGE), RW).unwrap());
            drop(lender);
            // The last part takes it along.
            borrower.unmap(range(LARGE, 5 * PAGE)).unwrap();
            let taken = board.allocated() - empty;
            assert!(taken >= 20);
            let mut unmapping = borrower.unmap_in_steps(range(LARGE, 20 * PAGE)).unwrap();
            assert_eq!(all_steps(&board, budget, |budget| unmapping.step(budget)), taken);
            assert_eq!(unmapping.step(1), Progress::Done);
        }
    }

    #[test]
    fn that_the_lender_has_stay_its_own() {
        let board = Board::new();
        let (lender, borrower) = (board.space(), board.space());
        lender.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
        lender.write(gpa(8), &[7; 8]).unwrap();
        let loan = lender.share(range(0, 4 * PAGE), &borrower, gpa(LARGE), RW).unwrap();
        let mut unmapping = borrower.unmap_in_steps(range(LARGE, 4 * PAGE)).unwrap();
        assert_eq!(loan.borrowed(), 0, "it is returned at once");
        while unmapping.step(1) == Progress::More {}
        lender.reclaim_returned(&loan, stage2::Handover::Keep).unwrap();
        assert_eq!(lender.read_obj::<[u8; 8]>(gpa(8)), Ok([7; 8]));
        drop((loan, unmapping));
        assert_eq!(lender.read_obj::<[u8; 8]>(gpa(8)), Ok([7; 8]));
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

mod protect {
    use stage2::RegionError;

    use super::*;

    /// Calls `step` until it is done: how often.
    fn steps(mut protecting: stage2::Protecting<'_, Machine, stage2::Spin>, entries: usize) -> usize {
        let mut count = 1;
        while protecting.step(entries).unwrap() == Progress::More {
            assert!(!protecting.rest().is_empty());
            count += 1;
        }
        assert!(protecting.rest().is_empty());
        assert_eq!(protecting.step(entries), Ok(Progress::Done));
        count
    }

    #[test]
    fn in_steps_of_any_size_comes_to_the_same() {
        let board = Board::new();
        let whole = range(2 * PAGE, 2 * LARGE);
        let space = || {
            let space = board.space();
            space.map(range(0, BLOCK), PAGES, RW).unwrap();
            space.map(range(BLOCK, LARGE), LAZY, RW).unwrap();
            assert_eq!(fault(&space, 3 * BLOCK, Access::Write), Outcome::Resolved);
            space.map(range(LARGE + BLOCK, LARGE), BLOCKS, RW).unwrap();
            space.map(range(2 * LARGE + BLOCK, BLOCK), PAGES, READ).unwrap();
            space
        };
        let expected = space();
        expected.protect(whole, READ).unwrap();
        let mut counts = Vec::new();
        for entries in [1, 2, 7, 100, usize::MAX] {
            let stepped = space();
            counts.push(steps(stepped.protect_in_steps(whole, READ).unwrap(), entries));
            assert_eq!(stepped.to_string(), expected.to_string());
            assert_eq!(stepped.areas(), expected.areas());
            assert_eq!(fault(&stepped, 3 * PAGE, Access::Write), Outcome::Denied { flags: READ });
        }
        assert!(counts.is_sorted_by(|more, fewer| more > fewer), "{counts:?}");
        assert_eq!(counts[4], 1);
    }

    #[test]
    fn leaves_a_part_complete_and_the_rest_untouched() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, 2 * BLOCK), PAGES, RW).unwrap();
        let mut protecting = space.protect_in_steps(range(PAGE, BLOCK), READ).unwrap();
        board.events();
        assert_eq!(protecting.step(0), Ok(Progress::More));
        assert_eq!((board.events(), protecting.rest()), (vec![], range(PAGE, BLOCK)));
        for step in 1..=3 {
            assert_eq!(protecting.step(2), Ok(Progress::More));
            let done = 1 + 2 * step;
            assert_eq!(protecting.rest(), range(done * PAGE, BLOCK + PAGE - done * PAGE));
            let scopes = board.events();
            assert!(matches!(scopes[..], [Event::Invalidated(scope)] if scope.range.size() == 2 * PAGE), "{scopes:?}");
            for (page, flags) in [(0, RW), (1, READ), (done - 1, READ), (done, RW), (33, RW)] {
                assert_eq!(space.translate(gpa(page * PAGE)).unwrap().flags, flags, "{page}");
                assert_eq!(space.area(gpa(page * PAGE)).unwrap().flags, flags, "{page}");
            }
            assert_eq!(space.stats().areas, 3, "what is done is one area");
        }
        drop(protecting);
        assert_eq!(space.translate(gpa(7 * PAGE)).unwrap().flags, RW);
        space.protect(range(0, 2 * BLOCK), RW).unwrap();
    }

    #[test]
    fn goes_over_many_areas_without_tables_a_few_at_a_time() {
        let space = Board::new().space();
        for area in 0..20 {
            space.map(range(area * PAGE, PAGE), LAZY, if area % 2 == 0 { RW } else { RWX }).unwrap();
        }
        let mut protecting = space.protect_in_steps(range(0, 20 * PAGE), READ).unwrap();
        assert_eq!(protecting.step(3), Ok(Progress::More));
        assert_eq!(protecting.rest(), range(3 * PAGE, 17 * PAGE));
        // Areas that nobody cut stay what they are.
        drop(protecting);
        assert_eq!(space.stats().areas, 20);
    }

    #[test]
    fn to_the_same_flags_cuts_no_area() {
        let space = Board::new().space();
        space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
        space.protect(range(PAGE, PAGE), RW).unwrap();
        assert_eq!(space.stats().areas, 1);
        let _ = steps(space.protect_in_steps(range(PAGE, 4 * PAGE), RW).unwrap(), 1);
        assert_eq!((space.stats().areas, space.stats().leaves), (1, [0, 1, 0, 0, 0]));
        // At one end, and around.
        space.protect(range(PAGE, 2 * PAGE), READ).unwrap();
        space.protect(range(2 * PAGE, 2 * PAGE), READ).unwrap();
        space.protect(range(PAGE, PAGE), READ).unwrap();
        let areas: Vec<_> = space.areas().unwrap().iter().map(|area| (area.range, area.flags)).collect();
        assert_eq!(
            areas,
            [
                (range(0, PAGE), RW),
                (range(PAGE, 2 * PAGE), READ),
                (range(3 * PAGE, PAGE), READ),
                (range(4 * PAGE, 28 * PAGE), RW)
            ]
        );
    }

    #[test]
    fn is_refused_before_anything_changed() {
        let board = Board::new();
        let space = board.space();
        let region = space.region(2 * PAGE).unwrap();
        region.freeze().unwrap();
        space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
        let frozen = Mapping::Shared { region, offset: 0 };
        space.map(range(8 * PAGE, 2 * PAGE), frozen, READ).unwrap();
        space
            .map(range(10 * PAGE, PAGE), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW | MappingFlags::DEVICE)
            .unwrap();
        space.map(range(20 * PAGE, PAGE), PAGES, RW).unwrap();
        let before = space.to_string();
        let refusal = |start, pages, flags| {
            let mut protecting = space.protect_in_steps(range(start, pages * PAGE), flags).unwrap();
            let error = protecting.step(1).unwrap_err();
            assert_eq!(protecting.rest(), range(start, pages * PAGE));
            error
        };
        let writable = refusal(0, 10, RWX);
        assert_eq!(writable, Error::Region { range: range(8 * PAGE, 2 * PAGE), cause: RegionError::Frozen });
        assert_eq!(refusal(0, 11, READ), Error::NotMemory(range(10 * PAGE, PAGE)));
        assert_eq!(refusal(10 * PAGE, 11, RW | MappingFlags::DEVICE), Error::NotMapped(range(11 * PAGE, 9 * PAGE)));
        assert_eq!(space.to_string(), before);
        assert!(matches!(space.protect_in_steps(range(1, PAGE), READ), Err(Error::Misaligned(_))));
    }

    #[test]
    fn names_what_others_took_meanwhile_and_goes_on_when_it_is_back() {
        let space = Board::new().space();
        space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
        let mut protecting = space.protect_in_steps(range(0, 8 * PAGE), READ).unwrap();
        assert_eq!(protecting.step(2), Ok(Progress::More));
        space.unmap(range(3 * PAGE, PAGE)).unwrap();
        assert_eq!(protecting.step(3), Err(Error::NotMapped(range(3 * PAGE, PAGE))));
        assert_eq!(protecting.rest(), range(2 * PAGE, 6 * PAGE));
        assert_eq!(space.translate(gpa(2 * PAGE)).unwrap().flags, RW);
        space.map(range(3 * PAGE, PAGE), LAZY, RW).unwrap();
        assert_eq!(protecting.step(usize::MAX), Ok(Progress::Done));
        assert_eq!(fault(&space, 3 * PAGE, Access::Write), Outcome::Denied { flags: READ });
    }

    #[test]
    fn keeps_regions_from_being_frozen_until_it_ends() {
        let space = Board::new().space();
        let regions = [0, 8 * PAGE].map(|at| {
            let region = space.region(8 * PAGE).unwrap();
            space.map(range(at, 8 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, READ).unwrap();
            region
        });
        (0..16).for_each(|page| assert_eq!(fault(&space, page * PAGE, Access::Read), Outcome::Resolved));
        let mut protecting = space.protect_in_steps(range(0, 16 * PAGE), RW).unwrap();
        assert_eq!(protecting.step(1), Ok(Progress::More));
        // The first step said that there is leave to write it.
        assert!(matches!(regions[1].freeze(), Err(RegionError::Written { .. })));
        assert_eq!(protecting.step(4), Ok(Progress::More));
        drop(protecting);
        assert_eq!(regions[0].freeze(), Err(RegionError::Written { mapped: 5 * PAGE, handles: 0 }));
        assert_eq!(regions[1].freeze(), Ok(()));
        space.protect(range(0, 8 * PAGE), READ).unwrap();
        assert_eq!(regions[0].freeze(), Ok(()));
    }

    #[test]
    fn that_a_cpu_cannot_be_told_of_is_tried_again() {
        let board = Board::with(Reach::ThisCpu, Pieces::Any);
        let space = board.space();
        space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
        let whole = range(0, 8 * PAGE);
        let mut protecting = space.protect_in_steps(whole, READ).unwrap();
        space.enter(CpuId(3), VcpuId(3)).unwrap();
        board.deafen(Some(CpuId(3)));
        for _ in 0..2 {
            assert!(matches!(protecting.step(2), Err(Error::Invalidation { .. })));
            assert_eq!(protecting.rest(), whole);
        }
        space.leave(CpuId(3)).unwrap();
        board.deafen(None);
        while protecting.step(2).unwrap() == Progress::More {}
        assert_eq!((space.stats().areas, space.area(gpa(0)).unwrap().range), (1, whole));
        assert_eq!(space.translate(gpa(7 * PAGE)).unwrap().flags, READ);
    }

    #[test]
    fn without_memory_for_a_split_leaves_what_is_done() {
        let board = Board::new();
        let space = board.space();
        space.map(range(0, 4 * BLOCK), BLOCKS, RW).unwrap();
        let mut protecting = space.protect_in_steps(range(0, 2 * BLOCK + PAGE), READ).unwrap();
        board.allow(Some(0));
        assert_eq!(protecting.step(2), Ok(Progress::More));
        let rest = range(2 * BLOCK, PAGE);
        assert_eq!(protecting.step(2), Err(Error::NoMemory(rest)));
        assert_eq!((protecting.rest(), space.translate(gpa(2 * BLOCK)).unwrap().flags), (rest, RW));
        board.allow(None);
        assert_eq!(protecting.step(2), Ok(Progress::Done));
        assert_eq!(space.stats().areas, 2);
    }
}
