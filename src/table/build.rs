//! Building tables that nobody sees yet, and grafting them into the ones that hardware walks.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use memory_addr::{MemoryAddr, PAGE_SIZE_4K, PhysAddr};

use super::{
    node::{AtomicU64, Context, Node, Retire, UNSEEN},
    walk::{Slot, Step},
};
use crate::{
    Entry, Format, Frames, GuestPhysRange, Invalidate, Leaf, LeafPolicy, Level, MappingFlags, Owner, Pieces, Used,
    account::Exhausted, frame::Owned, loan::Extents,
};

/// What a populated mapping maps.
#[derive(Clone, Copy)]
pub(crate) enum Fill<'a> {
    /// Foreign memory, from this address on.
    Linear(PhysAddr),
    /// The space's own zeroed frames.
    Own(LeafPolicy),
    /// Memory that comes from another space, with this owner noted; never freed by whoever drops the mapping.
    Given(&'a Extents, Owner),
}

/// Mappings that are built but in no table yet: some entries of a table that is there, and everything below them.
///
/// Dropped, it frees its tables and the frames that its leaves own.
pub(crate) struct Detached<F: Format, M: Frames> {
    context: Context<F, M>,
    range: GuestPhysRange,
    level: Level,
    /// The entries of `level` that translate the range.
    entries: Vec<AtomicU64>,
}

impl<F: Format, M: Frames> Detached<F, M> {
    /// Builds the mapping of `range` for a table whose entries are of `level`.
    pub(super) fn build<I: Invalidate<F::Root>>(
        context: &Context<F, M>,
        operations: &I,
        (range, level): (GuestPhysRange, Level),
        fill: Fill<'_>,
        flags: MappingFlags,
    ) -> Result<Self, Exhausted> {
        let detached = Self::empty(context, range, level)?;
        let mut visit = |slot: Slot<'_>| context.fill(operations, slot, range, fill, flags);
        context.walk(detached.node(), range, &mut visit)?;
        Ok(detached)
    }

    /// Entries of nothing.
    fn empty(context: &Context<F, M>, range: GuestPhysRange, level: Level) -> Result<Self, Exhausted> {
        let last = range.end.wrapping_sub(1);
        let count = context.geometry.index(level, last) - context.geometry.index(level, range.start) + 1;
        let mut entries = Vec::new();
        entries.try_reserve_exact(count).map_err(|_| Exhausted::Memory)?;
        entries.resize_with(count, || AtomicU64::new(context.format.absent()));
        Ok(Self { context: context.clone(), range, level, entries })
    }

    /// The entries, as part of a table.
    fn node(&self) -> Node<'_> {
        let base = self.range.start.align_down(self.context.geometry.span(self.level));
        Node { entries: &self.entries, level: self.level, base }
    }

    /// What it maps.
    pub(super) const fn range(&self) -> GuestPhysRange {
        self.range
    }

    /// The level of the entries that it replaces.
    pub(super) const fn level(&self) -> Level {
        self.level
    }

    /// Makes the foreign memory that it maps the space's own: dropped from now on, it frees that too.
    pub(crate) fn own(&self) {
        let context = &self.context;
        let Ok(()) = context.walk(self.node(), self.range, &mut |slot: Slot<'_>| {
            if let Entry::Table(table) = context.decode(&slot) {
                return Ok::<_, core::convert::Infallible>(Step::Into(table));
            }
            context.change_owner(&slot, Owner::Foreign, Owner::Space);
            Ok(Step::Next)
        });
    }

    /// Moves everything into `table`, of its level, where nothing is mapped in its range.
    pub(super) fn graft(self, table: Node<'_>) {
        let node = self.node();
        let first = self.context.geometry.index(table.level, node.base);
        let live = Node { entries: &table.entries[first..first + node.entries.len()], ..node };
        self.context.merge(live, node);
    }
}

impl<F: Format, M: Frames> Drop for Detached<F, M> {
    fn drop(&mut self) {
        // SAFETY: nobody else ever saw what is still here.
        #[allow(unsafe_code, reason = "frees what only this value knows")]
        unsafe {
            self.context.free_below(self.node(), UNSEEN);
        }
    }
}

impl<F: Format, M: Frames> Context<F, M> {
    /// Fills one entry of tables under construction: with a leaf if one fits, else with a table.
    fn fill<I: Invalidate<F::Root>>(
        &self,
        operations: &I,
        slot: Slot<'_>,
        range: GuestPhysRange,
        fill: Fill<'_>,
        flags: MappingFlags,
    ) -> Result<Step, Exhausted> {
        let leaf = if slot.is_whole() && self.format.maps(slot.level) {
            let offset = slot.span.start.as_usize() - range.start.as_usize();
            self.new_leaf(operations, slot.level, fill, offset, flags)?
        } else {
            None
        };
        if let Some(leaf) = leaf {
            slot.entry.store(self.format.leaf(slot.level, &leaf), Ordering::Relaxed);
            return Ok(Step::Next);
        }
        let table = self.new_table(slot.level.below())?.into_raw();
        slot.entry.store(self.format.table(table), Ordering::Relaxed);
        Ok(Step::Into(table))
    }

