//! A handle that goes in steps.

use core::{mem::ManuallyDrop, ops::Range};

use super::{Region, RemovedRegions, SharedRegion};
use crate::counted::Counted;

/// What a handle that went has left to be freed.
pub(crate) struct Released {
    /// The region while others may have it, and the pages that are still to be looked at.
    part: Option<(Counted<dyn Region>, Range<usize>)>,
    /// The region once nothing else has it.
    whole: RemovedRegions,
}

impl SharedRegion {
    /// Ends the handle, and frees nothing yet.
    pub(crate) fn end(self) -> Released {
        let region = self.into_region();
        let pages = region.end_handle();
        let mut released = Released { part: Some((region, pages)), whole: RemovedRegions::default() };
        released.settle();
        released
    }

    /// The region, without an end of the handle.
    fn into_region(self) -> Counted<dyn Region> {
        let handle = ManuallyDrop::new(self);
        // SAFETY: the handle is neither dropped nor used any more, so that its reference has one owner: the one that is read.
        #[allow(unsafe_code, reason = "moves out of what ends when it is dropped")]
        unsafe {
            core::ptr::read(&raw const handle.0)
        }
    }
}

impl Released {
    /// Frees frames until `budget`, in frames of 4 KiB, is used up. Called without any lock.
    pub(crate) fn step(&mut self, budget: &mut usize) {
        if let Some((region, pages)) = &mut self.part {
            region.free_unreachable(pages, budget);
        }
        self.settle();
        self.whole.step(budget);
    }

    /// Lets go of a region that was looked through. Its last mapping may have gone meanwhile.
    fn settle(&mut self) {
        if let Some((region, _)) = self.part.take_if(|part| part.1.is_empty())
            && let Some(region) = region.release()
        {
            self.whole.push(region);
        }
    }

    /// Whether all is free.
    pub(crate) fn is_empty(&self) -> bool {
        self.part.is_none() && self.whole.is_empty()
    }
}
