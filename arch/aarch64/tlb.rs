//! The sequences of barriers and TLB invalidations that stage 2 needs, as operations for an [`Executor`].
//!
//! Arm DDI 0487, edition K.a: D8.16 "TLB maintenance", B2.6 "Barriers", D7.5 "Cache maintenance"; operands in C5.5.

use core::ptr::NonNull;

use super::{Capabilities, Domain, Errata, Executor, Features, HCR_BITS, Kind, Op, Root, Stage1, Tlbi, operand};
use crate::{
    addr::GuestPhysAddr,
    cpu_id::CpuId,
    invalidate::{Content, Invalidate, Reach, Scope, Unreachable},
};

/// The most operations by address that one invalidation sends.
///
/// Each is a message to every CPU, and the stage-1 invalidation behind them drops every combined entry of the guest
/// anyway: where there would be more, the messages cost more than refilling the TLBs, and the whole VMID goes.
const MOST_OPERATIONS: usize = 64;

/// `HCR_EL2.TGE` (D23.2): with E2H, EL1 operations reach the host's own translations.
pub(super) const HCR_TGE: u64 = 1 << 27;
/// `HCR_EL2.E2H` (D23.2): the hypervisor is a host with applications.
pub(super) const HCR_E2H: u64 = 1 << 34;
/// `TCR_EL1.EPD0` and `EPD1` (D23.2): a TLB miss is a fault, not a walk.
const TCR_NO_WALKS: u64 = 1 << 7 | 1 << 23;
/// `SCTLR_EL1.M` (D23.2): stage 1 is on. Off, it would translate without a walk, whatever `TCR_EL1` says.
const SCTLR_MMU: u64 = 1 << 0;

/// Invalidates the translations of stage-2 tables on `AArch64`: everywhere, by the hardware's broadcast.
///
/// Called with interrupts on or off; they are masked from the look at `VTTBR_EL2` to the last barrier, so that no
/// handler changes the VMID in between.
///
/// # Example
/// ```
/// use stage2::{aarch64::{Capabilities, IdRegisters, Tlb}, invalidate::{Invalidate, Reach}};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Idle;
///
/// // On hardware: `Capabilities::detect()`, and `Instructions` in the place of `Idle`, which carries nothing out.
/// let capabilities = Capabilities::from_registers(IdRegisters { mmfr0: 0x5, ..IdRegisters::default() });
/// let tlb = Tlb::new(capabilities, Idle);
/// assert_eq!(tlb.reach(), Reach::Everywhere);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tlb<E> {
    capabilities: Capabilities,
    executor: E,
}

impl<E: Executor> Tlb<E> {
    /// For CPUs that all have `capabilities`, which are those that the space's format was made from.
    pub const fn new(capabilities: Capabilities, executor: E) -> Self {
        Self { capabilities, executor }
    }

    /// What carries the operations out.
    pub const fn executor(&self) -> &E {
        &self.executor
    }

    fn barrier(&self, domain: Domain, kind: Kind) {
        self.executor.execute(Op::Dsb(domain, kind));
    }

    fn synchronize_context(&self) {
        self.executor.execute(Op::Isb);
    }

    /// Forgets by `stage2`, then what was combined from stage 1 and what `stage2` forgot (H1).
    ///
    /// Stage 2 first, and complete: a walk in between could else make a combined entry of a stale one.
    fn both_stages(&self, domain: Domain, stage2: impl FnOnce(), stage1: Tlbi) {
        stage2();
        self.barrier(domain, Kind::All);
        self.complete(domain, stage1);
    }

    /// The last invalidation of a sequence, behind which no CPU of the domain uses what was forgotten.
    fn complete(&self, domain: Domain, last: Tlbi) {
        let broadcast = domain == Domain::InnerShareable;
        let twice = broadcast && self.capabilities.errata.contains(Errata::INCOMPLETE_BROADCAST);
        for _ in 0..if twice { 2 } else { 1 } {
            self.executor.execute(Op::Tlbi(last, 0));
            self.barrier(domain, Kind::All);
        }
    }

    /// Runs `operations` with the root's VMID current, with the barriers before and after (H1, H2).
    ///
    /// A CPU that never ran the space may count fewer bits of its VMID (`VTCR_EL2.VS`), and would take it for another.
    ///
    /// `entries` is the barrier that makes the tables' new entries visible to the walkers before the operations make
    /// them walk, where the VMID is current already.
    fn in_context(&self, root: Root, entries: (Domain, Kind), operations: &mut dyn FnMut()) {
        let interrupts = self.executor.mask_interrupts();
        let (current, control) = (self.executor.vttbr(), self.executor.vtcr());
        let hcr = self.executor.hcr();
        let host = hcr & HCR_E2H != 0 && hcr & HCR_TGE != 0;
        let foreign = vmid(current) != vmid(root.vttbr) || control != root.vtcr;
        if foreign {
            // Walks of the current VMID that are in flight are over before its tables are replaced under them. A
            // barrier for stores would not wait for them.
            self.barrier(Domain::InnerShareable, Kind::All);
        } else {
            self.barrier(entries.0, entries.1);
        }
        let stage1 = (foreign || host).then(|| self.stop_walks()).flatten();
        if control != root.vtcr {
            self.executor.execute(Op::SetVtcr(root.vtcr));
        }
        if foreign {
            self.executor.execute(Op::SetVttbr(root.vttbr));
        }
        if host {
            self.executor.execute(Op::ChangeHcr(HCR_TGE, 0));
        }
        if foreign || host {
            self.synchronize_context();
        }
        operations();
        if foreign {
            self.executor.execute(Op::SetVttbr(current));
        }
        if control != root.vtcr {
            self.executor.execute(Op::SetVtcr(control));
        }
        if host {
            self.executor.execute(Op::ChangeHcr(0, HCR_TGE));
        }
        if let Some(before) = stage1 {
            self.resume_walks(before);
        }
        self.synchronize_context();
        self.executor.restore_interrupts(interrupts);
    }

