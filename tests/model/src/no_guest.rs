//! Invalidations of a machine on which no guest runs.

use std::ptr::NonNull;

use stage2::{
    CpuId, GuestPhysAddr,
    invalidate::{Content, Invalidate, Reach, Scope, Unreachable},
};

/// No guest runs, so that there is nothing to invalidate: for tests of what a space does besides.
#[derive(Clone, Copy)]
pub struct NoGuest;

impl<R> Invalidate<R> for NoGuest {
    fn reach(&self) -> Reach {
        Reach::Everywhere
    }

    fn publish(&self) {}

    fn invalidate(&self, _: R, _: Scope) {}

    fn invalidate_all(&self, _: R) {}

    fn invalidate_denial(&self, _: R, _: GuestPhysAddr) {}

    fn switch_vcpu(&self, _: R) {}

    fn interrupt(&self, _: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        Ok(())
    }

    fn synchronize(&self, _: NonNull<u8>, _: usize, _: Content) {}

    fn activate(&self, _: R) {}
}
