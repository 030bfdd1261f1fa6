//! A running guest's memory is frozen, and guests start from it.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::prelude::*;

/// The fork sees what was written before, and nothing that either writes afterwards is seen by the other, or in the
/// snapshot.
///
/// # Errors
/// It does not hold.
pub fn a_fork_has_what_was_written_before<M: Machine>(machine: &M) -> Verdict {
    let (parent, child) = (Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    parent.map(range(RAM, 8 * PAGE), LAZY, RW)?;
    parent.map(range(RAM + BLOCK, 2 * BLOCK), BLOCKS, RW)?;
    for at in [RAM, RAM + PAGE, RAM + BLOCK + 8, RAM + 2 * BLOCK + 5 * PAGE] {
        ensure_eq!(parent.stores(at, at as u64)?, Value(at as u64));
    }
    let frames = machine.allocated();
    let snapshot = parent.snapshot()?;
    child.restore(&snapshot)?;
    ensure_eq!(machine.allocated(), frames);
    ensure_eq!((parent.stats().owned_frames, parent.leaf_size(RAM + BLOCK)?), (0, BLOCK));
    for at in [RAM, RAM + BLOCK + 8, RAM + 2 * BLOCK + 5 * PAGE] {
        ensure_eq!(child.loads(at)?, Value(at as u64), "{at:#x}");
        ensure_eq!(parent.stores(at, 1)?, Value(1));
        ensure_eq!(child.loads(at)?, Value(at as u64), "{at:#x} after the parent wrote");
        ensure_eq!(child.stores(at, 2)?, Value(2));
        ensure_eq!(parent.loads(at)?, Value(1), "{at:#x} after the child wrote");
    }
    ensure_eq!(child.stores(RAM + PAGE, 3)?, Value(3));
    ensure_eq!(parent.loads(RAM + PAGE)?, Value((RAM + PAGE) as u64));
    // Pages that no guest had touched when the snapshot was taken.
    ensure_eq!((child.loads(RAM + 2 * PAGE)?, parent.stores(RAM + 3 * PAGE, 4)?), (Value(0), Value(4)));
    ensure_eq!(child.stores(RAM + 3 * PAGE + 8, 5)?, Value(5));
    ensure_eq!((child.loads(RAM + 3 * PAGE)?, parent.loads(RAM + 3 * PAGE + 8)?), (Value(0), Value(0)));
    ensure_eq!(snapshot.region().load::<u64>(0), Ok(RAM as u64));
    // Around a page that was cut out of a block the rest is as it was.
    ensure_eq!(parent.loads(RAM + BLOCK + PAGE)?, Value(0));
    ensure_eq!(parent.leaf_size(RAM + BLOCK + PAGE)?, PAGE);
    for guest in [&parent, &child] {
        guest.unmap(range(RAM, 3 * BLOCK))?;
    }
    ensure!(machine.allocated() > before, "a snapshot keeps its memory");
    drop(snapshot);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// A CPU that cached its leave to write loses it before the snapshot is there: what it writes then is not in it.
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_loses_its_leave_to_write<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 4 * PAGE), LAZY, RW)?;
    guest.map(range(RAM + BLOCK, BLOCK), BLOCKS, RW)?;
    let other = guest.seat(1, 1);
    for at in [RAM, RAM + PAGE, RAM + BLOCK] {
        ensure_eq!(other.stores(at, 1)?, Value(1));
    }
    let snapshot = guest.snapshot()?;
    for (at, offset) in [(RAM, 0), (RAM + PAGE, PAGE), (RAM + BLOCK, 4 * PAGE)] {
        ensure_eq!(other.loads(at)?, Value(1));
        ensure_eq!(other.stores(at, 2)?, Value(2));
        ensure_eq!(guest.loads(at)?, Value(2));
        ensure_eq!(snapshot.region().load::<u64>(offset), Ok(1), "{at:#x} in the snapshot");
    }
    Ok(())
}

/// H12: a CPU that notes writes by itself cannot turn a frozen page into a writable one, and what it noted stays.
///
/// # Errors
/// It does not hold.
pub fn a_snapshot_holds_where_the_cpu_notes_writes<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::with(machine, Setting { marks: Marks::Hardware, ..Setting::default() })?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    ensure_eq!((guest.stores(RAM, 1)?, guest.loads(RAM + PAGE)?), (Value(1), Value(0)));
    let snapshot = guest.snapshot()?;
    if let Some(used) = machine.used(&guest, gpa(RAM)) {
        ensure_eq!(used, Used::Dirty);
    }
    for page in 0..2 {
        ensure_eq!(guest.stores(RAM + page * PAGE, 2)?, Value(2));
        ensure_eq!(snapshot.region().load::<u64>(page * PAGE), Ok(1 - page as u64));
    }
    Ok(())
}

