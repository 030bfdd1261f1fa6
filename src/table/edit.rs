//! Taking away and restricting: mark, invalidate, reap (H22–H24).

use core::{convert::Infallible, sync::atomic::Ordering};

use memory_addr::MemoryAddr;

use super::{
    Table,
    cut::{Cuts, Edit},
    flush::{Flush, Pending},
    node::{AtomicU64, Context, Node},
    walk::{Slot, Step},
};
use crate::{
    Change, Changed, Entry, Format, Frames, GuestPhysRange, Invalidate, Leaf, MappingFlags, Scope, Unreachable,
    account::Exhausted, shootdown::Shootdown,
};

/// What a commit changed, so far.
pub(crate) struct Progress {
    /// Everything that must be invalidated: the range, and the spans of tables and blocks that it did not wholly cover.
    range: GuestPhysRange,
    /// Which entries; `None` while nothing can be cached that must not.
    changed: Option<Changed>,
    /// Whether entries are marked, and have to be finished.
    marks: Marks,
}

/// Whether a commit left marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    /// None: there is nothing left but the invalidation.
    None,
    /// Some: they are finished after the invalidation.
    Some,
}

impl<F: Format, M: Frames> Table<F, M> {
    /// Edits every leaf of `range`; the pieces of blocks that its ends cut are as they were.
    ///
    /// What goes is freed by the [`Flush`], after the invalidation.
    ///
    /// # Errors
    /// [`Exhausted`] before anything changed.
    pub(crate) fn edit<'t, I: Invalidate<F::Root>>(
        &'t mut self,
        range: GuestPhysRange,
        edit: Edit,
        shootdown: &'t Shootdown<I, F::Root>,
    ) -> Result<Flush<'t, F, M, I>, Exhausted> {
        debug_assert!(self.pending.is_none(), "the caller finishes what is pending first: marks never nest");
        let cuts = self.context.cuts(self.root(), range, edit)?;
        let progress = self.commit(range, edit, &cuts, shootdown.operations());
        self.pending =
            progress.changed.map(|changed| Pending::new(progress.range, changed, progress.marks, edit, cuts));
        Ok(Flush::new(self, shootdown))
    }

    /// Marks or changes every entry of the range. Cannot fail.
    fn commit<I: Invalidate<F::Root>>(
        &self,
        range: GuestPhysRange,
        edit: Edit,
        cuts: &Cuts<F, M>,
        operations: &I,
    ) -> Progress {
        let context = &self.context;
        let mut progress = Progress::new(range);
        let Ok(()) = context.walk(self.root(), range, &mut |slot: Slot<'_>| {
            let step = match (context.decode(&slot), edit) {
                (Entry::Table(table), Edit::Unmap) if context.goes(&slot, table) => {
                    context.mark(&slot, Changed::Tables, &mut progress);
                    Step::Next
                }
                (Entry::Table(table), _) => Step::Into(table),
                (Entry::Leaf(_), Edit::Unmap) => {
                    context.mark(&slot, Changed::Leaves(slot.level), &mut progress);
                    Step::Next
                }
                (Entry::Leaf(_), Edit::Protect(_) | Edit::Split) if cuts.iter().any(|cut| cut.span == slot.span) => {
                    context.mark(&slot, Changed::Leaves(slot.level), &mut progress);
                    Step::Next
                }
                // A block that a range's end cuts, and that has the flags already, has no cut.
                (Entry::Leaf(leaf), Edit::Protect(flags)) if edit.changes(&leaf) => {
                    context.protect(&slot, &leaf, leaf.owner.limit(flags), operations, &mut progress);
                    Step::Next
                }
                _ => Step::Next,
            };
            Ok::<_, Infallible>(step)
        });
        if progress.changed.is_none() {
            operations.publish();
        }
        progress
    }
}

impl<F: Format, M: Frames> Context<F, M> {
    /// Makes an entry invalid but for the reaper.
    fn mark(&self, slot: &Slot<'_>, changed: Changed, progress: &mut Progress) {
        let mut old = slot.load();
        // Hardware may be setting the dirty mark: it must be in the marked entry.
        while let Err(now) = slot.replace(old, self.format.mark(slot.level, old)) {
            old = now;
        }
        progress.marks = Marks::Some;
        progress.add(slot.span, changed);
    }