    /// A leaf of `level`, `offset` bytes behind the start of the filled range; `None` where it takes smaller ones.
    fn new_leaf<I: Invalidate<F::Root>>(
        &self,
        operations: &I,
        level: Level,
        fill: Fill<'_>,
        offset: usize,
        flags: MappingFlags,
    ) -> Result<Option<Leaf>, Exhausted> {
        match fill {
            Fill::Linear(to) => {
                let at = to + offset;
                let fits = at.is_aligned(self.geometry.span(level));
                Ok(fits.then_some(Leaf { at, flags, owner: Owner::Foreign, used: Used::Accessed }))
            }
            Fill::Own(policy) if self.allows(policy, level) => match self.frames.take(self.leaf_pages(level)) {
                Ok(frames) => {
                    let (frames, leaf) = self.own_leaf(operations, frames, flags);
                    frames.into_raw();
                    Ok(Some(leaf))
                }
                Err(exhausted) if level == Level::PAGE => Err(exhausted),
                Err(_) => Ok(None),
            },
            Fill::Own(_) => Ok(None),
            Fill::Given(extents, owner) => {
                let span = self.geometry.span(level);
                let at = extents.at(offset).filter(|(at, size)| at.is_aligned(span) && *size >= span);
                Ok(at.map(|(at, _)| Leaf { at, flags, owner, used: Used::Accessed }))
            }
        }
    }

    /// Whether private memory may have leaves of `level`.
    pub(super) fn allows(&self, policy: LeafPolicy, level: Level) -> bool {
        let blocks = policy == LeafPolicy::Largest && self.frames.pieces() == Pieces::Any;
        level == Level::PAGE || (blocks && self.format.maps(level))
    }

    /// Zeroes frames for a leaf, which the guest may see as soon as it is mapped.
    pub(super) fn own_leaf<'f, A: Frames, I: Invalidate<F::Root>>(
        &self,
        operations: &I,
        frames: Owned<'f, A>,
        flags: MappingFlags,
    ) -> (Owned<'f, A>, Leaf) {
        let frames = frames.zeroed();
        let leaf = Leaf { at: frames.at(), flags, owner: Owner::Space, used: Used::Accessed };
        self.synchronize(operations, &leaf, frames.pages() * PAGE_SIZE_4K);
        (frames, leaf)
    }

    /// Moves the entries of `new` to where `live` has nothing, and what is below the others likewise.
    ///
    /// The caller excludes everybody else and knows that no leaf stands in the other's way.
    fn merge(&self, live: Node<'_>, new: Node<'_>) {
        for (to, from) in live.entries.iter().zip(new.entries) {
            let source = from.load(Ordering::Relaxed);
            let below =
                (self.format.decode(new.level, source), self.format.decode(live.level, to.load(Ordering::Acquire)));
            match below {
                (Entry::Absent, _) => {}
                (Entry::Table(new_table), Entry::Table(live_table)) => {
                    // SAFETY: both tables are linked, the one in tables that only the caller changes now, the other in
                    // tables that only the caller knows. The base does not matter here.
                    #[allow(unsafe_code, reason = "reaches two tables side by side")]
                    let (live_below, new_below) = unsafe {
                        let level = new.level.below();
                        (self.node(live_table, level, live.base), self.node(new_table, level, new.base))
                    };
                    self.merge(live_below, new_below);
                }
                (_, over) => {
                    debug_assert_eq!(over, Entry::Absent, "areas are disjoint, so are their leaves");
                    from.store(self.format.absent(), Ordering::Relaxed);
                    // Release: whatever `source` points to is filled before a walker can follow it.
                    to.store(source, Ordering::Release);
                }
            }
        }
    }

    /// Frees all tables below `node`, and the frames that leaves own, marked ones too.
    ///
    /// # Safety
    /// No CPU can reach them, and nobody looks at the node's entries again.
    #[allow(unsafe_code, reason = "frees tables")]
    pub(super) unsafe fn free_below(&self, node: Node<'_>, retire: Retire<'_>) {
        for entry in node.entries {
            let raw = entry.load(Ordering::Acquire);
            // SAFETY: the caller's promise for the node holds for what its entries name.
            unsafe { self.free_entry(node.level, raw, retire) };
        }
    }

    /// Frees what an entry of `level` names: frames that it owns, or a table and everything below.
    ///
    /// # Safety
    /// No CPU can reach it any more, and no entry names it after this.
    #[allow(unsafe_code, reason = "frees tables and frames")]
    pub(super) unsafe fn free_entry(&self, level: Level, raw: u64, retire: Retire<'_>) {
        match self.format.decode(level, raw) {
            // What is lent is on a loan's record, which frees it.
            Entry::Absent | Entry::Busy | Entry::Lent(_) => {}
            Entry::Leaf(leaf) | Entry::Marked(crate::Marked::Leaf(leaf)) => {
                // SAFETY: the caller's promise.
                unsafe { self.free_leaf(leaf.owner, leaf.at, self.leaf_pages(level), retire) };
            }
            Entry::Table(table) | Entry::Marked(crate::Marked::Table(table)) => {
                // SAFETY: the caller's promise; the table is freed after everything below it.
                unsafe {
                    let below = self.node(table, level.below(), crate::GuestPhysAddr::from_usize(0));
                    self.free_below(below, retire);
                    self.free_table(table, level.below());
                }
            }
        }
    }
}
