//! What only this machine can be asked: whether the CPU accepts what the crate writes, what it notes there, and whether
//! a fault in the shootdown would show.

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::x86_64::ept::LargeLeaves;
use stage2_bare::{
    no_freed_frame_was_written,
    pc::{
        Pc,
        checks::{BLOCK, BLOCKS, GIGABYTE, RAM, RWX, entries, notes, real_mode, shootdown},
        shooter::Flaw,
    },
};
use stage2_scenarios::{
    Attempt, Came, Guest, Machine, Marks, Scenario, Stop, Verdict, gpa, guest_memory, mapping, protecting, range,
    relocating,
};

use crate::machine::{MEMORY, READ, TYPE, Vmx};

/// All of them.
pub const ALL: &[Scenario<Pc<Vmx>>] = &[
    Scenario {
        name: "bochs::a_guest_that_spins_sees_a_moved_page_where_it_is",
        run: |pc| shootdown::shows(pc, Flaw::None),
    },
    Scenario { name: "bochs::a_shootdown_that_is_left_out_is_seen", run: |pc| shootdown::shows(pc, Flaw::NotTold) },
    Scenario {
        name: "bochs::a_guest_that_spins_loses_what_is_unmapped",
        run: |pc| shootdown::takes_away(pc, Flaw::None),
    },
    Scenario {
        name: "bochs::what_is_unmapped_without_a_shootdown_is_seen",
        run: |pc| shootdown::takes_away(pc, Flaw::NotTold),
    },
    Scenario {
        name: "bochs::nothing_goes_before_every_cpu_was_told",
        run: shootdown::nothing_goes_before_every_cpu_was_told,
    },
    Scenario {
        name: "bochs::what_is_accepted_is_never_misconfigured",
        run: |pc| entries::accepts(pc, &[Marks::Software, Marks::Hardware]),
    },
    Scenario { name: "bochs::a_misconfigured_entry_is_seen", run: a_misconfigured_entry_is_seen },
    Scenario { name: "bochs::a_large_leaf_that_the_cpu_lacks_is_seen", run: a_large_leaf_that_the_cpu_lacks_is_seen },
    Scenario { name: "bochs::code_runs_where_large_leaves_are_not_executed", run: code_in_careful_spaces },
    Scenario { name: "bochs::what_the_cpu_noted_first_stays", run: notes::what_the_cpu_noted_first_stays },
    Scenario { name: "bochs::no_note_is_lost_in_a_race", run: notes::no_note_is_lost_in_a_race },
    Scenario {
        name: "bochs::a_guest_in_real_mode_runs_on_lazy_memory",
        run: real_mode::a_guest_in_real_mode_runs_on_lazy_memory,
    },
    Scenario { name: "bochs::no_freed_frame_was_written", run: |pc| no_freed_frame_was_written(pc.board()) },
];

/// The CPU complains of an entry that the crate never writes: a CPU that takes any entry would pass the check above.
fn a_misconfigured_entry_is_seen(pc: &Pc<Vmx>) -> Verdict {
    let came = entries::reads_a_spoiled_leaf(
        pc,
        [
            |_, bits| bits & !READ,
            |_, bits| bits & !TYPE | 2 << 3,
            |_, bits| bits & !TYPE | 3 << 3,
            |_, bits| bits & !TYPE | 7 << 3,
            |pc, bits| bits | 1 << pc.facts().widest,
        ],
    )?;
    let whats =
        ["write without read", "memory type 2", "memory type 3", "memory type 7", "an address beyond MAXPHYADDR"];
    for (what, came) in whats.into_iter().zip(came) {
        if !is_misconfiguration(&came) {
            return Err(Stop::failed(format_args!("{what}: {came:x?}")));
        }
    }
    Ok(())
}

fn is_misconfiguration(came: &Attempt) -> bool {
    matches!(came, Attempt::Unexpected(story) if story.starts_with("Misconfiguration"))
}

/// A leaf of 1 GiB, written past the crate, is a misconfiguration just where the crate writes none.
fn a_large_leaf_that_the_cpu_lacks_is_seen(pc: &Pc<Vmx>) -> Verdict {
    let came = entries::reads_a_large_leaf(pc, MEMORY)?;
    let lacks = pc.largest_leaf() < GIGABYTE;
    if lacks != is_misconfiguration(&came) || !lacks && came != Attempt::Done(entries::THERE) {
        return Err(Stop::failed(format_args!("the CPU lacks it: {lacks}, but {came:x?}")));
    }
    Ok(())
}

/// H18: the same scenarios where the first fetch splits.
fn code_in_careful_spaces(pc: &Pc<Vmx>) -> Verdict {
    pc.vendor.with_large_leaves(LargeLeaves::ExecuteNever, || {
        let guest = Guest::new(pc)?;
        guest.map(range(RAM, BLOCK), BLOCKS, RWX)?;
        guest.write(gpa(RAM + PAGE), &pc.code(7))?;
        let (before, called) = (guest.leaf_size(RAM)?, guest.calls(RAM + PAGE)?);
        let after = guest.leaf_size(RAM)?;
        if (before, called, after) != (BLOCK, Came::Value(7), PAGE) {
            return Err(Stop::failed(format_args!("{before:#x}, {called:?}, {after:#x}")));
        }
        drop(guest);
        mapping::code_runs_in_large_leaves_and_its_neighbours_stay(pc)?;
        protecting::a_part_of_a_block_changes_alone(pc)?;
        relocating::moved_code_is_executed_where_it_is(pc)?;
        guest_memory::written_code_is_executed(pc)
    })
}
