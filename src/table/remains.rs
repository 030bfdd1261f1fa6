//! What was taken out of the tables and nobody reaches any more: freed in steps, without the space's lock.
#![allow(unsafe_code, reason = "frees tables and frames")]

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use memory_addr::{PAGE_SIZE_4K, PhysAddr};

use super::{
    node::{AtomicU64, Context, Retire},
    query::LEVELS,
};
use crate::{Entry, Format, Frames, GuestPhysAddr, Level, Marked, Owner, Pieces};

/// Tables with all that is below them, and frames, that no entry names and no CPU reaches.
///
/// Collecting them allocates nothing: each is threaded through the first word of the next, which is only possible after
/// the invalidation (H24). Whoever has the value frees them by [`step`](Self::step): dropped, they are lost.
#[derive(Default)]
#[must_use = "dropped, it is lost"]
pub(crate) struct Remains {
    /// The last one that was added, as a link; 0 for none.
    last: u64,
    /// The tables that are being freed, each below the one before it.
    tables: ArrayVec<Cursor, LEVELS>,
    /// The middles of two blocks, and a leaf that is freed in parts.
    runs: ArrayVec<Frameset, 3>,
}

/// How far a table is freed.
struct Cursor {
    table: PhysAddr,
    level: Level,
    /// The index of the first entry that is not looked at yet.
    next: usize,
}

/// Frames side by side.
struct Frameset {
    at: PhysAddr,
    pages: usize,
}

/// Something that waits in the list.
#[derive(Clone, Copy)]
enum Dead {
    /// A table whose entries are of the level. Its first entry is a link by now, and what that named is dead by itself.
    Table(PhysAddr, Level),
    /// The frames of a leaf of the level.
    Leaf(PhysAddr, Level),
}

/// The bits of a link that are no address: the level, and what it is, of which one bit is always set.
const LINK_LOW: u64 = PAGE_SIZE_4K as u64 - 1;
const LINK_LEVEL: u64 = 0xf;
const LINK_TABLE: u64 = 1 << 4;
const LINK_LEAF: u64 = 1 << 5;

const _: () = assert!(LEVELS as u64 <= LINK_LEVEL && LINK_LEVEL & (LINK_TABLE | LINK_LEAF) == 0);

impl Dead {
    /// The word that leads to it.
    fn link(self) -> u64 {
        match self {
            Self::Table(at, level) => at.as_usize() as u64 | LINK_TABLE | u64::from(level.0),
            Self::Leaf(at, level) => at.as_usize() as u64 | LINK_LEAF | u64::from(level.0),
        }
    }

    /// What a word leads to.
    fn from_link(link: u64) -> Option<Self> {
        let at = PhysAddr::from_usize((link & !LINK_LOW) as usize);
        let level = Level((link & LINK_LEVEL) as u8);
        if link & LINK_TABLE != 0 {
            Some(Self::Table(at, level))
        } else {
            (link & LINK_LEAF != 0).then_some(Self::Leaf(at, level))
        }
    }

    fn at(self) -> PhysAddr {
        match self {
            Self::Table(at, _) | Self::Leaf(at, _) => at,
        }
    }
}

impl Remains {
    /// A whole tree.
    ///
    /// # Safety
    /// No CPU reaches it and nobody looks at it again; this value alone frees it.
    pub(super) unsafe fn of_tree(root: PhysAddr, level: Level) -> Self {
        let mut remains = Self::default();
        remains.tables.push(Cursor { table: root, level, next: 0 });
        remains
    }

    /// Adds what an entry of `level` named: a table with all below it, or frames of the space's own.
    ///
    /// # Safety
    /// The invalidation that covers it is complete, no entry names it any more, and this value alone frees it.
    pub(super) unsafe fn add<F: Format, M: Frames>(&mut self, context: &Context<F, M>, level: Level, raw: u64) {
        match context.format.decode(level, raw) {
            Entry::Leaf(leaf) | Entry::Marked(Marked::Leaf(leaf)) if leaf.owner == Owner::Space => {
                // SAFETY: the caller's promise.
                unsafe { self.thread(context, Dead::Leaf(leaf.at, level)) }
            }
            Entry::Table(table) | Entry::Marked(Marked::Table(table)) => {
                let below = level.below();
                // SAFETY: the caller's promise for the entry holds for the table and for what its entries name.
                unsafe {
                    let first =
                        context.node(table, below, GuestPhysAddr::from_usize(0)).entries[0].load(Ordering::Acquire);
                    // The word that the table is threaded by is an entry: what it names comes first.
                    self.add(context, below, first);
                    self.thread(context, Dead::Table(table, below));
                }
            }
            _ => {}
        }
    }

    /// Adds frames that are a part of what an entry named.
    ///
    /// # Safety
    /// As for [`add`](Self::add).
    pub(super) unsafe fn add_frames(&mut self, owner: Owner, at: PhysAddr, pages: usize) {
        if owner == Owner::Space {
            self.runs.push(Frameset { at, pages });
        }
    }

    /// Threads one more.
    ///
    /// # Safety
    /// As for [`add`](Self::add), and it begins with a frame.
    unsafe fn thread<F: Format, M: Frames>(&mut self, context: &Context<F, M>, dead: Dead) {
        // SAFETY: an allocated frame, aligned to its size, that nobody else reaches.
        unsafe { context.frames.pointer(dead.at()).cast::<AtomicU64>().as_ref() }.store(self.last, Ordering::Relaxed);
        self.last = dead.link();
    }

