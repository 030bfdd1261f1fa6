use super::*;
use crate::{addr::GuestPhysAddr, arch::aarch64::Errata, format::Format};

fn capabilities(physical_bits: u32, vmid_bits: u32, features: Features) -> Capabilities {
    let features = features | Features::GRANULE_4K;
    Capabilities { physical_bits, vmid_bits, data_line: 64, features, errata: Errata::empty() }
}

fn plain(physical_bits: u32) -> Capabilities {
    capabilities(physical_bits, 8, Features::empty())
}

fn vtcr(capabilities: &Capabilities, ipa_bits: u32) -> u64 {
    Stage2::new(capabilities, ipa_bits, Vmid(1)).unwrap().root(PhysAddr::from_usize(0x1_0000)).vtcr
}

/// Width, start level by the manual's count, tables in the root (D8.2, "Implications of concatenation").
const ROOTS: [(u32, u32, usize); 17] = [
    (32, 2, 4),
    (33, 2, 8),
    (34, 2, 16),
    (35, 1, 1),
    (36, 1, 1),
    (37, 1, 1),
    (38, 1, 1),
    (39, 1, 1),
    (40, 1, 2),
    (41, 1, 4),
    (42, 1, 8),
    (43, 1, 16),
    (44, 0, 1),
    (45, 0, 1),
    (46, 0, 1),
    (47, 0, 1),
    (48, 0, 1),
];

#[test]
fn w12_every_width_has_the_manuals_start_level_and_root() {
    for (bits, start, tables) in ROOTS {
        let format = Stage2::new(&plain(48), bits, Vmid(1)).unwrap();
        let geometry = format.geometry();
        assert_eq!(3 - u32::from(geometry.root_level.0), start, "{bits} bits");
        assert_eq!(geometry.table_pages(geometry.root_level), tables, "{bits} bits");
        let vtcr = vtcr(&plain(48), bits);
        assert_eq!(vtcr & 0x3f, u64::from(64 - bits), "T0SZ of {bits} bits");
        assert_eq!(vtcr >> 6 & 0b11, u64::from(2 - start), "SL0 of {bits} bits");
    }
}

#[test]
fn w6_the_last_address_has_the_last_index_of_the_root_and_no_other_has_it() {
    for (bits, ..) in ROOTS {
        let geometry = Stage2::new(&plain(48), bits, Vmid(1)).unwrap().geometry();
        assert_eq!((geometry.input_bits(), geometry.limit()), (bits, 1 << bits));
        let root = geometry.root_level;
        let last = GuestPhysAddr::from(geometry.limit() - 1);
        assert_eq!(geometry.index(root, last), geometry.entries(root) - 1, "{bits} bits");
        let middle = GuestPhysAddr::from(geometry.limit() / 2);
        assert_eq!(geometry.index(root, middle), geometry.entries(root) / 2, "{bits} bits do not alias");
    }
}

#[test]
fn vtcr_of_40_bits_is_the_one_that_boards_boot_with() {
    assert_eq!(vtcr(&plain(40), 40), 0x8002_3558);
    assert_eq!(vtcr(&plain(44), 40), 0x8004_3558);
}

#[test]
fn vtcr_of_every_width_on_a_48_bit_cpu() {
    let expected = [
        0x8005_3520,
        0x8005_351f,
        0x8005_351e,
        0x8005_355d,
        0x8005_355c,
        0x8005_355b,
        0x8005_355a,
        0x8005_3559,
        0x8005_3558,
        0x8005_3557,
        0x8005_3556,
        0x8005_3555,
        0x8005_3594,
        0x8005_3593,
        0x8005_3592,
        0x8005_3591,
        0x8005_3590,
    ];
    for (bits, word) in (32..).zip(expected) {
        assert_eq!(vtcr(&plain(48), bits), word, "{bits} bits");
    }
}

#[test]
fn vtcr_of_every_width_with_everything_on() {
    let rich = capabilities(44, 16, Features::all());
    // PS 0b100, VS, HA and HD on; SL0 and T0SZ by the width.
    let expected = [
        0x806c_3520_u64,
        0x806c_351f,
        0x806c_351e,
        0x806c_355d,
        0x806c_355c,
        0x806c_355b,
        0x806c_355a,
        0x806c_3559,
        0x806c_3558,
        0x806c_3557,
        0x806c_3556,
        0x806c_3555,
        0x806c_3594,
    ];
    for (bits, word) in (32..=44).zip(expected) {
        let format = Stage2::new(&rich, bits, Vmid(1)).unwrap().with_tracking(Tracking::DirtyState).unwrap();
        assert_eq!(format.root(PhysAddr::from_usize(0x1_0000)).vtcr, word, "{bits} bits");
    }
}

