//! Two CPUs run the guest, or one runs it and the other changes its memory.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::{prelude::*, stale};

/// The other CPU has it in its TLB.
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_sees_a_moved_page_where_it_is<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    ensure_eq!(stale::moved_data(machine, 1)?, crate::Seen::Fresh);
    Ok(())
}

/// The other CPU has walked over it.
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_walks_a_moved_table_where_it_is<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    ensure_eq!(stale::moved_guest_tables(machine, 1, true)?, crate::Seen::Fresh);
    Ok(())
}

/// What is unmapped here is gone there.
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_loses_what_is_unmapped<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let other = guest.seat(1, 1);
    guest.map(range(RAM, 3 * PAGE), LAZY, RW)?;
    guest.map(range(RAM + BLOCK, BLOCK), BLOCKS, RW)?;
    for at in [RAM, RAM + PAGE, RAM + 2 * PAGE, RAM + BLOCK, RAM + BLOCK + PAGE] {
        ensure_eq!(other.stores(at, 1)?, Value(1));
        ensure_eq!(guest.loads(at)?, Value(1));
    }
    guest.unmap(range(RAM + PAGE, PAGE))?;
    guest.unmap(range(RAM + BLOCK, PAGE))?;
    for (at, came) in [
        (RAM, Value(1)),
        (RAM + PAGE, NotMapped),
        (RAM + 2 * PAGE, Value(1)),
        (RAM + BLOCK, NotMapped),
        (RAM + BLOCK + PAGE, Value(1)),
    ] {
        ensure_eq!(other.loads(at)?, came, "{at:#x} on CPU 1");
        ensure_eq!(guest.loads(at)?, came, "{at:#x} on CPU 0");
    }
    Ok(())
}

/// What is restricted here is denied there; what is raised here is allowed there, after one fault at most (H3).
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_follows_permissions_down_and_up<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let other = guest.seat(1, 1);
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    for round in 0..3 {
        ensure_eq!(other.stores(RAM, round)?, Value(round));
        ensure_eq!(guest.stores(RAM, round)?, Value(round));
        guest.protect(range(RAM, PAGE), READ)?;
        ensure_eq!(other.stores(RAM, 9)?, Denied(READ));
        ensure_eq!(guest.stores(RAM, 9)?, Denied(READ));
        ensure_eq!(other.loads(RAM)?, Value(round));
        guest.protect(range(RAM, PAGE), RW)?;
        // CPU 0 first: the entry is raised when CPU 1, which remembers the denial, comes.
        ensure_eq!(guest.stores(RAM, round)?, Value(round));
    }
    ensure_eq!(other.stores(RAM, 5)?, Value(5));
    Ok(())
}

/// Both CPUs touch the same fresh pages at once: one frame each, nothing lost, nothing leaked.
///
/// # Errors
/// It does not hold.
pub fn both_cpus_populate_the_same_pages<M: Machine>(machine: &M) -> Verdict {
    const COUNT: usize = 64;
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    guest.map(range(RAM, COUNT * PAGE), LAZY, RW)?;
    let touch = |cpu: usize| {
        let run = guest.seat(cpu, cpu);
        for page in 0..COUNT {
            ensure_eq!(run.stores(RAM + page * PAGE + cpu * 8, page as u64 + 1)?, Value(page as u64 + 1));
        }
        Ok(())
    };
    let (first, second) = machine.both(|| touch(0), || touch(1));
    first?;
    second?;
    for page in 0..COUNT {
        for cpu in 0..2 {
            ensure_eq!(guest.loads(RAM + page * PAGE + cpu * 8)?, Value(page as u64 + 1), "page {page}, CPU {cpu}");
        }
    }
    ensure_eq!(guest.stats().owned_frames, COUNT);
    guest.unmap(range(RAM, COUNT * PAGE))?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// The guest counts on CPU 1 in a page that CPU 0 moves all the time: no number is lost, which a copy in a page that
/// stays would tell (H9).
///
/// # Errors
/// It does not hold.
pub fn a_count_goes_on_while_its_page_moves<M: Machine>(machine: &M) -> Verdict {
    const MOVES: usize = 50;
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * PAGE), LAZY, RW)?;
    let (moves, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let host = || {
        let mut seen = 0;
        let result = until(&over, || {
            // The guest is at it, by what its CPU remembers.
            let now = guest.read_obj::<u64>(gpa(RAM))?;
            if now > seen {
                seen = now;
                moves.fetch_add(guest.relocate(range(RAM, PAGE))?, Ordering::AcqRel);
            }
            Ok(())
        });
        over.store(true, Ordering::Release);
        result
    };
    let vcpu = || {
        let mut target = 0;
        let result = until(&over, || {
            target += 1000;
            ensure_eq!(guest.seat(1, 1).tries(Step::CountTo(RAM, target), 100_000)?, Value(target));
            over.fetch_or(moves.load(Ordering::Acquire) >= MOVES, Ordering::AcqRel);
            Ok(())
        });
        over.store(true, Ordering::Release);
        result.map(|()| target)
    };
    let (ended, counted) = machine.both(host, vcpu);
    ended?;
    ensure_eq!(guest.read_obj::<u64>(gpa(RAM))?, counted?);
    ensure!(moves.load(Ordering::Acquire) >= MOVES, "nothing moved");
    Ok(())
}

