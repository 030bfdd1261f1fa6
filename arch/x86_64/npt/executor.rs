//! The instructions themselves, and the way to the fields of the hypervisor's VMCB.
#![allow(unsafe_code, reason = "instructions")]

// Where only the documentation is built, the target's own crates may be missing: bodies alone use them.
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::{_mm_clflush, _mm_mfence};
#[cfg(target_arch = "x86_64")]
use x86::cpuid::native_cpuid::cpuid_count;

use super::{Asid, Capabilities, Executor, Op, Registers, Root};

/// What the hypervisor puts into the VMCB that the CPU that calls this runs next.
///
/// On `x86_64` targets only.
///
/// # Safety
/// - No guest runs on this CPU with the ASID given to [`owe`](Self::owe) before `VMRUN` forgot its translations.
/// - A VMCB that runs the space which was activated last on this CPU has the root given to
///   [`set_root`](Self::set_root).
pub unsafe trait NextRun: Send + Sync + 'static {
    /// Adds to what this CPU owes: [`Owed::add`](super::Owed::add) of the one that is this CPU's.
    fn owe(&self, asid: Asid);

    /// nCR3 and the ASID.
    fn set_root(&self, root: Root);
}

/// The CPU that runs this, as a host of guests, with `N` as the way to its VMCB.
///
/// On `x86_64` targets only.
#[derive(Clone, Copy, Debug)]
pub struct Instructions<N>(N);

impl<N: NextRun> Instructions<N> {
    /// Everything in this file, for a hypervisor.
    ///
    /// # Safety
    /// - It is used at privilege level 0 only, on CPUs that have what the formats' capabilities say.
    /// - While a guest runs, the hypervisor is in long mode with tables of four levels, its EFER.NXE is set, and its PAT
    ///   is the one that the formats were told: nested tables are walked in the hypervisor's own mode.
    /// - The roots that it is given are of tables in memory that this hypervisor manages, and stay allocated while a
    ///   VMCB that may be run has them.
    #[must_use]
    pub const unsafe fn new(next: N) -> Self {
        Self(next)
    }
}

impl Capabilities {
    /// What this CPU can do. A hypervisor with several takes the [`minimum`](Self::minimum) over all.
    ///
    /// On `x86_64` targets only.
    #[must_use]
    pub fn detect() -> Self {
        let last = cpuid_count(0x8000_0000, 0).eax;
        let (features, sizes, svm) =
            (cpuid_count(0x8000_0001, 0), cpuid_count(0x8000_0008, 0), cpuid_count(0x8000_000a, 0));
        // CPUID answers anything beyond the last function, and Intel's CPUs have no such one.
        let there = |function, value| if function <= last { value } else { 0 };
        Self::from_registers(Registers {
            extended_ecx: there(0x8000_0001, features.ecx),
            extended_edx: there(0x8000_0001, features.edx),
            address_sizes: there(0x8000_0008, sizes.eax),
            asids: there(0x8000_000a, svm.ebx),
            svm_edx: there(0x8000_000a, svm.edx),
        })
    }
}

impl<N: NextRun> Executor for Instructions<N> {
    fn execute(&self, operation: Op) {
        match operation {
            Op::Flush(asid) => self.0.owe(asid),
            Op::SetRoot(root) => self.0.set_root(root),
            Op::Clflush(address) => {
                // SAFETY: the caller's bytes; flushing a line changes no memory's contents.
                unsafe { _mm_clflush(core::ptr::with_exposed_provenance(address as usize)) }
            }
            // SAFETY: every CPU in long mode has it.
            Op::Mfence => unsafe { _mm_mfence() },
        }
    }
}