/// A snapshot of a fork has what it inherited and what it wrote; the first snapshot stays as it was.
///
/// # Errors
/// It does not hold.
pub fn a_fork_is_forked<M: Machine>(machine: &M) -> Verdict {
    let (first, second, third) = (Guest::new(machine)?, Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    first.map(range(RAM, 4 * PAGE), LAZY, RW)?;
    for page in 0..3 {
        ensure_eq!(first.stores(RAM + page * PAGE, 1)?, Value(1));
    }
    let one = first.snapshot()?;
    second.restore(&one)?;
    ensure_eq!((second.stores(RAM + PAGE, 2)?, second.loads(RAM)?), (Value(2), Value(1)));
    let two = second.snapshot()?;
    third.restore(&two)?;
    drop(one);
    ensure_eq!(first.stores(RAM, 9)?, Value(9));
    for (page, value) in [1, 2, 1, 0].into_iter().enumerate() {
        ensure_eq!(two.region().load::<u64>(page * PAGE), Ok(value));
        ensure_eq!(third.loads(RAM + page * PAGE)?, Value(value));
        ensure_eq!(third.stores(RAM + page * PAGE, 3)?, Value(3));
        ensure_eq!(second.loads(RAM + page * PAGE)?, Value(value), "page {page}");
    }
    ensure_eq!(second.stores(RAM + 2 * PAGE, 4)?, Value(4));
    ensure_eq!((first.loads(RAM + 2 * PAGE)?, third.loads(RAM + 2 * PAGE)?), (Value(1), Value(3)));
    drop(two);
    for guest in [&first, &second, &third] {
        guest.unmap(range(RAM, 4 * PAGE))?;
    }
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// A guest goes back to its snapshot; once that is dropped, the guest's next writes take the pages instead of copying.
///
/// # Errors
/// It does not hold.
pub fn a_guest_goes_back_to_its_snapshot<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * PAGE), LAZY, RW)?;
    guest.map(range(RAM + 4 * PAGE, PAGE), LAZY, RX)?;
    guest.map(range(RAM + 8 * PAGE, PAGE), linear(machine.foreign().as_usize()), RW)?;
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    let snapshot = guest.snapshot()?;
    for round in 0..3 {
        ensure_eq!(guest.stores(RAM, 2)?, Value(2));
        ensure_eq!(guest.stores(RAM + PAGE, 3)?, Value(3));
        let overlap = Error::Overlap { range: range(RAM, 2 * PAGE), with: range(RAM, 2 * PAGE) };
        ensure_eq!(guest.restore(&snapshot), Err(overlap));
        guest.unmap(range(RAM, 8 * PAGE))?;
        guest.restore(&snapshot)?;
        ensure_eq!((guest.loads(RAM)?, guest.loads(RAM + PAGE)?), (Value(1), Value(0)), "round {round}");
        ensure_eq!(guest.stores(RAM + 4 * PAGE, 1)?, Denied(RX));
    }
    let frame = guest.frame(RAM)?;
    drop(snapshot);
    ensure_eq!(guest.stores(RAM, 4)?, Value(4));
    ensure_eq!(guest.frame(RAM)?, frame);
    Ok(())
}

/// There must be something to be frozen.
///
/// # Errors
/// It does not hold.
pub fn nothing_is_no_snapshot<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), linear(machine.foreign().as_usize()), RW)?;
    let private = guest.areas()?.into_iter().any(|area| area.kind == AreaKind::Private);
    ensure!(private || matches!(guest.snapshot(), Err(Error::NotMapped(_))), "a snapshot of nothing");
    Ok(())
}

/// The guest counts on CPU 1 in two words side by side while CPU 0 takes snapshot after snapshot: each of them shows the
/// first not behind the second, and the guest loses no number.
///
/// # Errors
/// It does not hold.
pub fn a_guest_runs_on_while_it_is_frozen<M: Machine>(machine: &M) -> Verdict {
    const ROUNDS: u64 = 30;
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * PAGE), LAZY, RW)?;
    let over = AtomicBool::new(false);
    let host = || {
        let result = (|| -> Verdict {
            for _ in 0..ROUNDS {
                let snapshot = guest.snapshot()?;
                let second = snapshot.region().load::<u64>(PAGE).unwrap_or(u64::MAX);
                let first = snapshot.region().load::<u64>(0).unwrap_or(0);
                ensure!(first == second || first == second + 1, "{first} and {second}");
                let again = snapshot.region().load::<u64>(0);
                ensure_eq!(again, Ok(first), "a snapshot changes");
            }
            Ok(())
        })();
        over.store(true, Ordering::Release);
        result
    };
    let vcpu = || -> Result<u64, Stop> {
        let (run, mut count) = (guest.seat(1, 1), 0);
        while !over.load(Ordering::Acquire) {
            count += 1;
            for at in [RAM, RAM + PAGE] {
                let came = run.tries(Step::Write(at, count), 50_000);
                over.fetch_or(came.is_err(), Ordering::AcqRel);
                ensure!(matches!(came?, Value(_)), "a guest's own memory is denied");
            }
        }
        Ok(count)
    };
    let (first, second) = machine.both(host, vcpu);
    first?;
    let count = second?;
    ensure_eq!((guest.loads(RAM)?, guest.loads(RAM + PAGE)?), (Value(count), Value(count)));
    Ok(())
}
