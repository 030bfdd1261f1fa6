//! What a space owns of its memory, in runs of leaves that are alike.

use core::sync::atomic::Ordering;

use memory_addr::PhysAddr;

use super::{
    Table,
    context::Context,
    node::AtomicU64,
    walk::{Alike, Step, Visit},
};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Entry, Format, Leaf, Owner},
    platform::Platform,
};

/// Leaves with frames of the space's own, side by side in one table, which differ in their address alone.
pub(crate) struct OwnRun<'t, P: Platform> {
    context: &'t Context<P>,
    /// What of their addresses the walk is about.
    pub range: GuestPhysRange,
    level: Level,
    entries: &'t [AtomicU64],
    /// What all entries have in common.
    kind: u64,
    /// Where their address is.
    address: u64,
}

impl<P: Platform> OwnRun<'_, P> {
    /// How many leaves there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where the memory of each leaf is, and how many bytes that are. The walk's range must cut no block.
    #[inline]
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (PhysAddr, usize)> {
        let size = Context::<P>::span(self.level);
        debug_assert_eq!(self.range.size(), size * self.entries.len(), "the range cuts a block");
        self.entries.iter().map(move |entry| {
            let raw = entry.load(Ordering::Acquire) & self.address | self.kind;
            (self.context.format.leaf_address(self.level, raw), size)
        })
    }
}

impl Table {
    /// Shows all of the space's own memory that is mapped in `range` to `each`, in address order.
    ///
    /// # Errors
    /// The first of `each`.
    pub(crate) fn own_memory<P: Platform, S>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        mut each: impl FnMut(&OwnRun<'_, P>) -> Result<(), S>,
    ) -> Result<(), S> {
        let mut result = Ok(());
        context.walk(self.root(context), range, &mut |visit| {
            let Visit::Entries(chunk) = visit else { return Step::Into };
            let address = context.format.fields(chunk.level).address;
            let shift = Context::<P>::shift(chunk.level);
            let mut first = 0;
            while let Some(entry) = chunk.entries.get(first) {
                let raw = entry.load(Ordering::Acquire);
                let alike = Alike { entries: &chunk.entries[first..], kind: raw & !address, address };
                let count = alike.count().max(1);
                let next = first + count;
                if let Entry::Leaf(Leaf { owner: Owner::Space, .. }) = context.format.decode(chunk.level, raw) {
                    // Above pages a chunk is one entry, of which a part may be meant.
                    let start = chunk.span.start.as_usize() + (first << shift);
                    let end = chunk.span.start.as_usize() + (next << shift);
                    let start = GuestPhysAddr::from_usize(start).max(chunk.part.start);
                    let end = GuestPhysAddr::from_usize(end).min(chunk.part.end);
                    let run = OwnRun {
                        context,
                        range: GuestPhysRange { start, end },
                        level: chunk.level,
                        entries: &chunk.entries[first..next],
                        kind: alike.kind,
                        address,
                    };
                    result = each(&run);
                    if result.is_err() {
                        return Step::Stop;
                    }
                }
                first = next;
            }
            Step::Over
        });
        result
    }
}
