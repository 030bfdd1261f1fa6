//! Reading the tables: what is mapped where, and how much.

use core::convert::Infallible;

use super::{
    Table,
    walk::{Slot, Step},
};
use crate::{Entry, Format, Frames, GuestPhysRange, Leaf, Level};

/// How many levels a tree has at most, all architectures considered.
pub(crate) const LEVELS: usize = 5;

/// How many tables and leaves there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Frames of 4 KiB that hold tables, the root among them.
    pub table_frames: usize,
    /// Leaves by level.
    pub leaves: [usize; LEVELS],
    /// Frames of 4 KiB that the leaves own.
    pub owned_frames: usize,
}

/// A leaf, and what it translates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Run {
    /// The addresses.
    pub range: GuestPhysRange,
    /// The leaf.
    pub leaf: Leaf,
}

impl<F: Format, M: Frames> Table<F, M> {
    /// Counts everything.
    pub(crate) fn census(&self) -> Census {
        let geometry = self.context.geometry;
        let frames = |level| geometry.table_pages(level) * (geometry.page_size() / memory_addr::PAGE_SIZE_4K);
        let mut census = Census { table_frames: frames(geometry.root_level), ..Census::default() };
        let all = GuestPhysRange { start: 0.into(), end: geometry.limit().into() };
        self.visit(all, |slot, entry| match entry {
            Entry::Table(_) => census.table_frames += frames(slot.level.below()),
            Entry::Leaf(leaf) => {
                census.leaves[usize::from(slot.level.0)] += 1;
                if leaf.owner == crate::Owner::Space {
                    census.owned_frames += self.context.leaf_pages(slot.level);
                }
            }
            _ => {}
        });
        census
    }

    /// Calls `each` with every leaf that translates part of `range`, in address order.
    pub(crate) fn leaves(&self, range: GuestPhysRange, mut each: impl FnMut(Level, Run)) {
        self.visit(range, |slot, entry| {
            if let Entry::Leaf(leaf) = entry {
                each(slot.level, Run { range: slot.span, leaf: *leaf });
            }
        });
    }

    /// Shows every entry that translates part of `range` to `each`.
    fn visit(&self, range: GuestPhysRange, mut each: impl FnMut(&Slot<'_>, &Entry)) {
        let Ok(()) = self.context.walk(self.root(), range, &mut |slot: Slot<'_>| {
            let entry = self.context.decode(&slot);
            each(&slot, &entry);
            Ok::<_, Infallible>(match entry {
                Entry::Table(table) => Step::Into(table),
                _ => Step::Next,
            })
        });
    }
}
