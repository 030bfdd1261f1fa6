//! Blocks that a range's ends cut: their pieces, prepared before anything changes (H8).

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use memory_addr::{MemoryAddr, PhysAddr};

use super::{
    node::{Context, Node},
    walk::{Slot, Step},
};
use crate::{Entry, Format, Frames, GuestPhysRange, Leaf, Level, MappingFlags, Used, account::Exhausted};

/// What an exclusive operation does with the leaves in its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Edit {
    /// They go.
    Unmap,
    /// They get these flags.
    Protect(MappingFlags),
    /// Those that the range's ends cut become smaller ones; nothing else changes.
    Split,
}

/// A block that is cut, and the finished table that takes its place.
pub(super) struct Cut<F: Format, M: Frames> {
    context: Context<F, M>,
    /// What the block translates.
    pub span: GuestPhysRange,
    /// The part that the edit is about.
    pub part: GuestPhysRange,
    level: Level,
    /// The block as it was when its pieces were made.
    used: Used,
    table: PhysAddr,
    link: Link,
}

/// Whether hardware knows a cut's table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Not yet: dropping frees it.
    Unlinked,
    /// It took the block's place.
    Linked,
}

/// At most both ends cut a block.
pub(super) type Cuts<F, M> = ArrayVec<Cut<F, M>, 2>;

impl<F: Format, M: Frames> Context<F, M> {
    /// Prepares the cuts that `edit` of `range` makes. Nothing changes.
    pub(super) fn cuts(&self, root: Node<'_>, range: GuestPhysRange, edit: Edit) -> Result<Cuts<F, M>, Exhausted> {
        let mut cuts = Cuts::new();
        for end in [range.start, range.end.wrapping_sub(1)] {
            let (slot, entry) = self.lookup(root, end);
            let Entry::Leaf(leaf) = entry else { continue };
            let known = cuts.iter().any(|cut: &Cut<F, M>| cut.span == slot.span);
            if !known && !range.contains_range(slot.span) && edit.changes(&leaf) {
                cuts.push(self.cut(&slot, &leaf, range, edit)?);
            }
        }
        Ok(cuts)
    }

    /// Prepares the pieces of one block: everything as it shall be when the table is linked.
    fn cut(&self, slot: &Slot<'_>, leaf: &Leaf, range: GuestPhysRange, edit: Edit) -> Result<Cut<F, M>, Exhausted> {
        let (span, level) = (slot.span, slot.level);
        let part = GuestPhysRange { start: span.start.max(range.start), end: span.end.min(range.end) };
        let table = self.new_table(level.below())?.into_raw();
        let cut = Cut { context: self.clone(), span, part, level, used: leaf.used, table, link: Link::Unlinked };
        self.walk(cut.node(), span, &mut |slot: Slot<'_>| {
            let piece = Leaf { at: leaf.at + (slot.span.start - span.start), ..*leaf };
            self.fill_piece(&slot, piece, part, edit)
        })?;
        Ok(cut)
    }

    /// Fills one entry of a cut's table.
    fn fill_piece(&self, slot: &Slot<'_>, piece: Leaf, part: GuestPhysRange, edit: Edit) -> Result<Step, Exhausted> {
        let raw = if !slot.span.overlaps(part) && self.format.maps(slot.level) {
            self.format.leaf(slot.level, &piece)
        } else if part.contains_range(slot.span) && self.format.maps(slot.level) {
            match edit {
                Edit::Unmap => self.format.absent(),
                Edit::Protect(flags) => {
                    let flags = piece.owner.limit(flags);
                    self.format.leaf(slot.level, &Leaf { flags, ..piece })
                }
                Edit::Split => self.format.leaf(slot.level, &piece),
            }
        } else {
            let table = self.new_table(slot.level.below())?.into_raw();
            slot.store(self.format.table(table));
            return Ok(Step::Into(table));
        };
        slot.store(raw);
        Ok(Step::Next)
    }

    /// Frees the tables below a table that was never linked, and it, but no frame that leaves name.
    #[allow(unsafe_code, reason = "frees tables")]
    fn free_unlinked(&self, node: Node<'_>, table: PhysAddr) {
        for entry in node.entries {
            if let Entry::Table(below) = self.format.decode(node.level, entry.load(Ordering::Relaxed)) {
                // SAFETY: a table that only the caller's unlinked table knows.
                let child = unsafe { self.node(below, node.level.below(), node.base) };
                self.free_unlinked(child, below);
            }
        }
        // SAFETY: it was never linked, and its only owner is being dropped.
        unsafe { self.free_table(table, node.level) };
    }
}

impl Edit {
    /// Whether the edit does anything to a leaf.
    pub(super) fn changes(self, leaf: &Leaf) -> bool {
        match self {
            Self::Unmap | Self::Split => true,
            Self::Protect(flags) => leaf.flags != leaf.owner.limit(flags),
        }
    }
}

impl<F: Format, M: Frames> Cut<F, M> {
    fn node(&self) -> Node<'_> {
        // SAFETY: the table is this value's own until it is linked, and then stays while the space's lock is held.
        #[allow(unsafe_code, reason = "reaches the cut's own table")]
        unsafe {
            self.context.node(self.table, self.level.below(), self.span.start)
        }
    }

    /// The entry that takes the block's place, once no CPU remembers the block, which was `leaf` to the last.
    ///
    /// What hardware noted after the pieces were made goes into every piece.
    pub(super) fn link(&mut self, leaf: &Leaf) -> u64 {
        if let Some(access) = leaf.used.since(self.used) {
            let format = &self.context.format;
            let Ok(()) = self.context.walk(self.node(), self.span, &mut |slot: Slot<'_>| {
                match self.context.decode(&slot) {
                    Entry::Table(table) => return Ok::<_, core::convert::Infallible>(Step::Into(table)),
                    Entry::Leaf(_) => slot.store(format.touched(slot.level, slot.load(), access)),
                    _ => {}
                }
                Ok(Step::Next)
            });
        }
        self.link = Link::Linked;
        self.context.format.table(self.table)
    }

    /// The memory of `leaf`, the block, that the edit is about: its first address, and how many bytes.
    pub(super) fn middle(&self, leaf: &Leaf) -> (PhysAddr, usize) {
        (leaf.at + (self.part.start - self.span.start), self.part.size())
    }
}

impl<F: Format, M: Frames> Drop for Cut<F, M> {
    fn drop(&mut self) {
        if self.link == Link::Unlinked {
            self.context.free_unlinked(self.node(), self.table);
        }
    }
}
