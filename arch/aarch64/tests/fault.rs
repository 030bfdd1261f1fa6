use super::*;

const FAR: u64 = 0xffff_8000_1234_5678;
/// HPFAR of the page at `0x4000_5000`.
const HPFAR: u64 = 0x40_0050;

const DATA: u64 = 0x24 << 26;
const INSTRUCTION: u64 = 0x20 << 26;
const TRANSLATION: u64 = 0b00_0111;
const ACCESS_FLAG: u64 = 0b00_1011;
const PERMISSION: u64 = 0b00_1111;
const WNR: u64 = 1 << 6;
const S1PTW: u64 = 1 << 7;
const CM: u64 = 1 << 8;
const FNV: u64 = 1 << 10;

fn syndrome(esr: u64) -> Syndrome {
    Syndrome { esr, far: FAR, hpfar: HPFAR }
}

fn fault(gpa: usize, access: Access, cause: Cause, origin: Origin) -> Fault {
    Fault { gpa: gpa.into(), access, cause, origin }
}

fn decoded(esr: u64) -> Decoded {
    decode(syndrome(esr))
}

#[test]
fn f5_the_low_bits_come_from_far() {
    let expected = fault(0x4000_5678, Access::Read, Cause::Translation, Origin::Instruction);
    assert_eq!(decoded(DATA | TRANSLATION), Decoded::Fault(expected));
}

/// A guest with 52-bit addresses of its own (`FEAT_LPA2`) reaches past any space: the fault named a page of memory.
#[test]
fn w6_an_address_of_52_bits_is_not_cut_to_a_low_one() {
    let high = 0x000c_0000_4000_5000_usize;
    let syndrome = Syndrome { hpfar: HPFAR | 0xc << 40, ..syndrome(DATA | TRANSLATION) };
    let expected = fault(high | 0x678, Access::Read, Cause::Translation, Origin::Instruction);
    assert_eq!(decode(syndrome), Decoded::Fault(expected));
    let unresolved = Unresolved { far: FAR, access: Access::Write, cause: Cause::Permission };
    assert_eq!(unresolved.translated(high as u64).map(|fault| fault.gpa), Some((high | 0x678).into()));
}

#[test]
fn a_translation_fault_at_any_level_has_its_access() {
    for level in [0b00_0100, 0b00_0101, 0b00_0110, 0b00_0111, 0b10_1011] {
        for (esr, access) in [(DATA, Access::Read), (DATA | WNR, Access::Write), (INSTRUCTION, Access::Execute)] {
            let expected = fault(0x4000_5678, access, Cause::Translation, Origin::Instruction);
            assert_eq!(decoded(esr | level), Decoded::Fault(expected));
        }
    }
}

#[test]
fn bits_that_an_instruction_abort_does_not_have_are_ignored() {
    let expected = fault(0x4000_5678, Access::Execute, Cause::Translation, Origin::Instruction);
    assert_eq!(decoded(INSTRUCTION | WNR | CM | TRANSLATION), Decoded::Fault(expected));
}

#[test]
fn an_access_flag_fault_has_its_address() {
    for level in 0b00_1000..=0b00_1011 {
        let expected = fault(0x4000_5678, Access::Write, Cause::AccessFlag, Origin::Instruction);
        assert_eq!(decoded(DATA | WNR | level), Decoded::Fault(expected));
    }
}

#[test]
fn f8_hpfar_is_not_trusted_for_a_permission_fault() {
    for level in 0b00_1100..=0b00_1111 {
        for (esr, access) in [(DATA, Access::Read), (DATA | WNR, Access::Write), (INSTRUCTION, Access::Execute)] {
            let expected = Unresolved { far: FAR, access, cause: Cause::Permission };
            assert_eq!(decoded(esr | level), Decoded::NeedsTranslation(expected));
        }
    }
}

#[test]
fn f6_a_fault_on_a_walk_is_the_walks() {
    for class in [DATA, DATA | WNR, INSTRUCTION] {
        let read = fault(0x4000_5000, Access::Read, Cause::Translation, Origin::GuestWalk);
        assert_eq!(decoded(class | S1PTW | TRANSLATION), Decoded::Fault(read), "never a fetch or a store");
        let write = fault(0x4000_5000, Access::Write, Cause::Permission, Origin::GuestWalk);
        assert_eq!(decoded(class | S1PTW | PERMISSION), Decoded::Fault(write), "the table's own marks");
        let flag = fault(0x4000_5000, Access::Read, Cause::AccessFlag, Origin::GuestWalk);
        assert_eq!(decoded(class | S1PTW | ACCESS_FLAG), Decoded::Fault(flag));
    }
}

