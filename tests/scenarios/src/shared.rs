//! Memory that several guests share.

use alloc::format;

use crate::prelude::*;

/// A region of so many pages, and a view of all of it.
pub(crate) fn region<M: Machine>(guest: &Guest<'_, M>, pages: usize) -> Result<(SharedRegion, Mapping), Stop> {
    let region = guest.region(pages * PAGE).map_err(|error| Stop::failed(format_args!("{error}")))?;
    let mapping = Mapping::Shared { region: region.clone(), offset: 0 };
    Ok((region, mapping))
}

/// What one guest writes the other reads, both ways, at addresses of their own; so does the hypervisor.
///
/// # Errors
/// It does not hold.
pub fn what_one_guest_writes_the_other_reads<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    let (region, mapping) = region(&one, 4)?;
    one.map(range(RAM, 4 * PAGE), mapping.clone(), RW)?;
    two.map(range(RAM + BLOCK + PAGE, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: PAGE }, RW)?;
    ensure_eq!((region.frames(), one.leaves()[0], two.leaves()[0]), (0, 0, 0));
    ensure_eq!(one.stores(RAM + PAGE + 8, 1)?, Value(1));
    ensure_eq!(two.loads(RAM + BLOCK + PAGE + 8)?, Value(1));
    ensure_eq!(two.stores(RAM + BLOCK + 2 * PAGE, 2)?, Value(2));
    ensure_eq!(one.loads(RAM + 2 * PAGE)?, Value(2));
    ensure_eq!((region.frames(), two.stats().owned_frames, two.stats().shared_frames), (2, 0, 2));
    ensure_eq!(region.load::<u64>(PAGE + 8).ok(), Some(1));
    let writer = region.writer().map_err(|error| Stop::failed(format_args!("{error}")))?;
    ensure_eq!(writer.store(PAGE + 8, 3_u64), Ok(()));
    ensure_eq!(two.loads(RAM + BLOCK + PAGE + 8)?, Value(3));
    two.write_obj(gpa(RAM + BLOCK + PAGE + 8), 4_u64)?;
    ensure_eq!(one.loads(RAM + PAGE + 8)?, Value(4));
    ensure_eq!(one.loads(RAM)?, Value(0));
    Ok(())
}

/// Unmapped here, it lives on there; unmapped everywhere, it lives as long as the handle, and then every frame is back.
///
/// # Errors
/// It does not hold.
pub fn the_last_one_out_frees_it<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    let (region, mapping) = region(&one, 2)?;
    one.map(range(RAM, 2 * PAGE), mapping.clone(), RW)?;
    two.map(range(RAM, 2 * PAGE), mapping, RW)?;
    ensure_eq!(one.stores(RAM, 5)?, Value(5));
    ensure_eq!(two.loads(RAM)?, Value(5));
    one.unmap(range(RAM, 2 * PAGE))?;
    ensure_eq!(one.loads(RAM)?, NotMapped);
    ensure_eq!(two.stores(RAM + PAGE, 6)?, Value(6));
    ensure_eq!(two.loads(RAM)?, Value(5));
    two.unmap(range(RAM, 2 * PAGE))?;
    ensure_eq!((region.frames(), region.load::<u64>(0)), (2, Ok(5)));
    ensure_eq!(machine.allocated(), before + 2);
    drop(region);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// The same when there is no handle: the last mapping frees it, a dropped space's too.
