//! What is mapped is there, as large as it can be, with the permissions that were asked for.

use crate::prelude::*;

/// Unaligned ends get pages, what lies between them blocks.
///
/// # Errors
/// It does not hold.
pub fn blocks_fill_what_alignment_allows<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (start, size) = (RAM + BLOCK - 2 * PAGE, 2 * BLOCK + 5 * PAGE);
    guest.map(range(start, size), BLOCKS, RW)?;
    ensure_eq!(guest.leaves()[..3], [5, 2, 0]);
    ensure_eq!(guest.stats().owned_frames, size / PAGE);
    for (number, at) in [start, RAM + BLOCK - 8, RAM + BLOCK, RAM + 3 * BLOCK - 8, start + size - 8].iter().enumerate()
    {
        ensure_eq!(guest.loads(*at)?, Value(0));
        ensure_eq!(guest.stores(*at, number as u64 + 1)?, Value(number as u64 + 1));
    }
    for (number, at) in [start, RAM + BLOCK - 8, RAM + BLOCK, RAM + 3 * BLOCK - 8, start + size - 8].iter().enumerate()
    {
        ensure_eq!(guest.loads(*at)?, Value(number as u64 + 1));
    }
    ensure_eq!(guest.loads(start - 8)?, NotMapped);
    ensure_eq!(guest.loads(start + size)?, NotMapped);
    Ok(())
}

/// All three sizes of leaf in one area; where the CPU lacks the largest, smaller ones in its place (E5).
///
/// # Errors
/// It does not hold.
pub fn linear_memory_uses_all_three_sizes<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let page = machine.foreign().as_usize();
    let block = page & !(LARGE - 1);
    // GPA and HPA are congruent by 1 GiB: a page, a block, a large block.
    guest.map(range(4 * LARGE, LARGE + BLOCK + PAGE), linear(block), RW)?;
    let large = machine.largest_leaf();
    ensure_eq!(guest.leaves()[..3], if large == LARGE { [1, 1, 1] } else { [1, 513, 0] });
    let at = 4 * LARGE + (page - block);
    ensure_eq!(guest.leaf_size(at)?, large);
    ensure_eq!(guest.frame(at)?, page);
    machine.poke(PhysAddr::from_usize(page + 0x40), 0x4711);
    ensure_eq!(guest.loads(at + 0x40)?, Value(0x4711));
    ensure_eq!(guest.stores(at + 0x48, 0x4712)?, Value(0x4712));
    ensure_eq!(machine.peek(PhysAddr::from_usize(page + 0x48)), 0x4712);
    let fault = guest.first().faults(Step::Execute(at))?;
    ensure_eq!((fault.gpa, fault.cause), (gpa(at), Cause::Permission));
    Ok(())
}

/// A device is reached where it is, and never executed (E2).
///
/// # Errors
/// It does not hold.
pub fn a_device_answers_and_is_never_executed<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let device = machine.device();
    let at = RAM + 3 * PAGE;
    guest.map(range(at, PAGE), linear(device.at.as_usize()), DEVICE)?;
    ensure_eq!(guest.loads(at + device.offset)?, Value(device.value));
    ensure_eq!(guest.calls(at + device.offset)?, Denied(DEVICE));
    guest.unmap(range(at, PAGE))?;
    ensure_eq!(guest.loads(at + device.offset)?, NotMapped);
    Ok(())
}