    /// Changes a leaf's flags: in place if that is safe, else it is marked and made again after the invalidation.
    fn protect<I: Invalidate<F::Root>>(
        &self,
        slot: &Slot<'_>,
        leaf: &Leaf,
        flags: MappingFlags,
        operations: &I,
        progress: &mut Progress,
    ) {
        let mut old = slot.load();
        if self.format.change(slot.level, old, self.format.with_flags(slot.level, old, flags)) == Change::Break {
            return self.mark(slot, Changed::Leaves(slot.level), progress);
        }
        self.resynchronize(operations, leaf, self.geometry.span(slot.level), flags);
        loop {
            // Hardware may be noting accesses and writes: nothing else in the entry changes meanwhile.
            let new = self.format.with_flags(slot.level, old, flags);
            let change = self.format.change(slot.level, old, new);
            match slot.replace(old, new) {
                Ok(()) if change == Change::Restrict => {
                    return progress.add(slot.span, Changed::Leaves(slot.level));
                }
                Ok(()) => return,
                Err(now) => old = now,
            }
        }
    }

    /// Whether unmapping `slot.part` leaves nothing in the table, so that the table goes too.
    fn goes(&self, slot: &Slot<'_>, table: memory_addr::PhysAddr) -> bool {
        slot.is_whole() || self.is_sole(self.below(slot, table), slot.part)
    }

    /// Whether nothing is mapped in `node` outside `part`.
    fn is_sole(&self, node: Node<'_>, part: GuestPhysRange) -> bool {
        let shift = self.geometry.shift(node.level);
        let first = (part.start - node.base) >> shift;
        let last = (part.end.wrapping_sub(1) - node.base) >> shift;
        let (before, rest) = node.entries.split_at(first);
        let after = &rest[last - first + 1..];
        let nothing = self.format.absent();
        let absent = |entry: &AtomicU64| entry.load(Ordering::Acquire) == nothing;
        // What tells soonest comes first: the neighbours, of which in a table that is in use one is nearly always there,
        // then the tables below.
        before.last().is_none_or(absent)
            && after.first().is_none_or(absent)
            && self.is_sole_at(node, part, part.start)
            && (first == last || self.is_sole_at(node, part, part.end.wrapping_sub(1)))
            && before.iter().all(absent)
            && after.iter().all(absent)
    }

    /// Whether the entry at an end of `part` has nothing outside it.
    fn is_sole_at(&self, node: Node<'_>, part: GuestPhysRange, end: crate::GuestPhysAddr) -> bool {
        let (slot, entry) = self.slot(node, end);
        if part.contains_range(slot.span) {
            return true;
        }
        let inner = GuestPhysRange { start: slot.span.start.max(part.start), end: slot.span.end.min(part.end) };
        match entry {
            Entry::Absent => true,
            Entry::Table(table) => self.is_sole(self.below(&slot, table), inner),
            _ => false,
        }
    }
}

impl Progress {
    /// Nothing changed yet.
    pub(crate) fn new(range: GuestPhysRange) -> Self {
        Self { range, changed: None, marks: Marks::None }
    }

    /// Makes every CPU forget what changed.
    pub(super) fn invalidate<R: Copy, I: Invalidate<R>>(&self, shootdown: &Shootdown<I, R>) -> Result<(), Unreachable> {
        self.changed.map_or(Ok(()), |entries| shootdown.invalidate(Scope { range: self.range, entries }))
    }

    /// The invalidation that is left to be made, where no entry is marked.
    pub(super) fn into_pending<F: Format, M: Frames>(self) -> Option<Pending<F, M>> {
        debug_assert_eq!(self.marks, Marks::None);
        let nothing = Edit::Protect(MappingFlags::empty());
        self.changed.map(|changed| Pending::new(self.range, changed, Marks::None, nothing, Cuts::new()))
    }

    /// `span` has changed.
    pub(super) fn add(&mut self, span: GuestPhysRange, changed: Changed) {
        self.range = GuestPhysRange { start: self.range.start.min(span.start), end: self.range.end.max(span.end) };
        self.changed = Some(self.changed.map_or(changed, |before| before.and(changed)));
    }
}