#[test]
fn vttbr_of_every_width_names_the_highest_root() {
    for (bits, _, tables) in ROOTS {
        // The last place of so many tables, aligned to their size, in 48 bits.
        let table = (1 << 48) - (tables << 12);
        let root = Stage2::new(&plain(48), bits, Vmid(0xa5)).unwrap().root(PhysAddr::from_usize(table));
        let expected = match tables {
            1 => 0x00a5_ffff_ffff_f000_u64,
            2 => 0x00a5_ffff_ffff_e000,
            4 => 0x00a5_ffff_ffff_c000,
            8 => 0x00a5_ffff_ffff_8000,
            _ => 0x00a5_ffff_ffff_0000,
        };
        assert_eq!((root.vttbr, root.hcr), (expected, 1), "{bits} bits");
    }
}

#[test]
fn the_output_size_is_the_cpus_up_to_48_bits() {
    for (bits, field) in [(32, 0), (36, 1), (40, 2), (42, 3), (44, 4), (48, 5), (52, 5)] {
        assert_eq!(vtcr(&plain(bits), 32) >> 16 & 0b111, field, "{bits} bits");
        // What an entry holds is no wider (E9).
        assert_eq!(Stage2::new(&plain(bits), 32, Vmid(1)).unwrap().output_bits(), bits.min(48));
    }
}

#[test]
fn wide_vmids_and_tracking_have_their_bits() {
    let rich = capabilities(48, 16, Features::all());
    let bits = |tracking| {
        let format = Stage2::new(&rich, 40, Vmid(0xabcd)).unwrap().with_tracking(tracking).unwrap();
        format.root(PhysAddr::from_usize(0x2000)).vtcr >> 19 & 0b1111
    };
    assert_eq!(bits(Tracking::Software), 0b0001, "VS");
    assert_eq!(bits(Tracking::AccessFlag), 0b0101, "HA");
    assert_eq!(bits(Tracking::DirtyState), 0b1101, "HD");
}

#[test]
fn the_root_is_table_vmid_and_the_bits_of_hcr() {
    let wide = capabilities(48, 16, Features::FORCED_WRITE_BACK);
    let format = Stage2::new(&wide, 48, Vmid(0xabcd)).unwrap();
    let root = format.root(PhysAddr::from_usize(0x8765_4321_7000));
    assert_eq!(root.vttbr, 0xabcd_8765_4321_7000);
    assert_eq!(root.hcr, 1 << 46 | 1, "FWB and VM");
    assert_eq!(format.vmid(), Vmid(0xabcd));
    let combined = Stage2::new(&wide.without(Features::FORCED_WRITE_BACK), 48, Vmid(1)).unwrap();
    assert_eq!(combined.root(PhysAddr::from_usize(0)).hcr, 1, "VM alone");
}

#[test]
fn what_the_cpus_lack_is_refused() {
    let vmid = Vmid(1);
    let refused = |capabilities: &Capabilities, bits, vmid| Stage2::new(capabilities, bits, vmid).unwrap_err();
    assert_eq!(refused(&plain(40), 41, vmid), ConfigError::InputBits { bits: 41, most: 40 });
    assert_eq!(refused(&plain(52), 49, vmid), ConfigError::InputBits { bits: 49, most: 48 });
    assert_eq!(refused(&plain(48), 31, vmid), ConfigError::InputBits { bits: 31, most: 48 });
    assert_eq!(refused(&plain(48), 40, Vmid(256)), ConfigError::VmidBits { vmid: Vmid(256), bits: 8 });
    assert!(Stage2::new(&plain(48), 40, Vmid(255)).is_ok());
    assert!(Stage2::new(&capabilities(48, 16, Features::empty()), 40, Vmid(0xffff)).is_ok());
    let coarse = plain(48).without(Features::GRANULE_4K);
    assert_eq!(refused(&coarse, 40, vmid), ConfigError::NoGranule);
}

#[test]
fn tracking_that_the_cpus_lack_is_refused() {
    let format = |features| Stage2::new(&capabilities(48, 8, features), 40, Vmid(1)).unwrap();
    for tracking in [Tracking::AccessFlag, Tracking::DirtyState] {
        assert_eq!(format(Features::empty()).with_tracking(tracking), Err(ConfigError::NoTracking(tracking)));
    }
    let half = format(Features::ACCESS_FLAG);
    assert!(half.with_tracking(Tracking::AccessFlag).is_ok());
    assert!(half.with_tracking(Tracking::DirtyState).is_err());
    assert!(half.with_tracking(Tracking::Software).is_ok());
}
