//! The way from one CPU to another, which the hypervisor has.

use crate::{cpu_id::CpuId, invalidate::Unreachable};

/// The hypervisor's way to interrupt its other CPUs.
///
/// A closure will do: `|cpus: &mut dyn Iterator<Item = CpuId>| -> Result<(), Unreachable> { … }`.
pub trait Interrupt: Send + Sync + 'static {
    /// Has every CPU of `cpus` leave the guest soon, and run [`GuestSpace::flush`](crate::GuestSpace::flush) of the
    /// space that it runs before it enters again: by an NMI or an interrupt that exits. Need not wait.
    ///
    /// Called with the space's lock held: it must not call into the space, but for `flush`.
    ///
    /// # Errors
    /// [`Unreachable`] with the CPU that cannot be told; nothing is freed then.
    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable>;
}

impl<F> Interrupt for F
where
    F: Fn(&mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> + Send + Sync + 'static,
{
    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        self(cpus)
    }
}
