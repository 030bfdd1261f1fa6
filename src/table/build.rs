//! Tables that are built before any walker sees them, and grafted into the ones that hardware walks.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use memory_addr::{MemoryAddr, PAGE_SIZE_4K, PhysAddr};
use page_table_multiarch::MappingFlags;

use super::{
    context::Context,
    entry::Slot,
    node::{AtomicU64, Node},
    removed::RemovedMemory,
    walk::Chunk,
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    extents::Extents,
    format::{Entry, Format, Leaf, LeafPolicy, Owner, Used},
    frame::{Frames, Owned},
    invalidate::Invalidate,
    platform::Platform,
};

/// What tables under construction are filled with.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fill<'a> {
    /// Memory in one piece: the first leaf, as if it had the size of all of it.
    Run(Leaf),
    /// The space's own zeroed frames.
    Own(LeafPolicy, MappingFlags),
    /// Memory in several pieces, that of another space, with this owner noted.
    Given(&'a Extents, Owner, MappingFlags),
}

impl Fill<'_> {
    /// Memory that the space does not own, in one piece from `to` on.
    pub(crate) const fn linear(to: PhysAddr, flags: MappingFlags) -> Self {
        Self::Run(Leaf { at: to, flags, owner: Owner::Foreign, used: Used::Accessed })
    }
}

/// Leaves side by side in one table, in entries that follow each other.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    /// The difference between an entry and the next.
    step: u64,
    count: usize,
}

/// A mapping that is built but in no table yet: some entries for a table that is there, and everything below them.
///
/// Dropped, it frees its tables and the frames that its leaves own.
pub(crate) struct Detached<'c, P: Platform> {
    context: &'c Context<P>,
    range: GuestPhysRange,
    level: Level,
    /// The entries of `level` that translate the range.
    entries: Vec<AtomicU64>,
}

impl<'c, P: Platform> Detached<'c, P> {
    /// Builds the mapping of `range` for a table whose entries are of `level`.
    ///
    /// # Errors
    /// There is no memory for it, or the space may not have it.
    pub(crate) fn build(
        context: &'c Context<P>,
        range: GuestPhysRange,
        level: Level,
        fill: Fill<'_>,
    ) -> Result<Self, Exhausted> {
        Self::build_parts(context, range, level, core::iter::once((range, fill)))
    }

    /// The same for some parts of `range`, which follow each other; between them nothing is mapped.
    ///
    /// # Errors
    /// As for [`build`](Self::build).
    pub(super) fn build_parts<'a>(
        context: &'c Context<P>,
        range: GuestPhysRange,
        level: Level,
        parts: impl Iterator<Item = (GuestPhysRange, Fill<'a>)>,
    ) -> Result<Self, Exhausted> {
        let first = range.start.align_down(Context::<P>::span(level));
        let last = range.end.wrapping_sub(1);
        let count = ((last - first) >> Context::<P>::shift(level)) + 1;
        let mut entries = Vec::new();
        entries.try_reserve_exact(count).map_err(|_| Exhausted::Memory)?;
        entries.resize_with(count, || AtomicU64::new(context.format.absent()));
        let detached = Self { context, range, level, entries };
        for (part, fill) in parts {
            context.fill(detached.node(), part, fill, part.start)?;
        }
        // Orders the stores that filled the tables before the one that will link them, in whatever order the lock that
        // comes between them gives.
        core::sync::atomic::fence(Ordering::Release);
        Ok(detached)
    }

