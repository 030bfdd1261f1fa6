use super::*;

/// Of an EPYC 7763.
const MILAN: Registers = Registers {
    extended_ecx: 0x75c2_37ff,
    extended_edx: 0x2fd3_fbff,
    address_sizes: 0x3030,
    asids: 0x8000,
    svm_edx: 0x101b_bcff,
};
/// Of an Opteron of 2007: neither a flush by ASID nor leaves of 1 GiB that one would want.
const BARCELONA: Registers = Registers {
    extended_ecx: 0x7ff,
    extended_edx: 0xefd3_fbff - (1 << 26),
    address_sizes: 0x3030,
    asids: 0x40,
    svm_edx: 0xf,
};

#[test]
fn capabilities_are_those_of_real_cpus() {
    let milan = Capabilities::from_registers(MILAN);
    assert_eq!(milan.features, Features::all());
    assert_eq!((milan.physical_bits, milan.guest_physical_bits, milan.asids), (48, 48, 0x8000));
    let barcelona = Capabilities::from_registers(BARCELONA);
    assert_eq!(barcelona.features, Features::SVM | Features::NESTED_PAGING | Features::NO_EXECUTE);
    assert_eq!(Capabilities::from_registers(Registers::default()).features, Features::empty());
}

#[test]
fn each_feature_is_one_bit_of_one_register() {
    let features = |registers| Capabilities::from_registers(registers).features;
    let none = Registers::default();
    assert_eq!(features(Registers { extended_ecx: 1 << 2, ..none }), Features::SVM);
    assert_eq!(features(Registers { svm_edx: 1 << 0, ..none }), Features::NESTED_PAGING);
    assert_eq!(features(Registers { svm_edx: 1 << 6, ..none }), Features::FLUSH_BY_ASID);
    assert_eq!(features(Registers { extended_edx: 1 << 20, ..none }), Features::NO_EXECUTE);
    assert_eq!(features(Registers { extended_edx: 1 << 26, ..none }), Features::LEAF_1G);
}

#[test]
fn a_guests_addresses_are_as_wide_as_the_hosts_unless_the_cpu_says_otherwise() {
    let guest = |address_sizes| Capabilities::from_registers(Registers { address_sizes, ..MILAN }).guest_physical_bits;
    assert_eq!(guest(0x3028), 40);
    assert_eq!(guest(0x30_3028), 48);
}

#[test]
fn the_minimum_has_what_both_have() {
    let [old, new] = [BARCELONA, MILAN].map(Capabilities::from_registers);
    assert_eq!(new.minimum(old), old);
    assert_eq!(old.minimum(new), old);
    let narrow = Capabilities { physical_bits: 40, guest_physical_bits: 36, ..new };
    assert_eq!(new.minimum(narrow), narrow);
}

#[test]
fn a_feature_can_be_renounced() {
    let milan = Capabilities::from_registers(MILAN);
    let without = milan.without(Features::LEAF_1G);
    assert_eq!(without.features, Features::all() - Features::LEAF_1G);
    assert_eq!(without.asids, milan.asids);
}
