//! The instructions that the invalidation sequences are made of, as values (H28).
//!
//! [`Tlb`](super::Tlb) emits them to an [`Executor`]: on hardware one instruction an arm, in tests a model of the TLB.

/// Something that carries out one operation after another, on the CPU that calls it.
pub trait Executor: Send + Sync + 'static {
    /// Carries out one operation.
    ///
    /// # Errors
    /// [`VmFail`]: the CPU refused, and did nothing.
    fn execute(&self, operation: Op) -> Result<(), VmFail>;
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `INVEPT`, with the EPTP of its descriptor (0 where it takes none).
    Invept(Invept, u64),
    /// `INVVPID` of all VPIDs.
    InvvpidAll,
    /// `VMWRITE` of the EPT pointer of the current VMCS.
    SetEptp(u64),
    /// `CLFLUSH` of the line at a virtual address.
    Clflush(u64),
    /// `MFENCE`.
    Mfence,
}

/// What an `INVEPT` is about (Intel SDM Vol. 3C, chapter 31, "INVEPT").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invept {
    /// Type 1: the translations of one EPTP, by its bits 51:12.
    Single,
    /// Type 2: those of all EPTPs.
    All,
}

/// How a VMX instruction fails (Intel SDM Vol. 3C, section 31.2, "Conventions").
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmFail {
    /// `VMfailInvalid`: there is no current VMCS to say why.
    #[error("VMfailInvalid")]
    Invalid,
    /// `VMfailValid`: the current VMCS says why, in its field "VM-instruction error".
    #[error("VMfailValid")]
    Valid,
}
