//! Permissions change under a guest that uses them.

use crate::prelude::*;

/// With the translation cached that allowed it.
///
/// # Errors
/// It does not hold.
pub fn a_restriction_is_seen_at_once<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RWX)?;
    guest.write(gpa(RAM), &machine.code(12))?;
    ensure_eq!(guest.calls(RAM)?, Value(12));
    ensure_eq!(guest.stores(RAM + 0x80, 1)?, Value(1));
    guest.protect(range(RAM, PAGE), RX)?;
    ensure_eq!(guest.stores(RAM + 0x80, 2)?, Denied(RX));
    ensure_eq!(guest.calls(RAM)?, Value(12));
    guest.protect(range(RAM, PAGE), READ)?;
    ensure_eq!(guest.calls(RAM)?, Denied(READ));
    ensure_eq!(guest.loads(RAM + 0x80)?, Value(1));
    guest.protect(range(RAM, PAGE), MappingFlags::EXECUTE).or_else(inexpressible)?;
    ensure_eq!(guest.stores(RAM + PAGE, 3)?, Value(3));
    Ok(())
}

fn inexpressible(error: Error) -> Verdict {
    if matches!(error, Error::Flags { .. }) { Ok(()) } else { Err(error.into()) }
}

/// Down and up, again and again, with every access after each change.
///
/// # Errors
/// It does not hold.
pub fn permissions_go_down_and_up<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), LAZY, RW)?;
    guest.write(gpa(RAM), &machine.code(3))?;
    for round in 0..4_u64 {
        for flags in [READ, RX, RW, RWX] {
            guest.protect(range(RAM, PAGE), flags)?;
            let (writes, executes) = (flags.contains(MappingFlags::WRITE), flags.contains(MappingFlags::EXECUTE));
            ensure_eq!(guest.stores(RAM + 8, round)?, if writes { Value(round) } else { Denied(flags) });
            ensure_eq!(guest.calls(RAM)?, if executes { Value(3) } else { Denied(flags) });
            ensure!(matches!(guest.loads(RAM + 8)?, Value(_)));
        }
    }
    Ok(())
}

/// A part of a block is split off; contents, frames and the rest's permissions stay.
///
/// # Errors
/// It does not hold.
pub fn a_part_of_a_block_changes_alone<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, BLOCK), BLOCKS, RW)?;
    let part = RAM + 16 * PAGE;
    for at in [RAM, part, part + 2 * PAGE] {
        ensure_eq!(guest.stores(at, at as u64)?, Value(at as u64));
    }
    let frame = guest.frame(part)?;
    guest.protect(range(part, 2 * PAGE), READ)?;
    ensure_eq!(guest.stores(part, 1)?, Denied(READ));
    ensure_eq!(guest.stores(part + PAGE, 1)?, Denied(READ));
    for at in [RAM, part, part + 2 * PAGE] {
        ensure_eq!(guest.loads(at)?, Value(at as u64));
    }
    ensure_eq!(guest.stores(part - 8, 1)?, Value(1));
    ensure_eq!(guest.stores(part + 2 * PAGE, 1)?, Value(1));
    ensure_eq!(guest.frame(part)?, frame);
    Ok(())
}

/// H14: what the guest wrote to a part of a block is what it executes there, once it may. The pieces of a block that
/// was cut were linked without the instruction caches' knowledge.
///
/// # Errors
/// It does not hold.
pub fn a_part_of_a_block_becomes_code<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, BLOCK), LAZY_BLOCKS, RW)?;
    let code = RAM + 3 * PAGE;
    guest.write(gpa(code), &machine.code(7))?;
    ensure_eq!(guest.leaf_size(code)?, BLOCK);
    ensure_eq!(guest.calls(code)?, Denied(RW));
    guest.protect(range(code, PAGE), RX)?;
    ensure_eq!(guest.calls(code)?, Value(7));
    ensure_eq!(guest.calls(code + PAGE)?, Denied(RW));
    Ok(())
}

/// What is not populated yet comes with the new permissions.
///
/// # Errors
/// It does not hold.
pub fn lazy_memory_comes_with_the_permissions_of_the_day<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 4 * PAGE), LAZY, RW)?;
    guest.protect(range(RAM, 2 * PAGE), READ)?;
    ensure_eq!(guest.stores(RAM, 1)?, Denied(READ));
    ensure_eq!(guest.loads(RAM)?, Value(0));
    ensure_eq!(guest.stores(RAM, 1)?, Denied(READ));
    ensure_eq!(guest.stores(RAM + 2 * PAGE, 1)?, Value(1));
    Ok(())
}

