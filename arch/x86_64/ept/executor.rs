//! The instructions themselves: one operation, one instruction.
#![allow(unsafe_code, reason = "instructions")]

use core::arch::asm;

// Where only the documentation is built, the target's own crates may be missing: bodies alone use them.
#[cfg(target_arch = "x86_64")]
use x86::{
    cpuid::native_cpuid::cpuid_count,
    msr::{IA32_VMX_EPT_VPID_CAP, IA32_VMX_PROCBASED_CTLS, IA32_VMX_PROCBASED_CTLS2, rdmsr},
};

use super::{Capabilities, Executor, Invept, Op, Registers, VmFail};

/// `IA32_ARCH_CAPABILITIES` (Intel SDM Vol. 4, section 2.1).
const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
/// The VMCS field "EPT pointer" (Intel SDM Vol. 3C, appendix B.2).
const EPT_POINTER: u64 = 0x201a;

/// The CPU that runs this, in VMX root operation.
///
/// On `x86_64` targets only.
#[derive(Clone, Copy, Debug)]
pub struct Instructions(());

impl Instructions {
    /// Everything in this file, for a hypervisor.
    ///
    /// # Safety
    /// - It is used at privilege level 0 and in VMX root operation only, on CPUs that have what the
    ///   [`Tlb`](super::Tlb)'s capabilities say.
    /// - Where a space is activated, the current VMCS is the one that will run its guest.
    /// - The roots that it is given are of tables in memory that this hypervisor manages, and stay allocated while a
    ///   VMCS that may be entered has them.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

impl Capabilities {
    /// What this CPU can do. A hypervisor with several takes the [`minimum`](Self::minimum) over all.
    ///
    /// At privilege level 0 only: elsewhere the CPU faults.
    ///
    /// On `x86_64` targets only.
    #[must_use]
    pub fn detect() -> Self {
        Self::from_registers(Registers {
            ept_vpid_cap: if has_ept() { read(IA32_VMX_EPT_VPID_CAP) } else { 0 },
            arch_capabilities: if has_arch_capabilities() { read(IA32_ARCH_CAPABILITIES) } else { 0 },
            physical_bits: cpuid_count(0x8000_0008, 0).eax & 0xff,
        })
    }
}

/// Reads a model-specific register that is there.
fn read(register: u32) -> u64 {
    // SAFETY: reading the registers named in this file changes nothing; without the privilege, the CPU faults.
    unsafe { rdmsr(register) }
}

/// Whether `IA32_VMX_EPT_VPID_CAP` is there (Intel SDM Vol. 3C, appendices A.3 and A.10).
fn has_ept() -> bool {
    // CPUID.1:ECX.VMX; "activate secondary controls" may be 1; "enable EPT" may be 1.
    cpuid_count(1, 0).ecx & 1 << 5 != 0
        && read(IA32_VMX_PROCBASED_CTLS) & 1 << 63 != 0
        && read(IA32_VMX_PROCBASED_CTLS2) & 1 << 33 != 0
}

/// CPUID.(7,0):EDX\[29\].
fn has_arch_capabilities() -> bool {
    cpuid_count(0, 0).eax >= 7 && cpuid_count(7, 0).edx & 1 << 29 != 0
}

/// Executes one VMX instruction with two operands, which may read and write any memory as far as the compiler knows:
/// tables, and what is reached through them, must be stored before and not be read in advance.
macro_rules! vmx {
    ($instruction:literal, $first:expr, $second:expr) => {{
        let (invalid, valid): (u8, u8);
        // SAFETY: of the caller's promise to `Instructions::new`: this is VMX root operation, and these tables are its
        // to manage.
        unsafe {
            asm!(
                $instruction, "setc {invalid}", "setz {valid}",
                in(reg) $first, in(reg) $second, invalid = lateout(reg_byte) invalid, valid = lateout(reg_byte) valid,
                options(nostack),
            );
        }
        match (invalid, valid) {
            (0, 0) => Ok(()),
            (0, _) => Err(VmFail::Valid),
            _ => Err(VmFail::Invalid),
        }
    }};
}

impl Executor for Instructions {
    fn execute(&self, operation: Op) -> Result<(), VmFail> {
        match operation {
            Op::Invept(Invept::Single, eptp) => invept(1, eptp),
            Op::Invept(Invept::All, eptp) => invept(2, eptp),
            Op::InvvpidAll => {
                let descriptor = [0_u64; 2];
                vmx!("invvpid {}, [{}]", 2_u64, &raw const descriptor)
            }
            Op::SetEptp(eptp) => vmx!("vmwrite {}, {}", EPT_POINTER, eptp),
            Op::Clflush(address) => {
                // SAFETY: the caller's bytes; flushing a line changes no memory's contents.
                unsafe { asm!("clflush [{}]", in(reg) address, options(nostack, preserves_flags)) };
                Ok(())
            }
            Op::Mfence => {
                // SAFETY: every CPU with VMX has it.
                unsafe { asm!("mfence", options(nostack, preserves_flags)) };
                Ok(())
            }
        }
    }
}

/// INVEPT, with its descriptor: EPTP, then zeros.
fn invept(kind: u64, eptp: u64) -> Result<(), VmFail> {
    let descriptor = [eptp, 0_u64];
    vmx!("invept {}, [{}]", kind, &raw const descriptor)
}
