//! Changing one entry on one of many CPUs that hold the lock shared: claimed through `Busy`, then made (H26).
#![allow(unsafe_code, reason = "copies frames")]

use memory_addr::{PAGE_SIZE_4K, PhysAddr};

use super::{Builder, Table, node::Context, walk::Slot};
use crate::{
    Changed, Content, Entry, Format, Frames, GuestPhysAddr, Invalidate, Leaf, Level, Owner, Scope, Unreachable,
    account::Exhausted,
    frame::{self, Owned},
    shootdown::Shootdown,
};

/// A page's entry that is this CPU's to change: to all others it is busy, and they try again.
///
/// Dropped, it is what it was.
#[must_use]
pub(crate) struct Claim<'t, F: Format, M: Frames> {
    context: &'t Context<F, M>,
    slot: Slot<'t>,
    old: u64,
}

impl<F: Format, M: Frames> Table<F, M> {
    /// Claims the entry of the page at `gpa`, and makes the tables that lead to it, if nothing is there or a frozen
    /// region's page.
    ///
    /// # Errors
    /// [`Exhausted`] if a table could not be had; those that could stay, they are part of the path.
    pub(crate) fn claim(&self, gpa: GuestPhysAddr) -> Result<Option<Claim<'_, F, M>>, Exhausted> {
        let context = &self.context;
        Ok(self.path(gpa, Level::PAGE)?.and_then(|slot| context.claim(slot)))
    }
}

impl<F: Format, M: Frames> Context<F, M> {
    /// Claims an entry, if nothing is there or a frozen region's page.
    pub(super) fn claim<'t>(&'t self, slot: Slot<'t>) -> Option<Claim<'t, F, M>> {
        let mut old = slot.load();
        while let Entry::Absent | Entry::Leaf(Leaf { owner: Owner::Frozen, .. }) = self.format.decode(slot.level, old) {
            match slot.replace(old, self.format.busy()) {
                Ok(()) => return Some(Claim { context: self, slot, old }),
                // Hardware may have noted an access; what else it can be by now ends the loop.
                Err(now) => old = now,
            }
        }
        None
    }
}

impl<F: Format, M: Frames> Claim<'_, F, M> {
    /// Makes every CPU forget what stood here; nothing is cached of nothing.
    ///
    /// # Errors
    /// A CPU could not be told. The claim is to be dropped: the same translation again is no conflict with what a CPU may
    /// still hold.
    pub(crate) fn invalidate<I: Invalidate<F::Root>>(
        &self,
        shootdown: &Shootdown<I, F::Root>,
    ) -> Result<(), Unreachable> {
        match self.context.format.decode(self.slot.level, self.old) {
            Entry::Leaf(_) => {
                shootdown.invalidate(Scope { range: self.slot.span, entries: Changed::Leaves(self.slot.level) })
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

impl<F: Format, M: Frames> Drop for Claim<'_, F, M> {
    fn drop(&mut self) {
        self.slot.store(self.old);
    }
}

impl<F: Format, M: Frames> Builder<F, M> {
    /// Makes a page of the space's own a copy of a frozen one, or zeros of it, and brings its caches in step for `leaf`,
    /// which will map it.
    pub(crate) fn fill_page<I: Invalidate<F::Root>>(
        &self,
        operations: &I,
        from: Option<PhysAddr>,
        to: &Owned<'_, M>,
        leaf: &Leaf,
    ) {
        let context = &self.0;
        match from {
            Some(from) => {
                let source = context.frames.pointer(from);
                // What was written past the caches is what is copied; nobody fetches from here.
                operations.synchronize(source, PAGE_SIZE_4K, Content::Data);
                // SAFETY: a frozen page: nobody writes it any more, and the caller keeps its frame. The target is ours
                // alone. Both are whole pages of allocated memory.
                unsafe { source.copy_to_nonoverlapping(context.frames.pointer(to.at()), PAGE_SIZE_4K) };
            }
            None => frame::zero(&context.frames, to.at(), 1),
        }
        self.synchronize_page(operations, leaf);
    }

    /// Brings the caches in step for a page of memory that `leaf` is about to map.
    pub(crate) fn synchronize_page<I: Invalidate<F::Root>>(&self, operations: &I, leaf: &Leaf) {
        self.0.synchronize(operations, leaf, PAGE_SIZE_4K);
    }
}
