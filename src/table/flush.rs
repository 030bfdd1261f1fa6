//! What stands between taking away and giving back: the invalidation.

use memory_addr::PAGE_SIZE_4K;

use super::{
    Tree,
    context::Context,
    cut::{Cuts, Edit},
    entry::Slot,
    node::AtomicU64,
    removed::RemovedMemory,
    walk::{Chunk, Step, Visit},
};
use crate::{
    addr::{GuestPhysRange, Level},
    format::{Entry, Fields, Format, Leaf, Marked},
    invalidate::{Changed, Invalidate, Scope, Unreachable},
    platform::Platform,
};

/// An edit that is in the tables but not finished.
///
/// It belongs to the table, as its cuts do: losing the [`Flush`] leaves it for the next exclusive operation, and frees
/// nothing early.
pub(super) struct Pending {
    range: GuestPhysRange,
    changed: Changed,
    has_marks: bool,
    edit: Edit,
    phase: Phase,
}

/// How far an edit is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// CPUs may still use what was taken away.
    Marked,
    /// No CPU does.
    Invalidated,
}

/// The rest of an edit: the invalidation, then what may only come after it. Dropping it does both.
#[must_use = "the invalidation is still to be made"]
pub(crate) struct Flush<'t, P: Platform> {
    pending: &'t mut Option<Pending>,
    cuts: &'t mut Cuts,
    tree: &'t Tree,
    context: &'t Context<P>,
    /// The entries that the edit is about, where they are in one table of pages.
    pages: Option<&'t [AtomicU64]>,
}

impl<'t, P: Platform> Flush<'t, P> {
    /// The rest of what is pending in `tree`, if anything is.
    pub(super) fn new(
        pending: &'t mut Option<Pending>,
        cuts: &'t mut Cuts,
        tree: &'t Tree,
        context: &'t Context<P>,
        pages: Option<&'t [AtomicU64]>,
    ) -> Self {
        Self { pending, cuts, tree, context, pages }
    }

    /// What the pending edit is about.
    pub(crate) fn range(&self) -> GuestPhysRange {
        self.pending.as_ref().map_or_else(GuestPhysRange::default, |pending| pending.range)
    }

    /// Makes every CPU forget what was taken away.
    ///
    /// # Errors
    /// A CPU could not be told: everything stays marked, nothing is freed, and this can be tried again.
    pub(crate) fn invalidate(&mut self) -> Result<(), Unreachable> {
        if let Some(pending) = self.pending
            && pending.phase == Phase::Marked
        {
            self.context.shootdown.invalidate(Scope { range: pending.range, entries: pending.changed })?;
            pending.phase = Phase::Invalidated;
        }
        Ok(())
    }

    /// Invalidates if that is still to be done, then finishes every marked entry and frees what is mapped no more.
    ///
    /// # Errors
    /// As for [`invalidate`](Self::invalidate).
    pub(crate) fn finish(mut self) -> Result<(), Unreachable> {
        let result = self.complete();
        // What failed is tried again by the next exclusive operation, not by `drop`.
        core::mem::forget(self);
        result
    }

    /// The same, but hands out what is mapped no more, to be freed without the space's lock.
    ///
    /// # Errors
    /// As for [`invalidate`](Self::invalidate).
    pub(crate) fn detach(mut self, removed: &mut RemovedMemory) -> Result<(), Unreachable> {
        let result = self.reap(removed);
        core::mem::forget(self);
        result
    }

    /// The same as [`detach`](Self::detach), but nothing has changed if a CPU could not be told.
    ///
    /// # Errors
    /// As for [`invalidate`](Self::invalidate).
    pub(crate) fn detach_or_restore(mut self, removed: &mut RemovedMemory) -> Result<(), Unreachable> {
        self.reap(removed).inspect_err(|_| self.restore())
    }

    /// Takes an unmapping back of which a CPU may not have been told: every marked entry is again what it was, which is no
    /// conflict with what a CPU still holds.
    pub(crate) fn restore(&mut self) {
        let Some(Pending { range, edit, .. }) = self.pending.take() else { return };
        debug_assert!(edit == Edit::Unmap, "what was changed in place is not marked");
        let context = self.context;
        context.walk(self.tree.top(context), range, &mut |visit| {
            if let Visit::Entries(chunk) = visit {
                chunk.slots::<P>().for_each(|slot| match slot.decode(&context.format) {
                    Entry::Marked(Marked::Leaf(leaf)) => slot.store(context.encode(slot.level, &leaf)),
                    Entry::Marked(Marked::Table(table)) => slot.store(context.format.table(table)),
                    _ => {}
                });
            }
            Step::Into
        });
        context.operations().publish();
        context.discard_cuts(self.cuts);
    }

    fn complete(&mut self) -> Result<(), Unreachable> {
        if self.pending.as_ref().is_none_or(|pending| !pending.has_marks) {
            self.invalidate()?;
            *self.pending = None;
            return Ok(());
        }
        let mut removed = RemovedMemory::default();
        self.reap(&mut removed)?;
        removed.free(self.context, &mut { usize::MAX });
        Ok(())
    }

