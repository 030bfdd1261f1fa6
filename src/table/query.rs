//! Reading the tables: what is mapped where, and how much.

use core::convert::Infallible;

use arrayvec::ArrayVec;

use super::{
    Table,
    walk::{Slot, Step},
};
use crate::{Entry, Format, Frames, GuestPhysAddr, GuestPhysRange, Leaf, Owner};

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
    /// Frames of 4 KiB that are regions'.
    pub shared_frames: usize,
    /// Frames of 4 KiB that are lent to other spaces.
    pub lent_frames: usize,
    /// Frames of 4 KiB that are other spaces'.
    pub borrowed_frames: usize,
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
        let Ok(()) = self.visit(all, |slot, entry| {
            match entry {
                Entry::Table(_) => census.table_frames += frames(slot.level.below()),
                Entry::Leaf(leaf) => {
                    census.leaves[usize::from(slot.level.0)] += 1;
                    let pages = self.context.leaf_pages(slot.level);
                    match leaf.owner {
                        Owner::Space | Owner::OnLoan => census.owned_frames += pages,
                        Owner::Shared | Owner::Frozen => census.shared_frames += pages,
                        Owner::Borrowed => census.borrowed_frames += pages,
                        Owner::Foreign => {}
                    }
                }
                Entry::Lent(_) => census.lent_frames += self.context.leaf_pages(slot.level),
                _ => {}
            }
            Ok::<_, Infallible>(())
        });
        census
    }

    /// Fills `leaves` with the first of those that translate part of `range`, in address order.
    pub(crate) fn first_leaves<const MOST: usize>(&self, range: GuestPhysRange, leaves: &mut ArrayVec<Run, MOST>) {
        // Ends early by an error, which means that there is no more room.
        let _ = self.visit(range, |slot, entry| match entry {
            Entry::Leaf(leaf) => leaves.try_push(Run { range: slot.span, leaf: *leaf }).map_err(drop),
            _ => Ok(()),
        });
    }

    /// Where the first `count` entries end that translate part of `range`; those of tables are not counted.
    pub(crate) fn end_of_entries(&self, range: GuestPhysRange, count: usize) -> GuestPhysAddr {
        let mut left = count;
        let end = self.context.walk(self.root(), range, &mut |slot: Slot<'_>| {
            if left == 0 {
                return Err(slot.part.start);
            }
            if let Entry::Table(table) = self.context.decode(&slot) {
                return Ok(Step::Into(table));
            }
            left -= 1;
            Ok(Step::Next)
        });
        end.err().unwrap_or(range.end)
    }

    /// Shows every entry that translates part of `range` to `each`.
    pub(super) fn visit<S>(
        &self,
        range: GuestPhysRange,
        mut each: impl FnMut(&Slot<'_>, &Entry) -> Result<(), S>,
    ) -> Result<(), S> {
        self.context.walk(self.root(), range, &mut |slot: Slot<'_>| {
            let entry = self.context.decode(&slot);
            each(&slot, &entry)?;
            Ok(match entry {
                Entry::Table(table) => Step::Into(table),
                _ => Step::Next,
            })
        })
    }
}
