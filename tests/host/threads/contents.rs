//! What is in memory that moves, comes and goes: never lost, torn, or another page's.

use super::*;

/// What the hypervisor's threads add up in memory that moves is not lost.
#[test]
fn sums_are_right_while_their_pages_move() {
    const COUNT: usize = 6;
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, COUNT * PAGE), PAGES, RW).expect("an area");
    let (left, added) = (AtomicUsize::new(1), AtomicU64::new(0));
    let at = |round: usize| gpa(RAM + round % COUNT * PAGE + 8);
    let add = |_| board.add_ones(&left, at, &added);
    let relocate = |_| {
        let _running = Running(&left);
        // On a busy host the others may not have run yet.
        while added.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        for _ in 0..200 {
            assert_eq!(board.space.relocate(range(RAM, COUNT * PAGE)), Ok(COUNT), "all pages move");
        }
    };
    race(&[&add, &add, &add, &relocate]);
    let sum: u64 = (0..COUNT).map(|page| board.space.load::<u64>(at(page)).expect("memory")).sum();
    assert_eq!(sum, added.load(Ordering::Relaxed));
    board.end();
}

/// Aligned words are read and written whole, across pages and while they move (H27).
#[test]
fn words_are_never_torn() {
    const WORDS: usize = 16;
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, 2 * PAGE), PAGES, RW).expect("an area");
    let at = gpa(RAM + PAGE - WORDS * 4);
    let left = AtomicUsize::new(1);
    let write = |_| {
        let _running = Running(&left);
        for round in 1..800_u32 {
            let words = [u64::from(round) << 32 | u64::from(round); WORDS];
            board.space.write_obj(at, words).expect("memory");
        }
    };
    let read = |_| {
        until_done(&left, |_| {
            for word in board.space.read_obj::<[u64; WORDS]>(at).expect("memory") {
                assert_eq!(word >> 32, word & 0xffff_ffff, "a torn word");
            }
        });
    };
    let relocate = |_| {
        until_done(&left, |_| assert_eq!(board.space.relocate(range(RAM, 2 * PAGE)), Ok(2), "both pages move"));
    };
    race(&[&write, &read, &read, &relocate]);
    board.end();
}

/// A frame is never two pages': each page's bytes are zeros, or the page's own number.
#[test]
fn memory_that_comes_and_goes_is_never_anothers() {
    const COUNT: usize = 24;
    let board = Board::<Spin>::new();
    let left = AtomicUsize::new(3);
    let touch = |cpu: usize| {
        let _running = Running(&left);
        for round in 0..1500 {
            let page = (round * 7 + cpu * 5) % COUNT;
            let at = RAM + page * PAGE;
            let outcome = board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Translation));
            assert!(matches!(outcome, Ok(Outcome::Resolved | Outcome::Retry | Outcome::NotMapped)), "{outcome:?}");
            match board.space.read_obj::<u64>(gpa(at)) {
                Ok(value) => assert!(value == 0 || value == page as u64 + 1, "page {page} holds {value:#x}"),
                Err(error) => assert_eq!(error, Error::NotMapped(range(at, 8))),
            }
            match board.space.write_obj(gpa(at), page as u64 + 1) {
                Ok(()) => {}
                Err(error) => assert_eq!(error, Error::NotMapped(range(at, 8))),
            }
        }
    };
    let change = |_| {
        until_done(&left, |round| {
            let start = round * 5 % COUNT;
            let some = range(RAM + start * PAGE, (COUNT - start).min(9) * PAGE);
            match round % 4 {
                0 | 2 => match board.space.map(some, if round % 8 < 4 { LAZY } else { PAGES }, RW) {
                    Ok(()) | Err(Error::Overlap { .. }) => {}
                    other => panic!("{other:?}"),
                },
                1 => match board.space.relocate(some) {
                    Ok(_) | Err(Error::NotMapped(_)) => {}
                    other => panic!("{other:?}"),
                },
                _ => match board.space.unmap(some) {
                    Ok(()) | Err(Error::NotMapped(_)) => {}
                    other => panic!("{other:?}"),
                },
            }
        });
    };
    race(&[&touch, &touch, &touch, &change]);
    board.end();
}
