//! A guest touches what is not there yet, what is there already, and what it may not.

use crate::{prelude::*, shared::region};

/// G4, and the plainest case of all.
///
/// # Errors
/// It does not hold.
pub fn lazy_memory_is_zero_and_keeps_what_is_written<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 16 * PAGE), LAZY, RWX)?;
    ensure_eq!(guest.loads(RAM)?, Value(0));
    ensure_eq!(guest.stores(RAM + PAGE, 0x1234)?, Value(0x1234));
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(0x1234));
    for word in (8..PAGE).step_by(0x100) {
        ensure_eq!(guest.loads(RAM + PAGE + word)?, Value(0));
    }
    ensure_eq!(guest.leaves()[..2], [2, 0]);
    ensure_eq!(guest.stats().owned_frames, 2);
    Ok(())
}

/// Frames that another guest had are zeroed again.
///
/// # Errors
/// It does not hold.
pub fn frames_of_a_former_guest_are_zero<M: Machine>(machine: &M) -> Verdict {
    for round in 0..3 {
        let guest = Guest::new(machine)?;
        guest.map(range(RAM, 8 * PAGE), LAZY, RW)?;
        for page in 0..8 {
            ensure_eq!(guest.loads(RAM + page * PAGE + 0x10)?, Value(0), "round {round}, page {page}");
            ensure_eq!(guest.stores(RAM + page * PAGE + 0x10, 0xdead)?, Value(0xdead));
        }
    }
    Ok(())
}

/// A fault populates the largest leaf that area and alignment allow.
///
/// # Errors
/// It does not hold.
pub fn a_touch_populates_a_block_where_one_fits<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM + BLOCK - PAGE, BLOCK + 2 * PAGE), LAZY_BLOCKS, RW)?;
    ensure_eq!(guest.stores(RAM + BLOCK - 8, 1)?, Value(1));
    ensure_eq!(guest.stores(RAM + BLOCK + 0x1_2348, 2)?, Value(2));
    ensure_eq!(guest.stores(RAM + 2 * BLOCK, 3)?, Value(3));
    ensure_eq!(guest.leaves()[..2], [2, 1]);
    ensure_eq!(guest.leaf_size(RAM + BLOCK)?, BLOCK);
    ensure_eq!(guest.loads(RAM + 2 * BLOCK - 8)?, Value(0));
    ensure_eq!(guest.loads(RAM + BLOCK + 0x1_2348)?, Value(2));
    ensure_eq!(guest.loads(RAM + 2 * BLOCK + PAGE)?, NotMapped);
    Ok(())
}

/// F2.
///
/// # Errors
/// It does not hold.
pub fn a_lazy_area_builds_no_tables<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (allocated, tables) = (machine.allocated(), guest.stats().table_frames);
    guest.map(range(RAM, LARGE), LAZY, RW)?;
    ensure_eq!(machine.allocated(), allocated);
    ensure_eq!(guest.stats().table_frames, tables);
    Ok(())
}

/// F1: the second CPU's fault on a page finds the first one's frame.
///
/// # Errors
/// It does not hold.
pub fn a_second_fault_keeps_the_frame<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), LAZY, RW)?;
    ensure_eq!(guest.stores(RAM, 7)?, Value(7));
    let (frame, allocated) = (guest.frame(RAM)?, machine.allocated());
    for access in [Access::Read, Access::Write] {
        let again = Fault { gpa: gpa(RAM), access, cause: Cause::Translation, origin: Origin::Instruction };
        ensure_eq!(guest.fault(CpuId(0), again)?, Outcome::Retry);
    }
    ensure_eq!(guest.frame(RAM)?, frame);
    ensure_eq!(machine.allocated(), allocated);
    ensure_eq!(guest.loads(RAM)?, Value(7));
    Ok(())
}

