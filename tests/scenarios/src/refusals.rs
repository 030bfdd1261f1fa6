//! Bad input gets an error that names the range, and changes nothing; what a space shows of itself is true.

use crate::prelude::*;

/// Overlaps name both ranges (A8).
///
/// # Errors
/// It does not hold.
pub fn an_overlap_names_both_ranges<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let there = range(RAM + 4 * PAGE, 2 * PAGE);
    guest.map(there, PAGES, RW)?;
    ensure_eq!(guest.stores(RAM + 4 * PAGE, 1)?, Value(1));
    let before = picture(&guest);
    for start in [RAM, RAM + 4 * PAGE, RAM + 5 * PAGE] {
        let asked = range(start, 5 * PAGE);
        for mapping in [LAZY, PAGES, BLOCKS, linear(machine.foreign().as_usize())] {
            ensure_eq!(guest.map(asked, mapping, RW), Err(Error::Overlap { range: asked, with: there }));
        }
    }
    ensure_eq!(picture(&guest), before);
    ensure_eq!(guest.loads(RAM + 4 * PAGE)?, Value(1));
    Ok(())
}

/// Empty, misaligned, overflowing, beyond.
///
/// # Errors
/// It does not hold.
pub fn a_bad_range_is_refused_everywhere<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 4 * PAGE), PAGES, RW)?;
    let before = picture(&guest);
    let empty = range(RAM, 0);
    let backwards = stage2::GuestPhysRange { start: gpa(RAM + PAGE), end: gpa(RAM) };
    let wrapped = range(usize::MAX - PAGE + 1, 2 * PAGE);
    for bad in [empty, backwards, wrapped] {
        for refused in all_refusals(&guest, bad) {
            ensure_eq!(refused, Err(Error::Empty(bad)));
        }
    }
    for bad in [range(RAM + 1, PAGE), range(RAM, PAGE + 8)] {
        for refused in all_refusals(&guest, bad) {
            ensure_eq!(refused, Err(Error::Misaligned(bad)));
        }
    }
    for bad in [range(1 << 52, PAGE), range(RAM, 1 << 52)] {
        for refused in all_refusals(&guest, bad) {
            ensure!(matches!(refused, Err(Error::BeyondInput { range, .. }) if range == bad), "{refused:?}");
        }
    }
    ensure_eq!(picture(&guest), before);
    Ok(())
}

fn all_refusals<M: Machine>(guest: &Guest<'_, M>, bad: stage2::GuestPhysRange) -> [Result<(), Error>; 5] {
    [
        guest.map(bad, LAZY, RW),
        guest.map(bad, PAGES, RW),
        guest.unmap(bad),
        guest.protect(bad, READ),
        guest.relocate(bad).map(drop),
    ]
}

/// A range that is not mapped whole is refused, with its first hole.
///
/// # Errors
/// It does not hold.
pub fn a_hole_is_named<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    guest.map(range(RAM + 3 * PAGE, PAGE), PAGES, RW)?;
    let before = picture(&guest);
    let hole = range(RAM + PAGE, 2 * PAGE);
    ensure_eq!(guest.unmap(hole), Err(Error::NotMapped(hole)));
    ensure_eq!(guest.protect(range(RAM, 4 * PAGE), READ), Err(Error::NotMapped(hole)));
    ensure_eq!(
        guest.protect(range(RAM + 3 * PAGE, 3 * PAGE), READ),
        Err(Error::NotMapped(range(RAM + 4 * PAGE, 2 * PAGE)))
    );
    ensure_eq!(picture(&guest), before);
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    Ok(())
}

/// Flags that no entry expresses, host addresses that no entry holds (E7).
///
/// # Errors
/// It does not hold.
pub fn what_no_entry_holds_is_refused<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let asked = range(RAM, 2 * PAGE);
    let before = picture(&guest);
    for flags in [MappingFlags::empty(), RW | MappingFlags::USER, DEVICE | MappingFlags::EXECUTE, DEVICE] {
        ensure!(
            matches!(guest.map(asked, PAGES, flags), Err(Error::Flags { range, .. }) if range == asked),
            "{flags:?}"
        );
    }
    for to in [1, 0x800, 1 << 52, usize::MAX - PAGE + 1] {
        let refused = guest.map(asked, linear(to), RW);
        let named = PhysAddr::from_usize(to);
        ensure!(matches!(refused, Err(Error::BadTarget { range, to, .. }) if (range, to) == (asked, named)), "{to:#x}");
    }
    ensure_eq!(picture(&guest), before);
    Ok(())
}

