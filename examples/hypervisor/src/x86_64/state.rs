//! What a VMCS holds before the first entry: the controls, the host's state and the guest's.
//!
//! Intel SDM Vol. 3C (edition of December 2024): 25.6 to 25.8 for the controls, 27.2 and 27.3 for what VM entry checks.
#![allow(unsafe_code, reason = "reads the host's state")]

use alloc::boxed::Box;

use x86::{
    bits64::vmx::vmwrite,
    controlregs::{cr0, cr3, cr4},
    dtables::{DescriptorTablePointer, sgdt, sidt},
    msr::{IA32_EFER, rdmsr},
    vmx::vmcs::{
        control::{self, EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls},
        guest, host,
    },
};

use super::{
    cpu,
    vcpu::{Setup, Vcpu},
    vmx::{Controls, fixed_cr0, fixed_cr4},
};

/// How a guest starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In 64-bit code, with interrupts off, behind its own tables; segments are flat.
    Long {
        /// The guest-physical address of its root table.
        cr3: u64,
        /// The linear address of its first instruction.
        rip: u64,
    },
    /// As a PC's CPU starts, but elsewhere: 16-bit code, no tables, all segments the same.
    Real {
        /// The segments' selector: their base is 16 times as much.
        segment: u16,
        /// The offset of its first instruction.
        ip: u16,
    },
}

// CR0 (Intel SDM Vol. 3A, 2.5).
const PROTECTED: u64 = 1 << 0;
const EXTENSION_TYPE: u64 = 1 << 4;
const NUMERIC_ERROR: u64 = 1 << 5;
const PAGING: u64 = 1 << 31;
// CR4.
const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const VMX_ENABLE: u64 = 1 << 13;
// IA32_EFER.
const LONG_MODE: u64 = 1 << 8 | 1 << 10;

/// Which accesses to model-specific registers exit (25.6.9): where every bit is clear, none does.
#[repr(align(4096))]
pub(super) struct Bitmap([u8; 4096]);
static NO_MSR_EXITS: Bitmap = Bitmap([0; 4096]);

impl Bitmap {
    /// The accesses to these registers exit, all of them below 0x2000: the first KiB has the bits of their reads, the third
    /// those of their writes.
    pub(super) fn of(reads: &[u32], writes: &[u32]) -> Box<Self> {
        let mut bitmap = Box::new(Self([0; 4096]));
        for (start, registers) in [(0, reads), (0x800, writes)] {
            for &register in registers {
                assert!(register < 0x2000, "register {register:#x} has no bit among the low ones");
                bitmap.0[start + register as usize / 8] |= 1 << (register % 8);
            }
        }
        bitmap
    }

    /// Its physical address: memory is mapped where it stands.
    pub(super) fn address(&self) -> u64 {
        (&raw const *self).addr() as u64
    }
}

/// NMIs exit; EPT, a VPID, guests without paging; neither interrupts nor I/O exit, nor does the guest's own paging.
pub(super) fn write_controls(vcpu: &Vcpu, setup: Setup) {
    let secondary = SecondaryControls::ENABLE_EPT
        | SecondaryControls::ENABLE_VPID
        | SecondaryControls::UNRESTRICTED_GUEST
        | SecondaryControls::ENABLE_RDTSCP
        | SecondaryControls::ENABLE_INVPCID;
    let primary = PrimaryControls::USE_MSR_BITMAPS | PrimaryControls::SECONDARY_CONTROLS;
    let exit = ExitControls::HOST_ADDRESS_SPACE_SIZE | ExitControls::SAVE_IA32_EFER | ExitControls::LOAD_IA32_EFER;
    let entry = EntryControls::LOAD_IA32_EFER;
    for (field, group, wanted) in [
        (control::PINBASED_EXEC_CONTROLS, Controls::Pin, PinbasedControls::NMI_EXITING.bits()),
        (control::PRIMARY_PROCBASED_EXEC_CONTROLS, Controls::Primary, primary.bits()),
        (control::SECONDARY_PROCBASED_EXEC_CONTROLS, Controls::Secondary, secondary.bits()),
        (control::VMEXIT_CONTROLS, Controls::Exit, exit.bits()),
        (control::VMENTRY_CONTROLS, Controls::Entry, entry.bits()),
    ] {
        vcpu.write(field, group.nearest(wanted).into());
    }
    vcpu.write(control::VPID, setup.vpid.into());
    vcpu.write(control::EXCEPTION_BITMAP, setup.exceptions.into());
    vcpu.write(control::MSR_BITMAPS_ADDR_FULL, NO_MSR_EXITS.address());
    // What the CPU needs of CR0 and CR4 is the hypervisor's; the guest reads that it is not there.
    vcpu.write(control::CR0_GUEST_HOST_MASK, NUMERIC_ERROR);
    vcpu.write(control::CR0_READ_SHADOW, NUMERIC_ERROR);
    vcpu.write(control::CR4_GUEST_HOST_MASK, VMX_ENABLE);
    for field in [
        control::CR4_READ_SHADOW,
        control::PAGE_FAULT_ERR_CODE_MASK,
        control::PAGE_FAULT_ERR_CODE_MATCH,
        control::CR3_TARGET_COUNT,
        control::VMEXIT_MSR_STORE_COUNT,
        control::VMEXIT_MSR_LOAD_COUNT,
        control::VMENTRY_MSR_LOAD_COUNT,
        control::VMENTRY_INTERRUPTION_INFO_FIELD,
    ] {
        vcpu.write(field, 0);
    }
}

