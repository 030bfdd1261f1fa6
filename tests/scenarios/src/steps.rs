//! What takes long goes in steps, each of which is complete by itself.

use core::sync::atomic::{AtomicBool, Ordering};

use stage2::{VcpuId, space::Progress};

use crate::prelude::*;

/// What is taken away is gone from the first return on, however much of it is still to be freed; the range is free for
/// fresh memory, and in the end nothing is lost.
///
/// # Errors
/// It does not hold.
pub fn what_is_freed_in_steps_is_gone_at_once<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    guest.map(range(RAM, 40 * PAGE), LAZY, RWX)?;
    guest.map(range(RAM + BLOCK, 2 * BLOCK), BLOCKS, RW)?;
    let pages = [RAM, RAM + PAGE, RAM + 39 * PAGE, RAM + BLOCK, RAM + 3 * BLOCK - PAGE];
    for at in pages {
        ensure_eq!(guest.stores(at, 5)?, Value(5));
    }
    let allocated = machine.allocated();
    let mut unmapping = guest.unmap_in_steps(range(RAM, 3 * BLOCK))?;
    ensure_eq!(machine.allocated(), allocated);
    for at in pages {
        ensure_eq!(guest.loads(at)?, NotMapped, "{at:#x}");
    }
    guest.map(range(RAM, BLOCK + PAGE), LAZY, RW)?;
    let mut left = machine.allocated();
    while unmapping.step(7) == Progress::More {
        let now = machine.allocated();
        ensure!(left - now <= 7, "{} frames in a step of seven", left - now);
        for at in [RAM + PAGE, RAM + BLOCK] {
            ensure_eq!(guest.loads(at)?, Value(0), "{at:#x} is fresh");
        }
        left = machine.allocated();
    }
    drop(unmapping);
    ensure_eq!((guest.stores(RAM, 6)?, guest.loads(RAM + 3 * BLOCK - PAGE)?), (Value(6), NotMapped));
    drop(guest.unmap_in_steps(range(RAM, 3 * BLOCK))?);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// The middles of blocks go in steps too, and what is around them stays.
///
/// # Errors
/// It does not hold.
pub fn the_middle_of_a_block_is_freed_in_steps<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    guest.map(range(RAM, 2 * BLOCK), BLOCKS, RW)?;
    let kept = [RAM, RAM + 2 * BLOCK - PAGE];
    for at in kept {
        ensure_eq!(guest.stores(at, at as u64)?, Value(at as u64));
    }
    let mut unmapping = guest.unmap_in_steps(range(RAM + PAGE, 2 * BLOCK - 2 * PAGE))?;
    while unmapping.step(100) == Progress::More {
        for at in kept {
            ensure_eq!(guest.loads(at)?, Value(at as u64), "{at:#x}");
        }
    }
    drop(unmapping);
    ensure_eq!(guest.stats().owned_frames, 2);
    guest.unmap(range(RAM, 2 * BLOCK))?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// A region goes with its last mapping, in steps; what a handle or another guest has stays.
