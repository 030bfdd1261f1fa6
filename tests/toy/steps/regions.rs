//! Regions that go in steps.

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
fn that_another_space_has_stay_until_it_lets_go_of_each_page() {
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
    assert_eq!((unmapping.step(usize::MAX), freed(&board)), (Progress::Done, 1));
    assert_eq!(other.read_obj::<[[u8; 4]; 1]>(gpa(3 * PAGE)), Ok([*b"stay"]));
}

#[test]
fn whose_pages_are_discarded_for_all_lose_them_at_once_and_free_them_in_steps() {
    for budget in [1, 3, usize::MAX] {
        let board = Board::new();
        let (one, two) = (board.space(), board.space());
        let empty = board.allocated();
        let region = one.region(600 * PAGE).unwrap();
        for (space, at) in [(&one, PAGE), (&two, LARGE)] {
            space.map(range(at, 600 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
            space.write(gpa(at), &vec![1; 600 * PAGE]).unwrap();
        }
        let allocated = board.allocated();
        board.events();
        let mut discarding = region.discard_in_steps(0, 600 * PAGE, [&*one, &*two]).unwrap();
        assert_eq!((region.frames(), freed(&board), board.allocated()), (0, 0, allocated), "it is gone, and not free");
        assert_eq!((one.translate(gpa(PAGE)), two.translate(gpa(LARGE))), (None, None));
        // Between two steps other pages come to the hole.
        assert_eq!(discarding.step(0), Progress::More);
        assert_eq!((one.load(gpa(9 * PAGE)), region.load(8 * PAGE)), (Ok(0_u64), Ok(0_u64)));
        let came = board.allocated() - allocated;
        assert_eq!(all_steps(&board, budget, |budget| discarding.step(budget)), allocated - empty);
        assert_eq!((discarding.step(budget), board.allocated() - empty), (Progress::Done, came));
        drop(discarding);
        two.store(gpa(LARGE + 8 * PAGE), 5_u64).unwrap();
        assert_eq!(one.load(gpa(9 * PAGE)), Ok(5_u64));
    }
}

/// A part of it, of which leaves of the tree stay; the region itself goes first.
#[test]
fn that_go_meanwhile_are_not_missed_by_a_discard_in_steps() {
    for budget in [1, 2, usize::MAX] {
        let board = Board::new();
        let space = board.space();
        let empty = board.allocated();
        let region = space.region(64 * PAGE).unwrap();
        space.map(range(0, 64 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
        space.write(gpa(0), &vec![1; 64 * PAGE]).unwrap();
        let mut discarding = region.discard_in_steps(3 * PAGE, 40 * PAGE, [&*space]).unwrap();
        assert_eq!((region.frames(), discarding.step(1)), (24, Progress::More));
        drop(region);
        space.unmap(range(0, 64 * PAGE)).unwrap();
        assert_eq!(all_steps(&board, budget, |budget| discarding.step(budget)), 39);
        assert_eq!(board.allocated(), empty);
    }
}

/// What lets go of it holds up no other CPU.
#[test]
fn whose_pages_are_discarded_are_freed_without_any_lock() {
    for in_steps in [true, false] {
        let board = Board::new();
        let (one, two) = (Arc::new(board.space()), Arc::new(board.space()));
        let region = one.region(BLOCK).unwrap();
        for space in [&one, &two] {
            space.map(range(0, BLOCK), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
            space.write(gpa(0), &vec![1; BLOCK]).unwrap();
        }
        let spaces = [one.clone(), two.clone()];
        let heard = Arc::new(AtomicU64::new(0));
        let seen = heard.clone();
        board.on_free(move || {
            let (sender, answer) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let mapped = spaces.map(|space| space.map(range(LARGE, PAGE), LAZY, RW));
                sender.send(mapped.iter().all(Result::is_ok))
            });
            seen.store(u64::from(answer.recv_timeout(PATIENCE) == Ok(true)), Ordering::Relaxed);
        });
        if in_steps {
            assert_eq!(region.discard_in_steps(0, BLOCK, [&**one, &**two]).unwrap().step(usize::MAX), Progress::Done);
        } else {
            region.discard(0, BLOCK, [&**one, &**two]).unwrap();
        }
        assert_eq!(heard.load(Ordering::Relaxed), 1, "nothing could be mapped meanwhile");
    }
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

/// Each snapshot's region keeps the one before it. Each was freed by a call within the call that freed the next one.
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
