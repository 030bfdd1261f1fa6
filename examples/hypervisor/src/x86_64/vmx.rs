//! VMX root operation: into it, and what the CPU allows there.
//!
//! Intel SDM Vol. 3C (edition of December 2024): chapter 24 for VMXON, appendix A for what controls may be.
#![allow(unsafe_code, reason = "system registers")]

use alloc::boxed::Box;

use x86::{
    bits64::vmx,
    controlregs::{Cr0, Cr4, cr0, cr0_write, cr4, cr4_write},
    msr::{
        IA32_FEATURE_CONTROL, IA32_VMX_BASIC, IA32_VMX_CR0_FIXED0, IA32_VMX_CR4_FIXED0, IA32_VMX_PROCBASED_CTLS2,
        IA32_VMX_TRUE_ENTRY_CTLS, IA32_VMX_TRUE_EXIT_CTLS, IA32_VMX_TRUE_PINBASED_CTLS, IA32_VMX_TRUE_PROCBASED_CTLS,
        rdmsr, wrmsr,
    },
};

/// `IA32_FEATURE_CONTROL`: it cannot be changed any more.
const LOCKED: u64 = 1 << 0;
/// `IA32_FEATURE_CONTROL`: VMXON may be executed.
const ALLOWED: u64 = 1 << 2;
/// `IA32_VMX_BASIC`: there are the registers named `TRUE`, which allow to leave out what older hypervisors needed.
const TRUE_CONTROLS: u64 = 1 << 55;

/// The page that a VMCS, or the CPU's own state in VMX operation, lies in.
#[repr(C, align(4096))]
pub(super) struct Region([u32; 1024]);

impl Region {
    /// One with this CPU's revision number.
    pub(super) fn new() -> Box<Self> {
        let mut region = Box::new(Self([0; 1024]));
        region.0[0] = read(IA32_VMX_BASIC) as u32 & 0x7fff_ffff;
        region
    }

    /// Its physical address: memory is mapped where it stands.
    pub(super) fn address(&self) -> u64 {
        (&raw const *self).addr() as u64
    }
}

/// A group of controls, by the register that says what they may be.
#[derive(Clone, Copy)]
pub(super) enum Controls {
    Pin,
    Primary,
    Secondary,
    Exit,
    Entry,
}

impl Controls {
    /// `wanted`, with what must be set, and without what cannot be (appendix A.2).
    pub(super) fn nearest(self, wanted: u32) -> u32 {
        let allowed = read(match self {
            Self::Pin => IA32_VMX_TRUE_PINBASED_CTLS,
            Self::Primary => IA32_VMX_TRUE_PROCBASED_CTLS,
            Self::Secondary => IA32_VMX_PROCBASED_CTLS2,
            Self::Exit => IA32_VMX_TRUE_EXIT_CTLS,
            Self::Entry => IA32_VMX_TRUE_ENTRY_CTLS,
        });
        (wanted | allowed as u32) & (allowed >> 32) as u32
    }
}

/// The bits that CR0 must have in VMX operation. An unrestricted guest may do without PE and PG.
pub(super) fn fixed_cr0() -> u64 {
    read(IA32_VMX_CR0_FIXED0)
}

/// The bits that CR4 must have in VMX operation.
pub(super) fn fixed_cr4() -> u64 {
    read(IA32_VMX_CR4_FIXED0)
}

/// Takes this CPU into VMX root operation, without translations of former guests in its TLB.
///
/// # Panics
/// The CPU has no VMX, or its firmware does not allow it.
pub(super) fn enter() {
    assert!(core::arch::x86_64::__cpuid(1).ecx & 1 << 5 != 0, "the CPU has no VMX");
    let control = read(IA32_FEATURE_CONTROL);
    assert!(control & LOCKED == 0 || control & ALLOWED != 0, "the firmware does not allow VMX");
    // SAFETY: registers that only prepare VMX; the bits of CR0 and CR4 that it needs change nothing for this program.
    unsafe {
        if control & LOCKED == 0 {
            wrmsr(IA32_FEATURE_CONTROL, LOCKED | ALLOWED);
        }
        cr0_write(Cr0::from_bits_truncate(cr0().bits() | fixed_cr0() as usize));
        cr4_write(cr4() | Cr4::CR4_ENABLE_VMX | Cr4::from_bits_truncate(fixed_cr4() as usize));
    }
    assert!(read(IA32_VMX_BASIC) & TRUE_CONTROLS != 0, "the CPU is too old");
    // The CPU uses it until VMXOFF, which never comes.
    let region = Box::leak(Region::new());
    // SAFETY: a fresh region with the CPU's revision.
    let entered = unsafe { vmx::vmxon(region.address()) };
    assert!(entered.is_ok(), "VMXON: {entered:?}");
}

/// Reads a model-specific register that is there.
fn read(register: u32) -> u64 {
    // SAFETY: reading these changes nothing.
    unsafe { rdmsr(register) }
}
