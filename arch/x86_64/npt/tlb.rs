//! The invalidations that NPT needs, as operations for an [`Executor`], and the way to the CPUs that they do not reach.
//!
//! AMD64 APM Vol. 2 (publication 24593, revision 3.42): 15.16 "TLB Control", 15.25.9 for what is cached, 5.5 for when it
//! must go.

use core::ptr::NonNull;

use super::{Executor, Interrupt, Op, Root};
use crate::{
    addr::GuestPhysAddr,
    arch::x86_64::lines::lines,
    cpu_id::CpuId,
    invalidate::{Content, Invalidate, Reach, Scope, Unreachable},
};

/// Invalidates the translations of NPT tables: on this CPU before its next `VMRUN`, on others by interrupting them.
///
/// All that is cached has the space's ASID: guest-physical translations, and those of a guest's linear addresses, which
/// two virtual CPUs of one space have in common.
///
/// # Example
/// ```
/// use stage2::{CpuId, invalidate::{Invalidate, Reach, Unreachable}, x86_64::npt::{Executor, Op, Tlb}};
///
/// /// On hardware: `Instructions`, whose `NextRun` finds what is this CPU's.
/// struct Idle;
/// impl Executor for Idle {
///     fn execute(&self, _: Op) {}
/// }
///
/// let send_nmi = |cpus: &mut dyn Iterator<Item = CpuId>| -> Result<(), Unreachable> {
///     for _cpu in cpus { /* the local APIC's ICR */ }
///     Ok(())
/// };
/// let tlb = Tlb::new(Idle, send_nmi);
/// assert_eq!(tlb.reach(), Reach::ThisCpu);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Tlb<E, H> {
    executor: E,
    hook: H,
}

impl<E: Executor, H: Interrupt> Tlb<E, H> {
    /// By `executor` on this CPU, and by `hook` to the others.
    pub const fn new(executor: E, hook: H) -> Self {
        Self { executor, hook }
    }

    /// What carries the operations out.
    pub const fn executor(&self) -> &E {
        &self.executor
    }

    /// This CPU forgets all of the space before it runs the guest.
    fn forget(&self, root: Root) {
        self.executor.execute(Op::Flush(root.asid));
    }
}

impl<E: Executor, H: Interrupt> Invalidate<Root> for Tlb<E, H> {
    fn reach(&self) -> Reach {
        Reach::ThisCpu
    }

    fn publish(&self) {
        // Stores are seen in their order, by walkers too; an entry that becomes present needs no more (5.5.2).
    }

    fn invalidate(&self, root: Root, _scope: Scope) {
        self.forget(root);
    }

    fn invalidate_all(&self, root: Root) {
        self.forget(root);
    }

    fn flush(&self, root: Root, _cpu: CpuId) -> Result<(), Unreachable> {
        self.forget(root);
        Ok(())
    }

    fn invalidate_denial(&self, _root: Root, _gpa: GuestPhysAddr) {
        // The fault dropped it.
    }

    fn switch_vcpu(&self, root: Root) {
        // Linear addresses of both are translated under one ASID.
        self.forget(root);
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
            self.executor.execute(operation);
        }
    }

    fn synchronizes(&self, content: Content) -> bool {
        content == Content::Uncached
    }

    fn activate(&self, root: Root) {
        self.executor.execute(Op::SetRoot(root));
    }
}

#[cfg(test)]
#[path = "tests/tlb.rs"]
mod tests;
