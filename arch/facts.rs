//! What a format says of its bits, held against its own encoder and decoder: the walker takes runs of entries by it.

use std::vec::Vec;

use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;

use super::{
    aarch64::{self, Stage2},
    x86_64::{
        ept::{self, Ept},
        npt::{self, Npt},
    },
};
use crate::{
    addr::Level,
    format::{Access, Entry, Format, Leaf, Marked, Owner, Used},
};

const OWNERS: [Owner; 6] = [Owner::Space, Owner::Foreign, Owner::Shared, Owner::Frozen, Owner::OnLoan, Owner::Borrowed];

/// Every leaf of a level that the format expresses, at one address.
fn leaves<F: Format>(format: &F, level: Level, at: PhysAddr) -> Vec<Leaf> {
    let flags = (0..=MappingFlags::all().bits()).map(MappingFlags::from_bits_retain);
    let flags = flags.filter(|&flags| format.check(flags).is_ok() && !format.allowed(level, flags).is_empty());
    let with_owner = flags.flat_map(|flags| OWNERS.map(|owner| (owner.limit(flags), owner)));
    let with_use = with_owner.flat_map(|(flags, owner)| {
        [Used::Not, Used::Accessed, Used::Dirty].map(|used| Leaf { at, flags, owner, used })
    });
    with_use.filter(|leaf| format.check(leaf.flags).is_ok()).collect()
}

/// Addresses whose bits are all used: low, high, side by side.
fn addresses(level: Level, bits: u32) -> [PhysAddr; 4] {
    let span = 1_usize << (12 + 9 * u32::from(level.0));
    [0, span, (1 << (bits - 1)) + 5 * span, (1 << bits) - span].map(PhysAddr::from_usize)
}

fn hold<F: Format>(format: &F) {
    let mut leaves_seen = 0;
    for level in [0, 1, 2].map(Level).into_iter().filter(|&level| format.maps(level)) {
        let fields = format.fields(level);
        let span = 1_usize << (F::PAGE_SHIFT + F::INDEX_BITS * u32::from(level.0));
        for at in addresses(level, format.output_bits()) {
            for leaf in leaves(format, level, at) {
                leaves_seen += 1;
                let entry = format.leaf(level, &leaf);
                let elsewhere = format.leaf(level, &Leaf { at: PhysAddr::from_usize(3 * span), ..leaf });
                assert_eq!((entry ^ elsewhere) & !fields.address, 0, "{leaf:?}: only the address differs");
                for entry in [entry, format.mark(level, entry)] {
                    assert_eq!(format.leaf_address(level, entry), at, "{leaf:?}");
                    assert_eq!(format.next_table(level, entry), None, "{leaf:?}");
                    assert!(leaf.owner != Owner::Space || entry & fields.owned != 0, "{leaf:?} is the space's own");
                }
                let marks = entry ^ format.mark(level, entry);
                assert_eq!(marks, elsewhere ^ format.mark(level, elsewhere), "{leaf:?}: the same bits mark both");
                // With one bit the CPU notes accesses, with two writes as well.
                for (access, bits) in [(Access::Read, 1), (Access::Write, 2)] {
                    let touched = format.touched(level, entry, access);
                    let by_hardware = fields.hardware.count_ones() >= bits && leaf.flags.contains(access.flag());
                    assert!(!by_hardware || (entry ^ touched) & !fields.hardware == 0, "{leaf:?} {access:?}");
                }
            }
        }
        assert!(at_steps(format, level, span), "leaves side by side differ by one step");
    }
    assert!(leaves_seen > 1000, "{leaves_seen} leaves");
    let table = PhysAddr::from_usize(0x5000);
    for level in [1, 2, 3].map(Level) {
        let entry = format.table(table);
        assert_eq!((format.decode(level, entry), format.next_table(level, entry)), (Entry::Table(table), Some(table)));
        let marked = format.mark(level, entry);
        assert_eq!(format.decode(level, marked), Entry::Marked(Marked::Table(table)));
        for invalid in [marked, format.absent(), format.busy()] {
            assert_eq!(format.next_table(level, invalid), None);
        }
    }
    assert_eq!(format.next_table(Level::PAGE, format.table(table)), None, "below the last level is no table");
}

/// Whether a table of leaves side by side is an arithmetic sequence.
fn at_steps<F: Format>(format: &F, level: Level, span: usize) -> bool {
    let leaf = |index: usize| Leaf {
        at: PhysAddr::from_usize((1 << 34) + index * span),
        flags: MappingFlags::READ | MappingFlags::WRITE,
        owner: Owner::Foreign,
        used: Used::Accessed,
    };
    let entry = |index| format.leaf(level, &leaf(index));
    let step = entry(1).wrapping_sub(entry(0));
    (1..512).all(|index| entry(index) == entry(0).wrapping_add(step.wrapping_mul(index as u64)))
}

#[test]
fn stage_2_says_the_truth_about_its_bits() {
    let registers = aarch64::IdRegisters {
        mmfr0: 5,
        mmfr1: 0x1 << 28 | 0x2 << 4 | 0x2,
        mmfr2: 0x1 << 48 | 0x1 << 40,
        ..aarch64::IdRegisters::default()
    };
    let capabilities = aarch64::Capabilities::from_registers(registers);
    let format = Stage2::new(&capabilities, 48, aarch64::Vmid(1)).unwrap();
    for tracking in [aarch64::Tracking::Software, aarch64::Tracking::AccessFlag, aarch64::Tracking::DirtyState] {
        hold(&format.with_tracking(tracking).unwrap());
    }
}

#[test]
fn ept_says_the_truth_about_its_bits() {
    let capabilities =
        ept::Capabilities { physical_bits: 46, features: ept::Features::all(), errata: ept::Errata::empty() };
    let format = Ept::new(&capabilities, ept::Depth::Four).unwrap();
    for exceptions in [ept::Exceptions::Off, ept::Exceptions::Suppressed] {
        for tracking in [ept::Tracking::Software, ept::Tracking::Hardware] {
            hold(&format.with_exceptions(exceptions).with_tracking(tracking).unwrap());
        }
    }
}

#[test]
fn npt_says_the_truth_about_its_bits() {
    let milan = npt::Registers {
        extended_ecx: 0x75c2_37ff,
        extended_edx: 0x2fd3_fbff,
        address_sizes: 0x3030,
        asids: 0x8000,
        svm_edx: 0x101b_bcff,
    };
    hold(&Npt::new(&npt::Capabilities::from_registers(milan), npt::Asid(1)).unwrap());
}
