//! The instructions that the invalidation sequences are made of, as values (H28).
//!
//! [`Tlb`](super::Tlb) emits them to an [`Executor`]: on hardware one instruction an arm, in tests a model of the TLB
//! that decodes the operands itself.

/// Something that carries out one operation after another, on the CPU that calls it.
pub trait Executor: Send + Sync + 'static {
    /// Carries out one operation. Order is program order: barriers are operations of their own.
    fn execute(&self, operation: Op);

    /// `VTTBR_EL2` of this CPU.
    fn vttbr(&self) -> u64;

    /// `VTCR_EL2` of this CPU.
    fn vtcr(&self) -> u64;

    /// `HCR_EL2` of this CPU.
    fn hcr(&self) -> u64;

    /// What controls the guest's own translation on this CPU. Asked for only where an erratum wants it changed.
    fn stage1(&self) -> Stage1;

    /// Masks interrupts on this CPU; what to restore.
    fn mask_interrupts(&self) -> u64;

    /// Restores what [`mask_interrupts`](Executor::mask_interrupts) answered.
    fn restore_interrupts(&self, saved: u64);
}

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// `DSB`.
    Dsb(Domain, Kind),
    /// `ISB`.
    Isb,
    /// `TLBI`, with the value of its register operand (0 where it takes none).
    Tlbi(Tlbi, u64),
    /// `MSR VTTBR_EL2`.
    SetVttbr(u64),
    /// `MSR VTCR_EL2`.
    SetVtcr(u64),
    /// `HCR_EL2`: clear the bits of the first mask and set those of the second, in one write.
    ChangeHcr(u64, u64),
    /// `MSR TCR_EL1`.
    SetTcrEl1(u64),
    /// `MSR SCTLR_EL1`.
    SetSctlrEl1(u64),
    /// `DC CIVAC` of the line at a virtual address: clean and invalidate to the point of coherency.
    DcCivac(u64),
    /// `DC CVAU` of the line at a virtual address: clean to the point of unification.
    DcCvau(u64),
    /// `IC IALLUIS`: all instruction caches of the inner shareable domain.
    IcIalluis,
}

/// The registers that control stage 1 of the guest's translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage1 {
    /// `TCR_EL1`.
    pub tcr: u64,
    /// `SCTLR_EL1`.
    pub sctlr: u64,
}

/// The shareability domain of a barrier: which CPUs' accesses it orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// This CPU.
    NonShareable,
    /// All CPUs of the inner shareable domain.
    InnerShareable,
    /// All CPUs and devices, and memory itself: what uncached accesses see.
    System,
}

/// Which accesses a barrier orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Stores.
    Stores,
    /// All of them.
    All,
}

/// The TLB maintenance operations that stage 2 takes, and the ones it must not be confused with.
///
/// Arm DDI 0487, section C5.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tlbi {
    /// `IPAS2E1IS`: stage 2 by IPA, all levels, inner shareable.
    Ipas2e1is,
    /// `IPAS2LE1IS`: stage 2 by IPA, last-level entries only, inner shareable.
    Ipas2le1is,
    /// `RIPAS2E1IS`: stage 2 by range of IPA.
    Ripas2e1is,
    /// `RIPAS2LE1IS`: stage 2 by range of IPA, last-level entries only.
    Ripas2le1is,
    /// `IPAS2E1`: stage 2 by IPA, this CPU.
    Ipas2e1,
    /// `VMALLE1IS`: stage 1 (and combined) of the current VMID, inner shareable.
    Vmalle1is,
    /// `VMALLE1`: stage 1 (and combined) of the current VMID, this CPU.
    Vmalle1,
    /// `VMALLS12E1IS`: both stages of the current VMID, inner shareable.
    Vmalls12e1is,
    /// `VMALLS12E1`: both stages of the current VMID, this CPU.
    Vmalls12e1,
}