/// F4: a guest chooses every fault's address, kind and repetition.
///
/// # Errors
/// It does not hold.
pub fn any_fault_any_number_of_times_has_an_outcome<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let device = machine.device();
    guest.map(range(RAM, BLOCK), LAZY_BLOCKS, RW)?;
    guest.map(range(RAM + BLOCK, 2 * PAGE), PAGES, READ)?;
    guest.map(range(RAM + 2 * BLOCK, PAGE), linear(device.at.as_usize()), DEVICE)?;
    let limit = 1 << machine.facts().widest.min(40);
    #[rustfmt::skip]
    let addresses = [
        0, 8, RAM - 1, RAM, RAM + 0xfff, RAM + BLOCK, RAM + BLOCK + 2 * PAGE, RAM + 2 * BLOCK, limit - 1, limit,
        limit | RAM, 1 << 48, (1 << 52) | RAM, usize::MAX - 7, usize::MAX,
    ];
    for at in addresses.into_iter().chain(addresses) {
        for access in [Access::Read, Access::Write, Access::Execute] {
            for cause in [Cause::Translation, Cause::Permission, Cause::AccessFlag] {
                for origin in [Origin::Instruction, Origin::GuestWalk] {
                    let _outcome = guest.fault(CpuId(0), Fault { gpa: gpa(at), access, cause, origin })?;
                }
            }
        }
    }
    ensure_eq!(guest.loads(RAM)?, Value(0));
    Ok(())
}

/// F5, and what else the registers say.
///
/// # Errors
/// It does not hold.
pub fn a_fault_names_its_address_to_the_byte_and_its_access<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let run = guest.first();
    guest.map(range(RAM, 4 * PAGE), LAZY, RW)?;
    let at = RAM + PAGE + 0x128;
    for (step, access) in
        [(Step::Read(at), Access::Read), (Step::Write(at, 1), Access::Write), (Step::Execute(at), Access::Execute)]
    {
        let cause = Cause::Translation;
        ensure_eq!(run.faults(step)?, Fault { gpa: gpa(at), access, cause, origin: Origin::Instruction });
    }
    guest.write_obj(gpa(at), 5_u64)?;
    guest.protect(range(RAM, 4 * PAGE), READ)?;
    for (step, access) in [(Step::Write(at, 1), Access::Write), (Step::Execute(at), Access::Execute)] {
        let cause = Cause::Permission;
        ensure_eq!(run.faults(step)?, Fault { gpa: gpa(at), access, cause, origin: Origin::Instruction });
    }
    ensure_eq!(guest.loads(at)?, Value(5));
    Ok(())
}

/// H10, F8: behind the guest's own tables, the address of a permission fault is not in the registers.
///
/// # Errors
/// It does not hold.
pub fn a_permission_fault_behind_the_guests_tables_names_its_address<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(TABLES, 16 * PAGE), LAZY, RW)?;
    guest.map(range(RAM, 4 * PAGE), PAGES, READ)?;
    guest.write_tables(TABLES, &[(VIRTUAL, RAM), (VIRTUAL + PAGE, RAM + 3 * PAGE)])?;
    let run = guest.first().through(TABLES);
    ensure_eq!(run.loads(VIRTUAL + PAGE + 0x10)?, Value(0));
    let fault = run.faults(Step::Write(VIRTUAL + PAGE + 0x10, 1))?;
    let (access, cause, origin) = (Access::Write, Cause::Permission, Origin::Instruction);
    ensure_eq!(fault, Fault { gpa: gpa(RAM + 3 * PAGE + 0x10), access, cause, origin });
    ensure_eq!(run.stores(VIRTUAL + PAGE + 0x10, 1)?, Denied(READ));
    guest.protect(range(RAM + 3 * PAGE, PAGE), RW)?;
    ensure_eq!(run.stores(VIRTUAL + PAGE + 0x10, 1)?, Value(1));
    ensure_eq!(guest.loads(RAM + 3 * PAGE + 0x10)?, Value(1));
    Ok(())
}

/// F6: the guest's own tables are where no memory is.
///
/// # Errors
/// It does not hold.
pub fn a_walk_into_a_hole_or_a_device_is_the_guests_own_error<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let device = RAM + BLOCK;
    guest.map(range(device, PAGE), linear(machine.device().at.as_usize()), DEVICE)?;
    let hole = guest.first().through(TABLES);
    let fault = hole.faults(Step::Read(VIRTUAL))?;
    ensure_eq!(fault.origin, Origin::GuestWalk);
    ensure_eq!(fault.gpa.as_usize() & !0xfff, TABLES);
    ensure_eq!(hole.loads(VIRTUAL)?, Injected);
    ensure_eq!(hole.calls(VIRTUAL)?, Injected);
    // A walk over a device may be refused by the guest's own side before ours: by its contents.
    let over_device = guest.first().through(device).loads(VIRTUAL)?;
    ensure!(matches!(over_device, Injected | GuestException), "{over_device:?}");
    let outcome = guest.fault(
        CpuId(0),
        Fault { gpa: gpa(device), access: Access::Read, cause: Cause::Permission, origin: Origin::GuestWalk },
    )?;
    ensure_eq!(outcome, Outcome::Inject);
    Ok(())
}

