//! Faults of several CPUs on one page.

use super::*;

/// F1: each page gets one frame, however many ask; each fault has an outcome, and is counted.
#[test]
fn one_of_all_faults_on_a_page_resolves_it() {
    const COUNT: usize = 1024;
    for (mapping, leaves) in [(LAZY, COUNT), (LAZY_BLOCKS, 2)] {
        let board = Board::<Spin>::new();
        board.space.map(range(RAM, COUNT * PAGE), mapping, RW).expect("a lazy area");
        let resolved = AtomicUsize::new(0);
        let all = |cpu: usize| {
            for page in 0..COUNT {
                match board.space.fault(CpuId(cpu), fault(RAM + page * PAGE, Access::Write, Cause::Translation)) {
                    Ok(Outcome::Resolved) => drop(resolved.fetch_add(1, Ordering::Relaxed)),
                    Ok(Outcome::Retry) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        race(&[&all, &all, &all, &all]);
        assert_eq!(resolved.load(Ordering::Relaxed), leaves);
        assert_eq!(board.space.stats().faults, 4 * COUNT as u64, "faults are lost");
        assert_eq!(board.space.stats().owned_frames, COUNT);
        board.end();
    }
}

/// H25: four CPUs bring a frame each, and tables, to the same place at the same time; three of them free theirs.
#[test]
fn a_cpu_that_comes_second_frees_what_it_brought() {
    for (mapping, pages) in [(LAZY, 1), (LAZY_BLOCKS, 512)] {
        let board = Board::<Spin>::new();
        board.space.map(range(RAM, 6 * BLOCK), mapping.clone(), RW).expect("a lazy area");
        // Beside a page that is there already, in a fresh table, and with tables of two levels missing.
        let far = RAM + (2 << 30);
        board.space.map(range(far, BLOCK), mapping.clone(), RW).expect("a lazy area");
        board.space.write_obj(gpa(RAM), 1_u64).expect("memory");
        let places = [RAM + BLOCK - PAGE, RAM + BLOCK, RAM + 3 * BLOCK, RAM + 3 * BLOCK + PAGE, far];
        let fresh: usize = if mapping == LAZY { 5 } else { 3 };
        let resolved = AtomicUsize::new(0);
        board.meet(4);
        let all = |cpu: usize| {
            for at in places {
                match board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Translation)) {
                    Ok(Outcome::Resolved) => drop(resolved.fetch_add(1, Ordering::Relaxed)),
                    Ok(Outcome::Retry) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        race(&[&all, &all, &all, &all]);
        board.meet(0);
        assert_eq!(resolved.load(Ordering::Relaxed), fresh);
        assert_eq!(board.space.stats().owned_frames, (1 + fresh) * pages);
        board.end();
    }
}

/// F1, H25: of two CPUs that bring a frame to the same entry at the same moment one is told that it lost.
#[test]
fn an_entry_takes_one_of_two_frames() {
    const COUNT: usize = 512;
    const ROUNDS: usize = 6;
    let board = Board::<Spin>::new();
    for _ in 0..ROUNDS {
        board.space.map(range(RAM, COUNT * PAGE), LAZY, RW).expect("a lazy area");
        board.space.write_obj(gpa(RAM), 1_u64).expect("the tables are there");
        let resolved = AtomicUsize::new(0);
        board.meet(2);
        let both = |cpu: usize| {
            for page in 1..COUNT {
                match board.space.fault(CpuId(cpu), fault(RAM + page * PAGE, Access::Write, Cause::Translation)) {
                    Ok(Outcome::Resolved) => drop(resolved.fetch_add(1, Ordering::Relaxed)),
                    Ok(Outcome::Retry) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        race(&[&both, &both]);
        board.meet(0);
        assert_eq!(resolved.load(Ordering::Relaxed), COUNT - 1, "both were told that theirs is there");
        board.audit();
        board.space.unmap(range(RAM, COUNT * PAGE)).expect("it is mapped");
    }
    board.end();
}
