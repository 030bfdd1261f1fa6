//! Spaces beside each other, after each other, and virtual CPUs on one CPU.

use crate::prelude::*;

/// Same addresses, different memory, in turns on one CPU.
///
/// # Errors
/// It does not hold.
pub fn two_guests_do_not_see_each_other<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    for guest in [&one, &two] {
        guest.map(range(RAM, 2 * PAGE), LAZY, RW)?;
    }
    one.map(range(RAM + 4 * PAGE, PAGE), PAGES, RW)?;
    for round in 0..3 {
        ensure_eq!(one.stores(RAM, 10 + round)?, Value(10 + round));
        ensure_eq!(two.stores(RAM, 20 + round)?, Value(20 + round));
        ensure_eq!(one.loads(RAM)?, Value(10 + round));
        ensure_eq!(two.loads(RAM)?, Value(20 + round));
        ensure_eq!(one.loads(RAM + 4 * PAGE)?, Value(0));
        ensure_eq!(two.loads(RAM + 4 * PAGE)?, NotMapped);
    }
    // The space that is not active changes.
    one.unmap(range(RAM, PAGE))?;
    ensure_eq!(two.loads(RAM)?, Value(22));
    ensure_eq!(one.loads(RAM)?, NotMapped);
    Ok(())
}

/// The hypervisor changes a space while another one is active on its CPU (T5, H2).
///
/// # Errors
/// It does not hold.
pub fn a_space_that_is_not_active_changes<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    for guest in [&one, &two] {
        guest.map(range(RAM, 2 * PAGE), LAZY, RW)?;
        ensure_eq!(guest.stores(RAM, 1)?, Value(1));
        ensure_eq!(guest.stores(RAM + PAGE, 2)?, Value(2));
    }
    // `two` ran last.
    one.relocate(range(RAM, PAGE))?;
    one.protect(range(RAM + PAGE, PAGE), READ)?;
    one.write_obj(gpa(RAM), 3_u64)?;
    ensure_eq!(two.loads(RAM)?, Value(1));
    ensure_eq!(two.stores(RAM + PAGE, 4)?, Value(4));
    ensure_eq!(one.loads(RAM)?, Value(3));
    ensure_eq!(one.stores(RAM + PAGE, 4)?, Denied(READ));
    Ok(())
}

/// T9: the next user of an identifier, and of a root's frame, inherits nothing.
///
/// # Errors
/// It does not hold.
pub fn an_identifier_is_used_again<M: Machine>(machine: &M) -> Verdict {
    let setting = Setting { tag: Tag::This(5), ..Setting::default() };
    for round in 0..3 {
        let guest = Guest::with(machine, setting)?;
        ensure_eq!(guest.loads(RAM)?, NotMapped, "round {round}");
        guest.map(range(RAM, 2 * PAGE), LAZY, RW)?;
        ensure_eq!(guest.loads(RAM)?, Value(0), "round {round}");
        ensure_eq!(guest.stores(RAM, 0xbad)?, Value(0xbad));
        ensure_eq!(guest.stores(RAM + PAGE, 0xbad)?, Value(0xbad));
    }
    Ok(())
}

/// All that a space took goes back: memory, tables, root.
///
/// # Errors
/// It does not hold.
pub fn a_dropped_space_gives_everything_back<M: Machine>(machine: &M) -> Verdict {
    let before = machine.allocated();
    for mapping in [LAZY, LAZY_BLOCKS, PAGES, BLOCKS] {
        let guest = Guest::new(machine)?;
        guest.map(range(RAM - 3 * PAGE, BLOCK + 7 * PAGE), mapping.clone(), RW).or_else(|_| {
            // What the machine needs itself lies below.
            guest.map(range(RAM, BLOCK + 7 * PAGE), mapping, RW)
        })?;
        guest.map(range(4 * LARGE, BLOCK), linear(machine.foreign().as_usize() & !(BLOCK - 1)), RW)?;
        for at in [RAM, RAM + BLOCK, RAM + 77 * PAGE] {
            ensure_eq!(guest.stores(at, 1)?, Value(1));
        }
        guest.unmap(range(RAM + 9 * PAGE, PAGE))?;
        ensure!(machine.allocated() > before);
        drop(guest);
        ensure_eq!(machine.allocated(), before);
    }
    Ok(())
}

/// H6: two virtual CPUs, each with tables of its own under the same name, in turns on one CPU.
///
/// # Errors
/// It does not hold.
pub fn two_virtual_cpus_take_turns_on_one_cpu<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * PAGE), LAZY, RW)?;
    guest.map(range(TABLES, 32 * PAGE), LAZY, RW)?;
    let roots = [TABLES, TABLES + 16 * PAGE];
    for (index, root) in roots.into_iter().enumerate() {
        guest.write_tables(root, &[(VIRTUAL, RAM + index * PAGE)])?;
        guest.write_obj(gpa(RAM + index * PAGE), index as u64 + 1)?;
    }
    for round in 0..3 {
        for (index, root) in roots.into_iter().enumerate() {
            let came = guest.seat(0, index).through(root).loads(VIRTUAL)?;
            ensure_eq!(came, Value(index as u64 + 1), "round {round}, virtual CPU {index}");
        }
    }
    Ok(())
}
