use super::*;

const GPA: u64 = 0x1_2345_6789;
const LINEAR: u64 = 0xffff_8000_dead_b789;

fn violation(qualification: u64) -> Exit {
    Exit { reason: 48, qualification, gpa: GPA, linear: LINEAR }
}

fn fault(qualification: u64) -> Fault {
    match decode(violation(qualification)) {
        Decoded::Fault(fault) => fault,
        other => panic!("{qualification:#x}: {other:x?}"),
    }
}

/// As Bochs and real CPUs report them, by table 28-7.
#[test]
fn golden_qualifications() {
    use {Access::*, Cause::*, Origin::*};
    for (qualification, access, cause, origin) in [
        (0x181, Read, Translation, Instruction),
        (0x182, Write, Translation, Instruction),
        (0x184, Execute, Translation, Instruction),
        // A locked instruction reads and writes.
        (0x183, Write, Translation, Instruction),
        // A write to what can be read; a fetch from what can be read and written.
        (0x18a, Write, Permission, Instruction),
        (0x19c, Execute, Permission, Instruction),
        // A read of what can be executed only.
        (0x1a1, Read, Permission, Instruction),
        // The guest's tables: without and with accessed and dirty.
        (0x081, Read, Translation, GuestWalk),
        (0x083, Write, Translation, GuestWalk),
        (0x08b, Write, Permission, GuestWalk),
        // PDPTEs, loaded by MOV to CR3.
        (0x001, Read, Translation, GuestWalk),
        // With the advanced information (user, writable, executable by the guest's tables), and NMI unblocking.
        (0x0f8a, Write, Permission, Instruction),
        (0x1181, Read, Translation, Instruction),
    ] {
        let expected = Fault { gpa: GuestPhysAddr::from_usize(GPA as usize), access, cause, origin };
        assert_eq!(fault(qualification), expected, "{qualification:#x}");
    }
}

#[test]
fn f5_the_address_has_its_low_bits() {
    assert_eq!(fault(0x181).gpa.as_usize() as u64, GPA);
}

#[test]
fn the_linear_address_is_given_where_it_is_known() {
    assert_eq!(violation(0x181).linear_address(), Some(LINEAR));
    assert_eq!(violation(0x081).linear_address(), Some(LINEAR));
    assert_eq!(violation(0x001).linear_address(), None);
    assert_eq!(Exit { reason: 49, ..violation(0x181) }.linear_address(), None);
}

#[test]
fn a_misconfiguration_is_no_fault() {
    let gpa = GuestPhysAddr::from_usize(GPA as usize);
    assert_eq!(decode(Exit { reason: 49, ..violation(0) }), Decoded::Misconfiguration(gpa));
}

#[test]
fn other_exits_and_the_flags_above_the_reason_are_told_apart() {
    assert_eq!(decode(Exit { reason: 10, ..violation(0x181) }), Decoded::NotTranslation { reason: 10 });
    assert_eq!(decode(Exit { reason: 0x8000_0021, ..violation(0) }), Decoded::NotTranslation { reason: 33 });
    let in_enclave = Exit { reason: 0x30 | 1 << 27, ..violation(0x181) };
    assert!(matches!(decode(in_enclave), Decoded::Fault(_)));
}

/// Every qualification that a guest can cause is a fault, and its access is one of those reported.
#[test]
fn every_qualification_is_a_fault() {
    for qualification in 0..1_u64 << 13 {
        let fault = fault(qualification);
        let reported = qualification & 0b111;
        let bit = match fault.access {
            Access::Read => 1,
            Access::Write => 2,
            Access::Execute => 4,
        };
        assert!(reported == 0 || reported & bit != 0 || reported.trailing_zeros() >= 3, "{qualification:#x}");
    }
}