/// H12: the CPU may not make a page writable again that was write-protected.
///
/// # Errors
/// It does not hold.
pub fn write_protection_holds_where_the_cpu_notes_writes<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::with(machine, Setting { marks: Marks::Hardware, ..Setting::default() })?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    guest.map(range(RAM + BLOCK, BLOCK), BLOCKS, RW)?;
    for at in [RAM, RAM + PAGE, RAM + BLOCK] {
        ensure_eq!(guest.loads(at)?, Value(0));
    }
    // Written by the guest before, and not.
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    guest.protect(range(RAM, 2 * PAGE), READ)?;
    guest.protect(range(RAM + BLOCK, BLOCK), READ)?;
    for at in [RAM, RAM + PAGE, RAM + BLOCK, RAM + BLOCK + PAGE] {
        ensure_eq!(guest.stores(at, 2)?, Denied(READ), "{at:#x}");
    }
    ensure_eq!(guest.loads(RAM)?, Value(1));
    guest.protect(range(RAM, 2 * PAGE), RW)?;
    ensure_eq!(guest.stores(RAM, 3)?, Value(3));
    ensure_eq!(guest.stores(RAM + PAGE, 4)?, Value(4));
    Ok(())
}

/// Everything works alike where the CPU notes accesses and writes by itself.
///
/// # Errors
/// It does not hold.
pub fn a_guest_runs_where_the_cpu_notes_its_accesses<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::with(machine, Setting { marks: Marks::Hardware, ..Setting::default() })?;
    guest.map(range(RAM, 16 * PAGE), LAZY, RW)?;
    guest.map(range(RAM + BLOCK, 2 * BLOCK), BLOCKS, RW)?;
    for at in [RAM, RAM + PAGE, RAM + BLOCK, RAM + 2 * BLOCK] {
        ensure_eq!(guest.loads(at)?, Value(0));
        ensure_eq!(guest.stores(at, 6)?, Value(6));
    }
    guest.unmap(range(RAM + BLOCK + PAGE, PAGE))?;
    guest.relocate(range(RAM, PAGE))?;
    for at in [RAM, RAM + PAGE, RAM + BLOCK, RAM + 2 * BLOCK] {
        ensure_eq!(guest.loads(at)?, Value(6));
        ensure_eq!(guest.stores(at, 7)?, Value(7));
    }
    ensure_eq!(guest.loads(RAM + BLOCK + PAGE)?, NotMapped);
    Ok(())
}

/// A range across areas changes in all of them, of whatever kind.
///
/// # Errors
/// It does not hold.
pub fn a_range_of_several_areas_changes_in_all<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    guest.map(range(RAM + 2 * PAGE, PAGE), linear(machine.foreign().as_usize()), RW)?;
    guest.map(range(RAM + 3 * PAGE, PAGE), LAZY, RW)?;
    for page in 0..3 {
        ensure_eq!(guest.stores(RAM + page * PAGE, 1)?, Value(1));
    }
    guest.protect(range(RAM + PAGE, 3 * PAGE), READ)?;
    ensure_eq!(guest.stores(RAM, 2)?, Value(2));
    for page in 1..4 {
        ensure_eq!(guest.stores(RAM + page * PAGE, 2)?, Denied(READ), "page {page}");
    }
    Ok(())
}

/// E6, W15: what the CPU noted of a page stays when its permissions change, when it moves, when its block is cut.
///
/// # Errors
/// It does not hold.
pub fn what_the_cpu_noted_stays<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::with(machine, Setting { marks: Marks::Hardware, ..Setting::default() })?;
    let used = |at: usize| machine.used(&guest, gpa(at));
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    guest.map(range(RAM + BLOCK, BLOCK), BLOCKS, RW)?;
    if used(RAM).is_none() {
        return Err(Stop::Skipped("the machine cannot tell what the CPU noted"));
    }
    for at in [RAM, RAM + BLOCK] {
        ensure_eq!(guest.stores(at, 1)?, Value(1));
        ensure_eq!(used(at), Some(Used::Dirty));
    }
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(0));
    ensure_eq!(used(RAM + PAGE), Some(Used::Accessed));
    for flags in [READ, RW] {
        guest.protect(range(RAM, 2 * PAGE), flags)?;
        ensure_eq!(used(RAM), Some(Used::Dirty), "{flags:?}");
        ensure_eq!(used(RAM + PAGE), Some(Used::Accessed), "{flags:?}");
    }
    guest.relocate(range(RAM, 2 * PAGE))?;
    guest.protect(range(RAM + BLOCK, PAGE), READ)?;
    for at in [RAM, RAM + BLOCK, RAM + BLOCK + PAGE] {
        ensure_eq!(used(at), Some(Used::Dirty), "{at:#x}");
    }
    ensure_eq!(used(RAM + PAGE), Some(Used::Accessed));
    // It is noted again after all that.
    ensure_eq!(guest.stores(RAM + PAGE, 2)?, Value(2));
    ensure_eq!(used(RAM + PAGE), Some(Used::Dirty));
    Ok(())
}
