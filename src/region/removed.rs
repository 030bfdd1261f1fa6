//! Regions that are at their end: freed in steps.

use super::{Region, View};
use crate::counted::Counted;

/// Regions without a mapping and without a handle.
///
/// Collecting them allocates nothing: the book of each keeps the next. Dropped, they are freed at once.
#[derive(Default)]
pub(crate) struct RemovedRegions(Option<Counted<dyn Region>>);

impl RemovedRegions {
    /// Lets go of a mapping, and takes over its region if nothing else has it.
    pub(crate) fn add(&mut self, view: View) {
        if let Some(mut region) = view.release()
            && let Some(sole) = region.sole()
        {
            sole.book_mut().next = self.0.take();
            self.0 = Some(region);
        }
    }

    /// Frees frames until `budget`, in frames of 4 KiB, is used up. A region that stood behind one that goes may go too.
    pub(crate) fn step(&mut self, budget: &mut usize) {
        while *budget > 0
            && let Some(mut region) = self.0.take()
        {
            let Some(sole) = region.sole() else { continue };
            sole.free_some(budget);
            *budget = budget.saturating_sub(1);
            let book = sole.book_mut();
            let (left, base) = (book.has_chunks(), book.pop_base());
            if left || base.is_some() {
                // It stays on top until it is empty.
                self.0 = Some(region);
            } else {
                self.0 = book.next.take();
            }
            if let Some(base) = base {
                self.add(base.view);
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
