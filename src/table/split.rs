//! Splitting what may be lent: prepared before anything changes, so that nothing fails for want of memory afterwards.

use super::{
    Table,
    context::Context,
    cut::{Cut, Edit},
    walk::{Step, Sweep, Visit},
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Entry, Format, Leaf, Owner},
    invalidate::{Invalidate, Unreachable},
    platform::Platform,
};

impl Table {
    /// Prepares the tables that take the place of blocks which the ends of `range` cut, mapped or lent. [`split`](Self::split)
    /// or [`discard_split`](Self::discard_split) follows under the same lock.
    ///
    /// # Errors
    /// There are no frames for them: nothing changed.
    pub(crate) fn prepare_split<P: Platform>(
        &mut self,
        context: &Context<P>,
        range: GuestPhysRange,
    ) -> Result<(), Exhausted> {
        debug_assert!(self.is_finished() && self.cuts.is_empty(), "one change at a time");
        context.cut_ends(&self.tree, range, Edit::Split, &mut self.cuts)?;
        for end in [range.start, GuestPhysAddr::from_usize(range.end.as_usize() - 1)] {
            let (slot, raw) = self.lookup(context, end);
            let span = Context::<P>::entry_range(slot.level, end);
            let Entry::Lent(leaf) = context.format.decode(slot.level, raw) else { continue };
            let known = self.cuts.iter().any(|cut| cut.span == span);
            if known || slot.level == Level::PAGE || range.contains_range(span) {
                continue;
            }
            match context.cut(span, slot.level, &Leaf { owner: Owner::OnLoan, ..leaf }, range, Edit::Split) {
                Ok(cut) => self.cuts.push(cut),
                Err(exhausted) => {
                    context.discard_cuts(&mut self.cuts);
                    return Err(exhausted);
                }
            }
        }
        Ok(())
    }

    /// Splits what [`prepare_split`](Self::prepare_split) prepared. It takes no memory.
    ///
    /// # Errors
    /// A CPU could not be told: what was mapped in a block is finished before the next change of the map.
    pub(crate) fn split<P: Platform>(
        &mut self,
        context: &Context<P>,
        range: GuestPhysRange,
    ) -> Result<(), Unreachable> {
        for index in (0..self.cuts.len()).rev() {
            let (slot, raw) = self.tree.lookup(context, self.cuts[index].span.start);
            match context.format.decode(slot.level, raw) {
                Entry::Lent(leaf) => {
                    // No CPU knows an entry that is lent: a table may take its place at once.
                    let mut cut = self.cuts.remove(index);
                    context.lend_all(&cut);
                    slot.store(context.link_cut(&mut cut, &leaf));
                    context.operations().publish();
                }
                // Marked as what it is, a block on loan would be one that is lent. Its pieces are on loan, and so is what is
                // marked: no end of the space may take it for its own.
                _ => slot.change_owner(&context.format, Owner::OnLoan, Owner::Foreign),
            }
        }
        if self.cuts.is_empty() {
            return Ok(());
        }
        self.edit(context, range, Edit::Split).expect("what is cut was prepared").finish()
    }

    /// Frees what [`prepare_split`](Self::prepare_split) prepared.
    pub(crate) fn discard_split<P: Platform>(&mut self, context: &Context<P>) {
        context.discard_cuts(&mut self.cuts);
    }
}

impl<P: Platform> Context<P> {
    /// Makes every leaf of a cut, which is not linked, one that is lent.
    fn lend_all(&self, cut: &Cut) {
        self.walk(self.cut_node(cut), cut.span, &mut |visit| {
            if let Visit::Entries(chunk) = visit {
                self.sweep(&chunk, |raw| match self.format.decode(chunk.level, raw) {
                    Entry::Leaf(_) => Sweep::Flip(raw ^ self.format.mark(chunk.level, raw)),
                    _ => Sweep::Keep,
                });
            }
            Step::Into
        });
    }
}
