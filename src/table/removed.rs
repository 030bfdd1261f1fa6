//! Memory that was taken out of the tables: freed in steps, without the space's lock.
//!
//! What waits is named by this value alone, on the hypervisor's heap and stack. Not a word of a guest's frame is read as
//! a link to the next: a write of the guest that lands late would choose what the hypervisor frees (H47). Of a table that
//! waits its entries are read, with what they had when the table was taken out: only a walker's accessed and dirty marks
//! can still change in them.
#![allow(unsafe_code, reason = "frees tables and frames")]

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use smallvec::SmallVec;

use super::{context::Context, node::Node, query::LEVELS};
use crate::{
    addr::{GuestPhysAddr, Level},
    format::{Entry, Fields, Format, Marked, Owner},
    frame::{Frames, Pieces},
    platform::Platform,
};

/// How many pieces are named without heap: what unmapping a page, or a range within one table's span, takes away.
const INLINE: usize = 2;

/// How many entries of a table are looked at together for one that owns a frame.
const GROUP: usize = 32;

/// Tables with all that is below them, and frames, which no entry names and no CPU reaches.
///
/// [`free`](Self::free) frees it in steps; dropped, it is lost.
#[derive(Default)]
#[must_use = "dropped, it is lost"]
pub(crate) struct RemovedMemory {
    waiting: SmallVec<[Piece; INLINE]>,
    /// The tables that are being freed, each below the one before it.
    tables: ArrayVec<Cursor, LEVELS>,
    /// The frames that are being freed.
    frames: Option<Frameset>,
}

/// A page of the space's own that no entry names and no CPU reaches.
#[must_use = "dropped, it is lost"]
pub(crate) struct RemovedPage(PhysAddr);

/// Something that waits to be freed.
enum Piece {
    /// A table whose entries are of the level, and all below it.
    Table(PhysAddr, Level),
    /// Frames of the space's own.
    Frames(Frameset),
}

/// Frames side by side.
struct Frameset {
    at: PhysAddr,
    pages: usize,
}

/// Frames of 4 KiB that wait to be freed: where, and how many.
pub(crate) enum Waiting {
    /// Of the space's own memory.
    Frames(PhysAddr, usize),
    /// Of a table.
    Table(PhysAddr, usize),
}

/// How far a table is freed.
#[derive(Clone, Copy)]
struct Cursor {
    table: PhysAddr,
    level: Level,
    /// The index of the first entry that is not looked at yet. A space has all of this in itself: it must be small.
    next: u32,
}

impl RemovedMemory {
    /// A table whose entries are of `level`, and all below it.
    ///
    /// # Safety
    /// No CPU reaches it, it is not looked at again, and this value alone frees it.
    pub(super) unsafe fn of_tree(table: PhysAddr, level: Level) -> Self {
        let mut removed = Self::default();
        removed.tables.push(Cursor { table, level, next: 0 });
        removed
    }

    /// Adds what an entry of `level` named: a table with all below it, or frames of the space's own.
    ///
    /// # Safety
    /// The invalidation that covers it is complete, no entry names it any more, and this value alone frees it.
    pub(super) unsafe fn add<P: Platform>(&mut self, context: &Context<P>, level: Level, entry: Entry) {
        let piece = match entry {
            // What is lent is on a loan's record, which frees it.
            Entry::Leaf(leaf) | Entry::Marked(Marked::Leaf(leaf)) if leaf.owner == Owner::Space => {
                Piece::Frames(Frameset { at: leaf.at, pages: Context::<P>::leaf_pages(level) })
            }
            Entry::Table(table) | Entry::Marked(Marked::Table(table)) => Piece::Table(table, level.below()),
            _ => return,
        };
        // SAFETY: the caller's promise.
        unsafe { self.wait(context, piece) }
    }

    /// Adds frames that are a part of what an entry named.
    ///
    /// # Safety
    /// As for [`add`](Self::add).
    pub(super) unsafe fn add_frames<P: Platform>(
        &mut self,
        context: &Context<P>,
        owner: Owner,
        at: PhysAddr,
        pages: usize,
    ) {
        if owner == Owner::Space {
            // SAFETY: the caller's promise.
            unsafe { self.wait(context, Piece::Frames(Frameset { at, pages })) }
        }
    }

