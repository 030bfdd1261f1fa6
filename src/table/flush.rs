//! What stands between taking away and giving back: the invalidation.

use core::convert::Infallible;

use memory_addr::PAGE_SIZE_4K;

use super::{
    Remains, Table,
    cut::{Cuts, Edit},
    edit::Marks,
    node::{Context, Node, retire},
    walk::{Slot, Step},
};
use crate::{
    Changed, Entry, Format, Frames, GuestPhysAddr, GuestPhysRange, Invalidate, Leaf, Marked, Scope, Unreachable,
    shootdown::Shootdown,
};

/// An edit that is in the tables but not finished.
///
/// It belongs to the table: losing the [`Flush`] leaves it for the next exclusive operation, and frees nothing early.
pub(super) struct Pending<F: Format, M: Frames> {
    range: GuestPhysRange,
    changed: Changed,
    marks: Marks,
    edit: Edit,
    cuts: Cuts<F, M>,
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

impl<F: Format, M: Frames> Pending<F, M> {
    pub(super) fn new(range: GuestPhysRange, changed: Changed, marks: Marks, edit: Edit, cuts: Cuts<F, M>) -> Self {
        Self { range, changed, marks, edit, cuts, phase: Phase::Marked }
    }
}

/// The rest of an edit: the invalidation, then what may only come after it. Dropping it does both.
#[must_use = "the invalidation is still to be made"]
pub(crate) struct Flush<'t, F: Format, M: Frames, I: Invalidate<F::Root>> {
    table: &'t mut Table<F, M>,
    shootdown: &'t Shootdown<I, F::Root>,
}

impl<'t, F: Format, M: Frames, I: Invalidate<F::Root>> Flush<'t, F, M, I> {
    /// The rest of what is pending in `table`, if anything is.
    pub(super) fn new(table: &'t mut Table<F, M>, shootdown: &'t Shootdown<I, F::Root>) -> Self {
        Self { table, shootdown }
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
            self.shootdown.invalidate(Scope { range: pending.range, entries: pending.changed })?;
            pending.phase = Phase::Invalidated;
        }
        Ok(())
    }

    /// Invalidates if that is still to be done, then finishes every marked entry and frees what nobody maps any more.
    ///
    /// # Errors
    /// As for [`invalidate`](Self::invalidate).
    pub(crate) fn finish(mut self) -> Result<(), Unreachable> {
        let result = self.complete();
        // What failed is tried again by the next exclusive operation, not by `drop`.
        core::mem::forget(self);
        result
    }

    /// The same, but hands out what nobody maps any more, to be freed without the space's lock.
    ///
    /// # Errors
    /// As for [`invalidate`](Self::invalidate).
    pub(crate) fn detach(mut self, remains: &mut Remains) -> Result<(), Unreachable> {
        let result = self.reap(remains);
        core::mem::forget(self);
        result
    }

    fn complete(&mut self) -> Result<(), Unreachable> {
        let mut remains = Remains::default();
        self.reap(&mut remains)?;
        if remains.is_empty() {
            return Ok(());
        }
        remains.step(&self.table.context, &retire(self.shootdown.operations()), &mut { usize::MAX });
        Ok(())
    }

    /// Invalidates, then gives every marked entry its final form.
    fn reap(&mut self, remains: &mut Remains) -> Result<(), Unreachable> {
        self.invalidate()?;
        let Table { context, root, pending } = &mut *self.table;
        if let Some(edit) = pending {
            if edit.marks == Marks::Some {
                // SAFETY: as in `Table::root`.
                #[allow(unsafe_code, reason = "reaches the root, beside what is pending")]
                let root = unsafe { context.node(*root, context.geometry.root_level, GuestPhysAddr::from_usize(0)) };
                edit.finish(context, root, self.shootdown.operations(), remains);
            }
            *pending = None;
        }
        Ok(())
    }
}

impl<F: Format, M: Frames> Pending<F, M> {
    /// Gives every marked entry its final form. Only after the invalidation.
    fn finish<I: Invalidate<F::Root>>(
        &mut self,
        context: &Context<F, M>,
        root: Node<'_>,
        operations: &I,
        remains: &mut Remains,
    ) {
        let Ok(()) = context.walk(root, self.range, &mut |slot: Slot<'_>| {
            let step = match context.decode(&slot) {
                Entry::Table(below) => Step::Into(below),
                Entry::Marked(Marked::Leaf(leaf)) => {
                    context.finish_leaf(&slot, &leaf, self, operations, remains);
                    Step::Next
                }
                Entry::Marked(Marked::Table(_)) => {
                    context.discard(&slot, remains);
                    Step::Next
                }
                _ => Step::Next,
            };
            Ok::<_, Infallible>(step)
        });
        operations.publish();
    }
}

impl<F: Format, M: Frames, I: Invalidate<F::Root>> Drop for Flush<'_, F, M, I> {
    fn drop(&mut self) {
        if let Err(unreachable) = self.complete() {
            log::error!("an invalidation is owed: {unreachable}");
        }
    }
}

#[allow(unsafe_code, reason = "takes over what the marks name")]
impl<F: Format, M: Frames> Context<F, M> {
    /// Finishes a marked leaf.
    fn finish_leaf<I: Invalidate<F::Root>>(
        &self,
        slot: &Slot<'_>,
        leaf: &Leaf,
        pending: &mut Pending<F, M>,
        operations: &I,
        remains: &mut Remains,
    ) {
        if let Some(cut) = pending.cuts.iter_mut().find(|cut| cut.span == slot.span) {
            let (at, len) = cut.middle(leaf);
            if let Edit::Protect(flags) = pending.edit {
                let flags = leaf.owner.limit(flags);
                self.resynchronize(operations, &Leaf { at, ..*leaf }, len, flags);
            }
            slot.store(cut.link(leaf));
            if pending.edit == Edit::Unmap {
                // SAFETY: the invalidation is complete, and the pieces that were linked do not name these pages.
                unsafe { remains.add_frames(leaf.owner, at, len / PAGE_SIZE_4K) };
            }
            return;
        }
        match pending.edit {
            Edit::Unmap => self.discard(slot, remains),
            Edit::Split => slot.store(self.format.leaf(slot.level, leaf)),
            Edit::Protect(flags) => {
                let flags = leaf.owner.limit(flags);
                self.resynchronize(operations, leaf, self.geometry.span(slot.level), flags);
                slot.store(self.format.leaf(slot.level, &Leaf { flags, ..*leaf }));
            }
        }
    }

    /// Empties a marked entry: what it named is nobody's but the remains'.
    fn discard(&self, slot: &Slot<'_>, remains: &mut Remains) {
        let raw = slot.swap(self.format.absent());
        // SAFETY: the invalidation that covers the entry is complete, so that no CPU walks or uses what it named, and
        // no entry names it any more.
        unsafe { remains.add(self, slot.level, raw) };
    }
}
