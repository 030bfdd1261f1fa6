//! Memory moves under a guest that uses it.

use crate::prelude::*;
use crate::{Column, Seen, probe};

/// Contents stay, the frame is another one, and what is written afterwards is seen by both sides.
///
/// # Errors
/// It does not hold.
pub fn a_moved_page_keeps_its_contents<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 4 * PAGE), LAZY, RW)?;
    for word in (0..PAGE).step_by(8) {
        guest.write_obj(gpa(RAM + PAGE + word), (word * 3) as u64)?;
    }
    ensure_eq!(guest.loads(RAM + PAGE + 0x80)?, Value(0x180));
    let (frame, allocated) = (guest.frame(RAM + PAGE)?, machine.allocated());
    ensure_eq!(guest.relocate(range(RAM, 4 * PAGE))?, 1);
    ensure!(guest.frame(RAM + PAGE)? != frame, "it did not move");
    ensure_eq!(machine.allocated(), allocated);
    for word in (0..PAGE).step_by(8) {
        ensure_eq!(guest.read_obj::<u64>(gpa(RAM + PAGE + word))?, (word * 3) as u64);
    }
    ensure_eq!(guest.loads(RAM + PAGE + 0x88)?, Value(0x198));
    ensure_eq!(guest.stores(RAM + PAGE, 1)?, Value(1));
    ensure_eq!(guest.read_obj::<u64>(gpa(RAM + PAGE))?, 1);
    Ok(())
}

/// A page that the guest has in its TLB, and a page that holds the guest's own tables: neither is seen where it was.
///
/// # Errors
/// It does not hold.
pub fn a_moved_page_is_not_seen_where_it_was<M: Machine>(machine: &M) -> Verdict {
    ensure_eq!(probe(machine, Column::Data)?, Seen::Fresh);
    Ok(())
}

/// The guest's own table moves.
///
/// # Errors
/// It does not hold.
pub fn a_moved_table_of_the_guests_is_not_walked_where_it_was<M: Machine>(machine: &M) -> Verdict {
    ensure_eq!(probe(machine, Column::GuestTables)?, Seen::Fresh);
    Ok(())
}

/// All of the guest's own tables move, one after the other and all at once, while it uses them.
///
/// # Errors
/// It does not hold.
pub fn all_of_the_guests_tables_may_move<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(TABLES, 16 * PAGE), LAZY, RW)?;
    guest.map(range(RAM, 8 * PAGE), LAZY, RW)?;
    let pairs: [_; 8] = core::array::from_fn(|page| (VIRTUAL + page * PAGE, RAM + (7 - page) * PAGE));
    guest.write_tables(TABLES, &pairs)?;
    let run = guest.first().through(TABLES);
    for (page, (from, to)) in pairs.into_iter().enumerate() {
        guest.relocate(range(TABLES + page % 4 * PAGE, PAGE))?;
        ensure_eq!(run.stores(from, from as u64)?, Value(from as u64));
        ensure_eq!(guest.read_obj::<u64>(gpa(to))?, from as u64);
    }
    guest.relocate(range(TABLES, 16 * PAGE))?;
    guest.relocate(range(RAM, 8 * PAGE))?;
    for (from, _) in pairs {
        ensure_eq!(run.loads(from)?, Value(from as u64));
    }
    Ok(())
}

/// A block moves whole, also when only a part of it was named.
///
/// # Errors
/// It does not hold.
pub fn a_block_moves_whole<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, BLOCK), BLOCKS, RW)?;
    for at in [RAM, RAM + 300 * PAGE, RAM + BLOCK - 8] {
        ensure_eq!(guest.stores(at, at as u64)?, Value(at as u64));
    }
    let frame = guest.frame(RAM)?;
    ensure_eq!(guest.relocate(range(RAM + 10 * PAGE, PAGE))?, BLOCK / PAGE);
    ensure!(guest.frame(RAM)? != frame, "it did not move");
    ensure_eq!(guest.leaf_size(RAM)?, BLOCK);
    for at in [RAM, RAM + 300 * PAGE, RAM + BLOCK - 8] {
        ensure_eq!(guest.loads(at)?, Value(at as u64));
        ensure_eq!(guest.stores(at, 1)?, Value(1));
        ensure_eq!(guest.read_obj::<u64>(gpa(at))?, 1);
    }
    Ok(())
}

/// Permissions move with the page.
///
/// # Errors
/// It does not hold.
pub fn permissions_move_with_the_page<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    guest.write(gpa(RAM), &machine.code(9))?;
    guest.protect(range(RAM, PAGE), RX)?;
    ensure_eq!(guest.calls(RAM)?, Value(9));
    guest.relocate(range(RAM, 2 * PAGE))?;
    ensure_eq!(guest.calls(RAM)?, Value(9));
    ensure_eq!(guest.stores(RAM, 1)?, Denied(RX));
    ensure_eq!(guest.calls(RAM + PAGE)?, Denied(RW));
    ensure_eq!(guest.stores(RAM + PAGE, 1)?, Value(1));
    Ok(())
}

/// H14: code that moved, and was then replaced, is what the guest executes.
///
/// # Errors
/// It does not hold.
pub fn moved_code_is_executed_where_it_is<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), LAZY, RWX)?;
    for value in 1..5 {
        guest.write(gpa(RAM), &machine.code(value))?;
        ensure_eq!(guest.calls(RAM)?, Value(value.into()));
        guest.relocate(range(RAM, PAGE))?;
        ensure_eq!(guest.calls(RAM)?, Value(value.into()));
    }
    Ok(())
}

/// Memory that is not the space's own is refused and stays where it is; pages that were not populated stay unpopulated.
///
/// # Errors
/// It does not hold.
pub fn only_populated_memory_of_its_own_moves<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let foreign = machine.foreign().as_usize();
    guest.map(range(RAM, PAGE), linear(foreign), RW)?;
    guest.map(range(RAM + PAGE, PAGE), LAZY, RW)?;
    ensure_eq!(guest.relocate(range(RAM, 2 * PAGE)), Err(Error::NotMemory(range(RAM, PAGE))));
    ensure_eq!(guest.relocate(range(RAM + PAGE, 2 * PAGE)), Err(Error::NotMapped(range(RAM + 2 * PAGE, PAGE))));
    ensure_eq!(guest.relocate(range(RAM + PAGE, PAGE))?, 0);
    ensure_eq!(guest.frame(RAM)?, foreign);
    ensure_eq!(guest.stats().owned_frames, 0);
    Ok(())
}
