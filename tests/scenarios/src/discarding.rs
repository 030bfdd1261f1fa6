//! Memory goes and its areas stay: a balloon.

use crate::prelude::*;

/// Pages, the last of their table among them, with everything cached.
///
/// # Errors
/// It does not hold.
pub fn what_is_discarded_is_zeros_and_free<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    guest.map(range(RAM, 4 * PAGE), LAZY, RW)?;
    for page in 0..4 {
        ensure_eq!(guest.stores(RAM + page * PAGE, 5)?, Value(5));
    }
    guest.discard(range(RAM + PAGE, PAGE), Refill::Zeros)?;
    ensure_eq!((guest.usage().frames, guest.stats().owned_frames), (3, 3));
    for (page, value) in [(0, 5), (1, 0), (2, 5), (3, 5)] {
        ensure_eq!(guest.loads(RAM + page * PAGE)?, Value(value), "page {page}");
    }
    ensure_eq!(guest.stores(RAM + PAGE, 6)?, Value(6));
    guest.discard(range(RAM, 4 * PAGE), Refill::Source)?;
    ensure_eq!((machine.allocated(), guest.usage().frames), (before, 0));
    for page in 0..4 {
        ensure_eq!(guest.loads(RAM + page * PAGE)?, Value(0), "page {page}");
    }
    Ok(())
}

/// Within a block, which is split.
///
/// # Errors
/// It does not hold.
pub fn the_middle_of_a_block_is_zeros_and_the_rest_stays<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * BLOCK), BLOCKS, RW)?;
    let (start, end) = (RAM + BLOCK - 2 * PAGE, RAM + BLOCK + 3 * PAGE);
    for at in [start - 8, start, end - 8, end] {
        ensure_eq!(guest.stores(at, at as u64)?, Value(at as u64));
    }
    guest.discard(range(start, end - start), Refill::Zeros)?;
    ensure_eq!(guest.stats().owned_frames, 2 * 512 - 5);
    for (at, value) in [(start - 8, start - 8), (start, 0), (end - 8, 0), (end, end)] {
        ensure_eq!(guest.loads(at)?, Value(value as u64), "{at:#x}");
    }
    Ok(())
}

/// The other CPU has it in its TLB.
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_finds_zeros<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let other = guest.seat(1, 1);
    guest.map(range(RAM, 3 * PAGE), LAZY, RW)?;
    guest.map(range(RAM + BLOCK, BLOCK), BLOCKS, RW)?;
    for at in [RAM, RAM + PAGE, RAM + BLOCK, RAM + BLOCK + PAGE] {
        ensure_eq!(other.stores(at, 1)?, Value(1));
        ensure_eq!(guest.loads(at)?, Value(1));
    }
    guest.discard(range(RAM + PAGE, PAGE), Refill::Zeros)?;
    guest.discard(range(RAM + BLOCK, PAGE), Refill::Zeros)?;
    for (at, value) in [(RAM, 1), (RAM + PAGE, 0), (RAM + BLOCK, 0), (RAM + BLOCK + PAGE, 1)] {
        ensure_eq!(other.loads(at)?, Value(value), "{at:#x} on CPU 1");
        ensure_eq!(guest.loads(at)?, Value(value), "{at:#x} on CPU 0");
    }
    ensure_eq!(other.stores(RAM + PAGE, 2)?, Value(2));
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(2));
    Ok(())
}

/// And the parent what its fork does.
///
/// # Errors
/// It does not hold.
pub fn a_fork_keeps_what_its_parent_discards<M: Machine>(machine: &M) -> Verdict {
    let (parent, child) = (Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    parent.map(range(RAM, 4 * PAGE), LAZY, RW)?;
    for page in 0..4 {
        ensure_eq!(parent.stores(RAM + page * PAGE, 3)?, Value(3));
    }
    child.restore(&parent.snapshot()?)?;
    ensure_eq!((child.loads(RAM)?, child.stores(RAM + PAGE, 4)?), (Value(3), Value(4)));
    parent.discard(range(RAM, 2 * PAGE), Refill::Zeros)?;
    child.discard(range(RAM + PAGE, 2 * PAGE), Refill::Zeros)?;
    for (page, parents, childs) in [(0, 0, 3), (1, 0, 0), (2, 3, 0), (3, 3, 3)] {
        ensure_eq!(parent.loads(RAM + page * PAGE)?, Value(parents), "page {page} of the parent");
        ensure_eq!(child.loads(RAM + page * PAGE)?, Value(childs), "page {page} of the child");
    }
    parent.discard(range(RAM, 4 * PAGE), Refill::Zeros)?;
    child.discard(range(RAM, 4 * PAGE), Refill::Zeros)?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// Its next owner's zeros are fetched, and not what a cache has of the code.
///
/// # Errors
/// It does not hold.
pub fn discarded_code_is_not_executed<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), LAZY, RWX)?;
    for value in [7, 9] {
        guest.write(gpa(RAM), &machine.code(value))?;
        ensure_eq!(guest.calls(RAM)?, Value(u64::from(value)));
        guest.discard(range(RAM, PAGE), Refill::Zeros)?;
        ensure_eq!(guest.loads(RAM)?, Value(0));
    }
    Ok(())
}