/// Each of read, write and execute is given by itself (E1, E2, E4).
///
/// # Errors
/// It does not hold.
pub fn every_permission_is_given_by_itself<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let all = [MappingFlags::READ, MappingFlags::WRITE, MappingFlags::EXECUTE];
    for choice in 1..8_usize {
        let at = RAM + choice * PAGE;
        let chosen = all.into_iter().enumerate().filter(|(bit, _)| choice >> bit & 1 != 0).map(|(_, flag)| flag);
        let flags = chosen.fold(MappingFlags::empty(), MappingFlags::union);
        guest.map(range(at, PAGE), PAGES, RW)?;
        guest.write(gpa(at), &machine.code(choice as u16))?;
        guest.write_obj(gpa(at + 0x100), 5_u64)?;
        match guest.protect(range(at, PAGE), flags) {
            Ok(()) => {}
            // Not every kind of table gives each of them by itself.
            Err(Error::Flags { .. }) => continue,
            Err(other) => return Err(other.into()),
        }
        ensure_eq!(guest.loads(at + 0x100)?, allowed(flags, MappingFlags::READ, 5), "load, {flags:?}");
        ensure_eq!(guest.calls(at)?, allowed(flags, MappingFlags::EXECUTE, choice as u64), "call, {flags:?}");
        ensure_eq!(guest.stores(at + 0x100, 6)?, allowed(flags, MappingFlags::WRITE, 6), "store, {flags:?}");
    }
    Ok(())
}

fn allowed(flags: MappingFlags, needed: MappingFlags, value: u64) -> crate::Came {
    if flags.contains(needed) { Value(value) } else { Denied(flags) }
}

/// Neighbours share the tables that are there.
///
/// # Errors
/// It does not hold.
pub fn neighbours_share_their_tables<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    let tables = guest.stats().table_frames;
    guest.map(range(RAM + PAGE, 2 * PAGE), PAGES, READ)?;
    ensure_eq!(guest.stats().table_frames, tables);
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    ensure_eq!(guest.stores(RAM + PAGE, 1)?, Denied(READ));
    ensure_eq!(guest.loads(RAM + 2 * PAGE)?, Value(0));
    Ok(())
}

/// Uncached memory is memory.
///
/// # Errors
/// It does not hold.
pub fn uncached_memory_holds_what_is_written<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * PAGE), LAZY, RW | MappingFlags::UNCACHED)?;
    ensure_eq!(guest.loads(RAM)?, Value(0));
    ensure_eq!(guest.stores(RAM, 0x55)?, Value(0x55));
    ensure_eq!(guest.read_obj::<u64>(gpa(RAM))?, 0x55);
    ensure_eq!(guest.translate(gpa(RAM)).map(|found| found.flags), Some(RW | MappingFlags::UNCACHED));
    Ok(())
}

/// H18: code runs in memory of any leaf size, whichever size the CPU may execute from; what lies beside it stays.
///
/// # Errors
/// It does not hold.
pub fn code_runs_in_large_leaves_and_its_neighbours_stay<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * BLOCK), BLOCKS, RWX)?;
    guest.map(range(RAM + 2 * BLOCK, BLOCK), LAZY_BLOCKS, RWX)?;
    let code = [RAM + 0x40, RAM + 5 * PAGE, RAM + BLOCK - PAGE, RAM + 2 * BLOCK + 7 * PAGE];
    for (number, at) in code.into_iter().enumerate() {
        guest.write(gpa(at), &machine.code(number as u16 + 1))?;
    }
    ensure_eq!(guest.stores(RAM + 3 * PAGE, 0x77)?, Value(0x77));
    for (number, at) in code.into_iter().enumerate() {
        ensure_eq!(guest.calls(at)?, Value(number as u64 + 1));
    }
    ensure_eq!(guest.stats().owned_frames, 3 * BLOCK / PAGE);
    ensure_eq!(guest.loads(RAM + 3 * PAGE)?, Value(0x77));
    // Leaves from which the guest fetched nothing are as large as before.
    ensure_eq!(guest.leaf_size(RAM + BLOCK)?, BLOCK);
    for at in [RAM + 3 * PAGE, RAM + 0x48, RAM + BLOCK + PAGE, RAM + 2 * BLOCK] {
        ensure_eq!(guest.stores(at, 0x78)?, Value(0x78));
    }
    guest.protect(range(RAM, 3 * BLOCK), RW)?;
    ensure_eq!(guest.calls(code[1])?, Denied(RW));
    guest.protect(range(RAM, 3 * BLOCK), RWX)?;
    ensure_eq!(guest.calls(code[1])?, Value(2));
    Ok(())
}
