use super::*;

/// Of a Skylake-X, before the microcode that reports errata.
const SKYLAKE: Registers = Registers { ept_vpid_cap: 0xf01_0673_4141, arch_capabilities: 0, physical_bits: 46 };
/// Of a Sandy Bridge: no leaf of 1 GiB, no accessed and dirty.
const SANDY_BRIDGE: Registers = Registers { ept_vpid_cap: 0xf01_0611_4141, arch_capabilities: 0, physical_bits: 40 };
/// Of an Ice Lake server: five levels, nothing of XSA-304 and L1TF.
const ICE_LAKE: Registers = Registers { ept_vpid_cap: 0xf01_0673_41c1, arch_capabilities: 0x4b, physical_bits: 52 };

#[test]
fn capabilities_are_those_of_real_cpus() {
    let skylake = Capabilities::from_registers(SKYLAKE);
    assert_eq!(skylake.features, Features::all() - Features::FIVE_LEVELS);
    let large = Features::LEAF_1G | Features::ACCESSED_DIRTY;
    assert_eq!(Capabilities::from_registers(SANDY_BRIDGE).features, skylake.features - large);
    assert_eq!(Capabilities::from_registers(ICE_LAKE).features, Features::all());
    assert_eq!(Capabilities::from_registers(Registers::default()).features, Features::empty());
}

#[test]
fn errata_are_there_unless_the_cpu_says_otherwise() {
    let errata = |arch_capabilities| Capabilities::from_registers(Registers { arch_capabilities, ..ICE_LAKE }).errata;
    assert_eq!(errata(0), Errata::all());
    assert_eq!(errata(1 << 0), Errata::MACHINE_CHECK, "RDCL_NO");
    assert_eq!(errata(1 << 6), Errata::SPECULATIVE_LOAD, "IF_PSCHANGE_MC_NO");
    assert_eq!(errata(ICE_LAKE.arch_capabilities), Errata::empty());
}

#[test]
fn the_minimum_has_what_both_have_and_the_faults_of_either() {
    let [old, skylake, new] = [SANDY_BRIDGE, SKYLAKE, ICE_LAKE].map(Capabilities::from_registers);
    assert_eq!(skylake.minimum(old), old);
    assert_eq!(new.minimum(skylake), skylake.minimum(new));
    assert_eq!(new.minimum(skylake), skylake);
}

#[test]
fn a_feature_can_be_renounced() {
    let large = Features::LEAF_1G | Features::ACCESSED_DIRTY;
    let old = Capabilities::from_registers(SANDY_BRIDGE);
    assert_eq!(Capabilities::from_registers(SKYLAKE).without(large), Capabilities { physical_bits: 46, ..old });
}

#[test]
fn the_narrowest_invept_is_taken() {
    let skylake = Capabilities::from_registers(SKYLAKE);
    assert_eq!(skylake.invept(), Some(Invept::Single));
    assert_eq!(skylake.without(Features::INVEPT_SINGLE).invept(), Some(Invept::All));
    assert_eq!(skylake.without(Features::INVEPT_SINGLE | Features::INVEPT_ALL).invept(), None);
    assert_eq!(skylake.without(Features::INVEPT).invept(), None);
}
