//! Moving a leaf to other frames while the guest runs: break, invalidate, copy, make (H9).
#![allow(unsafe_code, reason = "copies frames")]

use page_table_multiarch::MappingFlags;

use super::{Table, context::Context};
use crate::{
    addr::{GuestPhysAddr, Level},
    format::{Entry, Format, Leaf, Owner},
    frame::Owned,
    invalidate::{Changed, Invalidate, Scope, Unreachable},
    platform::Platform,
};

/// What came of moving a leaf.
#[must_use]
pub(crate) enum Moved<'f, P: Platform> {
    /// The leaf has the new frames; these are the old ones, which no CPU reaches any more.
    Done(Owned<'f, P::Frames>),
    /// No leaf of that level with frames of the space's own is there; these are the new frames.
    Unfit(Owned<'f, P::Frames>),
}

impl Table {
    /// Moves the leaf of `level` at `gpa` to `frames`, which have its size and are on no account: they take the old
    /// ones' place there.
    ///
    /// # Errors
    /// A CPU could not be told: the leaf is as it was.
    pub(crate) fn relocate<'f, P: Platform>(
        &mut self,
        context: &Context<P>,
        gpa: GuestPhysAddr,
        level: Level,
        mut frames: Owned<'f, P::Frames>,
    ) -> Result<Moved<'f, P>, Unreachable> {
        let (slot, raw) = self.lookup(context, gpa);
        match context.format.decode(slot.level, raw) {
            Entry::Leaf(Leaf { owner: Owner::Space, .. }) if slot.level == level => {}
            _ => return Ok(Moved::Unfit(frames)),
        }
        let range = Context::<P>::entry_range(level, gpa);
        // Break. The swap takes what hardware noted up to this moment; it notes nothing in an invalid entry.
        let old = slot.swap(context.format.busy());
        if let Err(cause) = context.shootdown.invalidate(Scope { range, entries: Changed::Leaves(level) }) {
            // The same translation again is no conflict with what a CPU may still hold.
            slot.store(old);
            context.operations().publish();
            return Err(cause);
        }
        let Entry::Leaf(old_leaf) = context.format.decode(level, old) else {
            slot.store(old);
            return Ok(Moved::Unfit(frames));
        };
        let size = Context::<P>::span(level);
        // What the guest wrote past the caches is what is copied; no CPU fetches from it any more.
        context.synchronize(&Leaf { flags: old_leaf.flags - MappingFlags::EXECUTE, ..old_leaf }, size);
        // SAFETY: the leaf is broken and its invalidation complete, and the caller excludes the hypervisor's own
        // accesses: the source is not written. The target is ours alone.
        unsafe { context.copy_frames(old_leaf.at, frames.at(), frames.pages()) };
        let new_leaf = Leaf { at: frames.at(), ..old_leaf };
        context.synchronize(&new_leaf, size);
        // Make. Release: the copy is complete before a walker can reach it.
        slot.store(context.format.leaf(level, &new_leaf));
        context.operations().publish();
        // SAFETY: no entry names the old frames, and the invalidation that covers the broken leaf is complete. The new
        // ones are the entry's.
        unsafe { frames.exchange(old_leaf.at) };
        Ok(Moved::Done(frames))
    }
}
