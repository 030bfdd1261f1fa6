//! The tables that hardware walks: one walker, and the operations on it.
//!
//! The borrow checker keeps apart what must not run at the same time: everything that removes a table or a
//! leaf takes `&mut Table` (the space's lock held exclusively); what only adds, or raises, takes `&Table` and may run
//! on many CPUs at once. That is why a table that was read from an entry stays while a walk goes on.

mod audit;
mod batch;
mod build;
mod claim;
mod context;
mod cut;
mod edit;
mod entry;
mod flush;
mod freeze;
mod install;
#[cfg(all(test, loom))]
mod model;
mod node;
mod own;
mod page;
mod query;
mod relocate;
mod removed;
mod split;
mod supplement;
mod walk;
mod withdraw;

use memory_addr::PhysAddr;

pub(crate) use self::{
    audit::Seen,
    build::{Detached, Fill, Pages},
    context::Context,
    cut::Edit,
    edit::Progress as Changes,
    entry::{Installed, Noted},
    flush::Flush,
    install::{Found, Position},
    own::OwnRun,
    query::Run,
    relocate::Moved,
    removed::{RemovedMemory, RemovedPage, Waiting},
    supplement::{Gaps, Supplement},
    withdraw::Unowned,
};
use self::{cut::Cuts, entry::Slot, flush::Pending, node::Node};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    format::{Entry, Format},
    frame::{Frames, Owned},
    invalidate::Invalidate,
    metered::Metered,
    platform::Platform,
};

/// The tables of one space.
pub(crate) struct Table {
    tree: Tree,
    pending: Option<Pending>,
    /// The blocks that what is pending cuts.
    cuts: Cuts,
}

/// The root, and all that is below it.
struct Tree {
    root: PhysAddr,
}

impl Table {
    /// Tables without mappings: one root. Its frames are the caller's until the rest of the space is made.
    ///
    /// # Errors
    /// There are no frames for it.
    pub(crate) fn new<'f, F: Format, M: Frames>(
        format: &F,
        tables: &'f Metered<M>,
    ) -> Result<(Self, Owned<'f, Metered<M>>), Exhausted> {
        let root = node::new_root(format, tables)?;
        Ok((Self { tree: Tree { root: root.at() }, pending: None, cuts: Cuts::new() }, root))
    }

    /// Where the root stands.
    pub(crate) const fn root_address(&self) -> PhysAddr {
        self.tree.root
    }

    /// The level of the lowest table that translates all of `range`: where a mapping of it is grafted.
    pub(crate) fn graft_level<P: Platform>(&self, context: &Context<P>, range: GuestPhysRange) -> Level {
        self.graft_node(context, range, Level::PAGE).level
    }

    /// The same for a mapping that takes the place of all that is mapped in `range`: of the lowest table that stays then.
    pub(crate) fn level_that_stays<P: Platform>(&self, context: &Context<P>, range: GuestPhysRange) -> Level {
        let mut node = self.root(context);
        while node.level > Level::PAGE {
            let slot = node.slot::<P>(range.start);
            let span = Context::<P>::entry_range(node.level, range.start);
            match slot.decode(&context.format) {
                Entry::Table(table) if span.contains_range(range) && !context.goes(node.level, span, range, table) => {
                    node = context.below(node.level, slot.start, table);
                }
                _ => break,
            }
        }
        node.level
    }

    /// Whether a mapping still fits on the tables that it was built for: the table that it was built for may have gone.
    pub(crate) fn fits<P: Platform>(&self, context: &Context<P>, detached: &Detached<'_, P>) -> bool {
        self.graft_node(context, detached.range(), detached.level()).level == detached.level()
    }

    /// Adds a mapping that [`fits`](Self::fits), in whose range all entries are absent.
    pub(crate) fn graft<P: Platform>(&mut self, context: &Context<P>, detached: Detached<'_, P>) {
        let node = self.graft_node(context, detached.range(), detached.level());
        detached.graft(node);
        context.operations().publish();
    }

    /// The entries for `range`, in which all are absent, if one table of pages translates all of it: a mapping of it takes
    /// no new table.
    pub(crate) fn pages<'t, P: Platform>(&'t self, context: &Context<P>, range: GuestPhysRange) -> Option<Pages<'t>> {
        self.tree.page_table(context, range).map(|node| Pages(node.chunk::<P>(range)))
    }

    /// The lowest table, from `lowest` on, that translates all of `range`.
    fn graft_node<P: Platform>(&self, context: &Context<P>, range: GuestPhysRange, lowest: Level) -> Node<'_> {
        let mut node = self.root(context);
        while node.level > lowest {
            let slot = node.slot::<P>(range.start);
            let span = Context::<P>::entry_range(node.level, range.start);
            match slot.decode(&context.format) {
                Entry::Table(table) if span.contains_range(range) => {
                    node = context.below(node.level, slot.start, table);
                }
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
    pub(crate) fn unfinished<'t, P: Platform>(&'t mut self, context: &'t Context<P>) -> Option<Flush<'t, P>> {
        self.pending.is_some().then(|| self.flush(context))
    }

    /// What is pending, to be finished.
    fn flush<'t, P: Platform>(&'t mut self, context: &'t Context<P>) -> Flush<'t, P> {
        let Self { tree, pending, cuts } = self;
        Flush::new(pending, cuts, tree, context, None)
    }

    /// Everything, to be freed.
    ///
    /// # Safety
    /// No CPU walks the tables or remembers a translation of them, and none will; nothing is called on `self` again.
    #[allow(unsafe_code, reason = "the tables' end")]
    pub(crate) unsafe fn end<P: Platform>(&mut self, context: &Context<P>) -> RemovedMemory {
        context.discard_cuts(&mut self.cuts);
        self.pending = None;
        let (root_level, _) = context.format.root_shape();
        // SAFETY: the caller's promise.
        unsafe { RemovedMemory::of_tree(self.tree.root, root_level) }
    }

    fn root<P: Platform>(&self, context: &Context<P>) -> Node<'_> {
        self.tree.top(context)
    }

    /// The lowest entry that translates `gpa`, which is below the limit, and what is in it.
    #[inline]
    fn lookup<P: Platform>(&self, context: &Context<P>, gpa: GuestPhysAddr) -> (Slot<'_>, u64) {
        self.tree.lookup(context, gpa)
    }
}

// A tree stands as long as its table does, of which nothing is called after `end`. A holder of a reference holds the
// space's lock.
#[allow(unsafe_code, reason = "reaches the root")]
impl Tree {
    /// The root's entries.
    fn top<P: Platform>(&self, context: &Context<P>) -> Node<'_> {
        let (root_level, _) = context.format.root_shape();
        // SAFETY: see above.
        unsafe { context.node(self.root, root_level, GuestPhysAddr::from_usize(0)) }
    }

    /// The lowest entry that translates `gpa`, which is below the limit, and what is in it.
    #[inline]
    fn lookup<P: Platform>(&self, context: &Context<P>, gpa: GuestPhysAddr) -> (Slot<'_>, u64) {
        debug_assert!(gpa.as_usize() < context.limit());
        // SAFETY: see above.
        unsafe { context.descend(self.root, gpa) }
    }

    /// The table of pages that translates all of `range`, if there is one.
    #[inline]
    fn page_table<P: Platform>(&self, context: &Context<P>, range: GuestPhysRange) -> Option<Node<'_>> {
        // SAFETY: see above.
        unsafe { context.descend_to_pages(self.root, range) }
    }
}
