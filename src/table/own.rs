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
    /// How many bytes of the first leaf lie before the range: a block may be cut by its start.
    skipped: usize,
}

impl<P: Platform> OwnRun<'_, P> {
    /// Where the memory of each leaf is, as much of it as lies in the range, and how many bytes that are.
    #[inline]
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (PhysAddr, usize)> {
        let size = self.range.size() / self.entries.len();
        self.entries.iter().map(move |entry| {
            let raw = entry.load(Ordering::Acquire) & self.address | self.kind;
            (self.context.format.leaf_address(self.level, raw) + self.skipped, size)
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
                        skipped: if first == 0 { chunk.part.start - chunk.span.start } else { 0 },
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
