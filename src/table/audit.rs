//! The tables as an audit reads them: entry by entry, by a walk that has nothing in common with the walker that it
//! judges.

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use memory_addr::PhysAddr;

use super::{Table, context::Context, flush::Pending, node::Node, query::LEVELS};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Entry, Format, Marked},
    platform::Platform,
};

/// An entry that is not absent.
pub(crate) struct Seen {
    pub level: Level,
    /// What it translates, or would.
    pub range: GuestPhysRange,
    pub entry: Entry,
    /// Whether it is below a marked table, and so in what waits to be freed.
    pub is_removed: bool,
}

/// The tables from the root to the one that is read.
type Path = ArrayVec<PhysAddr, { LEVELS + 1 }>;

impl Table {
    /// Shows every entry that is not absent to `each`, in address order, a table's before those in it.
    ///
    /// # Errors
    /// The first of `each`.
    pub(crate) fn each_entry<P: Platform, S>(
        &self,
        context: &Context<P>,
        each: &mut impl FnMut(Seen) -> Result<(), S>,
    ) -> Result<(), S> {
        each_below(context, self.root(context), false, &mut Path::from_iter([self.root_address()]), each)
    }

    /// What an unfinished operation is about, in which entries may be marked.
    pub(crate) fn pending_range(&self) -> Option<GuestPhysRange> {
        self.pending.as_ref().map(Pending::range)
    }

    /// How many frames of 4 KiB the tables have that an unfinished operation made, and that no entry names yet.
    pub(crate) fn pending_table_frames<P: Platform>(&self, context: &Context<P>) -> usize {
        let mut frames = 0;
        for (table, level) in self.cuts.iter().filter_map(super::cut::Cut::unlinked) {
            frames += context.table_pages(level);
            let node = context.below(Level(level.0 + 1), GuestPhysAddr::from_usize(0), table);
            let mut path = Path::from_iter([table]);
            let Ok(()) = each_below(context, node, false, &mut path, &mut |seen| {
                if let Entry::Table(_) = seen.entry {
                    frames += context.table_pages(seen.level.below());
                }
                Ok::<_, core::convert::Infallible>(())
            });
        }
        frames
    }
}

/// A table that stands among those above it is not read once more: the walk ends whatever the entries say.
fn each_below<P: Platform, S>(
    context: &Context<P>,
    node: Node<'_>,
    is_removed: bool,
    path: &mut Path,
    each: &mut impl FnMut(Seen) -> Result<(), S>,
) -> Result<(), S> {
    let level = node.level;
    for (index, entry) in node.entries.iter().enumerate() {
        let entry = context.format.decode(level, entry.load(Ordering::Acquire));
        let (below, is_removed_below) = match entry {
            Entry::Absent => continue,
            Entry::Table(table) => (Some(table), is_removed),
            Entry::Marked(Marked::Table(table)) => (Some(table), true),
            _ => (None, is_removed),
        };
        let start = GuestPhysAddr::from_usize(node.base.as_usize() + (index << Context::<P>::shift(level)));
        let range = GuestPhysRange::from_start_size(start, Context::<P>::span(level));
        each(Seen { level, range, entry, is_removed })?;
        if let Some(table) = below
            && level > Level::PAGE
            && !path.contains(&table)
            && path.try_push(table).is_ok()
        {
            each_below(context, context.below(level, start, table), is_removed_below, path, each)?;
            path.pop();
        }
    }
    Ok(())
}
