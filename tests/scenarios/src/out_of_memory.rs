//! The nth allocation fails, for every n of every operation: an error, and everything as before.

use crate::prelude::*;

/// More than any of these operations allocates.
const ENOUGH: usize = 64;

/// Prepares a guest, lets `operation` run out of memory at each allocation in turn, and then lets it have its way.
fn starve<M: Machine>(
    machine: &M,
    prepare: impl Fn(&Guest<'_, M>) -> Verdict,
    operation: impl Fn(&Guest<'_, M>) -> Result<(), Error>,
) -> Verdict {
    let guest = Guest::new(machine)?;
    prepare(&guest)?;
    for allowed in 0..ENOUGH {
        let before = picture(&guest);
        machine.allow(Some(allowed));
        let result = operation(&guest);
        machine.allow(None);
        match result {
            Ok(()) => {
                ensure!(allowed > 0, "it allocates nothing");
                return Ok(());
            }
            Err(Error::NoMemory(_)) => ensure_eq!(picture(&guest), before, "after {allowed} allocations"),
            Err(other) => fail!("after {allowed} allocations: {other}"),
        }
    }
    fail!("it still has no memory after {ENOUGH} allocations")
}

/// A mapping that is populated at once.
///
/// # Errors
/// It does not hold.
pub fn to_map_pages<M: Machine>(machine: &M) -> Verdict {
    starve(machine, |_| Ok(()), |guest| guest.map(range(4 * LARGE - 2 * PAGE, 4 * PAGE), PAGES, RW))
}

/// Blocks fall back to pages when there are none: the operation succeeds, or changes nothing.
///
/// # Errors
/// It does not hold.
pub fn to_map_linear_memory<M: Machine>(machine: &M) -> Verdict {
    let start = machine.foreign().as_usize() & !(BLOCK - 1);
    starve(machine, |_| Ok(()), |guest| guest.map(range(4 * LARGE - PAGE, BLOCK), linear(start), RW))
}

/// Both ends cut a block.
///
/// # Errors
/// It does not hold.
pub fn to_unmap_parts_of_two_blocks<M: Machine>(machine: &M) -> Verdict {
    let prepare = |guest: &Guest<'_, M>| {
        guest.map(range(RAM, 3 * BLOCK), BLOCKS, RW)?;
        ensure_eq!(guest.stores(RAM, 6)?, Value(6));
        Ok(())
    };
    starve(machine, prepare, |guest| guest.unmap(range(RAM + PAGE, 2 * BLOCK)))?;
    Ok(())
}

/// Both ends cut a block.
///
/// # Errors
/// It does not hold.
pub fn to_protect_parts_of_two_blocks<M: Machine>(machine: &M) -> Verdict {
    let prepare = |guest: &Guest<'_, M>| Ok(guest.map(range(RAM, 3 * BLOCK), BLOCKS, RW)?);
    starve(machine, prepare, |guest| guest.protect(range(RAM + PAGE, 2 * BLOCK), READ))
}

/// A guest's fault. The tables of its path that could be had may stay: other CPUs may be using them by then.
///
/// # Errors
/// It does not hold.
pub fn to_answer_a_fault<M: Machine>(machine: &M) -> Verdict {
    let fault =
        Fault { gpa: gpa(4 * LARGE), access: Access::Write, cause: Cause::Translation, origin: Origin::Instruction };
    starve_touch(machine, |guest| guest.fault(CpuId(0), fault).map(drop))
}

/// The hypervisor's own touch of lazy memory: as a fault.
///
/// # Errors
/// It does not hold.
pub fn to_write_guest_memory<M: Machine>(machine: &M) -> Verdict {
    starve_touch(machine, |guest| guest.write_obj(gpa(4 * LARGE), 1_u64))
}

/// [`starve`] for an operation that makes one page valid, and changes nothing else.
fn starve_touch<M: Machine>(machine: &M, touch: impl Fn(&Guest<'_, M>) -> Result<(), Error>) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    guest.map(range(4 * LARGE, PAGE), LAZY, RW)?;
    let map = alloc::format!("{}", *guest);
    for allowed in 0..ENOUGH {
        machine.allow(Some(allowed));
        let result = touch(&guest);
        machine.allow(None);
        match result {
            Ok(()) => {
                ensure!(allowed > 0, "it allocates nothing");
                break;
            }
            Err(Error::NoMemory(_)) => {
                ensure_eq!(guest.stats().owned_frames, 0);
                ensure_eq!(alloc::format!("{}", *guest), map, "after {allowed} allocations");
            }
            Err(other) => fail!("after {allowed} allocations: {other}"),
        }
    }
    ensure_eq!(guest.stats().owned_frames, 1);
    guest.unmap(range(4 * LARGE, PAGE))?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// A page that moves.
///
/// # Errors
/// It does not hold.
pub fn to_relocate<M: Machine>(machine: &M) -> Verdict {
    let prepare = |guest: &Guest<'_, M>| {
        guest.map(range(RAM, BLOCK), BLOCKS, RW)?;
        ensure_eq!(guest.stores(RAM, 6)?, Value(6));
        Ok(())
    };
    starve(machine, prepare, |guest| guest.relocate(range(RAM, PAGE)).map(drop))
}

/// A whole space.
///
/// # Errors
/// It does not hold.
pub fn to_make_a_space<M: Machine>(machine: &M) -> Verdict {
    let before = machine.allocated();
    machine.allow(Some(0));
    let refused = Guest::new(machine).map(drop);
    machine.allow(None);
    ensure!(refused.is_err(), "a space without a root");
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// Where no block can be had, pages are mapped instead.
///
/// # Errors
/// It does not hold.
pub fn a_guest_goes_on_when_there_is_memory_again<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, BLOCK), LAZY_BLOCKS, RW)?;
    machine.allow(Some(0));
    let refused = guest.stores(RAM, 1);
    machine.allow(None);
    ensure!(refused.is_err(), "memory from nowhere");
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    ensure_eq!(guest.loads(RAM)?, Value(1));
    Ok(())
}