    /// The entries, as part of a table.
    fn node(&self) -> Node<'_> {
        let base = self.range.start.align_down(Context::<P>::span(self.level));
        Node { entries: &self.entries, level: self.level, base }
    }

    /// What it maps.
    pub(super) const fn range(&self) -> GuestPhysRange {
        self.range
    }

    /// The level of the entries that it replaces.
    pub(crate) const fn level(&self) -> Level {
        self.level
    }

    /// Makes the foreign memory that it maps the space's own: dropped from now on, it frees that too.
    pub(crate) fn own(&self) {
        self.change_owners(Owner::Foreign, Owner::Space);
    }

    /// Makes the space's own memory that it maps foreign: dropped from now on, it frees its tables alone.
    pub(super) fn disown(&self) {
        self.change_owners(Owner::Space, Owner::Foreign);
    }

    fn change_owners(&self, from: Owner, to: Owner) {
        self.each_slot(self.range, &mut |slot| slot.change_owner(&self.context.format, from, to));
    }

    /// Makes the space's own memory that it maps lent, as if it had been [withdrawn](super::Table::withdraw).
    pub(super) fn lend(&self) {
        self.each_slot(self.range, &mut |slot| {
            slot.withdraw(&self.context.format, Owner::Space);
        });
    }

    /// Shows every leaf in a part, and its level, to `each`.
    pub(super) fn each_leaf(&self, part: GuestPhysRange, mut each: impl FnMut(Leaf, Level)) {
        self.each_slot(part, &mut |slot| {
            if let Entry::Leaf(leaf) = slot.decode(&self.context.format) {
                each(leaf, slot.level);
            }
        });
    }

    fn each_slot(&self, part: GuestPhysRange, each: &mut dyn FnMut(Slot<'_>)) {
        self.context.each_slot(self.node(), part, each);
    }

    /// Moves everything into `table`, of its level, where its range is not mapped.
    pub(super) fn graft(self, table: Node<'_>) {
        let node = self.node();
        let first = table.index::<P>(node.base);
        let live = Node { entries: &table.entries[first..first + node.entries.len()], ..node };
        self.context.merge(live, node);
    }
}

impl<P: Platform> Drop for Detached<'_, P> {
    fn drop(&mut self) {
        let mut removed = RemovedMemory::default();
        for entry in &self.entries {
            // SAFETY: no walker ever saw what is still in these entries, and they go now.
            #[allow(unsafe_code, reason = "frees what only this value knows")]
            unsafe {
                let entry = self.context.decode(self.level, entry.load(Ordering::Relaxed));
                removed.add(self.context, self.level, entry);
            }
        }
        removed.free(self.context, &mut { usize::MAX });
    }
}

/// Absent entries of one table of pages, side by side, for as long as the space's lock is held exclusively.
pub(crate) struct Pages<'t>(pub(super) Chunk<'t>);

impl Pages<'_> {
    /// Maps memory in one piece, which `leaf` begins.
    pub(crate) fn fill<P: Platform>(self, context: &Context<P>, leaf: &Leaf) {
        let entry = |at| context.format.leaf(Level::PAGE, &Leaf { at, ..*leaf });
        let mut raw = entry(leaf.at);
        let step = entry(leaf.at + Context::<P>::span(Level::PAGE)).wrapping_sub(raw);
        for word in self.0.entries {
            // No walker sees anything else behind an entry of a page.
            word.store(raw, Ordering::Release);
            raw = raw.wrapping_add(step);
        }
        context.operations().publish();
    }
}

impl<P: Platform> Context<P> {
    /// Fills the part of a table under construction that translates `range`; the memory of `fill` begins at `origin`.
    ///
    /// # Errors
    /// Frames ran out: the table has what was filled until then.
    pub(super) fn fill(
        &self,
        node: Node<'_>,
        range: GuestPhysRange,
        fill: Fill<'_>,
        origin: GuestPhysAddr,
    ) -> Result<(), Exhausted> {
        let mut gpa = range.start;
        while gpa < range.end {
            let first = node.index::<P>(gpa);
            let rest = GuestPhysRange { start: gpa, end: range.end };
            if let Some(run) = self.leaves(node.level, rest, fill, origin)? {
                let mut raw = run.first;
                for entry in &node.entries[first..first + run.count] {
                    entry.store(raw, Ordering::Relaxed);
                    raw = raw.wrapping_add(run.step);
                }
                gpa = gpa.wrapping_add(run.count << Self::shift(node.level));
                continue;
            }
            let span = Self::entry_range(node.level, gpa);
            let part = GuestPhysRange { start: gpa, end: span.end.min(range.end) };
            let below = node.level.below();
            let entry = &node.entries[first];
            let run = if part == span { self.linear(below, part, fill, origin) } else { None };
            if let Some(run) = run {
                let table = self.new_run(below, run.first, run.step)?.into_raw();
                entry.store(self.format.table(table), Ordering::Relaxed);
            } else {
                // Another part of what this entry translates may have been filled before.
                let table = match self.format.next_table(node.level, entry.load(Ordering::Relaxed)) {
                    Some(table) => table,
                    None => self.new_table(below)?.into_raw(),
                };
                entry.store(self.format.table(table), Ordering::Relaxed);
                self.fill(self.below(node.level, span.start, table), part, fill, origin)?;
            }
            gpa = part.end;
        }
        Ok(())
    }