/// Where an exit leads, and with what, in the current VMCS.
pub(super) fn write_host(exit: u64) {
    let (mut segments, mut exceptions) =
        (DescriptorTablePointer::<u64>::default(), DescriptorTablePointer::<u64>::default());
    // SAFETY: reads registers.
    let (cr0, cr3, cr4, efer) = unsafe {
        sgdt(&mut segments);
        sidt(&mut exceptions);
        (cr0().bits() as u64, cr3(), cr4().bits() as u64, rdmsr(IA32_EFER))
    };
    for (field, value) in [
        (host::CR0, cr0),
        (host::CR3, cr3),
        (host::CR4, cr4),
        (host::IA32_EFER_FULL, efer),
        (host::CS_SELECTOR, cpu::CODE.bits().into()),
        (host::SS_SELECTOR, cpu::DATA.bits().into()),
        (host::DS_SELECTOR, cpu::DATA.bits().into()),
        (host::ES_SELECTOR, cpu::DATA.bits().into()),
        (host::FS_SELECTOR, 0),
        (host::GS_SELECTOR, 0),
        (host::TR_SELECTOR, cpu::TASK.bits().into()),
        (host::FS_BASE, 0),
        (host::GS_BASE, 0),
        (host::TR_BASE, cpu::task()),
        (host::GDTR_BASE, segments.base.addr() as u64),
        (host::IDTR_BASE, exceptions.base.addr() as u64),
        (host::IA32_SYSENTER_CS, 0),
        (host::IA32_SYSENTER_ESP, 0),
        (host::IA32_SYSENTER_EIP, 0),
        (host::RIP, exit),
    ] {
        // SAFETY: the host's state as it is, and the routine that an exit leads to.
        let written = unsafe { vmwrite(field, value) };
        assert!(written.is_ok(), "VMWRITE {field:#x}: {written:?}");
    }
}

/// The guest's first state.
pub(super) fn write_guest(vcpu: &Vcpu, mode: Mode) {
    let (cr0, cr4, cr3, efer, rip) = match mode {
        Mode::Long { cr3, rip } => {
            (PROTECTED | PAGING | fixed_cr0(), PHYSICAL_ADDRESS_EXTENSION | fixed_cr4(), cr3, LONG_MODE, rip)
        }
        // An unrestricted guest needs neither PE nor PG (appendix A.7).
        Mode::Real { ip, .. } => (fixed_cr0() & !(PROTECTED | PAGING), fixed_cr4(), 0, 0, ip.into()),
    };
    for (field, value) in [
        (guest::CR0, cr0 | EXTENSION_TYPE | NUMERIC_ERROR),
        (guest::CR3, cr3),
        (guest::CR4, cr4 | VMX_ENABLE),
        (guest::IA32_EFER_FULL, efer),
        (guest::DR7, 0x400),
        (guest::RSP, 0),
        (guest::RIP, rip),
        (guest::RFLAGS, 1 << 1),
        (guest::LINK_PTR_FULL, u64::MAX),
        (guest::IA32_DEBUGCTL_FULL, 0),
        (guest::INTERRUPTIBILITY_STATE, 0),
        (guest::ACTIVITY_STATE, 0),
        (guest::PENDING_DBG_EXCEPTIONS, 0),
        (guest::IA32_SYSENTER_CS, 0),
        (guest::IA32_SYSENTER_ESP, 0),
        (guest::IA32_SYSENTER_EIP, 0),
        (guest::GDTR_BASE, 0),
        (guest::GDTR_LIMIT, 0xffff),
        (guest::IDTR_BASE, 0),
        (guest::IDTR_LIMIT, 0xffff),
    ] {
        vcpu.write(field, value);
    }
    write_segments(vcpu, mode);
    let entry = vcpu.read(control::VMENTRY_CONTROLS) & !u64::from(EntryControls::IA32E_MODE_GUEST.bits());
    let long = if efer == LONG_MODE { EntryControls::IA32E_MODE_GUEST.bits() } else { 0 };
    vcpu.write(control::VMENTRY_CONTROLS, entry | u64::from(long));
}

/// A segment register's four fields are this far apart, in the order of ES, CS, SS, DS, FS, GS, LDTR, TR.
const NEXT: u32 = 2;

/// A segment: selector, limit, access rights (25.4.1).
type Segment = (u16, u32, u32);

fn write_segments(vcpu: &Vcpu, mode: Mode) {
    let (code, data, base): (Segment, Segment, u64) = match mode {
        Mode::Long { .. } => ((0x10, u32::MAX, 0xa09b), (0x18, u32::MAX, 0xc093), 0),
        Mode::Real { segment, .. } => ((segment, 0xffff, 0x9b), (segment, 0xffff, 0x93), u64::from(segment) << 4),
    };
    // No local descriptors: bit 16 says that the register is unusable. A busy task of 32 bits.
    let (local, task) = ((0, 0xffff, 1 << 16), (0, 0xffff, 0x8b));
    let all = [data, code, data, data, data, data, local, task];
    for (place, (selector, limit, rights)) in (0..).map(|index| index * NEXT).zip(all) {
        vcpu.write(guest::ES_SELECTOR + place, selector.into());
        vcpu.write(guest::ES_LIMIT + place, limit.into());
        vcpu.write(guest::ES_ACCESS_RIGHTS + place, rights.into());
        vcpu.write(guest::ES_BASE + place, if selector == 0 { 0 } else { base });
    }
}