/// A walk touches lazy memory as any other access does.
///
/// # Errors
/// It does not hold.
pub fn a_walk_populates_lazy_memory<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(TABLES, 16 * PAGE), LAZY, RW)?;
    guest.map(range(RAM, PAGE), LAZY, RW)?;
    let run = guest.first().through(TABLES);
    ensure_eq!(run.loads(VIRTUAL)?, GuestException);
    ensure_eq!(guest.stats().owned_frames, 1);
    guest.write_tables(TABLES, &[(VIRTUAL, RAM)])?;
    ensure_eq!(run.stores(VIRTUAL + 8, 9)?, Value(9));
    ensure_eq!(guest.loads(RAM + 8)?, Value(9));
    Ok(())
}

/// H3, F7: what was denied and is allowed now takes one more fault at most.
///
/// # Errors
/// It does not hold.
pub fn a_denial_that_the_cpu_remembers_ends_with_a_fault<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 2 * PAGE), PAGES, READ)?;
    ensure_eq!(guest.loads(RAM)?, Value(0));
    ensure_eq!(guest.stores(RAM, 1)?, Denied(READ));
    ensure_eq!(guest.calls(RAM)?, Denied(READ));
    guest.protect(range(RAM, 2 * PAGE), RWX)?;
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    ensure_eq!(guest.loads(RAM)?, Value(1));
    guest.write(gpa(RAM), &machine.code(77))?;
    ensure_eq!(guest.calls(RAM)?, Value(77));
    Ok(())
}

/// F7 as such: the entry allows it when the fault arrives.
///
/// # Errors
/// It does not hold.
pub fn a_permission_fault_that_the_entry_does_not_justify_is_no_error<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    let stale = Fault { gpa: gpa(RAM), access: Access::Write, cause: Cause::Permission, origin: Origin::Instruction };
    for _ in 0..3 {
        let outcome = guest.fault(CpuId(0), stale)?;
        ensure!(matches!(outcome, Outcome::Retry | Outcome::Resolved), "{outcome:?}");
    }
    ensure_eq!(guest.loads(RAM)?, Value(1));
    Ok(())
}

/// Nothing is remembered of a hole: memory that comes later is there at once.
///
/// # Errors
/// It does not hold.
pub fn a_hole_that_was_touched_can_be_mapped<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM + PAGE, PAGE), PAGES, RW)?;
    ensure_eq!(guest.loads(RAM)?, NotMapped);
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(0));
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    ensure!(matches!(guest.first().attempt(Step::Write(RAM, 3)), crate::Attempt::Done(_)), "no fault on fresh memory");
    ensure_eq!(guest.loads(RAM)?, Value(3));
    Ok(())
}

/// A range that was populated for the guest's accesses takes no fault, whatever it is; the guest keeps what it wrote before.
///
/// # Errors
/// It does not hold.
pub fn what_was_populated_is_not_faulted_on<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 5 * PAGE), LAZY, RWX)?;
    guest.map(range(RAM + BLOCK, BLOCK), LAZY_BLOCKS, RW)?;
    let (_, shared) = region(&guest, 2)?;
    guest.map(range(RAM + 2 * BLOCK, 2 * PAGE), shared, RW)?;
    ensure_eq!(guest.stores(RAM + PAGE, 7)?, Value(7));
    for part in [range(RAM, 5 * PAGE), range(RAM + BLOCK, BLOCK + 2 * PAGE)] {
        ensure_eq!(guest.populate(part, Access::Write)?, Populated::Whole);
    }
    let (faults, leaves) = (guest.stats().faults, guest.leaves());
    ensure_eq!(leaves[..2], [7, 1]);
    ensure_eq!((guest.loads(RAM)?, guest.loads(RAM + PAGE)?), (Value(0), Value(7)));
    for at in [RAM, RAM + 4 * PAGE, RAM + BLOCK, RAM + 2 * BLOCK - 8, RAM + 2 * BLOCK, RAM + 2 * BLOCK + PAGE] {
        ensure_eq!((guest.stores(at, at as u64)?, guest.loads(at)?), (Value(at as u64), Value(at as u64)));
    }
    ensure_eq!((guest.stats().faults, guest.leaves()), (faults, leaves));
    Ok(())
}