///
/// # Errors
/// It does not hold.
pub fn a_mapping_keeps_it_without_a_handle<M: Machine>(machine: &M) -> Verdict {
    let one = Guest::new(machine)?;
    let before = machine.allocated();
    let two = Guest::new(machine)?;
    let (region, mapping) = region(&one, 2)?;
    one.map(range(RAM, PAGE), mapping.clone(), RW)?;
    two.map(range(RAM, 2 * PAGE), mapping, READ)?;
    drop(region);
    ensure_eq!(one.stores(RAM, 5)?, Value(5));
    one.unmap(range(RAM, PAGE))?;
    ensure_eq!(two.loads(RAM)?, Value(5));
    drop(two);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// One window may be read here and written there; what is restricted is denied at once.
///
/// # Errors
/// It does not hold.
pub fn a_window_may_be_writable_in_part<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    let (region, mapping) = region(&one, 4)?;
    one.map(range(RAM, 4 * PAGE), mapping.clone(), RW)?;
    two.map(range(RAM, 4 * PAGE), mapping, RW)?;
    ensure_eq!(two.stores(RAM, 1)?, Value(1));
    two.protect(range(RAM, 2 * PAGE), READ)?;
    ensure_eq!(two.stores(RAM, 2)?, Denied(READ));
    ensure_eq!(two.stores(RAM + PAGE, 2)?, Denied(READ));
    ensure_eq!(two.stores(RAM + 2 * PAGE, 3)?, Value(3));
    ensure_eq!(one.stores(RAM, 4)?, Value(4));
    ensure_eq!(two.loads(RAM)?, Value(4));
    two.protect(range(RAM, PAGE), RW)?;
    ensure_eq!(two.stores(RAM, 5)?, Value(5));
    ensure_eq!(region.load::<u64>(0), Ok(5));
    Ok(())
}

/// H14: what the hypervisor or another guest writes is what is executed.
///
/// # Errors
/// It does not hold.
pub fn shared_code_is_executed_as_written<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    let (region, mapping) = region(&one, 2)?;
    one.map(range(RAM, PAGE), mapping.clone(), RW)?;
    two.map(range(RAM, 2 * PAGE), mapping, RX)?;
    for value in 1..4 {
        one.write(gpa(RAM), &machine.code(value))?;
        ensure_eq!(two.calls(RAM)?, Value(value.into()));
    }
    let writer = region.writer().map_err(|error| Stop::failed(format_args!("{error}")))?;
    ensure_eq!(writer.write(PAGE, &machine.code(7)), Ok(()));
    ensure_eq!(two.calls(RAM + PAGE)?, Value(7));
    Ok(())
}

/// A region can be frozen once no mapping and no handle can write it, and stays frozen.
///
/// # Errors
/// It does not hold.
pub fn a_region_is_frozen_for_good<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (region, mapping) = region(&guest, 4)?;
    guest.map(range(RAM, 4 * PAGE), mapping.clone(), RW)?;
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    let writer = region.writer().map_err(|error| Stop::failed(format_args!("{error}")))?;
    ensure_eq!(region.freeze(), Err(RegionError::Written { mapped: 4 * PAGE, handles: 1 }));
    drop(writer);
    guest.protect(range(RAM, PAGE), READ)?;
    guest.unmap(range(RAM + PAGE, PAGE))?;
    ensure_eq!(region.freeze(), Err(RegionError::Written { mapped: 2 * PAGE, handles: 0 }));
    guest.unmap(range(RAM + 2 * PAGE, 2 * PAGE))?;
    ensure_eq!(region.freeze(), Ok(()));
    ensure_eq!(guest.loads(RAM)?, Value(1));
    let frozen = |range| Err(Error::Region { range, cause: RegionError::Frozen });
    ensure_eq!(guest.protect(range(RAM, PAGE), RW), frozen(range(RAM, PAGE)));
    ensure_eq!(guest.map(range(RAM + PAGE, PAGE), mapping.clone(), RW), frozen(range(RAM + PAGE, PAGE)));
    ensure!(region.writer().is_err(), "a frozen region is written");
    guest.map(range(RAM + PAGE, PAGE), mapping, READ)?;
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(1));
    Ok(())
}