#[test]
fn a_57_s_address_is_asked_for_unless_it_is_a_walks() {
    let affected = |esr| decode_distrusting(syndrome(esr), Errata::WRONG_FAULT_ADDRESS);
    let expected = Unresolved { far: FAR, access: Access::Write, cause: Cause::Translation };
    assert_eq!(affected(DATA | WNR | TRANSLATION), Decoded::NeedsTranslation(expected));
    let walk = fault(0x4000_5000, Access::Read, Cause::Translation, Origin::GuestWalk);
    assert_eq!(affected(DATA | S1PTW | TRANSLATION), Decoded::Fault(walk));
}

#[test]
fn a_translation_ends_the_question_or_starts_over() {
    let unresolved = Unresolved { far: FAR, access: Access::Write, cause: Cause::Permission };
    // Attributes above and below the address.
    let par = 0xff00_0000_4000_5a80;
    let expected = fault(0x4000_5678, Access::Write, Cause::Permission, Origin::Instruction);
    assert_eq!(unresolved.translated(par), Some(expected));
    assert_eq!(unresolved.translated(par | 1), None, "PAR_EL1.F");
}

#[test]
fn cache_maintenance_is_no_store() {
    let read = fault(0x4000_5678, Access::Read, Cause::Translation, Origin::Instruction);
    assert_eq!(decoded(DATA | CM | WNR | TRANSLATION), Decoded::CacheMaintenance(Some(read)));
    assert_eq!(decoded(DATA | CM | WNR | PERMISSION), Decoded::CacheMaintenance(None));
    let walk = fault(0x4000_5000, Access::Read, Cause::Translation, Origin::GuestWalk);
    assert_eq!(decoded(DATA | CM | WNR | S1PTW | TRANSLATION), Decoded::Fault(walk), "its walk is a walk");
}

#[test]
fn an_external_abort_has_far_where_it_is_valid() {
    for status in [0b01_0000, 0b01_0011, 0b01_0100, 0b01_0111, 0b01_1000, 0b01_1011, 0b01_1111] {
        assert_eq!(decoded(DATA | status), Decoded::External { far: Some(FAR) });
        assert_eq!(decoded(INSTRUCTION | FNV | status), Decoded::External { far: None });
    }
}

#[test]
fn others_are_what_they_are() {
    for status in [0b00_0000, 0b00_0011, 0b10_1001] {
        assert_eq!(decoded(DATA | status), Decoded::AddressSize(0x4000_5678.into()));
    }
    assert_eq!(decoded(DATA | 0b11_0000), Decoded::TlbConflict);
    assert_eq!(decoded(DATA | 0b10_0001), Decoded::Other { status: 0b10_0001 });
    for class in [0x00, 0x01, 0x16, 0x21, 0x25, 0x3f] {
        assert_eq!(decoded(u64::from(class) << 26 | TRANSLATION), Decoded::NotAnAbort { class });
    }
}

#[test]
fn f4_no_register_value_panics() {
    for esr in (0..1 << 11).flat_map(|low| [INSTRUCTION, DATA, DATA | 1 << 24].map(|class| class | low)) {
        for address in [0, u64::MAX] {
            let _ = decode(Syndrome { esr, far: address, hpfar: address });
            let _ = syndrome(esr).transfer().map(|transfer| transfer.loaded(u64::MAX));
        }
    }
}

mod transfers {
    use super::*;

    const ISV: u64 = 1 << 24;

    #[test]
    fn are_described_by_the_syndrome() {
        let esr = DATA | ISV | 0b10 << 22 | 1 << 21 | 19 << 16 | 1 << 15 | WNR | TRANSLATION;
        let expected =
            Transfer { size: 4, register: 19, extension: Extension::Sign, width: Width::X, access: Access::Write };
        assert_eq!(syndrome(esr).transfer(), Some(expected));
    }

    #[test]
    fn are_not_known_without_it() {
        for esr in [DATA, INSTRUCTION | ISV, DATA | ISV | S1PTW, DATA | ISV | CM] {
            assert_eq!(syndrome(esr | TRANSLATION).transfer(), None);
        }
    }

    #[test]
    fn fill_the_register_as_asked() {
        let transfer = |size, extension, width| Transfer { size, register: 0, extension, width, access: Access::Read };
        let value = 0x8182_8384_8586_8788;
        for (size, extension, width, expected) in [
            (1, Extension::Zero, Width::W, 0x88),
            (1, Extension::Sign, Width::W, 0xffff_ff88),
            (2, Extension::Sign, Width::X, 0xffff_ffff_ffff_8788),
            (4, Extension::Zero, Width::X, 0x8586_8788),
            (4, Extension::Sign, Width::X, 0xffff_ffff_8586_8788),
            (8, Extension::Sign, Width::X, value),
        ] {
            assert_eq!(transfer(size, extension, width).loaded(value), expected);
        }
    }
}
