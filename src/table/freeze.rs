//! Giving all memory of a space's own to a region, where it stands.

use core::convert::Infallible;

use super::{
    Changes, Table,
    flush::Flush,
    node::Context,
    walk::{Slot, Step},
};
use crate::{
    Change, Changed, Entry, Format, Frames, GuestPhysRange, Invalidate, Leaf, Owner, shootdown::Shootdown, table::Run,
};

impl<F: Format, M: Frames> Table<F, M> {
    /// Shows every leaf with frames of the space's own in `range` to `each`.
    ///
    /// # Errors
    /// The first of `each`.
    pub(crate) fn own_leaves<S>(
        &self,
        range: GuestPhysRange,
        mut each: impl FnMut(Run) -> Result<(), S>,
    ) -> Result<(), S> {
        self.visit(range, |slot, entry| match entry {
            Entry::Leaf(leaf) if leaf.owner == Owner::Space => each(Run { range: slot.span, leaf: *leaf }),
            _ => Ok(()),
        })
    }

    /// Makes every leaf with frames of the space's own in `range` a frozen region's, in place: what the hardware noted
    /// stays, and no way to write is left once the flush of [`frozen`](Self::frozen) is complete (H12). Cannot fail.
    pub(crate) fn freeze(&mut self, range: GuestPhysRange, changes: &mut Changes) {
        let context = &self.context;
        let Ok(()) = context.walk(self.root(), range, &mut |slot: Slot<'_>| {
            if let Entry::Table(table) = context.decode(&slot) {
                return Ok::<_, Infallible>(Step::Into(table));
            }
            context.freeze(&slot, changes);
            Ok(Step::Next)
        });
    }

    /// The invalidation of all that was frozen.
    pub(crate) fn frozen<'t, I: Invalidate<F::Root>>(
        &'t mut self,
        changes: Changes,
        shootdown: &'t Shootdown<I, F::Root>,
    ) -> Flush<'t, F, M, I> {
        debug_assert!(self.pending.is_none(), "the caller finishes what is pending first: marks never nest");
        self.pending = changes.into_pending();
        if self.pending.is_none() {
            shootdown.operations().publish();
        }
        Flush::new(self, shootdown)
    }
}

impl<F: Format, M: Frames> Context<F, M> {
    fn freeze(&self, slot: &Slot<'_>, changes: &mut Changes) {
        let format = &self.format;
        let mut old = slot.load();
        while let Entry::Leaf(leaf @ Leaf { owner: Owner::Space, .. }) = format.decode(slot.level, old) {
            let flags = Owner::Frozen.limit(leaf.flags);
            let new = format.leaf(slot.level, &Leaf { owner: Owner::Frozen, flags, ..leaf });
            let change = format.change(slot.level, old, new);
            debug_assert!(change != Change::Break, "only a permission goes");
            match slot.replace(old, new) {
                Ok(()) if change == Change::Restrict => return changes.add(slot.span, Changed::Leaves(slot.level)),
                Ok(()) => return,
                // Hardware is noting accesses and writes until the very moment.
                Err(now) => old = now,
            }
        }
    }
}