    /// Invalidates, then gives every marked entry its final form.
    fn reap(&mut self, removed: &mut RemovedMemory) -> Result<(), Unreachable> {
        self.invalidate()?;
        let Some(Pending { range, has_marks, edit, .. }) = self.pending.take() else { return Ok(()) };
        if has_marks {
            let mut reaper = Reaper { context: self.context, edit, cuts: self.cuts, removed };
            match self.pages {
                Some(entries) => {
                    reaper.finish_entries(&Chunk { entries, level: Level::PAGE, span: range, part: range });
                }
                None => reaper.finish(self.tree, range),
            }
            self.context.operations().publish();
            if !self.cuts.is_empty() {
                self.context.discard_cuts(self.cuts);
            }
        }
        Ok(())
    }
}

impl<P: Platform> Drop for Flush<'_, P> {
    fn drop(&mut self) {
        if let Err(unreachable) = self.complete() {
            log::error!("an invalidation is owed: {unreachable}");
        }
    }
}

impl Pending {
    /// What the edit is about.
    pub(super) const fn range(&self) -> GuestPhysRange {
        self.range
    }

    #[inline]
    pub(super) fn new(range: GuestPhysRange, changed: Changed, has_marks: bool, edit: Edit) -> Self {
        Self { range, changed, has_marks, edit, phase: Phase::Marked }
    }
}

/// Gives marked entries their final form. Only after the invalidation.
struct Reaper<'r, P: Platform> {
    context: &'r Context<P>,
    edit: Edit,
    cuts: &'r mut Cuts,
    removed: &'r mut RemovedMemory,
}

impl<P: Platform> Reaper<'_, P> {
    /// Finishes the marked entries of `range`.
    fn finish(&mut self, tree: &Tree, range: GuestPhysRange) {
        let context = self.context;
        context.walk(tree.top(context), range, &mut |visit| {
            if let Visit::Entries(chunk) = visit {
                self.finish_entries(&chunk);
            }
            Step::Into
        });
    }

    /// Finishes those of a chunk.
    fn finish_entries(&mut self, chunk: &Chunk<'_>) {
        let format = &self.context.format;
        let Fields { address, owned, .. } = format.fields(chunk.level);
        let unmaps_pages = self.edit == Edit::Unmap && chunk.level == Level::PAGE;
        // What the last entry that is not marked was, without its address.
        let mut kept = None;
        for slot in chunk.slots::<P>() {
            let raw = slot.load();
            if kept == Some(raw & !address) {
                continue;
            }
            // Of pages that are unmapped all are marked or absent, and this one names nothing of the space's own.
            if unmaps_pages && raw & owned == 0 {
                slot.store(format.absent());
                continue;
            }
            match format.decode(chunk.level, raw) {
                Entry::Marked(Marked::Leaf(leaf)) if self.edit != Edit::Unmap || !self.cuts.is_empty() => {
                    self.finish_leaf(&slot, &leaf);
                }
                Entry::Marked(marked) => self.discard(&slot, marked),
                _ => kept = Some(raw & !address),
            }
        }
    }

    /// Finishes a leaf that is not just to go.
    #[inline(never)]
    #[allow(unsafe_code, reason = "takes over what the marks name")]
    fn finish_leaf(&mut self, slot: &Slot<'_>, leaf: &Leaf) {
        let context = self.context;
        if let Some(cut) = self.cuts.iter_mut().find(|cut| cut.span.start == slot.start) {
            let (at, len) = cut.middle(leaf);
            if let Edit::Protect(flags) = self.edit {
                context.resynchronize(&Leaf { at, ..*leaf }, len, leaf.owner.limit(flags));
            }
            slot.store(context.link_cut(cut, leaf));
            if self.edit == Edit::Unmap {
                // SAFETY: the invalidation is complete, and the pieces that were linked do not name these pages.
                unsafe { self.removed.add_frames(context, leaf.owner, at, len / PAGE_SIZE_4K) };
            }
            return;
        }
        match self.edit {
            Edit::Unmap => self.discard(slot, Marked::Leaf(*leaf)),
            Edit::Split => slot.store(context.encode(slot.level, leaf)),
            Edit::Protect(flags) => {
                let flags = leaf.owner.limit(flags);
                context.resynchronize(leaf, Context::<P>::span(slot.level), flags);
                slot.store(context.encode(slot.level, &Leaf { flags, ..*leaf }));
            }
        }
    }

    /// Makes a marked entry absent: what it named is the removed memory's.
    #[inline(never)]
    #[allow(unsafe_code, reason = "takes over what the mark names")]
    fn discard(&mut self, slot: &Slot<'_>, marked: Marked) {
        // Hardware notes nothing in an invalid entry: it is still what was decoded.
        slot.store(self.context.format.absent());
        // SAFETY: the invalidation that covers the entry is complete, so that no CPU walks or uses what it named, and no
        // entry names it any more.
        unsafe { self.removed.add(self.context, slot.level, Entry::Marked(marked)) };
    }
}
