//! Whether a moved page is seen where it was: the probe behind the scenarios that say it must not be, and behind the
//! tests that say that a machine would notice.

use crate::prelude::*;

/// What kind of page moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// A page of data that the guest has read.
    Data,
    /// A page that holds a table of the guest's own, over which it has walked; an entry in it changes after the move,
    /// and the guest forgets its own translations as it has to.
    GuestTables,
    /// The same, but the guest does not forget its own translations: it need not see the change, unless its TLB is
    /// empty and the CPU does not speculate.
    GuestTablesUnasked,
}

/// What the guest saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// What is there now.
    Fresh,
    /// Something else.
    Stale,
}

/// Moves a page that the guest has used, and looks through the guest's eyes on the last of the machine's CPUs.
///
/// # Errors
/// Something else went wrong.
pub fn probe<M: Machine>(machine: &M, column: Column) -> Result<Seen, Stop> {
    let cpu = machine.facts().cpus - 1;
    match column {
        Column::Data => moved_data(machine, cpu),
        Column::GuestTables => moved_guest_tables(machine, cpu, true),
        Column::GuestTablesUnasked => moved_guest_tables(machine, cpu, false),
    }
}

/// A page of data moves, which the guest on `cpu` has read.
///
/// # Errors
/// As for [`probe`].
pub(crate) fn moved_data<M: Machine>(machine: &M, cpu: usize) -> Result<Seen, Stop> {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), LAZY, RW)?;
    let run = guest.seat(cpu, cpu);
    ensure_eq!(run.stores(RAM, 1)?, Value(1));
    ensure_eq!(run.loads(RAM)?, Value(1));
    guest.relocate(range(RAM, PAGE))?;
    guest.write_obj(gpa(RAM), 2_u64)?;
    Ok(seen(run.loads(RAM)?, 2))
}

/// A page with a table of the guest's own moves, over which the guest on `cpu` has walked. Then an entry of it changes.
///
/// # Errors
/// As for [`probe`].
pub(crate) fn moved_guest_tables<M: Machine>(machine: &M, cpu: usize, forgets: bool) -> Result<Seen, Stop> {
    let guest = Guest::new(machine)?;
    guest.map(range(TABLES, 16 * PAGE), LAZY, RW)?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    for page in 0..2 {
        guest.write_obj(gpa(RAM + page * PAGE), page as u64 + 1)?;
    }
    let table = guest.write_tables(TABLES, &[(VIRTUAL, RAM)])?;
    let run = guest.seat(cpu, cpu).through(TABLES);
    ensure_eq!(run.loads(VIRTUAL)?, Value(1));
    guest.relocate(range(table, PAGE))?;
    guest.write_obj(gpa(guest.entry_in(table, VIRTUAL)), machine.guest_page(gpa(RAM + PAGE)))?;
    if forgets {
        run.does(Step::Forget)?;
    }
    Ok(seen(run.loads(VIRTUAL)?, 2))
}

/// Whether it is what is there now; anything else was never there, or is not any more.
fn seen(came: crate::Came, fresh: u64) -> Seen {
    if came == Value(fresh) { Seen::Fresh } else { Seen::Stale }
}
