//! The tables that hardware walks: one walker, and the operations on it.
//!
//! Who may do what at a time is the caller's business, and the borrow checker's: everything that removes a table or a
//! leaf takes `&mut Table` (the space's lock held exclusively); what only adds, or raises, takes `&Table` and may run
//! on many CPUs at once. That is why a table that was read from an entry stays while a walk goes on.

mod build;
mod claim;
mod cut;
mod edit;
mod flush;
mod freeze;
#[cfg(all(test, loom))]
mod model;
mod node;
mod query;
mod relocate;
mod remains;
mod shared;
mod walk;
mod withdraw;

use core::sync::atomic::Ordering;

use memory_addr::PhysAddr;

pub(crate) use self::{
    build::{Detached, Fill},
    cut::Edit,
    edit::Progress as Changes,
    flush::Flush,
    query::Run,
    relocate::Moved,
    remains::Remains,
    shared::{Found, Installed},
    withdraw::{Noted, Unowned},
};
use self::{flush::Pending, node::Context, node::Node};
use crate::{
    Entry, Format, Frames, GuestPhysAddr, GuestPhysRange, Invalidate, Level, MappingFlags, account::Exhausted,
    frame::Owned, metered::Metered, shootdown::Shootdown,
};

/// The tables of one space.
pub(crate) struct Table<F: Format, M: Frames> {
    context: Context<F, M>,
    root: PhysAddr,
    pending: Option<Pending<F, M>>,
}

/// Whether a mapping fits on tables that may have changed since it was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It does.
    Fits,
    /// The table that it was built for went: it has to be built again.
    Changed,
}

/// Builds mappings for a table without holding its lock.
pub(crate) struct Builder<F, M>(Context<F, M>);

impl<F: Format, M: Frames> Table<F, M> {
    /// Tables of nothing: one root.
    ///
    /// # Errors
    /// There are no frames for it.
    pub(crate) fn new(format: F, frames: Metered<M>, tables: Metered<M>) -> Result<Self, Exhausted> {
        let context = Context::new(format, frames, tables);
        let root = context.new_table(context.geometry.root_level)?.into_raw();
        Ok(Self { context, root, pending: None })
    }

    /// Where the root stands.
    pub(crate) const fn root_address(&self) -> PhysAddr {
        self.root
    }

    /// A builder for these tables.
    pub(crate) fn builder(&self) -> Builder<F, M> {
        Builder(self.context.clone())
    }

    /// The level of the lowest table that translates all of `range`: where a mapping of it is grafted.
    pub(crate) fn graft_level(&self, range: GuestPhysRange) -> Level {
        self.graft_node(range, Level::PAGE).level
    }

    /// Whether a mapping still fits on the tables that it was built for.
    pub(crate) fn fits(&self, detached: &Detached<F, M>) -> Fit {
        let level = self.graft_node(detached.range(), detached.level()).level;
        if level == detached.level() { Fit::Fits } else { Fit::Changed }
    }

    /// Adds a mapping that [`fits`](Self::fits). Nothing is mapped in its range.
    pub(crate) fn graft<I: Invalidate<F::Root>>(&mut self, detached: Detached<F, M>, operations: &I) {
        let node = self.graft_node(detached.range(), detached.level());
        detached.graft(node);
        operations.publish();
    }

    /// The lowest table, from `lowest` on, that translates all of `range`.
    fn graft_node(&self, range: GuestPhysRange, lowest: Level) -> Node<'_> {
        let mut node = self.root();
        while node.level > lowest {
            let (slot, entry) = self.context.slot(node, range.start);
            match entry {
                Entry::Table(table) if slot.span.contains_range(range) => node = self.context.below(&slot, table),
                _ => break,
            }
        }
        node
    }

    /// Whether no earlier operation is left to be finished.
    pub(crate) fn is_finished(&self) -> bool {
        self.pending.is_none()
    }

    /// What an earlier operation left to be finished, which comes before any other exclusive one.
    pub(crate) fn unfinished<'t, I: Invalidate<F::Root>>(
        &'t mut self,
        shootdown: &'t Shootdown<I, F::Root>,
    ) -> Option<Flush<'t, F, M, I>> {
        self.pending.is_some().then(|| Flush::new(self, shootdown))
    }

    /// Everything, to be freed.
    ///
    /// # Safety
    /// No CPU walks the tables or remembers a translation of them, and none will; nothing is called on `self` again.
    #[allow(unsafe_code, reason = "the tables' end")]
    pub(crate) unsafe fn end(&mut self) -> Remains {
        // The tables of blocks that should have been cut.
        self.pending = None;
        // SAFETY: the caller's promise.
        unsafe { Remains::of_tree(self.root, self.context.geometry.root_level) }
    }

    fn root(&self) -> Node<'_> {
        let level = self.context.geometry.root_level;
        // SAFETY: the root stands as long as the table does; nothing is called after `end`.
        #[allow(unsafe_code, reason = "reaches the root")]
        unsafe {
            self.context.node(self.root, level, GuestPhysAddr::from_usize(0))
        }
    }
}

impl<F: Format, M: Frames> Builder<F, M> {
    /// Builds the mapping of a range for the table of a level, with zeroed frames where it owns them.
    pub(crate) fn build<I: Invalidate<F::Root>>(
        &self,
        operations: &I,
        place: (GuestPhysRange, Level),
        fill: Fill<'_>,
        flags: MappingFlags,
    ) -> Result<Detached<F, M>, Exhausted> {
        let detached = Detached::build(&self.0, operations, place, fill, flags)?;
        // Orders the stores that filled the tables before the one that will link them, in whatever order the lock
        // that comes between them gives.
        core::sync::atomic::fence(Ordering::Release);
        Ok(detached)
    }

    /// Zeroed frames for a private leaf. They are on no account yet.
    pub(crate) fn own_leaf<I: Invalidate<F::Root>>(
        &self,
        operations: &I,
        level: Level,
        flags: MappingFlags,
    ) -> Option<(Owned<'_, M>, crate::Leaf)> {
        let frames = Owned::allocate(self.frames().plain(), self.0.leaf_pages(level))?;
        Some(self.0.own_leaf(operations, frames, flags))
    }

    /// Whether private memory may have leaves of `level`.
    pub(crate) fn allows(&self, policy: crate::LeafPolicy, level: Level) -> bool {
        self.0.allows(policy, level)
    }

    /// Frees some of what was taken away, as far as `budget` goes: frames of 4 KiB.
    pub(crate) fn free_some<I: Invalidate<F::Root>>(&self, operations: &I, remains: &mut Remains, budget: &mut usize) {
        remains.step(&self.0, &node::retire(operations), budget);
    }

    /// The geometry.
    pub(crate) const fn geometry(&self) -> &crate::Geometry {
        &self.0.geometry
    }

    /// The format.
    pub(crate) const fn format(&self) -> &F {
        &self.0.format
    }

    /// The allocator of the space's own memory.
    pub(crate) const fn frames(&self) -> &Metered<M> {
        &self.0.frames
    }
}
