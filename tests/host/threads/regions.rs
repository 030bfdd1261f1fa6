//! Regions and snapshots under many threads, which fault, write, freeze, fork and unmap at once.

use stage2::{SharedRegion, Snapshot};

use super::*;

/// Another space on a board's memory.
pub(super) fn another(board: &Board, number: u16) -> GuestSpace<Parts, Spin> {
    let capabilities = stage2_model::capabilities(&stage2_model::arm::Config::default());
    let format = Stage2::new(&capabilities, 40, Vmid(number)).expect("40 bits");
    let (frames, invalidate) = (board.frames.clone(), board.invalidations.clone());
    GuestSpace::new(Config { format, frames, invalidate, cpus: 4, limits: Limits::default() }).expect("a space")
}

/// Unmaps everything, and drops the space: every frame comes back.
pub(super) fn end(board: Board) {
    for area in board.space.areas().expect("areas") {
        board.space.unmap(area.range).expect("what is mapped can be unmapped");
    }
    assert_eq!(board.memory.allocated(), board.empty, "frames or empty tables are left");
    drop(board.space);
    assert_eq!(board.memory.allocated(), 0);
}

/// Four CPUs write the same pages for the first time: one copy of each is used, what the others brought goes back.
#[test]
fn a_page_is_copied_once_however_many_write_it() {
    const COUNT: usize = 64;
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, COUNT * PAGE), PAGES, RW).expect("memory");
    let snapshot = board.space.snapshot().expect("memory");
    let before = board.memory.allocated();
    let write = |cpu: usize| {
        for page in 0..COUNT {
            let at = RAM + page * PAGE;
            let came = board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Permission));
            assert!(matches!(came, Ok(Outcome::Resolved | Outcome::Retry)), "{came:?}");
        }
    };
    race(&[&write, &write, &write, &write]);
    assert_eq!(board.memory.allocated() - before, COUNT as u64, "one copy for each page");
    assert_eq!((board.space.stats().owned_frames, snapshot.region().frames()), (COUNT, COUNT));
    drop(snapshot);
    end(board);
}

/// Sums are right while the pages that they stand in are frozen, forked and copied, and every fork has a sum of its day.
#[test]
fn sums_are_right_while_their_pages_are_frozen() {
    const COUNT: usize = 4;
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, COUNT * PAGE), PAGES, RW).expect("an area");
    let (left, added) = (AtomicUsize::new(1), AtomicU64::new(0));
    let at = |round: usize| gpa(RAM + round % COUNT * PAGE + 8);
    let add = |_| board.add_ones(&left, at, &added);
    let sum = |space: &GuestSpace<Parts, Spin>| -> u64 {
        (0..COUNT).map(|page| space.load::<u64>(at(page)).expect("memory")).sum()
    };
    let fork = |_| {
        let _running = Running(&left);
        // On a busy host the others may not have run yet.
        while added.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        for round in 0..60 {
            let snapshot = board.space.snapshot().expect("memory");
            let child = another(&board, 2 + round);
            child.restore(&snapshot).expect("room");
            let seen = sum(&child);
            child.store(at(0), 0_u64).expect("memory");
            drop(snapshot);
            child.store(at(1), 0_u64).expect("memory");
            assert!(seen <= added.load(Ordering::Relaxed) + 3, "more than was ever added");
        }
    };
    race(&[&add, &add, &add, &fork]);
    assert_eq!(sum(&board.space), added.load(Ordering::Relaxed));
    end(board);
}

/// Threads map, write, unmap and freeze regions in two spaces, in opposite orders: no deadlock, and no frame is left.
#[test]
fn regions_come_and_go_in_opposite_orders() {
    const COUNT: usize = 8;
    let board = Board::<Spin>::new();
    let other = another(&board, 2);
    let regions: [SharedRegion; 2] = std::array::from_fn(|_| board.space.region(COUNT * PAGE).expect("memory"));
    let share = |number: usize| {
        let spaces = if number == 0 { [&board.space, &other] } else { [&other, &board.space] };
        for round in 0..100 {
            for (space, region) in spaces.into_iter().zip([&regions[number], &regions[1 - number]]) {
                let start = RAM + (2 * number + round % 2) * BLOCK;
                let mapping = Mapping::Shared { region: region.clone(), offset: 0 };
                space.map(range(start, COUNT * PAGE), mapping, RW).expect("it is this thread's");
                space.write_obj(gpa(start + round % COUNT * PAGE + number * 8), round as u64).expect("memory");
                space.protect(range(start, PAGE), READ).expect("it is mapped");
                assert!(region.freeze().is_err(), "it is mapped writable");
                space.unmap(range(start, COUNT * PAGE)).expect("it is mapped");
            }
        }
    };
    race(&[&share, &share]);
    for region in regions {
        assert_eq!(region.freeze(), Ok(()), "leave to write is left behind");
    }
    drop(other);
    end(board);
}

/// A snapshot is taken of what is unmapped, mapped and touched meanwhile; no number is lost, and no frame is left.
#[test]
fn snapshots_are_taken_of_memory_that_comes_and_goes() {
    let board = Board::<Spin>::new();
    let left = AtomicUsize::new(1);
    let touch = |cpu: usize| {
        until_done(&left, |round| {
            let at = RAM + round * 7 % 64 * PAGE;
            let access = if round % 2 == 0 { Access::Write } else { Access::Read };
            let came = board.space.fault(CpuId(cpu), fault(at, access, Cause::Translation));
            assert!(matches!(came, Ok(Outcome::Resolved | Outcome::Retry | Outcome::NotMapped)), "{came:?}");
        });
    };
    let change = |_| {
        until_done(&left, |round| {
            let mapping = [LAZY, PAGES, LAZY_BLOCKS][round % 3].clone();
            match board.space.map(range(RAM, 64 * PAGE), mapping, RW) {
                Ok(()) | Err(Error::Overlap { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            match board.space.unmap(range(RAM + round % 32 * PAGE, 40 * PAGE)) {
                Ok(()) | Err(Error::NotMapped(_)) => {}
                Err(other) => panic!("{other}"),
            }
        });
    };
    let freeze = |_| {
        let _running = Running(&left);
        let mut kept: Vec<Snapshot> = Vec::new();
        for _ in 0..200 {
            match board.space.snapshot() {
                Ok(snapshot) => kept.push(snapshot),
                Err(Error::NotMapped(_)) => {}
                Err(other) => panic!("{other}"),
            }
            if kept.len() > 3 {
                kept.remove(0);
            }
        }
    };
    race(&[&touch, &touch, &change, &freeze]);
    match board.space.unmap(range(RAM, 64 * PAGE)) {
        Ok(()) | Err(Error::NotMapped(_)) => {}
        Err(other) => panic!("{other}"),
    }
    end(board);
}
