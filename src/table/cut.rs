//! Blocks that a range's ends cut: the table that takes a block's place, finished before anything changes (H8).

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;

use super::{
    Tree,
    build::Fill,
    context::Context,
    node::Node,
    walk::{Step, Sweep, Visit},
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Access, Entry, Format, Leaf, Used},
    platform::Platform,
};

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
pub(super) struct Cut {
    /// What the block translates.
    pub span: GuestPhysRange,
    /// The part that the edit is about.
    part: GuestPhysRange,
    /// The block's level.
    level: Level,
    /// What was noted of the block's use when its pieces were made.
    used: Used,
    table: PhysAddr,
    /// Whether the table has taken the block's place.
    linked: bool,
}

/// At most both ends cut a block.
pub(super) type Cuts = ArrayVec<Cut, 2>;

impl Edit {
    /// Whether the edit does anything to a leaf.
    pub(super) fn changes(self, leaf: &Leaf) -> bool {
        match self {
            Self::Unmap | Self::Split => true,
            Self::Protect(flags) => leaf.flags != leaf.owner.limit(flags),
        }
    }
}

impl<P: Platform> Context<P> {
    /// Prepares the cuts that `edit` of `range` makes. The tables do not change.
    ///
    /// # Errors
    /// There are no frames for the new tables.
    pub(super) fn cut_ends(
        &self,
        tree: &Tree,
        range: GuestPhysRange,
        edit: Edit,
        cuts: &mut Cuts,
    ) -> Result<(), Exhausted> {
        for end in [range.start, GuestPhysAddr::from_usize(range.end.as_usize() - 1)] {
            let (slot, raw) = tree.lookup(self, end);
            if slot.level == Level::PAGE {
                continue;
            }
            let Entry::Leaf(leaf) = self.decode(slot.level, raw) else { continue };
            let span = Self::entry_range(slot.level, end);
            let known = cuts.iter().any(|cut: &Cut| cut.span == span);
            if known || range.contains_range(span) || !edit.changes(&leaf) {
                continue;
            }
            match self.cut(span, slot.level, &leaf, range, edit) {
                Ok(cut) => cuts.push(cut),
                Err(exhausted) => {
                    self.discard_cuts(cuts);
                    return Err(exhausted);
                }
            }
        }
        Ok(())
    }

    /// Prepares the pieces of one block: everything as it shall be when the table is linked.
    pub(super) fn cut(
        &self,
        span: GuestPhysRange,
        level: Level,
        leaf: &Leaf,
        range: GuestPhysRange,
        edit: Edit,
    ) -> Result<Cut, Exhausted> {
        let part = GuestPhysRange { start: span.start.max(range.start), end: span.end.min(range.end) };
        let table = self.new_table(level.below())?.into_raw();
        let cut = Cut { span, part, level, used: leaf.used, table, linked: false };
        let piece = |range: GuestPhysRange, leaf: Leaf| {
            if range.is_empty() {
                return Ok(());
            }
            self.fill(self.cut_node(&cut), range, Fill::Run(leaf), span.start)
        };
        let middle = match edit {
            Edit::Unmap => Ok(()),
            Edit::Protect(flags) => piece(part, Leaf { flags: leaf.owner.limit(flags), ..*leaf }),
            Edit::Split => piece(part, *leaf),
        };
        let filled = middle
            .and_then(|()| piece(GuestPhysRange { end: part.start, ..span }, *leaf))
            .and_then(|()| piece(GuestPhysRange { start: part.end, ..span }, *leaf));
        filled.inspect_err(|_| self.discard_cut(&cut))?;
        Ok(cut)
    }

    /// The table of a cut.
    pub(super) fn cut_node(&self, cut: &Cut) -> Node<'_> {
        self.below(cut.level, cut.span.start, cut.table)
    }

    /// The entry that takes the block's place, once no CPU remembers the block, which was `leaf` to the last.
    ///
    /// What hardware noted after the pieces were made goes into every piece.
    pub(super) fn link_cut(&self, cut: &mut Cut, leaf: &Leaf) -> u64 {
        if let Some(access) = leaf.used.since(cut.used) {
            self.touch_all(self.cut_node(cut), cut.span, access);
        }
        cut.linked = true;
        self.format.table(cut.table)
    }

    /// Notes an access in every leaf of tables that are not linked.
    fn touch_all(&self, node: Node<'_>, range: GuestPhysRange, access: Access) {
        self.walk(node, range, &mut |visit| {
            if let Visit::Entries(chunk) = visit {
                self.sweep(&chunk, |raw| match self.format.decode(chunk.level, raw) {
                    Entry::Leaf(_) => Sweep::Flip(raw ^ self.format.touched(chunk.level, raw, access)),
                    _ => Sweep::Keep,
                });
            }
            Step::Into
        });
    }

    /// Frees the tables of cuts that were never linked, but no frame that their leaves name.
    pub(super) fn discard_cuts(&self, cuts: &mut Cuts) {
        cuts.drain(..).for_each(|cut| self.discard_cut(&cut));
    }

    fn discard_cut(&self, cut: &Cut) {
        if !cut.linked {
            self.free_unlinked(self.cut_node(cut), cut.table);
        }
    }

    #[allow(unsafe_code, reason = "frees tables")]
    fn free_unlinked(&self, node: Node<'_>, table: PhysAddr) {
        for entry in node.entries {
            if let Some(below) = self.format.next_table(node.level, entry.load(Ordering::Relaxed)) {
                self.free_unlinked(self.below(node.level, node.base, below), below);
            }
        }
        // SAFETY: it was never linked, and the cut that it belongs to goes.
        unsafe { self.free_table(table, node.level) };
    }
}

impl Cut {
    /// The table and the level of its entries, as long as it has not taken the block's place.
    pub(super) fn unlinked(&self) -> Option<(PhysAddr, Level)> {
        (!self.linked).then(|| (self.table, self.level.below()))
    }

    /// The memory of `leaf`, the block, that the edit is about: its first address, and how many bytes.
    pub(super) fn middle(&self, leaf: &Leaf) -> (PhysAddr, usize) {
        (leaf.at + (self.part.start - self.span.start), self.part.size())
    }
}