/// The guest writes on CPU 1 until CPU 0 takes the memory away: no frame is written that is free (T6). Machines that
/// look at freed frames say so, here or at the end.
///
/// # Errors
/// It does not hold.
pub fn a_guest_writes_until_its_memory_goes<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    for _ in 0..5 {
        guest.map(range(RAM, BLOCK), PAGES, RW)?;
        let over = AtomicBool::new(false);
        let host = || {
            let waited = until(&over, || {
                // Only ever set: the other CPU may have come to its end by itself meanwhile.
                over.fetch_or(guest.read_obj::<u64>(gpa(RAM))? > 100, Ordering::AcqRel);
                Ok(())
            });
            guest.unmap(range(RAM, BLOCK))?;
            waited
        };
        let vcpu = || {
            let came = guest.seat(1, 1).tries(Step::CountTo(RAM, u64::MAX), 1000);
            over.store(true, Ordering::Release);
            came
        };
        let (unmapped, came): (Verdict, _) = machine.both(host, vcpu);
        unmapped?;
        ensure_eq!(came?, NotMapped);
        ensure_eq!(machine.allocated(), before);
    }
    Ok(())
}

/// CPU 0 unmaps and maps while the guest touches it all on CPU 1: an outcome each time, nothing leaked.
///
/// # Errors
/// It does not hold.
pub fn memory_comes_and_goes_under_a_running_guest<M: Machine>(machine: &M) -> Verdict {
    const ROUNDS: u64 = 100;
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    let over = AtomicBool::new(false);
    let host = || {
        let result = (|| -> Verdict {
            for round in 0..machine.rounds(ROUNDS) {
                let mapping = [LAZY, LAZY_BLOCKS, PAGES][round as usize % 3].clone();
                guest.map(range(RAM, BLOCK), mapping, RW)?;
                guest.write_obj(gpa(RAM + PAGE), round)?;
                guest.protect(range(RAM, 8 * PAGE), READ)?;
                guest.unmap(range(RAM + 4 * PAGE, PAGE))?;
                guest.unmap(range(RAM, BLOCK))?;
            }
            Ok(())
        })();
        over.store(true, Ordering::Release);
        result
    };
    let vcpu = || {
        let run = guest.seat(1, 1);
        until(&over, || {
            for page in [0, 1, 4, 9] {
                let came = run.tries(Step::Read(RAM + page * PAGE + 0x10), 1000)?;
                ensure!(matches!(came, Value(0) | NotMapped), "load: {came:?}");
                let came = run.tries(Step::Write(RAM + page * PAGE + 0x18, 3), 1000)?;
                ensure!(matches!(came, Value(_) | NotMapped | Denied(READ)), "store: {came:?}");
            }
            Ok(())
        })
    };
    let (first, second) = machine.both(host, vcpu);
    first?;
    second?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}
