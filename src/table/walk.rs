//! The one walker.

use core::sync::atomic::Ordering;

use memory_addr::{MemoryAddr, PhysAddr};

use super::node::{AtomicU64, Context, Node};
use crate::{Entry, Format, Frames, GuestPhysAddr, GuestPhysRange, Level};

/// An entry that a walk came to.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a> {
    /// Where it stands.
    pub entry: &'a AtomicU64,
    /// Its level.
    pub level: Level,
    /// The addresses that it translates.
    pub span: GuestPhysRange,
    /// Those of them that the walk is about.
    pub part: GuestPhysRange,
}

impl Slot<'_> {
    /// Whether the walk is about all of the entry.
    #[inline]
    pub(super) fn is_whole(&self) -> bool {
        self.span == self.part
    }

    /// The raw entry. Acquire: what it points to was filled before it was linked.
    #[inline]
    pub(super) fn load(&self) -> u64 {
        self.entry.load(Ordering::Acquire)
    }

    /// Writes the entry, and with it everything that it points to.
    #[inline]
    pub(super) fn store(&self, raw: u64) {
        self.entry.store(raw, Ordering::Release);
    }

    /// Replaces the entry, keeping what hardware noted in the old one until the last moment.
    #[inline]
    pub(super) fn swap(&self, raw: u64) -> u64 {
        self.entry.swap(raw, Ordering::AcqRel)
    }

    /// Replaces the entry if it is still `old`; else what it is now.
    #[inline]
    pub(super) fn replace(&self, old: u64, new: u64) -> Result<(), u64> {
        self.entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(drop)
    }
}

/// Where a walk goes from an entry.
pub(super) enum Step {
    /// To the next one.
    Next,
    /// Into the table that it points to, or did until it was marked.
    Into(PhysAddr),
}

impl<F: Format, M: Frames> Context<F, M> {
    /// Visits every entry of `node` that translates part of `range`, and below those where the visitor says so.
    ///
    /// In address order, one descent for each table. `range` is not empty and lies within the node.
    pub(super) fn walk<S>(
        &self,
        node: Node<'_>,
        range: GuestPhysRange,
        visit: &mut impl FnMut(Slot<'_>) -> Result<Step, S>,
    ) -> Result<(), S> {
        let span = self.geometry.span(node.level);
        let first = (range.start.as_usize() - node.base.as_usize()) >> self.geometry.shift(node.level);
        let mut start = node.base.wrapping_add(first * span);
        for entry in &node.entries[first..] {
            if start >= range.end {
                break;
            }
            let end = start.wrapping_add(span);
            let part = GuestPhysRange { start: start.max(range.start), end: end.min(range.end) };
            let slot = Slot { entry, level: node.level, span: GuestPhysRange { start, end }, part };
            if let Step::Into(table) = visit(slot)? {
                // SAFETY: the visitor read the address from an entry of this level, whose table stays until the
                // exclusive section that removes it; see `Table`.
                #[allow(unsafe_code, reason = "descending is reaching a table")]
                let below = unsafe { self.node(table, node.level.below(), start) };
                self.walk(below, part, visit)?;
            }
            start = end;
        }
        Ok(())
    }

    /// The lowest entry that translates `gpa`, from a whole table on.
    #[inline]
    pub(super) fn lookup<'a>(&self, root: Node<'a>, gpa: GuestPhysAddr) -> (Slot<'a>, Entry) {
        let mut node = root;
        loop {
            let level = node.level;
            let entry = &node.entries[self.geometry.index(level, gpa)];
            match self.format.decode(level, entry.load(Ordering::Acquire)) {
                // SAFETY: as in `walk`.
                #[allow(unsafe_code, reason = "descending is reaching a table")]
                Entry::Table(table) => node = unsafe { self.node(table, level.below(), gpa) },
                other => {
                    let span = self.geometry.entry_range(level, gpa);
                    return (Slot { entry, level, span, part: span }, other);
                }
            }
        }
    }

    /// The entry of `node` that translates `gpa`, and what it says.
    pub(super) fn slot<'a>(&self, node: Node<'a>, gpa: GuestPhysAddr) -> (Slot<'a>, Entry) {
        let span = self.geometry.entry_range(node.level, gpa);
        let index = (gpa.as_usize() - node.base.as_usize()) >> self.geometry.shift(node.level);
        let slot = Slot { entry: &node.entries[index], level: node.level, span, part: span };
        (slot, self.format.decode(node.level, slot.load()))
    }

    /// The table that an entry points to, which was just read from it.
    pub(super) fn below<'a>(&self, slot: &Slot<'a>, table: PhysAddr) -> Node<'a> {
        // SAFETY: as in `walk`.
        #[allow(unsafe_code, reason = "descending is reaching a table")]
        unsafe {
            self.node(table, slot.level.below(), slot.span.start)
        }
    }

    /// What `slot` says.
    pub(super) fn decode(&self, slot: &Slot<'_>) -> Entry {
        self.format.decode(slot.level, slot.load())
    }
}
