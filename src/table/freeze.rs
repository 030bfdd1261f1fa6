//! Giving all memory of a space's own to a region, where it stands.

use super::{
    Table,
    context::Context,
    cut::Edit,
    edit::Progress,
    flush::Flush,
    walk::{Step, Sweep, Visit},
};
use crate::{
    addr::GuestPhysRange,
    format::{Change, Entry, Format, Leaf, Owner},
    invalidate::{Changed, Invalidate},
    platform::Platform,
};

impl Table {
    /// Makes every leaf with frames of the space's own in `range` a frozen region's, in place: what the hardware noted
    /// stays, and no way to write is left once the flush of [`frozen`](Self::frozen) is complete (H12). Cannot fail.
    pub(crate) fn freeze<P: Platform>(&mut self, context: &Context<P>, range: GuestPhysRange, progress: &mut Progress) {
        let format = &context.format;
        context.walk(self.root(context), range, &mut |visit| {
            let Visit::Entries(chunk) = visit else { return Step::Into };
            context.sweep(&chunk, |raw| {
                let Entry::Leaf(leaf @ Leaf { owner: Owner::Space, .. }) = format.decode(chunk.level, raw) else {
                    return Sweep::Keep;
                };
                let flags = Owner::Frozen.limit(leaf.flags);
                let new = format.leaf(chunk.level, &Leaf { owner: Owner::Frozen, flags, ..leaf });
                let change = format.change(chunk.level, raw, new);
                debug_assert!(change != Change::Break, "only a permission goes");
                if change == Change::Restrict {
                    progress.add(chunk.span, Changed::Leaves(chunk.level));
                }
                Sweep::Flip(raw ^ new)
            });
            Step::Over
        });
    }

    /// The invalidation of all that was frozen.
    pub(crate) fn frozen<'t, P: Platform>(&'t mut self, context: &'t Context<P>, progress: Progress) -> Flush<'t, P> {
        debug_assert!(self.is_finished(), "the caller finishes what is pending first: marks never nest");
        debug_assert!(!progress.has_marks, "what stays in place is not marked");
        self.pending = progress.into_pending(Edit::Split);
        if self.pending.is_none() {
            context.operations().publish();
        }
        self.flush(context)
    }
}
