//! Taking away and restricting: mark, invalidate, reap (H22–H24).

use core::sync::atomic::Ordering;

use memory_addr::PhysAddr;

use super::{
    Table, Tree,
    context::{Context, needs_resynchronization},
    cut::{Cuts, Edit},
    flush::{Flush, Pending},
    node::{AtomicU64, Node},
    walk::{Chunk, Step, Sweep, Visit},
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Change, Entry, Format},
    invalidate::{Changed, Invalidate, Scope, Unreachable},
    platform::Platform,
};

/// What a commit changed, so far.
pub(crate) struct Progress {
    /// Everything that must be invalidated: the range, and the spans of tables and blocks that it did not wholly cover.
    pub(super) range: GuestPhysRange,
    /// Which entries; `None` while no CPU can have cached what it must not.
    pub(super) changed: Option<Changed>,
    /// Whether entries are marked, and have to be finished after the invalidation.
    pub(super) has_marks: bool,
}

impl Table {
    /// Edits every leaf of `range`; the pieces of blocks that its ends cut are as they were.
    ///
    /// What goes is freed by the [`Flush`], after the invalidation.
    ///
    /// # Errors
    /// [`Exhausted`] before anything changed.
    pub(crate) fn edit<'t, P: Platform>(
        &'t mut self,
        context: &'t Context<P>,
        range: GuestPhysRange,
        edit: Edit,
    ) -> Result<Flush<'t, P>, Exhausted> {
        debug_assert!(self.is_finished(), "the caller finishes what is pending first: marks never nest");
        let Self { tree, pending, cuts } = self;
        let mut progress = Progress::new(range);
        let pages = tree.edit_range(context, range, edit, cuts, &mut progress)?;
        if progress.changed.is_none() {
            context.operations().publish();
        }
        *pending = progress.into_pending(edit);
        Ok(Flush::new(pending, cuts, tree, context, pages))
    }
}

impl Tree {
    /// Edits a range: the entries, if they are in one table of pages that stays.
    ///
    /// # Errors
    /// As for [`Table::edit`].
    fn edit_range<P: Platform>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        edit: Edit,
        cuts: &mut Cuts,
        progress: &mut Progress,
    ) -> Result<Option<&[AtomicU64]>, Exhausted> {
        if let Some(pages) = self.pages_that_stay(context, range, edit) {
            // No block is there that could be cut, and no table goes.
            context.edit_entries(&pages, edit, cuts, progress);
            return Ok(Some(pages.entries));
        }
        context.cut_ends(self, range, edit, cuts)?;
        self.commit(context, range, edit, cuts, progress);
        Ok(None)
    }

    /// Marks or changes every entry of the range. Cannot fail.
    fn commit<P: Platform>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        edit: Edit,
        cuts: &Cuts,
        progress: &mut Progress,
    ) {
        context.walk(self.top(context), range, &mut |visit| match visit {
            Visit::Table(chunk, table)
                if edit == Edit::Unmap && context.goes(chunk.level, chunk.span, chunk.part, table) =>
            {
                chunk.slot().update(|old| Some(context.format.mark(chunk.level, old)));
                progress.mark(chunk.span, Changed::Tables);
                Step::Over
            }
            Visit::Table(..) => Step::Into,
            Visit::Entries(chunk) => {
                context.edit_entries(&chunk, edit, cuts, progress);
                Step::Over
            }
        });
    }

    /// The entries for `range`, if they are in one table of pages that stays when `edit` is done.
    #[inline]
    fn pages_that_stay<P: Platform>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        edit: Edit,
    ) -> Option<Chunk<'_>> {
        let node = self.page_table(context, range)?;
        let stays = edit != Edit::Unmap || !context.is_sole(node, range);
        stays.then(|| node.chunk::<P>(range))
    }
}

impl<P: Platform> Context<P> {
    /// Edits leaves side by side.
    fn edit_entries(&self, chunk: &Chunk<'_>, edit: Edit, cuts: &Cuts, progress: &mut Progress) {
        let is_cut = !chunk.is_whole() && cuts.iter().any(|cut| cut.span == chunk.span);
        self.sweep(chunk, |raw| self.edit_entry(chunk.level, chunk.span, raw, edit, is_cut, progress));
    }

