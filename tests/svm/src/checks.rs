//! What only this machine can be asked: whether the CPU accepts what the crate writes, what it notes there, and whether
//! a fault in the shootdown would show.

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{Access, Cause, Fault, MappingFlags};
use stage2_bare::{
    no_freed_frame_was_written,
    pc::{
        Pc, Tables,
        checks::{GIGABYTE, PAGES, RAM, RW, entries, notes, real_mode, shootdown},
        shooter::Flaw,
    },
};
use stage2_scenarios::{Attempt, Came, Guest, Machine, Marks, Scenario, Stop, Verdict, gpa, range};

use crate::machine::{Parts, Svm, USER};

/// All of them.
pub const ALL: &[Scenario<Pc<Svm>>] = &[
    Scenario {
        name: "svm::a_guest_that_spins_sees_a_moved_page_where_it_is",
        run: |pc| shootdown::shows(pc, Flaw::None),
    },
    Scenario { name: "svm::a_shootdown_that_is_left_out_is_seen", run: |pc| shootdown::shows(pc, Flaw::NotTold) },
    Scenario {
        name: "svm::nothing_goes_before_every_cpu_was_told",
        run: shootdown::nothing_goes_before_every_cpu_was_told,
    },
    Scenario {
        name: "svm::what_is_accepted_has_no_reserved_bit",
        // The CPU always notes accesses and writes.
        run: |pc| entries::accepts(pc, &[Marks::Hardware]),
    },
    Scenario { name: "svm::a_reserved_bit_is_seen", run: a_reserved_bit_is_seen },
    Scenario { name: "svm::a_large_leaf_is_one_where_the_cpu_has_it", run: a_large_leaf_is_one_where_the_cpu_has_it },
    Scenario { name: "svm::what_the_cpu_noted_first_stays", run: notes::what_the_cpu_noted_first_stays },
    Scenario { name: "svm::no_note_is_lost_in_a_race", run: notes::no_note_is_lost_in_a_race },
    Scenario { name: "svm::the_guests_tables_must_be_writable", run: the_guests_tables_must_be_writable },
    Scenario {
        name: "svm::a_guest_in_real_mode_runs_on_lazy_memory",
        run: real_mode::a_guest_in_real_mode_runs_on_lazy_memory,
    },
    Scenario { name: "svm::no_freed_frame_was_written", run: |pc| no_freed_frame_was_written(pc.board()) },
];

const READ: MappingFlags = MappingFlags::READ;

/// The CPU complains of an entry that the crate never writes: a CPU that takes any entry would pass the check above.
fn a_reserved_bit_is_seen(pc: &Pc<Svm>) -> Verdict {
    let [beyond, not_for_users] =
        entries::reads_a_spoiled_leaf(pc, [|pc, bits| bits | 1 << pc.vendor.physical_bits(), |_, bits| bits & !USER])?;
    if !is_reserved_bit(&beyond) {
        return Err(Stop::failed(format_args!("an address beyond the physical width: {beyond:x?}")));
    }
    // H17: all that a guest does are user accesses.
    match not_for_users {
        Attempt::Fault(Fault { cause: Cause::Permission, access: Access::Read, .. }) => Ok(()),
        other => Err(Stop::failed(format_args!("an entry that is not for users: {other:x?}"))),
    }
}

fn is_reserved_bit(came: &Attempt) -> bool {
    matches!(came, Attempt::Unexpected(story) if story.starts_with("ReservedBit"))
}

/// A leaf of 1 GiB, written past the crate, is one where the crate writes them.
fn a_large_leaf_is_one_where_the_cpu_has_it(pc: &Pc<Svm>) -> Verdict {
    if pc.largest_leaf() < GIGABYTE {
        return Err(Stop::Skipped("the emulator has it, whatever it says"));
    }
    match entries::reads_a_large_leaf(pc, Parts::PRESENT | Parts::WRITE | USER)? {
        Attempt::Done(entries::THERE) => Ok(()),
        other => Err(Stop::failed(format_args!("{other:x?}"))),
    }
}

/// H17: a walk of the guest's own tables counts as a write, whether it writes or not.
fn the_guests_tables_must_be_writable(pc: &Pc<Svm>) -> Verdict {
    const LINEAR: usize = 0x20_0000;
    let guest = Guest::new(pc)?;
    guest.map(range(RAM, 8 * PAGE), PAGES, RW)?;
    guest.write_tables(RAM, &[(LINEAR, RAM + 7 * PAGE)])?;
    guest.write_obj(gpa(RAM + 7 * PAGE), 7_u64)?;
    for (flags, expected) in [(READ, Came::Denied(READ)), (RW, Came::Value(7))] {
        guest.protect(range(RAM, 4 * PAGE), flags)?;
        let came = guest.first().through(RAM).loads(LINEAR)?;
        if came != expected {
            return Err(Stop::failed(format_args!("{flags:?}: {came:?}, not {expected:?}")));
        }
    }
    Ok(())
}
