use super::*;

const GPA: u64 = 0x1_2345_6789;

fn npf(info1: u64) -> Exit {
    Exit { code: 0x400, info1, info2: GPA }
}

fn gpa() -> GuestPhysAddr {
    GuestPhysAddr::from_usize(GPA as usize)
}

/// As QEMU and real CPUs report them, by 15.25.6.
#[test]
fn golden_error_codes() {
    use {Access::*, Cause::*, Origin::*};
    for (info1, access, cause, origin) in [
        // The guest's own accesses: user, to the final address.
        (0x1_0000_0004, Read, Translation, Instruction),
        (0x1_0000_0006, Write, Translation, Instruction),
        (0x1_0000_0014, Execute, Translation, Instruction),
        // A write to what can be read; a fetch from what cannot be executed.
        (0x1_0000_0007, Write, Permission, Instruction),
        (0x1_0000_0015, Execute, Permission, Instruction),
        // The guest's tables: always writes.
        (0x2_0000_0006, Write, Translation, GuestWalk),
        (0x2_0000_0007, Write, Permission, GuestWalk),
        // With a shadow stack's bits.
        (0x1_0000_0047, Write, Permission, Instruction),
        (0x21_0000_0005, Read, Permission, Instruction),
    ] {
        assert_eq!(decode(npf(info1)), Decoded::Fault(Fault { gpa: gpa(), access, cause, origin }), "{info1:#x}");
    }
}

#[test]
fn a_reserved_bit_is_no_fault() {
    for info1 in [0x1_0000_000d, 0x2_0000_000f] {
        assert_eq!(decode(npf(info1)), Decoded::ReservedBit(gpa()));
    }
}

#[test]
fn other_exits_are_told_apart() {
    for code in [0x72, 0x60, 0x4e, 0x401, u64::MAX] {
        assert_eq!(decode(Exit { code, ..npf(0x1_0000_0004) }), Decoded::NotTranslation { code });
    }
}

#[test]
fn f5_the_address_has_its_low_bits() {
    let Decoded::Fault(fault) = decode(npf(0x1_0000_0004)) else { panic!("a fault") };
    assert_eq!(fault.gpa.as_usize() as u64, GPA);
}

/// Every code is a fault or a reserved bit, and its access is one of those reported.
#[test]
fn every_error_code_has_a_meaning() {
    for low in 0..1_u64 << 7 {
        for high in 0..4_u64 {
            let info1 = low | high << 32;
            match decode(npf(info1)) {
                Decoded::ReservedBit(_) => assert_ne!(low & 1 << 3, 0),
                Decoded::Fault(fault) => {
                    assert_eq!(fault.cause == Cause::Permission, low & 1 != 0);
                    assert_eq!(fault.origin == Origin::GuestWalk, high & 2 != 0);
                    let reported = match fault.access {
                        Access::Execute => low & 1 << 4 != 0,
                        Access::Write => low & 1 << 1 != 0,
                        Access::Read => low & (1 << 4 | 1 << 1) == 0,
                    };
                    assert!(reported, "{info1:#x}");
                }
                Decoded::NotTranslation { .. } => panic!("{info1:#x}"),
            }
        }
    }
}