/// What a region cannot be is refused, with the range and the reason, and nothing is left of it.
///
/// # Errors
/// It does not hold.
pub fn what_a_region_does_not_have_is_refused<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    let (region, mapping) = region(&guest, 4)?;
    let at = |offset| Mapping::Shared { region: region.clone(), offset };
    let refused = |range, cause| Err(Error::Region { range, cause });
    let beyond = RegionError::Beyond { offset: PAGE, size: 4 * PAGE, region: 4 * PAGE };
    ensure_eq!(guest.map(range(RAM, 4 * PAGE), at(PAGE), RW), refused(range(RAM, 4 * PAGE), beyond));
    let unaligned = RegionError::Unaligned { offset: 8, align: PAGE };
    ensure_eq!(guest.map(range(RAM, PAGE), at(8), RW), refused(range(RAM, PAGE), unaligned));
    let wraps = RegionError::Beyond { offset: usize::MAX - PAGE + 1, size: 4 * PAGE, region: 4 * PAGE };
    ensure_eq!(guest.map(range(RAM, 4 * PAGE), at(usize::MAX - PAGE + 1), RW), refused(range(RAM, 4 * PAGE), wraps));
    ensure!(matches!(guest.map(range(RAM, PAGE), at(0), DEVICE), Err(Error::Flags { .. })), "a device of memory");
    guest.map(range(RAM, PAGE), LAZY, RW)?;
    let overlap = Error::Overlap { range: range(RAM, 4 * PAGE), with: range(RAM, PAGE) };
    ensure_eq!(guest.map(range(RAM, 4 * PAGE), mapping, RW), Err(overlap));
    // None of them left anything that can be written.
    ensure_eq!(region.freeze(), Ok(()));
    ensure_eq!(region.read(3 * PAGE + 1, &mut [0; PAGE]).is_err(), true);
    ensure_eq!(guest.region(PAGE + 1).err(), Some(RegionError::BadSize { size: PAGE + 1 }));
    ensure_eq!(guest.region(0).err(), Some(RegionError::BadSize { size: 0 }));
    drop(region);
    guest.unmap(range(RAM, PAGE))?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// It is shown as what it is, and does not move.
///
/// # Errors
/// It does not hold.
pub fn it_is_shown_and_stays_where_it_is<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (region, _) = region(&guest, 4)?;
    guest.map(range(RAM, 2 * PAGE), Mapping::Shared { region, offset: 2 * PAGE }, RW)?;
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    ensure_eq!(guest.area(gpa(RAM + PAGE)).map(|area| area.kind), Some(AreaKind::Shared(2 * PAGE)));
    ensure_eq!(guest.relocate(range(RAM, PAGE)), Err(Error::NotMemory(range(RAM, 2 * PAGE))));
    let shown = format!("{}", *guest);
    ensure!(shown.contains("shared from 0x2000") && shown.contains("4 KiB shared"), "{shown}");
    Ok(())
}

/// Two CPUs, each of a guest of its own, touch the same fresh pages at once: one frame each.
///
/// # Errors
/// It does not hold.
pub fn two_guests_populate_the_same_pages<M: Machine>(machine: &M) -> Verdict {
    const COUNT: usize = 32;
    need_two_cpus(machine)?;
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    let (region, mapping) = region(&one, COUNT)?;
    one.map(range(RAM, COUNT * PAGE), mapping.clone(), RW)?;
    two.map(range(RAM, COUNT * PAGE), mapping, RW)?;
    let touch = |guest: &Guest<'_, M>, cpu: usize| -> Verdict {
        for page in 0..COUNT {
            ensure_eq!(
                guest.seat(cpu, cpu).stores(RAM + page * PAGE + cpu * 8, 1 + page as u64)?,
                Value(1 + page as u64)
            );
        }
        Ok(())
    };
    let (first, second) = machine.both(|| touch(&one, 0), || touch(&two, 1));
    first?;
    second?;
    for page in 0..COUNT {
        ensure_eq!(one.loads(RAM + page * PAGE + 8)?, Value(1 + page as u64));
        ensure_eq!(two.seat(1, 1).loads(RAM + page * PAGE)?, Value(1 + page as u64));
    }
    ensure_eq!(region.frames(), COUNT);
    one.unmap(range(RAM, COUNT * PAGE))?;
    two.unmap(range(RAM, COUNT * PAGE))?;
    drop(region);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}
