//! What the invalidation sequences are made of, as values (H28).
//!
//! [`Tlb`](super::Tlb) emits them to an [`Executor`]: on hardware instructions and fields of a VMCB, in tests a model of
//! the TLB.

use super::{Asid, Root};

/// Something that carries out one operation after another, on the CPU that calls it.
pub trait Executor: Send + Sync + 'static {
    /// Carries out one operation.
    fn execute(&self, operation: Op);
}

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Before this CPU runs a guest with this ASID again, it forgets all translations of it: [`Owed`](super::Owed).
    ///
    /// No instruction does it now (`INVLPGA` leaves guest-physical translations alone), and none need: translations of
    /// a guest's ASID are used, and tables walked, in the guest alone (APM Vol. 2, 15.16).
    Flush(Asid),
    /// nCR3 and the ASID of the VMCB that this CPU runs next.
    SetRoot(Root),
    /// `CLFLUSH` of the line at a virtual address.
    Clflush(u64),
    /// `MFENCE`.
    Mfence,
}
