use super::*;
use crate::{Format, GuestPhysAddr};

/// `IA32_VMX_EPT_VPID_CAP` of a Skylake-X.
const SKYLAKE: u64 = 0xf01_0673_4141;
/// Of a Sandy Bridge: no leaf of 1 GiB, no accessed and dirty.
const SANDY_BRIDGE: u64 = 0xf01_0611_4141;

fn skylake() -> Capabilities {
    Capabilities::from_registers(SKYLAKE, 46)
}

#[test]
fn capabilities_are_those_of_real_cpus() {
    assert_eq!(skylake().features, Features::all() - Features::FIVE_LEVELS);
    let sandy_bridge = Capabilities::from_registers(SANDY_BRIDGE, 40);
    let large = Features::LEAF_1G | Features::ACCESSED_DIRTY;
    assert_eq!(sandy_bridge.features, skylake().features - large);
    assert_eq!(skylake().minimum(sandy_bridge), sandy_bridge);
    assert_eq!(skylake().without(large), Capabilities { physical_bits: 46, ..sandy_bridge });
}

#[test]
fn eptp_says_how_to_walk() {
    let table = PhysAddr::from_usize(0x1234_5000);
    let eptp = |format: Ept| format.root(table).eptp;
    let four = Ept::new(&skylake(), Depth::Four).unwrap();
    assert_eq!(eptp(four), 0x1234_501e);
    assert_eq!(eptp(four.with_tracking(Tracking::Hardware).unwrap()), 0x1234_505e);
    let uncached = Capabilities { features: Features::UNCACHED_WALK | Features::FOUR_LEVELS, ..skylake() };
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
fn what_the_cpus_lack_is_refused() {
    assert_eq!(Ept::new(&skylake(), Depth::Five), Err(ConfigError::NoDepth(Depth::Five)));
    let lame = skylake().without(Features::WRITE_BACK_WALK | Features::UNCACHED_WALK);
    assert_eq!(Ept::new(&lame, Depth::Four), Err(ConfigError::NoWalk));
    let wide = Capabilities { physical_bits: 53, ..skylake() };
    assert_eq!(Ept::new(&wide, Depth::Four), Err(ConfigError::PhysicalBits(53)));
    let old = Ept::new(&Capabilities::from_registers(SANDY_BRIDGE, 40), Depth::Four).unwrap();
    assert_eq!(old.with_tracking(Tracking::Hardware), Err(ConfigError::NoTracking));
    assert_eq!(old.with_tracking(Tracking::Software), Ok(old));
}
