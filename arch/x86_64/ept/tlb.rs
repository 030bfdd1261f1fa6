//! The invalidations that EPT needs, as operations for an [`Executor`], and the way to the CPUs that they do not reach.
//!
//! Intel SDM Vol. 3C (edition of December 2024), section 29.4 "Caching translation information": 29.4.3.1 for what
//! invalidates, 29.4.3.3 for the use of INVEPT. INVLPG, MOV to CR3 and VM entries leave guest-physical translations
//! alone.

use core::ptr::NonNull;

use super::{Capabilities, Executor, Interrupt, Invept, Op, Root, VmFail};
use crate::{
    addr::GuestPhysAddr,
    arch::x86_64::lines::lines,
    cpu_id::CpuId,
    invalidate::{Content, Invalidate, Reach, Scope, Unreachable},
};

/// Invalidates the translations of EPT tables: on this CPU by INVEPT, on others by interrupting them.
///
/// Combined translations of a guest's linear addresses go with the guest-physical ones. Each virtual CPU has a VPID of
/// its own, or none: either way two of one space that take turns on a CPU need no invalidation.
///
/// # Example
/// ```
/// use stage2::{
///     CpuId,
///     invalidate::{Invalidate, Reach, Unreachable},
///     x86_64::ept::{Capabilities, Executor, Op, Registers, Tlb, VmFail},
/// };
///
/// /// On hardware: `Instructions`.
/// struct Idle;
/// impl Executor for Idle {
///     fn execute(&self, _: Op) -> Result<(), VmFail> {
///         Ok(())
///     }
/// }
///
/// let skylake = Registers { ept_vpid_cap: 0xf01_0673_4141, arch_capabilities: 0x40, physical_bits: 46 };
/// let send_nmi = |cpus: &mut dyn Iterator<Item = CpuId>| -> Result<(), Unreachable> {
///     for _cpu in cpus { /* the local APIC's ICR */ }
///     Ok(())
/// };
/// let tlb = Tlb::new(Capabilities::from_registers(skylake), Idle, send_nmi);
/// assert_eq!(tlb.reach(), Reach::ThisCpu);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tlb<E, H> {
    capabilities: Capabilities,
    executor: E,
    hook: H,
}

impl<E: Executor, H: Interrupt> Tlb<E, H> {
    /// For CPUs that all have `capabilities`, which are those that the space's format was made from.
    pub const fn new(capabilities: Capabilities, executor: E, hook: H) -> Self {
        Self { capabilities, executor, hook }
    }

    /// What carries the operations out.
    pub const fn executor(&self) -> &E {
        &self.executor
    }

    /// Forgets on this CPU what was cached of the root's EP4TA, or everything where that is all there is.
    fn forget(&self, root: Root) -> Result<(), VmFail> {
        match self.capabilities.invept() {
            Some(Invept::Single) => self.executor.execute(Op::Invept(Invept::Single, root.eptp)),
            // `Ept::new` refuses CPUs without INVEPT; on such a CPU the instruction would fail.
            Some(Invept::All) | None => self.executor.execute(Op::Invept(Invept::All, 0)),
        }
    }

    /// Forgets on this CPU, and says so in the log where that fails.
    fn forget_or_log(&self, root: Root) {
        if let Err(failure) = self.forget(root) {
            log::error!("INVEPT of {root:x?}: {failure}");
        }
    }
}

/// Forgets whatever a CPU cached before this hypervisor had it, of guests and of former hypervisors: once on each CPU,
/// after VMXON. Translations survive VMXOFF ([H16](crate::hardware#h16)).
///
/// # Errors
/// [`VmFail`]: the CPU refused, and no guest may run there.
pub fn forget_everything(capabilities: &Capabilities, executor: &impl Executor) -> Result<(), VmFail> {
    use super::Features;
    executor.execute(Op::Invept(Invept::All, 0))?;
    if capabilities.features.contains(Features::INVVPID | Features::INVVPID_ALL) {
        executor.execute(Op::InvvpidAll)?;
    }
    Ok(())
}

impl<E: Executor, H: Interrupt> Invalidate<Root> for Tlb<E, H> {
    fn reach(&self) -> Reach {
        Reach::ThisCpu
    }

    fn publish(&self) {
        // Stores are seen in their order, by walkers too; an entry that becomes present needs no more (29.4.3.3).
    }

    fn invalidate(&self, root: Root, _scope: Scope) {
        self.forget_or_log(root);
    }

    fn invalidate_all(&self, root: Root) {
        self.forget_or_log(root);
    }

    fn flush(&self, root: Root, cpu: CpuId) -> Result<(), Unreachable> {
        // No log: this runs in handlers of NMIs, which may have interrupted one (H21).
        self.forget(root).map_err(|_| Unreachable(cpu))
    }

    fn invalidate_denial(&self, _root: Root, _gpa: GuestPhysAddr) {
        // The violation dropped it (29.4.3.1).
    }

    fn switch_vcpu(&self, _root: Root) {
        // VPIDs tell them apart; without them VM entry forgets (29.4.3.1).
    }

    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        self.hook.interrupt(cpus)
    }

    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content) {
        // Caches are coherent, those of instructions too; write-combining accesses alone pass them by.
        if content != Content::Uncached {
            return;
        }
        // The lines are in memory before whatever follows: CLFLUSH is ordered by MFENCE alone.
        for operation in lines(bytes, len).map(Op::Clflush).chain([Op::Mfence]) {
            if let Err(failure) = self.executor.execute(operation) {
                log::error!("{operation:x?}: {failure}");
            }
        }
    }

    fn synchronizes(&self, content: Content) -> bool {
        content == Content::Uncached
    }

    fn activate(&self, root: Root) {
        if let Err(failure) = self.executor.execute(Op::SetEptp(root.eptp)) {
            log::error!("VMWRITE of {root:x?}: {failure}");
        }
    }
}

#[cfg(test)]
#[path = "tests/tlb.rs"]
mod tests;
