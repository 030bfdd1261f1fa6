//! Changes of the map, beside faults and beside each other.

use super::*;

/// When protecting returns, no thread can write any more; blocks are cut, and their pieces copied, meanwhile.
#[test]
fn nothing_changes_while_it_is_protected() {
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, 2 * BLOCK), LAZY_BLOCKS, RW).expect("a lazy area");
    let left = AtomicUsize::new(1);
    let part = range(RAM + BLOCK - 4 * PAGE, 8 * PAGE);
    let write = |cpu: usize| {
        let mut round = 0_u64;
        until_done(&left, |_| {
            round += 1;
            let at = RAM + BLOCK - 4 * PAGE + round as usize % 8 * PAGE;
            match board.space.write_obj(gpa(at), round << 2 | cpu as u64) {
                Ok(()) | Err(Error::Denied { .. }) => {}
                other => panic!("{other:?}"),
            }
            let outcome = board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Permission));
            assert!(matches!(outcome, Ok(Outcome::Resolved | Outcome::Retry | Outcome::Denied { .. })), "{outcome:?}");
        });
    };
    let protect = |_| {
        let _running = Running(&left);
        for _ in 0..200 {
            board.space.protect(part, READ).expect("memory");
            let all = || (0..8).map(|page| board.space.read_obj::<u64>(part.start + page * PAGE)).collect::<Vec<_>>();
            let before = all();
            thread::yield_now();
            assert_eq!(all(), before, "a thread wrote what is read-only");
            board.space.protect(part, RW).expect("memory");
            thread::yield_now();
        }
    };
    race(&[&write, &write, &write, &protect]);
    board.end();
}

/// Of all threads that map overlapping ranges at once one succeeds; the others are refused until it unmaps.
#[test]
fn an_address_is_mapped_by_one_of_all_threads_that_try() {
    let board = Board::<Spin>::new();
    let mapped = AtomicUsize::new(0);
    let map = |cpu: usize| {
        for round in 0..150 {
            let some = range(RAM + BLOCK - PAGE, (2 + (round + cpu) % 3) * PAGE);
            match board.space.map(some, if round % 2 == 0 { PAGES } else { LAZY }, RW) {
                Ok(()) => {
                    assert_eq!(mapped.fetch_add(1, Ordering::AcqRel), 0, "two have it");
                    board.space.write_obj(some.start, cpu as u64 + 1).expect("memory of one's own");
                    thread::yield_now();
                    assert_eq!(board.space.read_obj(some.start), Ok(cpu as u64 + 1));
                    assert_eq!(mapped.fetch_sub(1, Ordering::AcqRel), 1);
                    board.space.unmap(some).expect("it is mapped");
                }
                Err(Error::Overlap { range: named, .. }) => assert_eq!(named, some),
                other => panic!("{other:?}"),
            }
        }
    };
    race(&[&map, &map, &map, &map]);
    board.end();
}

/// Allocations fail now and then, on any thread: it gets an error or an outcome, and no frame is lost.
#[test]
fn failing_allocations_lose_nothing_on_any_thread() {
    const COUNT: usize = 32;
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, COUNT * PAGE), LAZY, RW).expect("a lazy area");
    board.space.map(range(RAM + BLOCK, BLOCK), LAZY_BLOCKS, RW).expect("a lazy area");
    let left = AtomicUsize::new(3);
    let touch = |cpu: usize| {
        let _running = Running(&left);
        for round in 0..800 {
            let at = RAM + round % 2 * BLOCK + (round * 11 + cpu) % COUNT * PAGE;
            match board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Translation)) {
                Ok(Outcome::Resolved | Outcome::Retry) | Err(Error::NoMemory(_)) => {}
                other => panic!("{other:?}"),
            }
            let page = range(RAM + (round + cpu) % COUNT * PAGE, PAGE);
            match if cpu == 0 { board.space.relocate(page).map(drop) } else { board.space.protect(page, RW) } {
                Ok(()) | Err(Error::NoMemory(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let starve = |_| until_done(&left, |round| board.memory.fail(Failure::Once(round % 5)));
    race(&[&touch, &touch, &touch, &starve]);
    board.memory.fail(Failure::Never);
    board.end();
}

/// L6: readers that never stop do not keep a writer from unmapping, even where they all share one lock.
#[test]
fn l6_readers_do_not_starve_a_thread_that_unmaps() {
    const ROUNDS: usize = 300;
    let board = Arc::new(Board::<Spin>::new());
    board.space.map(range(RAM, PAGE), LAZY, RW).expect("a lazy area");
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..3)
        .map(|cpu| {
            let (board, stop, reads) = (board.clone(), stop.clone(), reads.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Each holds the lock nearly all the time, so that it is hardly ever free.
                    board.space.walk(range(0, 64 << 30), |_| {}).expect("a walk");
                    let outcome = board.space.fault(CpuId(cpu), fault(RAM, Access::Read, Cause::Translation));
                    assert!(matches!(outcome, Ok(Outcome::Resolved | Outcome::Retry)), "{outcome:?}");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let (done, finished) = mpsc::channel();
    let writer = {
        let (board, reads) = (board.clone(), reads.clone());
        thread::spawn(move || {
            // Readers have read before, and read meanwhile.
            let read = |least: usize| reads.load(Ordering::Relaxed) >= least;
            while !read(1) {
                thread::yield_now();
            }
            let before = reads.load(Ordering::Relaxed);
            for _ in (0..).take_while(|&round| round < ROUNDS || !read(before + 1)) {
                board.space.map(range(RAM + BLOCK, PAGE), PAGES, RW).expect("memory");
                board.space.unmap(range(RAM + BLOCK, PAGE)).expect("it is mapped");
            }
            done.send(()).expect("the test waits");
        })
    };
    let came = finished.recv_timeout(PATIENCE);
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().chain([writer]).for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(came, Ok(()), "unmapping waits for readers that never stop");
    Arc::into_inner(board).expect("all threads are done").end();
}
