//! Regions that are at their end: freed in steps.

use super::{Lease, Region, View};
use crate::counted::Counted;

/// Regions without a mapping and without a handle.
///
/// Collecting them allocates nothing: the book of each keeps the next. Dropped, they are freed at once.
#[derive(Default)]
pub(crate) struct RemovedRegions(Option<Counted<dyn Region>>);

impl RemovedRegions {
    /// Lets go of a mapping, and takes over its region if nothing else has it.
    pub(crate) fn add(&mut self, view: View) {
        if let Some(region) = view.release() {
            self.push(region);
        }
    }

    /// Ends a permission to write, and takes over its region if nothing else has it.
    pub(crate) fn end(&mut self, lease: Lease) {
        if let Some(region) = lease.end() {
            self.push(region);
        }
    }

    /// Takes over a region that nothing else has.
    pub(super) fn push(&mut self, mut region: Counted<dyn Region>) {
        if let Some(sole) = region.sole() {
            sole.book_mut().next = self.0.take();
            self.0 = Some(region);
        }
    }

    /// Takes over all regions of another list, in as many steps as there are.
    pub(crate) fn take_over(&mut self, other: &mut Self) {
        if self.is_empty() {
            core::mem::swap(self, other);
        }
        while let Some(mut region) = other.0.take() {
            other.0 = region.sole().and_then(|sole| sole.book_mut().next.take());
            self.push(region);
        }
    }

    /// Frees frames until `budget`, in frames of 4 KiB, is used up.
    pub(crate) fn step(&mut self, budget: &mut usize) {
        while *budget > 0
            && let Some(mut region) = self.0.take()
        {
            let Some(sole) = region.sole() else { continue };
            if sole.free_some(budget) {
                self.0 = sole.book_mut().next.take();
                *budget = budget.saturating_sub(1);
            } else {
                self.0 = Some(region);
            }
        }
    }

    /// Whether all is free.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Drop for RemovedRegions {
    fn drop(&mut self) {
        while !self.is_empty() {
            self.step(&mut { usize::MAX });
        }
    }
}