    /// How an entry is edited: what must not change under a CPU is marked, the rest changes in place.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its result in memory cost as much as the decision")]
    pub(super) fn edit_entry(
        &self,
        level: Level,
        span: GuestPhysRange,
        raw: u64,
        edit: Edit,
        is_cut: bool,
        progress: &mut Progress,
    ) -> Sweep {
        let Entry::Leaf(leaf) = self.format.decode(level, raw) else { return Sweep::Keep };
        let mark = Sweep::Flip(raw ^ self.format.mark(level, raw));
        let flags = match edit {
            Edit::Protect(flags) if !is_cut => leaf.owner.limit(flags),
            Edit::Split if !is_cut => return Sweep::Keep,
            _ => {
                progress.mark(span, Changed::Leaves(level));
                return mark;
            }
        };
        // A block that a range's end cuts, and that has the flags already, has no cut.
        if leaf.flags == flags {
            return Sweep::Keep;
        }
        let new = self.format.with_flags(level, raw, flags);
        match self.format.change(level, raw, new) {
            Change::Break => {
                progress.mark(span, Changed::Leaves(level));
                return mark;
            }
            Change::Restrict => progress.add(span, Changed::Leaves(level)),
            Change::Raise => {}
        }
        let bits = raw ^ new;
        if needs_resynchronization(leaf.flags, flags) { Sweep::Synchronize(flags, bits) } else { Sweep::Flip(bits) }
    }

    /// Whether unmapping `part` of what an entry of `level` translates leaves nothing in the table that it points to, so that
    /// the table goes too.
    pub(super) fn goes(&self, level: Level, span: GuestPhysRange, part: GuestPhysRange, table: PhysAddr) -> bool {
        span == part || self.is_sole(self.below(level, span.start, table), part)
    }

    /// Whether all entries of `node` outside `part` are absent.
    fn is_sole(&self, node: Node<'_>, part: GuestPhysRange) -> bool {
        let end = GuestPhysAddr::from_usize(part.end.as_usize() - 1);
        let (first, last) = (node.index::<P>(part.start), node.index::<P>(end));
        self.is_absent_around(node.entries, first, last)
            && self.is_sole_at(node, part, part.start)
            && (first == last || self.is_sole_at(node, part, end))
    }

    /// Whether all of `entries` are absent but those from the index `first` to `last`.
    #[inline]
    pub(super) fn is_absent_around(&self, entries: &[AtomicU64], first: usize, last: usize) -> bool {
        let (before, rest) = entries.split_at(first);
        let after = &rest[last - first + 1..];
        let absent = self.format.absent();
        let is_absent = |entry: &AtomicU64| entry.load(Ordering::Acquire) == absent;
        // The quickest test comes first: in a table that is in use a neighbour is nearly always not absent.
        before.last().is_none_or(is_absent)
            && after.first().is_none_or(is_absent)
            && before.iter().all(is_absent)
            && after.iter().all(is_absent)
    }

    /// Whether the entry at an end of `part` translates nothing outside it.
    fn is_sole_at(&self, node: Node<'_>, part: GuestPhysRange, end: GuestPhysAddr) -> bool {
        if node.level == Level::PAGE {
            return true;
        }
        let span = Self::entry_range(node.level, end);
        if part.contains_range(span) {
            return true;
        }
        let inner = GuestPhysRange { start: span.start.max(part.start), end: span.end.min(part.end) };
        match node.slot::<P>(end).decode(&self.format) {
            Entry::Absent => true,
            Entry::Table(table) => self.is_sole(self.below(node.level, span.start, table), inner),
            _ => false,
        }
    }
}

impl Progress {
    /// Nothing changed yet.
    pub(crate) fn new(range: GuestPhysRange) -> Self {
        Self { range, changed: None, has_marks: false }
    }

    /// Makes every CPU forget what changed.
    ///
    /// # Errors
    /// A CPU could not be told.
    pub(super) fn invalidate<P: Platform>(&self, context: &Context<P>) -> Result<(), Unreachable> {
        self.changed.map_or(Ok(()), |entries| context.shootdown.invalidate(Scope { range: self.range, entries }))
    }

    /// What is left to be done after the invalidation, and that; `None` where no CPU can have cached what it must not.
    #[inline]
    pub(super) fn into_pending(self, edit: Edit) -> Option<Pending> {
        let Self { range, changed, has_marks } = self;
        changed.map(|changed| Pending::new(range, changed, has_marks, edit))
    }

    /// Entries of `span` are marked.
    #[inline]
    fn mark(&mut self, span: GuestPhysRange, changed: Changed) {
        self.has_marks = true;
        self.add(span, changed);
    }

    /// Entries of `span` have changed.
    #[inline]
    pub(super) fn add(&mut self, span: GuestPhysRange, changed: Changed) {
        self.range = GuestPhysRange { start: self.range.start.min(span.start), end: self.range.end.max(span.end) };
        self.changed = Some(self.changed.map_or(changed, |before| before.and(changed)));
    }
}