    /// Has a piece wait; where there is no memory to name it, it is freed at once.
    ///
    /// # Safety
    /// As for [`add`](Self::add).
    unsafe fn wait<P: Platform>(&mut self, context: &Context<P>, piece: Piece) {
        if self.waiting.try_reserve(1).is_ok() {
            self.waiting.push(piece);
        } else {
            let mut alone = Self::default();
            alone.waiting.push(piece);
            alone.free(context, &mut { usize::MAX });
        }
    }

    /// Takes over what waits in another, of which nothing is free yet, if there is memory to name it: else both stay as
    /// they are.
    pub(crate) fn take_over(&mut self, other: &mut Self) {
        if self.is_empty() {
            core::mem::swap(self, other);
        } else if self.waiting.try_reserve(other.waiting.len()).is_ok() {
            while let Some(piece) = other.waiting.pop() {
                self.waiting.push(piece);
            }
        }
    }

    /// Whether all is free.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.tables.is_empty() && self.frames.is_none()
    }

    /// Shows all that waits to `each`, for an audit.
    ///
    /// # Errors
    /// The first of `each`.
    pub(crate) fn each<P: Platform, S>(
        &self,
        context: &Context<P>,
        each: &mut dyn FnMut(Waiting) -> Result<(), S>,
    ) -> Result<(), S> {
        self.frames.iter().try_for_each(|frames| each(Waiting::Frames(frames.at, frames.pages)))?;
        for piece in &self.waiting {
            match *piece {
                Piece::Table(table, level) => Cursor { table, level, next: 0 }.each(context, each)?,
                Piece::Frames(Frameset { at, pages }) => each(Waiting::Frames(at, pages))?,
            }
        }
        self.tables.iter().try_for_each(|cursor| cursor.each(context, each))
    }

    /// Frees frames, of tables and of leaves, until `budget`, in frames of 4 KiB, is used up. What the allocator takes
    /// back only as a whole may take more.
    pub(crate) fn free<P: Platform>(&mut self, context: &Context<P>, budget: &mut usize) {
        while *budget > 0 {
            if let Some(frames) = &mut self.frames {
                // SAFETY: the caller of `add` promised that this value alone frees them.
                unsafe { frames.free_some(context, budget) };
                if frames.pages == 0 {
                    self.frames = None;
                }
            } else if let Some(cursor) = self.tables.last_mut() {
                // SAFETY: likewise for the table and what its entries name.
                match unsafe { cursor.free_some(context, budget) } {
                    Next::Later => {}
                    Next::Below(table) => {
                        let level = cursor.level.below();
                        self.tables.push(Cursor { table, level, next: 0 });
                    }
                    Next::Frames(frames) => self.frames = Some(frames),
                    Next::Up => drop(self.tables.pop()),
                }
            } else {
                match self.waiting.pop() {
                    Some(Piece::Table(table, level)) => self.tables.push(Cursor { table, level, next: 0 }),
                    Some(Piece::Frames(frames)) => self.frames = Some(frames),
                    None => return,
                }
            }
        }
    }
}

impl RemovedPage {
    /// The page that a marked leaf named, if it was the space's own.
    ///
    /// # Safety
    /// As for [`RemovedMemory::add`].
    #[cold]
    pub(super) unsafe fn named_by<P: Platform>(context: &Context<P>, marked: u64) -> Option<Self> {
        match context.format.decode(Level::PAGE, marked) {
            Entry::Marked(Marked::Leaf(leaf)) if leaf.owner == Owner::Space => Some(Self(leaf.at)),
            _ => None,
        }
    }

