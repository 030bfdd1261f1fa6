//! Unmapping and protecting one page: what [`Table::edit`] and its [`Flush`](super::Flush) do, in one go.

use page_table_multiarch::MappingFlags;

use super::{
    Table, Tree, context::Context, cut::Edit, edit::Progress, entry::Slot, flush::Pending, removed::RemovedPage,
    walk::Sweep,
};
use crate::{
    addr::{GuestPhysRange, Level},
    format::Format,
    invalidate::{Invalidate, Scope, Unreachable},
    platform::Platform,
};

impl Table {
    /// Unmaps a page, no loan, that has a leaf of its own in a table that stays. `None` for any other: nothing changed.
    ///
    /// # Errors
    /// A CPU could not be told: the leaf stays marked until the next exclusive operation.
    #[inline]
    #[allow(unsafe_code, reason = "takes over what the mark names")]
    pub(crate) fn unmap_page<P: Platform>(
        &mut self,
        context: &Context<P>,
        page: GuestPhysRange,
    ) -> Option<Result<Option<RemovedPage>, Unreachable>> {
        let Self { tree, pending, .. } = self;
        let (slot, marked, progress) = tree.edit_page(context, page, Edit::Unmap)?;
        if let Err(unreachable) = progress.settle(context, pending, Edit::Unmap) {
            return Some(Err(unreachable));
        }
        // Hardware notes nothing in an invalid entry: it is still what it was marked as.
        slot.store(context.format.absent());
        context.operations().publish();
        let owned = context.format.fields(Level::PAGE).owned;
        // SAFETY: the invalidation is complete, and the only entry that named the page is absent.
        let removed = (marked & owned != 0).then(|| unsafe { RemovedPage::named_by(context, marked) }).flatten();
        Some(Ok(removed))
    }

    /// Gives a page that has a leaf of its own other flags, in place. `None` if it has no such leaf, has the flags already,
    /// must be broken, or its caches brought in step: nothing changed.
    ///
    /// # Errors
    /// A CPU could not be told: the next exclusive operation tells it.
    #[inline]
    pub(crate) fn protect_page<P: Platform>(
        &mut self,
        context: &Context<P>,
        page: GuestPhysRange,
        flags: MappingFlags,
    ) -> Option<Result<(), Unreachable>> {
        let Self { tree, pending, .. } = self;
        let edit = Edit::Protect(flags);
        let (_, _, progress) = tree.edit_page(context, page, edit)?;
        Some(progress.settle(context, pending, edit))
    }
}

impl Tree {
    /// Edits the leaf of a page, whose table stays: where it is, what it has become, and what that takes.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what it answers stays in registers, and each edit needs a half of it")]
    fn edit_page<P: Platform>(
        &self,
        context: &Context<P>,
        page: GuestPhysRange,
        edit: Edit,
    ) -> Option<(Slot<'_>, u64, Progress)> {
        let node = self.page_table(context, page)?;
        let index = node.index::<P>(page.start);
        if edit == Edit::Unmap && context.is_absent_around(node.entries, index, index) {
            return None;
        }
        let slot = Slot { entry: node.entries.get(index)?, level: Level::PAGE, start: page.start };
        loop {
            let raw = slot.load();
            let mut progress = Progress::new(page);
            let Sweep::Flip(bits) = context.edit_entry(Level::PAGE, page, raw, edit, false, &mut progress) else {
                return None;
            };
            if progress.has_marks && edit != Edit::Unmap {
                return None;
            }
            if context.apply(Level::PAGE, slot.entry, raw, Sweep::Flip(bits)) {
                return Some((slot, raw ^ bits, progress));
            }
        }
    }
}

impl Progress {
    /// Makes every CPU forget what changed, if one can have cached what it must not. Until that is done, it is pending.
    ///
    /// # Errors
    /// A CPU could not be told.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "what changed stays in registers")]
    fn settle<P: Platform>(
        self,
        context: &Context<P>,
        pending: &mut Option<Pending>,
        edit: Edit,
    ) -> Result<(), Unreachable> {
        debug_assert!(pending.is_none(), "the caller finishes what is pending first: marks never nest");
        let Some(entries) = self.changed else {
            context.operations().publish();
            return Ok(());
        };
        let scope = Scope { range: self.range, entries };
        *pending = self.into_pending(edit);
        context.shootdown.invalidate(scope)?;
        *pending = None;
        Ok(())
    }
}