    /// Takes the last one that was added.
    fn unthread<F: Format, M: Frames>(&mut self, context: &Context<F, M>) -> Option<Dead> {
        let dead = Dead::from_link(self.last)?;
        // SAFETY: as in `thread`; it is not freed yet.
        self.last = unsafe { context.frames.pointer(dead.at()).cast::<AtomicU64>().as_ref() }.load(Ordering::Relaxed);
        Some(dead)
    }

    /// Whether all is free.
    pub(crate) fn is_empty(&self) -> bool {
        self.last == 0 && self.tables.is_empty() && self.runs.is_empty()
    }

    /// Frees frames, of tables and of leaves, until `budget`, in frames of 4 KiB, is used up. What the allocator takes
    /// back only as a whole may take more.
    pub(super) fn step<F: Format, M: Frames>(
        &mut self,
        context: &Context<F, M>,
        retire: Retire<'_>,
        budget: &mut usize,
    ) {
        while *budget > 0 {
            if let Some(run) = self.runs.last_mut() {
                // SAFETY: whoever added the frames promised that this value alone frees them.
                unsafe { run.free_some(context, retire, budget) };
                if run.pages == 0 {
                    self.runs.pop();
                }
            } else if let Some(cursor) = self.tables.last_mut() {
                // SAFETY: likewise for the table and what it names.
                match unsafe { cursor.free_some(context, retire, budget) } {
                    Next::Later => {}
                    Next::Below(table) => {
                        let level = cursor.level.below();
                        self.tables.push(Cursor { table, level, next: 0 });
                    }
                    Next::Frames(frames) => self.runs.push(frames),
                    Next::Up => drop(self.tables.pop()),
                }
            } else {
                match self.unthread(context) {
                    // Its first entry is a link.
                    Some(Dead::Table(table, level)) => self.tables.push(Cursor { table, level, next: 1 }),
                    Some(Dead::Leaf(at, level)) => self.runs.push(Frameset { at, pages: context.leaf_pages(level) }),
                    None => return,
                }
            }
        }
    }
}

/// Where freeing goes on after some entries of a table.
enum Next {
    /// Here, when there is a budget again.
    Later,
    /// In this table.
    Below(PhysAddr),
    /// With these frames, for which the budget is too small.
    Frames(Frameset),
    /// In the table above: this one is free.
    Up,
}

impl Cursor {
    /// Frees what the next entries own, and then the table.
    ///
    /// # Safety
    /// No CPU reaches them, and nobody else frees them.
    unsafe fn free_some<F: Format, M: Frames>(
        &mut self,
        context: &Context<F, M>,
        retire: Retire<'_>,
        budget: &mut usize,
    ) -> Next {
        let before = *budget;
        // SAFETY: the caller's promise.
        let next = unsafe { self.free_leaves(context, retire, budget) };
        // Once for all of them: other CPUs have their eyes on the account.
        if before > *budget {
            context.frames.account().give_back(before - *budget);
        }
        if let Next::Up = next {
            // SAFETY: the caller's promise; all below it is free.
            unsafe { context.free_table(self.table, self.level) };
            *budget = budget.saturating_sub(context.table_pages(self.level));
        }
        next
    }

    /// Frees what the next entries own. It stays on the account.
    ///
    /// # Safety
    /// As for [`free_some`](Self::free_some).
    unsafe fn free_leaves<F: Format, M: Frames>(
        &mut self,
        context: &Context<F, M>,
        retire: Retire<'_>,
        budget: &mut usize,
    ) -> Next {
        let pages = context.leaf_pages(self.level);
        // SAFETY: the caller's promise: the table stands until it is freed below.
        let node = unsafe { context.node(self.table, self.level, GuestPhysAddr::from_usize(0)) };
        for entry in &node.entries[self.next..] {
            if *budget == 0 {
                return Next::Later;
            }
            self.next += 1;
            match context.format.decode(self.level, entry.load(Ordering::Acquire)) {
                Entry::Leaf(leaf) | Entry::Marked(Marked::Leaf(leaf)) if leaf.owner == Owner::Space => {
                    if pages > *budget {
                        return Next::Frames(Frameset { at: leaf.at, pages });
                    }
                    // SAFETY: the caller's promise.
                    unsafe { context.free_uncounted(leaf.at, pages, retire) };
                    *budget -= pages;
                }
                Entry::Table(table) | Entry::Marked(Marked::Table(table)) => return Next::Below(table),
                _ => {}
            }
        }
        if *budget == 0 { Next::Later } else { Next::Up }
    }
}

impl Frameset {
    /// Frees the first of them, or all where the allocator takes them back only as a whole.
    ///
    /// # Safety
    /// No CPU reaches them, and nobody else frees them.
    unsafe fn free_some<F: Format, M: Frames>(
        &mut self,
        context: &Context<F, M>,
        retire: Retire<'_>,
        budget: &mut usize,
    ) {
        let some = match context.frames.pieces() {
            Pieces::Any => self.pages.min(*budget),
            Pieces::Whole => self.pages,
        };
        // SAFETY: the caller's promise.
        unsafe { context.free_leaf(Owner::Space, self.at, some, retire) };
        self.at += some * PAGE_SIZE_4K;
        self.pages -= some;
        *budget = budget.saturating_sub(some);
    }
}
