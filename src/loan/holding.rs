//! Memory that is on loan, once or several times, and how many sides still have each page of it.
#![allow(unsafe_code, reason = "frees what a lender left behind")]

use alloc::vec::Vec;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering};
use memory_addr::PAGE_SIZE_4K;

use crate::{
    counted::Counted,
    extents::Extents,
    format::Format,
    frame::Frames,
    invalidate::{Content, Invalidate},
    platform::Platform,
};

/// Memory that is on loan, whatever allocator it is from. All loans that have a page of it at one time share this.
pub(crate) trait Holding: Send + Sync {
    /// Where its pages are.
    fn memory(&self) -> &Extents;

    /// Who has a page.
    fn users(&self, page: usize) -> &Users;

    /// Frees a page if no side has it any more, and it is not free yet. Whether it did.
    fn free_unreachable(&self, page: usize) -> bool;
}

/// Who has one page: the lender, and so many borrowers. The last of them leaves it to be freed.
pub(crate) struct Users(AtomicU32);

/// The lender is there. The bits below count borrowers: the records of 2³¹ loans fit into no machine's memory.
const LENDER: u32 = 1 << 31;

/// The page is free.
const FREE: u32 = u32::MAX;

impl Users {
    /// The lender alone.
    pub(super) fn lender() -> Self {
        Self(AtomicU32::new(LENDER))
    }

    /// One borrower more.
    pub(super) fn add(&self) {
        // Relaxed: the lender's lock is held, and the lender has the page.
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One borrower less, no CPU of which reaches the page any more. Whether no side has it now.
    pub(super) fn give_back(&self) -> bool {
        // Release: what this side wrote comes before the page is freed.
        self.0.fetch_sub(1, Ordering::Release) == 1
    }

    /// The lender is gone, and no CPU of its reaches the page. Whether no side has it now.
    pub(super) fn lender_ends(&self) -> bool {
        // Release: as above.
        self.0.fetch_and(!LENDER, Ordering::Release) == LENDER
    }

    /// Whether the lender is gone.
    pub(super) fn is_without_lender(&self) -> bool {
        self.0.load(Ordering::Acquire) & LENDER == 0
    }

    /// Whether no side has the page, which the caller then frees: it is told so once.
    pub(super) fn claim(&self) -> bool {
        // Acquire: what all sides did comes before the page is freed.
        self.0.compare_exchange(0, FREE, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

/// Memory of a platform's that is on loan.
pub(super) struct Held<P: Platform> {
    frames: P::Frames,
    operations: P::Invalidate,
    memory: Extents,
    users: Vec<Users>,
}

impl<P: Platform> Held<P> {
    /// Memory that its lender alone has; `None` where there is no memory to note it.
    pub(super) fn of(frames: P::Frames, operations: P::Invalidate, memory: Extents) -> Option<Counted<dyn Holding>> {
        let (mut users, pages) = (Vec::new(), memory.size() >> P::Format::PAGE_SHIFT);
        users.try_reserve_exact(pages).ok()?;
        users.extend((0..pages).map(|_| Users::lender()));
        Counted::<dyn Holding>::try_new_as(Self { frames, operations, memory, users }, |inner| inner)
    }
}

impl<P: Platform> Holding for Held<P> {
    fn memory(&self) -> &Extents {
        &self.memory
    }

    fn users(&self, page: usize) -> &Users {
        &self.users[page]
    }

    fn free_unreachable(&self, page: usize) -> bool {
        let page_size = 1 << P::Format::PAGE_SHIFT;
        let Some((at, _)) = self.memory.at(page * page_size).filter(|_| self.users[page].claim()) else { return false };
        // What guests left in the caches, or wrote past them, must not meet the next owner (H14).
        self.operations.synchronize(self.frames.pointer(at), page_size, Content::Data);
        // SAFETY: the lender is gone, and so is what borrowers mapped of the page, each after its invalidation: nothing
        // reaches it, and one call is told so. It was the lender's own: a page that it allocated, or a piece of a block,
        // which there are only where any piece may be freed.
        unsafe { self.frames.free(at, page_size / PAGE_SIZE_4K) }
        true
    }
}