    /// The leaves of `level` that `range` begins with; `None` where it takes smaller ones.
    fn leaves(
        &self,
        level: Level,
        range: GuestPhysRange,
        fill: Fill<'_>,
        origin: GuestPhysAddr,
    ) -> Result<Option<Run>, Exhausted> {
        let span = Self::span(level);
        if !range.start.is_aligned(span) || range.size() < span || !self.format.maps(level) {
            return Ok(None);
        }
        let one = |leaf: &Leaf| Run { first: self.format.leaf(level, leaf), step: 0, count: 1 };
        match fill {
            Fill::Own(policy, flags) if self.allows(policy, level) => match self.frames.take(Self::leaf_pages(level)) {
                Ok(frames) => {
                    let (frames, leaf) = self.own_leaf(frames, flags);
                    frames.into_raw();
                    Ok(Some(one(&leaf)))
                }
                Err(exhausted) if level == Level::PAGE => Err(exhausted),
                Err(_) => Ok(None),
            },
            Fill::Own(..) => Ok(None),
            Fill::Given(extents, owner, flags) => {
                let at = extents.at(range.start - origin).filter(|(at, size)| at.is_aligned(span) && *size >= span);
                Ok(at.map(|(at, _)| one(&Leaf { at, flags, owner, used: Used::Accessed })))
            }
            Fill::Run(_) => Ok(self.linear(level, range, fill, origin)),
        }
    }

    /// The leaves of `level` that map all whole spans of `range`, which begins with one, to memory in one piece.
    fn linear(&self, level: Level, range: GuestPhysRange, fill: Fill<'_>, origin: GuestPhysAddr) -> Option<Run> {
        let Fill::Run(leaf) = fill else { return None };
        let span = Self::span(level);
        let leaf = Leaf { at: leaf.at + (range.start - origin), ..leaf };
        if !leaf.at.is_aligned(span) || !self.format.maps(level) {
            return None;
        }
        let count = range.size() / span;
        let first = self.encode(level, &leaf);
        let step =
            if count > 1 { self.encode(level, &Leaf { at: leaf.at + span, ..leaf }).wrapping_sub(first) } else { 0 };
        Some(Run { first, step, count })
    }

    /// Zeroes frames for a leaf, which the guest may see as soon as it is mapped.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its result in memory cost a tenth of a fault")]
    pub(crate) fn own_leaf<'f, A: Frames>(&self, frames: Owned<'f, A>, flags: MappingFlags) -> (Owned<'f, A>, Leaf) {
        let frames = frames.zeroed();
        let leaf = Leaf { at: frames.at(), flags, owner: Owner::Space, used: Used::Accessed };
        self.synchronize(&leaf, frames.pages() * PAGE_SIZE_4K);
        (frames, leaf)
    }

    /// Moves the entries of `new` to where those of `live` are absent, and what is below the others likewise.
    ///
    /// The caller excludes all others and knows that no leaf stands in another's way.
    fn merge(&self, live: Node<'_>, new: Node<'_>) {
        for (to, from) in live.entries.iter().zip(new.entries) {
            let (source, target) = (from.load(Ordering::Relaxed), to.load(Ordering::Acquire));
            let tables = (self.format.next_table(new.level, source), self.format.next_table(live.level, target));
            if source == self.format.absent() {
                continue;
            }
            if let (Some(new_table), Some(live_table)) = tables {
                // The base does not matter here: both are gone through from end to end.
                let below = |node: Node<'_>, table| self.below(node.level, node.base, table);
                self.merge(below(live, live_table), below(new, new_table));
            } else {
                debug_assert_eq!(self.format.decode(live.level, target), Entry::Absent, "areas are disjoint");
                from.store(self.format.absent(), Ordering::Relaxed);
                // Release: what `source` points to is filled before a walker can follow it.
                to.store(source, Ordering::Release);
            }
        }
    }
}
