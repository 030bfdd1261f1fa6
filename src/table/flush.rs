//! What stands between taking away and giving back: the invalidation.

use memory_addr::PAGE_SIZE_4K;

use super::{
    Table,
    context::Context,
    cut::{Cuts, Edit},
    edit::Progress,
    entry::Slot,
    removed::RemovedMemory,
    walk::{Chunk, Step, Visit},
};
use crate::{
    addr::GuestPhysRange,
    format::{Entry, Format, Leaf, Marked},
    invalidate::{Changed, Invalidate, Scope, Unreachable},
    platform::Platform,
};

/// An edit that is in the tables but not finished.
///
/// It belongs to the table: losing the [`Flush`] leaves it for the next exclusive operation, and frees nothing early.
pub(super) struct Pending {
    range: GuestPhysRange,
    changed: Changed,
    has_marks: bool,
    edit: Edit,
    cuts: Cuts,
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
    table: &'t mut Table,
    context: &'t Context<P>,
}

impl<'t, P: Platform> Flush<'t, P> {
    /// The rest of what is pending in `table`, if anything is.
    pub(super) fn new(table: &'t mut Table, context: &'t Context<P>) -> Self {
        Self { table, context }
    }

    /// What the pending edit is about.
    pub(crate) fn range(&self) -> GuestPhysRange {
        self.table.pending.as_ref().map_or_else(GuestPhysRange::default, |pending| pending.range)
    }

    /// Makes every CPU forget what was taken away.
    ///
    /// # Errors
    /// A CPU could not be told: everything stays marked, nothing is freed, and this can be tried again.
    pub(crate) fn invalidate(&mut self) -> Result<(), Unreachable> {
        if let Some(pending) = &mut self.table.pending
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

    fn complete(&mut self) -> Result<(), Unreachable> {
        let mut removed = RemovedMemory::default();
        self.reap(&mut removed)?;
        removed.free(self.context, &mut { usize::MAX });
        Ok(())
    }

    /// Invalidates, then gives every marked entry its final form.
    fn reap(&mut self, removed: &mut RemovedMemory) -> Result<(), Unreachable> {
        self.invalidate()?;
        let Table { root, pending } = &mut *self.table;
        if let Some(edit) = pending {
            if edit.has_marks {
                // The root, while what is pending in the same tables is borrowed.
                edit.finish(self.context, &Table { root: *root, pending: None }, removed);
            }
            edit.discard(self.context);
            *pending = None;
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

#[allow(unsafe_code, reason = "takes over what the marks name")]
impl Pending {
    pub(super) fn new(progress: &Progress, changed: Changed, edit: Edit, cuts: Cuts) -> Self {
        let Progress { range, has_marks, .. } = *progress;
        Self { range, changed, has_marks, edit, cuts, phase: Phase::Marked }
    }

    /// At the tables' end: frees the tables of blocks that were to be cut and are not.
    pub(super) fn discard<P: Platform>(&self, context: &Context<P>) {
        self.cuts.iter().for_each(|cut| context.discard_cut(cut));
    }

    /// Gives every marked entry its final form. Only after the invalidation.
    fn finish<P: Platform>(&mut self, context: &Context<P>, table: &Table, removed: &mut RemovedMemory) {
        if let Some(node) = table.page_table(context, self.range) {
            self.finish_entries(context, &node.chunk::<P>(self.range), removed);
        } else {
            context.walk(table.root(context), self.range, &mut |visit| {
                if let Visit::Entries(chunk) = visit {
                    self.finish_entries(context, &chunk, removed);
                }
                Step::Into
            });
        }
        context.operations().publish();
    }

    fn finish_entries<P: Platform>(&mut self, context: &Context<P>, chunk: &Chunk<'_>, removed: &mut RemovedMemory) {
        let address = context.format.fields(chunk.level).address;
        // What the last entry that is not marked was, without its address.
        let mut kept = None;
        for slot in chunk.slots::<P>() {
            let raw = slot.load();
            if kept == Some(raw & !address) {
                continue;
            }
            match context.format.decode(chunk.level, raw) {
                Entry::Marked(marked) => self.finish_entry(context, &slot, marked, removed),
                _ => kept = Some(raw & !address),
            }
        }
    }

    fn finish_entry<P: Platform>(
        &mut self,
        context: &Context<P>,
        slot: &Slot<'_>,
        marked: Marked,
        removed: &mut RemovedMemory,
    ) {
        let format = &context.format;
        let leaf = match (marked, self.edit) {
            (Marked::Leaf(leaf), Edit::Unmap) if self.cuts.is_empty() => {
                return discard(context, slot, Marked::Leaf(leaf), removed);
            }
            (Marked::Leaf(leaf), _) => leaf,
            (Marked::Table(_), _) => return discard(context, slot, marked, removed),
        };
        if let Some(cut) = self.cuts.iter_mut().find(|cut| cut.span.start == slot.start) {
            let (at, len) = cut.middle(&leaf);
            if let Edit::Protect(flags) = self.edit {
                context.resynchronize(&Leaf { at, ..leaf }, len, leaf.owner.limit(flags));
            }
            slot.store(context.link_cut(cut, &leaf));
            if self.edit == Edit::Unmap {
                // SAFETY: the invalidation is complete, and the pieces that were linked do not name these pages.
                unsafe { removed.add_frames(context, leaf.owner, at, len / PAGE_SIZE_4K) };
            }
            return;
        }
        match self.edit {
            Edit::Unmap => discard(context, slot, marked, removed),
            Edit::Split => slot.store(format.leaf(slot.level, &leaf)),
            Edit::Protect(flags) => {
                let flags = leaf.owner.limit(flags);
                context.resynchronize(&leaf, Context::<P>::span(slot.level), flags);
                slot.store(format.leaf(slot.level, &Leaf { flags, ..leaf }));
            }
        }
    }
}

/// Makes a marked entry absent: what it named is the removed memory's.
#[allow(unsafe_code, reason = "takes over what the mark names")]
fn discard<P: Platform>(context: &Context<P>, slot: &Slot<'_>, marked: Marked, removed: &mut RemovedMemory) {
    // Hardware notes nothing in an invalid entry: it is still what was decoded.
    slot.store(context.format.absent());
    // SAFETY: the invalidation that covers the entry is complete, so that no CPU walks or uses what it named, and no
    // entry names it any more.
    unsafe { removed.add(context, slot.level, Entry::Marked(marked)) };
}