    /// On CPUs that mix one guest's stage 1 with another's stage 2, lets every stage-1 translation fail without a
    /// walk. What to restore.
    fn stop_walks(&self) -> Option<Stage1> {
        if !self.capabilities.errata.contains(Errata::SPECULATIVE_TRANSLATION) {
            return None;
        }
        let before = self.executor.stage1();
        self.executor.execute(Op::SetTcrEl1(before.tcr | TCR_NO_WALKS));
        // With the MMU off, turning it on first would walk by the guest's unfinished registers.
        self.synchronize_context();
        self.executor.execute(Op::SetSctlrEl1(before.sctlr | SCTLR_MMU));
        self.synchronize_context();
        Some(before)
    }

    /// Undoes [`stop_walks`](Self::stop_walks), with the VMID in its place before the first walk.
    fn resume_walks(&self, before: Stage1) {
        self.synchronize_context();
        self.executor.execute(Op::SetSctlrEl1(before.sctlr));
        self.synchronize_context();
        self.executor.execute(Op::SetTcrEl1(before.tcr));
    }

    /// Cleans and invalidates to where uncached accesses and other masters see it.
    fn clean_to_coherency(&self, bytes: NonNull<u8>, len: usize) {
        self.each_line(bytes, len, Op::DcCivac);
        self.barrier(Domain::System, Kind::All);
    }

    fn each_line(&self, bytes: NonNull<u8>, len: usize, operation: impl Fn(u64) -> Op) {
        let line = self.capabilities.data_line as u64;
        let start = bytes.as_ptr().addr() as u64;
        let end = start + len as u64;
        let first = start & !(line - 1);
        for address in (first..end).step_by(line as usize) {
            self.executor.execute(operation(address));
        }
    }

    fn synchronize_code(&self, bytes: NonNull<u8>, len: usize, cleaned: bool) {
        let features = self.capabilities.features;
        if !cleaned && !features.contains(Features::IDC) {
            self.each_line(bytes, len, Op::DcCvau);
        }
        // The code is where fetches look, before what they cached of the old is dropped.
        self.barrier(Domain::InnerShareable, Kind::All);
        if !features.contains(Features::DIC) {
            self.executor.execute(Op::IcIalluis);
            self.barrier(Domain::InnerShareable, Kind::All);
        }
        self.synchronize_context();
    }
}

impl<E: Executor> Invalidate<Root> for Tlb<E> {
    fn reach(&self) -> Reach {
        Reach::Everywhere
    }

    fn publish(&self) {
        // Orders the entries' stores before walks for whatever comes next here (D8.2, "Ordering of table walks").
        self.barrier(Domain::InnerShareable, Kind::Stores);
    }

    fn invalidate(&self, root: Root, scope: Scope) {
        let domain = Domain::InnerShareable;
        if scope.range.is_empty() {
            return;
        }
        let Some(mut operations) = operand::operations(scope, self.capabilities.features, MOST_OPERATIONS) else {
            return self.invalidate_all(root);
        };
        let mut stage2 =
            || operations.by_ref().for_each(|(tlbi, operand)| self.executor.execute(Op::Tlbi(tlbi, operand)));
        self.in_context(root, (domain, Kind::Stores), &mut || self.both_stages(domain, &mut stage2, Tlbi::Vmalle1is));
    }

    fn invalidate_all(&self, root: Root) {
        self.in_context(root, (Domain::InnerShareable, Kind::Stores), &mut || {
            self.complete(Domain::InnerShareable, Tlbi::Vmalls12e1is);
        });
    }

    fn invalidate_denial(&self, root: Root, gpa: GuestPhysAddr) {
        let domain = Domain::NonShareable;
        let stage2 = || self.executor.execute(Op::Tlbi(Tlbi::Ipas2e1, operand::page(gpa)));
        self.in_context(root, (domain, Kind::All), &mut || self.both_stages(domain, stage2, Tlbi::Vmalle1));
    }

    fn switch_vcpu(&self, root: Root) {
        self.in_context(root, (Domain::NonShareable, Kind::All), &mut || {
            self.complete(Domain::NonShareable, Tlbi::Vmalle1);
        });
    }

    fn interrupt(&self, _cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        // The broadcast reached them.
        Ok(())
    }

    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content) {
        let forced = self.capabilities.features.contains(Features::FORCED_WRITE_BACK);
        let cleaned = !forced || content == Content::Uncached;
        if cleaned {
            self.clean_to_coherency(bytes, len);
        }
        if content != Content::Data {
            self.synchronize_code(bytes, len, cleaned);
        }
    }

    fn synchronizes(&self, content: Content) -> bool {
        content != Content::Data || !self.capabilities.features.contains(Features::FORCED_WRITE_BACK)
    }

    fn activate(&self, root: Root) {
        // Walks in flight by the old registers are over before the registers change (H2).
        self.barrier(Domain::InnerShareable, Kind::All);
        self.executor.execute(Op::SetVtcr(root.vtcr));
        self.executor.execute(Op::SetVttbr(root.vttbr));
        self.executor.execute(Op::ChangeHcr(HCR_BITS & !root.hcr, root.hcr));
        self.synchronize_context();
    }
}

/// The VMID in a value of `VTTBR_EL2`.
const fn vmid(vttbr: u64) -> u64 {
    vttbr >> 48
}

#[cfg(test)]
#[path = "tests/tlb.rs"]
mod tests;
