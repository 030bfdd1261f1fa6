use super::*;
use crate::{addr::GuestPhysAddr, format::Format};

/// What a Skylake-X has, and none of its errata.
fn skylake() -> Capabilities {
    Capabilities { physical_bits: 46, features: Features::all() - Features::FIVE_LEVELS, errata: Errata::empty() }
}

/// What a Sandy Bridge has.
fn sandy_bridge() -> Capabilities {
    let capabilities = skylake().without(Features::LEAF_1G | Features::ACCESSED_DIRTY);
    Capabilities { physical_bits: 40, ..capabilities }
}

#[test]
fn eptp_says_how_to_walk() {
    let table = PhysAddr::from_usize(0x1234_5000);
    let eptp = |format: Ept| format.root(table).eptp;
    let four = Ept::new(&skylake(), Depth::Four).unwrap();
    assert_eq!(eptp(four), 0x1234_501e);
    assert_eq!(eptp(four.with_tracking(Tracking::Hardware).unwrap()), 0x1234_505e);
    let uncached = skylake().without(Features::WRITE_BACK_WALK);
    assert_eq!(eptp(Ept::new(&uncached, Depth::Four).unwrap()), 0x1234_5018);
    let deep = Capabilities { features: Features::all(), ..skylake() };
    assert_eq!(eptp(Ept::new(&deep, Depth::Five).unwrap()), 0x1234_5026);
}

#[test]
fn w6_the_last_address_has_the_last_index_of_the_root() {
    let deep = Capabilities { features: Features::all(), ..skylake() };
    for (depth, bits) in [(Depth::Four, 48), (Depth::Five, 57)] {
        let geometry = Ept::new(&deep, depth).unwrap().geometry();
        assert_eq!(geometry.input_bits(), bits);
        assert_eq!(geometry.index(geometry.root_level, GuestPhysAddr::from(geometry.limit() - 1)), 511);
        assert_eq!(geometry.table_pages(geometry.root_level), 1);
    }
}

#[test]
fn a_narrower_space_ends_where_it_was_asked_to() {
    let four = Ept::new(&skylake(), Depth::Four).unwrap();
    for bits in 40..=48 {
        let format = four.with_input_bits(bits).unwrap();
        assert_eq!(format.geometry().limit(), 1 << bits);
        assert_eq!(format.geometry().table_pages(Level(3)), 1);
        // The walk is as long as ever: only the root is used in part.
        assert_eq!(format.eptp(PhysAddr::from_usize(0x1000)), four.eptp(PhysAddr::from_usize(0x1000)));
    }
    let error = |bits| ConfigError::InputBits { bits, depth: Depth::Four, least: 40, most: 48 };
    for bits in [0, 39, 49, 57] {
        assert_eq!(four.with_input_bits(bits), Err(error(bits)));
    }
}

#[test]
fn what_the_cpus_lack_is_refused() {
    assert_eq!(Ept::new(&skylake(), Depth::Five), Err(ConfigError::NoDepth(Depth::Five)));
    let lame = skylake().without(Features::WRITE_BACK_WALK | Features::UNCACHED_WALK);
    assert_eq!(Ept::new(&lame, Depth::Four), Err(ConfigError::NoWalk));
    let wide = Capabilities { physical_bits: 53, ..skylake() };
    assert_eq!(Ept::new(&wide, Depth::Four), Err(ConfigError::PhysicalBits(53)));
    let deaf = skylake().without(Features::INVEPT_SINGLE | Features::INVEPT_ALL);
    assert_eq!(Ept::new(&deaf, Depth::Four), Err(ConfigError::NoInvept));
    let old = Ept::new(&sandy_bridge(), Depth::Four).unwrap();
    assert_eq!(old.with_tracking(Tracking::Hardware), Err(ConfigError::NoTracking));
    assert_eq!(old.with_tracking(Tracking::Software), Ok(old));
}

#[test]
fn large_leaves_are_executable_where_no_cpu_checks_the_machine_over_them() {
    assert_eq!(Ept::new(&skylake(), Depth::Four).unwrap().large_leaves, LargeLeaves::Executable);
    let weak = Capabilities { errata: Errata::MACHINE_CHECK, ..skylake() };
    let format = Ept::new(&weak, Depth::Four).unwrap();
    assert_eq!(format.large_leaves, LargeLeaves::ExecuteNever);
    assert_eq!(format.with_large_leaves(LargeLeaves::Executable).large_leaves, LargeLeaves::Executable);
}