/// What `Display` and `stats` say.
///
/// # Errors
/// It does not hold.
pub fn the_map_can_be_read<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, BLOCK + 3 * PAGE), BLOCKS, RW)?;
    guest.map(range(RAM + 2 * BLOCK, PAGE), linear(machine.device().at.as_usize()), DEVICE)?;
    let map = alloc::format!("{}", *guest);
    for words in [
        "0x000040000000..0x000040203000 2060 KiB rw--- private",
        "  0x000040000000..0x000040200000    2 MiB rw--- 1 × 2 MiB own",
        "  0x000040200000..0x000040203000   12 KiB rw--- 3 × 4 KiB own",
        "0x000040400000..0x000040401000    4 KiB rw-d- linear to",
        "  0x000040400000..0x000040401000    4 KiB rw-d- 1 × 4 KiB foreign",
    ] {
        ensure!(map.contains(words), "{words:?} is not in\n{map}");
    }
    ensure_eq!(guest.leaves()[..3], [4, 1, 0]);
    ensure_eq!(guest.stats().owned_frames, 515);
    let faults = guest.stats().faults;
    ensure_eq!(guest.loads(RAM - PAGE * 0x100)?, NotMapped);
    ensure_eq!(guest.stats().faults, faults + 1);
    let invalidations = guest.stats().invalidations;
    guest.unmap(range(RAM, PAGE))?;
    ensure_eq!(guest.stats().invalidations.ranges, invalidations.ranges + 1);
    Ok(())
}

/// No lock is held while a leaf is shown: what it shows may go.
///
/// # Errors
/// It does not hold.
pub fn a_leaf_may_go_while_it_is_shown<M: Machine>(machine: &M) -> Verdict {
    const COUNT: usize = 100;
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, COUNT * PAGE), PAGES, RW)?;
    let mut shown = 0;
    let mut gone = Ok(());
    guest.walk(range(RAM, COUNT * PAGE), |leaf| {
        if leaf.leaf_start == gpa(RAM + shown * PAGE) {
            shown += 1;
            gone = gone.and(guest.unmap(range(leaf.leaf_start.as_usize(), PAGE)));
        }
    })?;
    gone?;
    ensure_eq!(shown, COUNT);
    ensure_eq!(guest.loads(RAM)?, NotMapped);
    ensure_eq!(guest.stats().owned_frames, 0);
    Ok(())
}

/// H18: a device's registers do not become memory.
///
/// # Errors
/// It does not hold.
pub fn a_device_stays_a_device<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (device, flags) = (machine.device(), RW | MappingFlags::DEVICE);
    guest.map(range(RAM, PAGE), linear(device.at.as_usize()), flags)?;
    ensure_eq!(guest.protect(range(RAM, PAGE), RW), Err(Error::NotMemory(range(RAM, PAGE))));
    guest.protect(range(RAM, PAGE), READ | MappingFlags::DEVICE)?;
    ensure_eq!(guest.loads(RAM + device.offset)?, Value(device.value));
    ensure_eq!(guest.read_obj::<u64>(gpa(RAM)), Err(Error::NotMemory(range(RAM, 8))));
    Ok(())
}

/// What a walk and the list of areas say.
///
/// # Errors
/// It does not hold.
pub fn areas_and_leaves_are_listed<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 4 * PAGE), LAZY, RW)?;
    ensure_eq!(guest.stores(RAM + 2 * PAGE, 1)?, Value(1));
    let area = guest.area(gpa(RAM + 0x10)).ok_or_else(|| Stop::failed(format_args!("no area")))?;
    ensure_eq!((area.range, area.flags), (range(RAM, 4 * PAGE), RW));
    ensure_eq!(guest.area(gpa(RAM + 4 * PAGE)), None);
    let mut leaves = alloc::vec::Vec::new();
    guest.walk(range(RAM, 4 * PAGE), |leaf| leaves.push((leaf.leaf_start, leaf.size)))?;
    ensure_eq!(leaves, [(gpa(RAM + 2 * PAGE), PAGE)]);
    guest.protect(range(RAM + PAGE, PAGE), READ)?;
    ensure_eq!(guest.areas()?.iter().filter(|area| area.range.start >= gpa(RAM)).count(), 3);
    Ok(())
}
