//! Reading the tables: what is mapped where, and how much.

use arrayvec::ArrayVec;

use super::{
    Table,
    context::Context,
    walk::{Step, Visit},
};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Entry, Format, Leaf, Owner},
    platform::Platform,
};

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

impl Table {
    /// Counts everything.
    pub(crate) fn census<P: Platform>(&self, context: &Context<P>) -> Census {
        let (root_level, _) = context.format.root_shape();
        let mut census = Census { table_frames: context.table_pages(root_level), ..Census::default() };
        context.walk(self.root(context), context.everything(), &mut |visit| {
            let chunk = match visit {
                Visit::Entries(chunk) => chunk,
                Visit::Table(chunk, _) => {
                    census.table_frames += context.table_pages(chunk.level.below());
                    return Step::Into;
                }
            };
            let pages = Context::<P>::leaf_pages(chunk.level);
            for slot in chunk.slots::<P>() {
                match slot.decode(&context.format) {
                    Entry::Leaf(leaf) => {
                        census.leaves[usize::from(chunk.level.0)] += 1;
                        match leaf.owner {
                            Owner::Space | Owner::OnLoan => census.owned_frames += pages,
                            Owner::Shared | Owner::Frozen => census.shared_frames += pages,
                            Owner::Borrowed => census.borrowed_frames += pages,
                            Owner::Foreign => {}
                        }
                    }
                    Entry::Lent(_) => census.lent_frames += pages,
                    _ => {}
                }
            }
            Step::Over
        });
        census
    }

    /// Fills `leaves` with the first of those that translate part of `range`, in address order.
    pub(crate) fn first_leaves<P: Platform, const MOST: usize>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        leaves: &mut ArrayVec<Run, MOST>,
    ) {
        // Ends early by an error, which means that there is no more room.
        let _ = self.visit(context, range, |level, part, entry| match entry {
            Entry::Leaf(leaf) => {
                let range = Context::<P>::entry_range(level, part.start);
                leaves.try_push(Run { range, leaf: *leaf }).map_err(drop)
            }
            _ => Ok(()),
        });
    }

    /// Where the first `count` entries end that translate part of `range`; those of tables are not counted.
    pub(crate) fn end_of_entries<P: Platform>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        count: usize,
    ) -> GuestPhysAddr {
        let (mut left, mut end) = (count, range.end);
        context.walk(self.root(context), range, &mut |visit| {
            if left == 0 {
                let (Visit::Entries(chunk) | Visit::Table(chunk, _)) = visit;
                end = chunk.part.start;
                return Step::Stop;
            }
            if let Visit::Entries(chunk) = visit {
                if chunk.entries.len() > left {
                    end = GuestPhysAddr::from_usize(
                        chunk.span.start.as_usize() + (left << Context::<P>::shift(chunk.level)),
                    );
                    return Step::Stop;
                }
                left -= chunk.entries.len();
            }
            Step::Into
        });
        end
    }

    /// Shows every lowest entry that translates part of `range` to `each`, with its level and that part.
    ///
    /// # Errors
    /// The first of `each`.
    pub(super) fn visit<P: Platform, S>(
        &self,
        context: &Context<P>,
        range: GuestPhysRange,
        mut each: impl FnMut(Level, GuestPhysRange, &Entry) -> Result<(), S>,
    ) -> Result<(), S> {
        let mut result = Ok(());
        context.walk(self.root(context), range, &mut |visit| {
            let Visit::Entries(chunk) = visit else { return Step::Into };
            for slot in chunk.slots::<P>() {
                let part = if chunk.level == Level::PAGE {
                    Context::<P>::entry_range(chunk.level, slot.start)
                } else {
                    chunk.part
                };
                result = each(chunk.level, part, &slot.decode(&context.format));
                if result.is_err() {
                    return Step::Stop;
                }
            }
            Step::Over
        });
        result
    }
}
