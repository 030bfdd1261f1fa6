//! Leaves that a range lacks: built before an operation changes anything, and mapped when it cannot fail any more.
//!
//! A leaf that is mapped cannot be taken back: a guest may have written through it.

use alloc::vec::Vec;

use memory_addr::PAGE_SIZE_4K;

use super::{
    Table,
    build::{Detached, Fill},
    context::Context,
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysRange, Level},
    extents::{Extents, Seams},
    platform::Platform,
};

/// What is missing in a range, in address order, and with what it is to be filled.
#[derive(Default, PartialEq)]
pub(crate) struct Gaps(Vec<Gap>);

/// What absent entries of one level in one table translate, or a part of that.
#[derive(Clone, Copy, PartialEq)]
struct Gap {
    range: GuestPhysRange,
    level: Level,
    fill: Fill<'static>,
}

/// The leaves for gaps, and the tables that lead to them: in no table yet.
///
/// Dropped, it frees its tables and the frames that its leaves own.
#[must_use = "dropped, it is freed"]
pub(crate) struct Supplement<'c, P: Platform>(Vec<Detached<'c, P>>);

impl Gap {
    /// Whether the entry of `level` at the start of `range` is one of the same table.
    fn shares_table<P: Platform>(&self, range: GuestPhysRange, level: Level) -> bool {
        let above = Context::<P>::entry_range(Level(level.0 + 1), self.range.start);
        self.level == level && above.contains(range.start)
    }
}

impl Gaps {
    /// Adds what absent entries of `level` translate, behind all others.
    ///
    /// # Errors
    /// There is no memory to note it.
    pub(crate) fn push<P: Platform>(
        &mut self,
        range: GuestPhysRange,
        level: Level,
        fill: Fill<'static>,
    ) -> Result<(), Exhausted> {
        if let Some(last) = self.0.last_mut()
            && last.range.end == range.start
            && last.shares_table::<P>(range, level)
            && matches!(fill, Fill::Own(..))
            && last.fill == fill
        {
            last.range.end = range.end;
            return Ok(());
        }
        self.0.try_reserve(1).map_err(|_| Exhausted::Memory)?;
        self.0.push(Gap { range, level, fill });
        Ok(())
    }

    /// How many frames of 4 KiB it takes to fill them.
    pub(crate) fn pages(&self) -> usize {
        self.0.iter().map(|gap| gap.range.size() / PAGE_SIZE_4K).sum()
    }

    /// Builds the leaves for them. No table is built that is there.
    ///
    /// # Errors
    /// There is no memory for it, or the space may not have it.
    pub(crate) fn build<'c, P: Platform>(&self, context: &'c Context<P>) -> Result<Supplement<'c, P>, Exhausted> {
        let mut supplement = Supplement::nothing();
        for gaps in self.0.chunk_by(|one, next| one.shares_table::<P>(next.range, next.level)) {
            let ([first, ..], [.., last]) = (gaps, gaps) else { continue };
            let range = GuestPhysRange { start: first.range.start, end: last.range.end };
            let parts = gaps.iter().map(|gap| (gap.range, gap.fill));
            supplement.0.try_reserve(1).map_err(|_| Exhausted::Memory)?;
            supplement.0.push(Detached::build_parts(context, range, first.level, parts)?);
        }
        Ok(supplement)
    }
}

impl<P: Platform> Supplement<'_, P> {
    /// For a range that lacks nothing.
    pub(crate) const fn nothing() -> Self {
        Self(Vec::new())
    }

    /// Adds where the memory is that it has for `part`.
    ///
    /// # Errors
    /// There is no memory to note it.
    pub(super) fn add_to(&self, extents: &mut Extents, part: GuestPhysRange, seams: Seams) -> Result<(), Exhausted> {
        let next = self.0.partition_point(|piece| piece.range().end <= part.start);
        let Some(piece) = self.0.get(next).filter(|piece| piece.range().overlaps(part)) else { return Ok(()) };
        let (start, end) = (piece.range().start.max(part.start), piece.range().end.min(part.end));
        let mut result = Ok(());
        piece.each_leaf(GuestPhysRange { start, end }, |leaf, level| {
            if result.is_ok() {
                result = extents.push(leaf.at, Context::<P>::span(level), seams);
            }
        });
        result
    }

    /// Maps it in `table`, where its gaps still are.
    pub(crate) fn graft(self, context: &Context<P>, table: &mut Table) {
        for piece in self.0 {
            debug_assert!(table.fits(context, &piece), "the lock was held since its gaps were looked at");
            table.graft(context, piece);
        }
    }

    /// Maps it in `table` as lent: no CPU of this space reaches it.
    pub(crate) fn graft_lent(self, context: &Context<P>, table: &mut Table) {
        self.0.iter().for_each(Detached::lend);
        self.graft(context, table);
    }

    /// Frees its tables, but no frame of its leaves: another space has those.
    pub(crate) fn give_away(self) {
        self.0.iter().for_each(Detached::disown);
    }
}
