//! Whether the CPU accepts what the crate writes, and only that.

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{Error, Mapping, MappingFlags, PhysAddr};
use stage2_scenarios::{Attempt, Guest, Machine, Marks, Setting, Step, Stop, Verdict, range};

use super::{BLOCK, BLOCKS, GIGABYTE, PAGES, RAM, RW};
use crate::pc::{Entry, Pc, Tables, Vendor};

/// Every flag set that the crate accepts, in leaves of all sizes, with these marks as far as the CPU has them: the guest
/// reads, writes and executes, and the CPU complains of no entry (H17).
///
/// # Errors
/// It does, or too few flag sets are accepted.
pub fn accepts<V: Vendor>(pc: &Pc<V>, marks: &[Marks]) -> Verdict {
    let mut accepted = 0;
    for &marks in marks {
        let guest = match Guest::with(pc, Setting { marks, ..Setting::default() }) {
            Err(Stop::Skipped(_)) => continue,
            guest => guest?,
        };
        for bits in 0..=MappingFlags::all().bits() {
            let Some(flags) = MappingFlags::from_bits(bits) else { continue };
            accepted += every_size(pc, &guest, flags)?;
        }
    }
    // Four flag sets at least: read, with and without write and execute.
    if accepted < 4 * 4 { Err(Stop::failed(format_args!("{accepted} mappings"))) } else { Ok(()) }
}

/// Maps with these flags in all ways: how many of them are accepted.
fn every_size<V: Vendor>(pc: &Pc<V>, guest: &Guest<'_, Pc<V>>, flags: MappingFlags) -> Result<usize, Stop> {
    let page = pc.foreign().as_usize();
    let linear = |size: usize| {
        let to = PhysAddr::from_usize(page & !(size - 1));
        (size, page & (size - 1), Mapping::Linear { to })
    };
    let mut accepted = 0;
    for (size, at, mapping) in [linear(PAGE), linear(BLOCK), linear(GIGABYTE), (PAGE, 0, PAGES), (BLOCK, 0, BLOCKS)] {
        let (whole, at) = (range(4 * GIGABYTE, size), 4 * GIGABYTE + at);
        match guest.map(whole, mapping, flags) {
            Ok(()) => accepted += 1,
            Err(Error::Flags { .. }) => continue,
            Err(other) => return Err(other.into()),
        }
        // Whatever comes of it: an unexpected exit is an error.
        guest.loads(at)?;
        guest.stores(at, 0)?;
        guest.calls(at)?;
        guest.unmap(whole)?;
    }
    Ok(accepted)
}

/// A guest reads where its leaf was spoiled in one way after the other: what came of each.
///
/// # Errors
/// It cannot read with the leaf as it was.
pub fn reads_a_spoiled_leaf<V: Vendor, const N: usize>(
    pc: &Pc<V>,
    ways: [fn(&Pc<V>, u64) -> u64; N],
) -> Result<[Attempt; N], Stop> {
    let guest = Guest::new(pc)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    let spoiled = |way: fn(&Pc<V>, u64) -> u64| {
        let leaf = Entry::leaf(&guest, RAM);
        leaf.replace(way(pc, leaf.bits));
        let came = guest.first().attempt(Step::Read(RAM));
        leaf.replace(leaf.bits);
        came
    };
    if spoiled(|_, bits| bits) != Attempt::Done(0) {
        return Err(Stop::failed(format_args!("an entry that is as it was")));
    }
    Ok(ways.map(spoiled))
}

/// What the word is that [`reads_a_large_leaf`] should find.
pub const THERE: u64 = 0x4711;

/// A guest reads through a leaf of 1 GiB that was written past the crate, with these bits beside its address: what came
/// of it.
///
/// # Errors
/// The guest cannot be had.
pub fn reads_a_large_leaf<V: Vendor>(pc: &Pc<V>, bits: u64) -> Result<Attempt, Stop> {
    let guest = Guest::new(pc)?;
    guest.map(range(4 * GIGABYTE, PAGE), PAGES, RW)?;
    let page = pc.foreign().as_usize();
    let entry = Entry::of(&guest, 4 * GIGABYTE, 2);
    pc.poke(pc.foreign(), THERE);
    entry.replace((page & !(GIGABYTE - 1)) as u64 | V::Parts::LARGE | bits);
    let came = guest.first().attempt(Step::Read(4 * GIGABYTE + page % GIGABYTE));
    entry.replace(entry.bits);
    Ok(came)
}
