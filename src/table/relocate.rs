//! Moving a leaf to other frames while the guest runs: break, invalidate, copy, make (H9).
#![allow(unsafe_code, reason = "copies frames")]

use memory_addr::PAGE_SIZE_4K;

use super::Table;
use crate::{
    Changed, Entry, Format, Frames, GuestPhysAddr, Invalidate, Leaf, Level, Scope, Unreachable, frame::Owned,
    shootdown::Shootdown,
};

/// What came of moving a leaf.
#[must_use]
pub(crate) enum Moved<'f, M: Frames> {
    /// The leaf has the new frames; these are the old ones, which nobody reaches any more.
    Done(Owned<'f, M>),
    /// No leaf of that level with frames of the space's own is there; these are the new frames.
    Unfit(Owned<'f, M>),
}

impl<F: Format, M: Frames> Table<F, M> {
    /// Moves the leaf of `level` at `gpa` to `frames`, which have its size and are on no account: they take the old
    /// ones' place there.
    ///
    /// # Errors
    /// A CPU could not be told: the leaf is as it was.
    pub(crate) fn relocate<'f, I: Invalidate<F::Root>>(
        &mut self,
        gpa: GuestPhysAddr,
        level: Level,
        mut frames: Owned<'f, M>,
        shootdown: &Shootdown<I, F::Root>,
    ) -> Result<Moved<'f, M>, Unreachable> {
        let context = &self.context;
        let (slot, entry) = context.lookup(self.root(), gpa);
        let Entry::Leaf(leaf) = entry else { return Ok(Moved::Unfit(frames)) };
        if leaf.owner != crate::Owner::Space || slot.level != level {
            return Ok(Moved::Unfit(frames));
        }
        let operations = shootdown.operations();
        // Break. The swap takes what hardware noted up to this moment; it notes nothing in an invalid entry.
        let old = slot.swap(context.format.busy());
        if let Err(cause) = shootdown.invalidate(Scope { range: slot.span, entries: Changed::Leaves(level) }) {
            // The same translation again is no conflict with what a CPU may still hold.
            slot.store(old);
            operations.publish();
            return Err(cause);
        }
        let Entry::Leaf(old_leaf) = context.format.decode(level, old) else {
            slot.store(old);
            return Ok(Moved::Unfit(frames));
        };
        let size = context.geometry.span(level);
        // What the guest wrote past the caches is what is copied; nobody fetches from it any more.
        let source = Leaf { flags: old_leaf.flags - crate::MappingFlags::EXECUTE, ..old_leaf };
        context.synchronize(operations, &source, size);
        context.copy(&old_leaf, &frames);
        let new_leaf = Leaf { at: frames.at(), ..old_leaf };
        context.synchronize(operations, &new_leaf, size);
        // Make. Release: the copy is complete before a walker can reach it.
        slot.store(context.format.leaf(level, &new_leaf));
        operations.publish();
        // SAFETY: no entry names the old frames, and the invalidation that covers the broken leaf is complete. The new ones
        // are the entry's.
        unsafe { frames.exchange(old_leaf.at) };
        Ok(Moved::Done(frames))
    }
}

impl<F: Format, M: Frames> super::node::Context<F, M> {
    /// Copies a broken leaf's memory.
    fn copy(&self, from: &Leaf, to: &Owned<'_, M>) {
        for page in 0..to.pages() {
            let source = self.frames.pointer(from.at + page * PAGE_SIZE_4K);
            let target = self.frames.pointer(to.at() + page * PAGE_SIZE_4K);
            // SAFETY: the leaf is broken and its invalidation complete, and the caller excludes the hypervisor's own
            // accesses: nobody writes the source. The target is ours alone. Both are whole pages of allocated memory.
            unsafe { source.copy_to_nonoverlapping(target, PAGE_SIZE_4K) };
        }
    }
}