    /// Frees it.
    #[inline(never)]
    pub(crate) fn free<P: Platform>(self, context: &Context<P>) {
        let mut frames = Frameset { at: self.0, pages: Context::<P>::leaf_pages(Level::PAGE) };
        // SAFETY: the caller of `named_by` promised that this value alone frees it.
        unsafe { frames.free_some(context, &mut { usize::MAX }) };
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
    /// Shows what is not free yet to `each`: the table, and what its entries from the next one on own.
    fn each<P: Platform, S>(
        &self,
        context: &Context<P>,
        each: &mut dyn FnMut(Waiting) -> Result<(), S>,
    ) -> Result<(), S> {
        each(Waiting::Table(self.table, context.table_pages(self.level)))?;
        // SAFETY: the table stands until it is freed, by who has this value for his own.
        let Node { entries, .. } = unsafe { context.node(self.table, self.level, GuestPhysAddr::from_usize(0)) };
        for entry in entries.iter().skip(self.next as usize) {
            match context.format.decode(self.level, entry.load(Ordering::Acquire)) {
                Entry::Leaf(leaf) | Entry::Marked(Marked::Leaf(leaf)) if leaf.owner == Owner::Space => {
                    each(Waiting::Frames(leaf.at, Context::<P>::leaf_pages(self.level)))?;
                }
                Entry::Table(table) | Entry::Marked(Marked::Table(table)) => {
                    Self { table, level: self.level.below(), next: 0 }.each(context, each)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Frees what the next entries own, and then the table.
    ///
    /// # Safety
    /// No CPU reaches them, and this value alone frees them.
    unsafe fn free_some<P: Platform>(&mut self, context: &Context<P>, budget: &mut usize) -> Next {
        let before = *budget;
        // SAFETY: the caller's promise.
        let next = unsafe { self.free_leaves(context, budget) };
        // Once for all of them: other CPUs charge the account meanwhile.
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
    unsafe fn free_leaves<P: Platform>(&mut self, context: &Context<P>, budget: &mut usize) -> Next {
        let pages = Context::<P>::leaf_pages(self.level);
        let Fields { address, owned, .. } = context.format.fields(self.level);
        // SAFETY: the caller's promise: the table stands until it is freed.
        let Node { entries, .. } = unsafe { context.node(self.table, self.level, GuestPhysAddr::from_usize(0)) };
        while let Some(entry) = entries.get(self.next as usize) {
            let first = self.next as usize;
            if *budget == 0 {
                return Next::Later;
            }
            let is_group = self.level == Level::PAGE && first.is_multiple_of(GROUP);
            if is_group && first + GROUP <= entries.len() {
                // SAFETY: the caller's promise; the table has so many entries.
                let owns_none = unsafe { context.owns_none::<GROUP>(self.table, first, owned) };
                if owns_none {
                    self.next += GROUP as u32;
                    continue;
                }
            }
            let raw = entry.load(Ordering::Acquire);
            match context.format.decode(self.level, raw) {
                Entry::Leaf(leaf) | Entry::Marked(Marked::Leaf(leaf)) if leaf.owner == Owner::Space => {
                    if pages > *budget {
                        self.next += 1;
                        return Next::Frames(Frameset { at: leaf.at, pages });
                    }
                }
                Entry::Table(table) | Entry::Marked(Marked::Table(table)) => {
                    self.next += 1;
                    return Next::Below(table);
                }
                _ => {
                    self.next += 1;
                    continue;
                }
            }
            // All that follow and are of the same kind.
            let kind = raw & !address;
            let most = (*budget / pages).min(entries.len() - first);
            let mut freed = 0;
            for entry in &entries[first..first + most] {
                let raw = entry.load(Ordering::Acquire);
                if raw & !address != kind {
                    break;
                }
                let at = context.format.leaf_address(self.level, raw & address | kind);
                // SAFETY: the caller's promise.
                unsafe { context.free_frames(at, pages) };
                freed += 1;
            }
            self.next += freed as u32;
            *budget -= freed * pages;
        }
        if *budget == 0 { Next::Later } else { Next::Up }
    }
}

impl Frameset {
    /// Frees the first of them, or all where the allocator takes them back only as a whole.
    ///
    /// # Safety
    /// No CPU reaches them, and this value alone frees them.
    unsafe fn free_some<P: Platform>(&mut self, context: &Context<P>, budget: &mut usize) {
        let some = match context.frames.pieces() {
            Pieces::Any => self.pages.min(*budget),
            Pieces::Whole => self.pages,
        };
        // SAFETY: the caller's promise.
        unsafe { context.free_frames(self.at, some) };
        context.frames.account().give_back(some);
        self.at += some * PAGE_SIZE_4K;
        self.pages -= some;
        *budget = budget.saturating_sub(some);
    }
}