///
/// # Errors
/// It does not hold.
pub fn a_region_goes_in_steps_with_its_last_mapping<M: Machine>(machine: &M) -> Verdict {
    let (guest, other) = (Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    let (region, mapping) = crate::shared::region(&guest, 30)?;
    drop(region);
    guest.map(range(RAM, 30 * PAGE), mapping.clone(), RW)?;
    other.map(range(RAM, 30 * PAGE), mapping, RW)?;
    for page in 0..30 {
        ensure_eq!(guest.stores(RAM + page * PAGE, page as u64)?, Value(page as u64));
    }
    drop(guest.unmap_in_steps(range(RAM, 30 * PAGE))?);
    ensure_eq!(other.loads(RAM + 29 * PAGE)?, Value(29));
    let mut left = machine.allocated();
    let mut unmapping = other.unmap_in_steps(range(RAM, 30 * PAGE))?;
    ensure_eq!((machine.allocated(), other.loads(RAM)?), (left, NotMapped));
    while unmapping.step(4) == Progress::More {
        let now = machine.allocated();
        ensure!(left - now <= 4, "{} frames in a step of four", left - now);
        left = now;
    }
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// One CPU's guest goes on, and faults, while memory that it had is freed on the other; what is gone stays gone.
///
/// # Errors
/// It does not hold.
pub fn a_guest_goes_on_while_memory_is_freed<M: Machine>(machine: &M) -> Verdict {
    const PAGES_EACH: usize = 64;
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    let (work, gone) = (RAM, RAM + BLOCK);
    guest.map(range(work, PAGES_EACH * PAGE), LAZY, RW)?;
    let over = AtomicBool::new(false);
    let host = || {
        let mut round = 0;
        let result = until(&over, || {
            round += 1;
            guest.map(range(gone, PAGES_EACH * PAGE), PAGES, RW)?;
            ensure_eq!(guest.stores(gone + PAGE, round)?, Value(round));
            let mut unmapping = guest.unmap_in_steps(range(gone, PAGES_EACH * PAGE))?;
            while unmapping.step(10) == Progress::More {
                ensure_eq!(guest.loads(gone + PAGE)?, NotMapped);
            }
            Ok(())
        });
        over.store(true, Ordering::Release);
        result
    };
    let vcpu = || {
        let run = guest.seat(1, 1);
        let mut round = 0;
        let result = (|| {
            for _ in 0..machine.rounds(200) {
                round += 1;
                let page = (round as usize * 7) % PAGES_EACH * PAGE;
                ensure_eq!(run.stores(work + page, round)?, Value(round));
                ensure_eq!(run.loads(work + page)?, Value(round));
                let came = run.loads(gone + page)?;
                ensure!(matches!(came, NotMapped | Value(_)), "{came:?}");
            }
            Ok(())
        })();
        over.store(true, Ordering::Release);
        result
    };
    let (first, second) = machine.both(host, vcpu);
    first?;
    second?;
    guest.unmap(range(work, PAGES_EACH * PAGE))?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// The part that has the new flags denies at once, on every CPU; the rest allows until its own step, if that comes.
///
/// # Errors
/// It does not hold.
pub fn a_part_is_protected_and_the_rest_is_not<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 8 * PAGE), PAGES, RW)?;
    guest.map(range(RAM + 8 * PAGE, 8 * PAGE), LAZY, RW)?;
    let cpus = machine.facts().cpus.min(2);
    for page in 0..16 {
        for cpu in 0..cpus {
            ensure_eq!(guest.seat(cpu, cpu).stores(RAM + page * PAGE, 1)?, Value(1));
        }
    }
    let mut protecting = guest.protect_in_steps(range(RAM, 16 * PAGE), READ)?;
    for done in [5, 10] {
        ensure_eq!(protecting.step(5)?, Progress::More);
        ensure_eq!(protecting.rest(), range(RAM + done * PAGE, (16 - done) * PAGE));
        for page in 0..16 {
            let came = if page < done { Denied(READ) } else { Value(2) };
            for cpu in 0..cpus {
                ensure_eq!(guest.seat(cpu, cpu).stores(RAM + page * PAGE, 2)?, came, "page {page}, CPU {cpu}");
            }
        }
    }
    drop(protecting);
    ensure_eq!(guest.stores(RAM + 12 * PAGE, 3)?, Value(3));
    let mut rest = guest.protect_in_steps(range(RAM + 10 * PAGE, 6 * PAGE), READ)?;
    while rest.step(1)? == Progress::More {}
    ensure_eq!((guest.stores(RAM + 12 * PAGE, 4)?, guest.loads(RAM + 12 * PAGE)?), (Denied(READ), Value(3)));
    guest.unmap(range(RAM, 16 * PAGE))?;
    Ok(())
}

/// A guest that is at rest is frozen a few entries at a time: it cannot run meanwhile, and runs on copies afterwards.
///
/// # Errors
/// It does not hold.
pub fn a_guest_at_rest_is_frozen_in_steps<M: Machine>(machine: &M) -> Verdict {
    let (guest, child) = (Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    guest.map(range(RAM, 8 * PAGE), LAZY, RW)?;
    guest.map(range(RAM + BLOCK, BLOCK), BLOCKS, RW)?;
    let cpus = machine.facts().cpus.min(2);
    let pages = [RAM, RAM + PAGE, RAM + 7 * PAGE, RAM + BLOCK];
    for at in pages {
        for cpu in 0..cpus {
            ensure_eq!(guest.seat(cpu, cpu).stores(at, at as u64)?, Value(at as u64));
        }
    }
    let mut taking = guest.snapshot_in_steps()?;
    let closed = |result| matches!(result, Err(Error::Snapshotting(_)));
    loop {
        ensure!(closed(guest.enter(CpuId(0), VcpuId(0))), "a CPU entered");
        ensure!(closed(guest.write(gpa(RAM), &[1])), "the hypervisor wrote");
        ensure_eq!(guest.read_obj::<u64>(gpa(RAM + PAGE)), Ok((RAM + PAGE) as u64));
        if taking.step(2)? == Progress::Done {
            break;
        }
    }
    let snapshot = taking.finish()?;
    child.restore(&snapshot)?;
    for (at, offset) in pages.into_iter().zip([0, PAGE, 7 * PAGE, 8 * PAGE]) {
        for cpu in 0..cpus {
            ensure_eq!(guest.seat(cpu, cpu).stores(at, 1 + cpu as u64)?, Value(1 + cpu as u64));
        }
        ensure_eq!(snapshot.region().load::<u64>(offset), Ok(at as u64), "{at:#x} in the snapshot");
        ensure_eq!(child.loads(at)?, Value(at as u64), "{at:#x}");
    }
    // One that is given up, early and late.
    for steps in [1, 8] {
        let mut taking = guest.snapshot_in_steps()?;
        for _ in 0..steps {
            let _ = taking.step(2)?;
        }
        drop(taking);
        ensure_eq!(guest.stores(RAM + PAGE, 7)?, Value(7));
    }
    drop(snapshot);
    for guest in [&guest, &child] {
        guest.unmap(range(RAM, 2 * BLOCK))?;
    }
    ensure_eq!(machine.allocated(), before);
    Ok(())
}
