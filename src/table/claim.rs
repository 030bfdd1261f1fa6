//! Changing one entry on one of many CPUs that hold the lock shared: claimed through `Busy`, then made (H26).
#![allow(unsafe_code, reason = "copies frames")]

use memory_addr::{PAGE_SIZE_4K, PhysAddr};

use super::{context::Context, entry::Slot};
use crate::{
    format::{Entry, Format, Leaf},
    frame::{self, Frames, Owned},
    invalidate::{Changed, Content, Invalidate, Scope, Unreachable},
    platform::Platform,
};

/// A page's entry that is this CPU's to change: to all others it is busy, and they try again.
///
/// Dropped, the entry is as it was.
#[must_use]
pub(crate) struct Claim<'t, P: Platform> {
    context: &'t Context<P>,
    slot: Slot<'t>,
    old: u64,
}

impl<'t, P: Platform> Claim<'t, P> {
    /// Claims an entry, if it is absent or a frozen region's leaf.
    pub(super) fn take(context: &'t Context<P>, slot: Slot<'t>) -> Option<Self> {
        slot.claim(&context.format).map(|old| Self { context, slot, old })
    }

    /// Makes every CPU forget the leaf that stood here; of an absent entry nothing is cached.
    ///
    /// # Errors
    /// A CPU could not be told. The claim is to be dropped: the same translation again is no conflict with what a CPU may
    /// still hold.
    pub(crate) fn invalidate(&self) -> Result<(), Unreachable> {
        let Slot { level, start, .. } = self.slot;
        match self.context.format.decode(level, self.old) {
            Entry::Leaf(_) => {
                let range = Context::<P>::entry_range(level, start);
                self.context.shootdown.invalidate(Scope { range, entries: Changed::Leaves(level) })
            }
            _ => Ok(()),
        }
    }

    /// Ends the claim with a leaf. Release: its memory is complete before a walker can reach it.
    pub(crate) fn make(self, leaf: &Leaf) {
        self.slot.store(self.context.format.leaf(self.slot.level, leaf));
        core::mem::forget(self);
    }
}

impl<P: Platform> Drop for Claim<'_, P> {
    fn drop(&mut self) {
        self.slot.store(self.old);
    }
}

impl<P: Platform> Context<P> {
    /// Makes a page of the space's own a copy of a frozen one, or zeros without one, and brings its caches in step for
    /// `leaf`, which will map it.
    pub(crate) fn fill_page(&self, from: Option<PhysAddr>, to: &Owned<'_, P::Frames>, leaf: &Leaf) {
        match from {
            Some(from) => {
                // What was written past the caches is what is copied; no CPU fetches instructions from here.
                self.operations().synchronize(self.frames.pointer(from), PAGE_SIZE_4K, Content::Data);
                // SAFETY: a frozen page: it is written no more, and the caller keeps its frame. The target is ours alone.
                unsafe { self.copy_frames(from, to.at(), 1) };
            }
            None => frame::zero(&self.frames, to.at(), 1),
        }
        self.synchronize_page(leaf);
    }

    /// Brings the caches in step for a page of memory that `leaf` is about to map.
    pub(crate) fn synchronize_page(&self, leaf: &Leaf) {
        self.synchronize(leaf, PAGE_SIZE_4K);
    }
}
