//! Every width of address, from the first page to the last.

use crate::{FrameZero, prelude::*};

/// Every width that the machine can have: its root's shape and its registers fit together (W12), no address is another
/// one's alias (W6), and nothing is past the last page.
///
/// # Errors
/// It does not hold.
pub fn every_width_reaches_its_first_and_last_page<M: Machine>(machine: &M) -> Verdict {
    let facts = machine.facts();
    for bits in facts.narrowest..=facts.widest {
        width(machine, bits).map_err(|stop| match stop {
            Stop::Failed(story) => Stop::Failed(alloc::format!("{bits} bits: {story}")),
            skipped @ Stop::Skipped(_) => skipped,
        })?;
    }
    Ok(())
}

fn width<M: Machine>(machine: &M, bits: u32) -> Verdict {
    let guest = Guest::with(machine, Setting { bits, ..Setting::default() })?;
    let limit = 1_usize << bits;
    let last = limit - PAGE;
    guest.map(range(last, PAGE), LAZY, RW)?;
    ensure_eq!(guest.stores(last + 0xff8, 2)?, Value(2));
    ensure_eq!(guest.loads(0xff8)?, NotMapped);
    guest.map(range(0, PAGE), LAZY, RW)?;
    ensure_eq!(guest.stores(0xff8, 1)?, Value(1));
    // Halves of the space, down to the first block: one bit of the address each.
    for bit in (21..bits).rev() {
        ensure_eq!(guest.loads((1 << bit) + 0xff8)?, NotMapped, "bit {bit}");
        guest.map(range(1 << bit, PAGE), LAZY, RW)?;
        ensure_eq!(guest.stores((1 << bit) + 0xff8, u64::from(bit))?, Value(bit.into()));
    }
    for bit in 21..bits {
        ensure_eq!(guest.loads((1 << bit) + 0xff8)?, Value(bit.into()));
    }
    ensure_eq!(guest.loads(last + 0xff8)?, Value(2));
    ensure_eq!(guest.loads(0xff8)?, Value(1));
    past_the_end(&guest, limit, bits)
}

fn past_the_end<M: Machine>(guest: &Guest<'_, M>, limit: usize, bits: u32) -> Verdict {
    let beyond = guest.loads(limit + 0xff8)?;
    ensure!(matches!(beyond, NotMapped | GuestException), "past the end: {beyond:?}");
    ensure_eq!(guest.translate(gpa(limit)), None);
    for beyond in [range(limit, PAGE), range(limit - PAGE, 2 * PAGE)] {
        ensure_eq!(guest.map(beyond, LAZY, RW), Err(Error::BeyondInput { range: beyond, bits }));
        ensure_eq!(guest.unmap(beyond), Err(Error::BeyondInput { range: beyond, bits }));
    }
    Ok(())
}

/// W13: every page of a root that has several is looked at when a range spans them all.
///
/// # Errors
/// It does not hold.
pub fn a_range_may_span_the_whole_root<M: Machine>(machine: &M) -> Verdict {
    let facts = machine.facts();
    for bits in [facts.narrowest, 40, 43, 46, facts.widest] {
        if !(facts.narrowest..=facts.widest).contains(&bits) {
            continue;
        }
        let guest = Guest::with(machine, Setting { bits, ..Setting::default() })?;
        let (before, start) = (guest.stats().owned_frames, 0x8000_0000);
        guest.map(range(start, (1 << bits) - start), LAZY, RW)?;
        let mut at = start;
        while at < 1 << bits {
            ensure_eq!(guest.stores(at, 1)?, Value(1));
            at += ((1 << bits) >> 4).max(LARGE);
        }
        guest.unmap(range(start, (1 << bits) - start))?;
        ensure_eq!(guest.stats().owned_frames, before);
        let mut at = start;
        while at < 1 << bits {
            ensure_eq!(guest.loads(at)?, NotMapped, "{bits} bits, {at:#x}");
            at += ((1 << bits) >> 4).max(LARGE);
        }
    }
    Ok(())
}

/// W7.
///
/// # Errors
/// It does not hold.
pub fn the_host_frame_at_address_zero_is_a_frame<M: Machine>(machine: &M) -> Verdict {
    if machine.facts().frame_zero == FrameZero::Absent {
        return Err(Stop::Skipped("there is no memory at address 0"));
    }
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, PAGE), linear(0), READ)?;
    ensure_eq!(guest.frame(RAM)?, 0);
    let there = machine.peek(PhysAddr::from_usize(0));
    ensure_eq!(guest.loads(RAM)?, Value(there));
    guest.unmap(range(RAM, PAGE))?;
    ensure_eq!(guest.loads(RAM)?, NotMapped);
    ensure_eq!(guest.translate(gpa(RAM)), None);
    Ok(())
}

/// A6: host addresses above and below the guest's.
///
/// # Errors
/// It does not hold.
pub fn host_addresses_may_be_above_and_below_the_guests<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let page = machine.foreign().as_usize();
    for at in [0, 4 * LARGE] {
        guest.map(range(at, PAGE), linear(page), RW)?;
        ensure_eq!(guest.stores(at + 0x20, at as u64 + 1)?, Value(at as u64 + 1));
        ensure_eq!(machine.peek(PhysAddr::from_usize(page + 0x20)), at as u64 + 1);
    }
    Ok(())
}
