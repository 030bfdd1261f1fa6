//! What only this machine can be asked: whether its MMU agrees with the crate, and whether it would show a fault.
#![allow(unsafe_code, reason = "asks the MMU")]

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{Access, CpuId, LeafPolicy, Mapping, MappingFlags, PhysAddr, Populate};
use stage2_bare::no_freed_frame_was_written;
use stage2_scenarios::{Column, Guest, Machine, Scenario, Seen, Setting, Stop, Verdict, gpa, probe, range};

use crate::{
    guest,
    machine::Qemu,
    saboteur::{self, Fault},
};

/// All of them.
pub const ALL: &[Scenario<Qemu>] = &[
    Scenario { name: "qemu::the_mmu_translates_as_the_crate_says", run: the_mmu_translates_as_the_crate_says },
    Scenario { name: "qemu::no_invalidation_is_seen", run: |qemu| shows(qemu, Fault::NoInvalidation) },
    Scenario { name: "qemu::stage_2_alone_is_seen", run: |qemu| shows(qemu, Fault::OnlyStage2) },
    Scenario { name: "qemu::stage_1_alone_is_seen", run: |qemu| shows(qemu, Fault::OnlyStage1) },
    Scenario { name: "qemu::the_wrong_regime_is_seen", run: |qemu| shows(qemu, Fault::WrongRegime) },
    Scenario { name: "qemu::the_wrong_page_is_seen", run: |qemu| shows(qemu, Fault::WrongPage) },
    Scenario { name: "qemu::an_unshifted_operand_is_seen", run: |qemu| shows(qemu, Fault::Unshifted) },
    Scenario { name: "qemu::a_local_invalidation_is_seen", run: |qemu| shows(qemu, Fault::Local) },
    Scenario { name: "qemu::no_fault_is_nothing_to_see", run: |qemu| shows(qemu, Fault::None) },
    Scenario { name: "qemu::no_freed_frame_was_written", run: |qemu| no_freed_frame_was_written(qemu.board()) },
];

/// What the guest sees of a moved page with the defect put in: data; a table of its own, after it has forgotten its own
/// translations; the same without that.
fn expected(fault: Fault) -> [Seen; 3] {
    match fault {
        Fault::None => [Seen::Fresh; 3],
        // What is left in stage 2 leads walks astray, once stage 1 is forgotten.
        Fault::OnlyStage1 | Fault::WrongPage | Fault::Unshifted => [Seen::Fresh, Seen::Stale, Seen::Stale],
        // What is left are combined entries, which the guest itself can forget.
        Fault::OnlyStage2 => [Seen::Stale, Seen::Fresh, Seen::Stale],
        Fault::NoInvalidation | Fault::WrongRegime | Fault::Local => [Seen::Stale; 3],
    }
}

/// Puts the fault in, and looks whether the guest is hurt.
fn shows(qemu: &Qemu, fault: Fault) -> Verdict {
    if fault == Fault::Local && qemu.facts().cpus < 2 {
        return Err(Stop::Skipped("it needs two CPUs"));
    }
    for (column, expected) in COLUMNS.into_iter().zip(expected(fault)) {
        saboteur::put_in(fault);
        let seen = probe(qemu, column);
        saboteur::put_in(Fault::None);
        let seen = seen?;
        if seen != expected {
            return Err(Stop::failed(format_args!("{fault:?}, {column:?}: {seen:?}, not {expected:?}")));
        }
    }
    Ok(())
}

const COLUMNS: [Column; 3] = [Column::Data, Column::GuestTables, Column::GuestTablesUnasked];

/// `AT S12E1R` and `AT S12E1W` against `translate`, for leaves of all sizes, in roots of several shapes.
fn the_mmu_translates_as_the_crate_says(qemu: &Qemu) -> Verdict {
    let now = |leaf| Mapping::Private { populate: Populate::Now, leaf };
    let read_write = MappingFlags::READ | MappingFlags::WRITE;
    let facts = qemu.facts();
    for bits in [facts.narrowest, 36, 39, 40, 43, facts.widest] {
        let guest = Guest::with(qemu, Setting { bits, ..Setting::default() })?;
        let block = 1 << 21;
        guest.map(range(0x4000_0000, 2 * block), now(LeafPolicy::Largest), read_write)?;
        guest.map(range(0x5000_0000, 3 * PAGE), now(LeafPolicy::Pages), MappingFlags::READ)?;
        guest.map(range((1 << bits) - PAGE, PAGE), now(LeafPolicy::Pages), read_write)?;
        let large = Mapping::Linear { to: PhysAddr::from_usize(0x4000_0000) };
        guest.map(range(0x8000_0000, 1 << 30), large, read_write)?;
        guest.unmap(range(0x4000_0000 + 5 * PAGE, PAGE))?;
        qemu.on(CpuId(0), || qemu.activate(&guest));
        for at in [
            0x4000_0000,
            0x4000_0ff8,
            0x4000_5000,
            0x4000_6000,
            0x403f_fff8,
            0x4040_0000,
            0x5000_0000,
            0x5000_2ff8,
            0x5000_3000,
            0x8000_0000,
            0xbfff_fff8,
            0xc000_0000,
            0x1234_5678,
            (1 << bits) - 8,
        ] {
            compare(&guest, at)?;
        }
    }
    Ok(())
}

fn compare(guest: &Guest<'_, Qemu>, at: usize) -> Verdict {
    let translation = guest.translate(gpa(at));
    for access in [Access::Read, Access::Write] {
        let allowed = translation.filter(|found| found.flags.contains(access.flag()));
        let says = allowed.map(|found| found.hpa.as_usize());
        // SAFETY: the guest's space is active on this CPU.
        let mmu = unsafe { guest::translate(at, access) };
        if says != mmu {
            return Err(Stop::failed(format_args!("{at:#x}, {access:?}: {says:x?}, but the MMU says {mmu:x?}")));
        }
    }
    Ok(())
}
