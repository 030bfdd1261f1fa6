//! What is known of a loan by both sides, and by each handle.
#![allow(unsafe_code, reason = "frees what a lender left behind")]

#[cfg(not(loom))]
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use memory_addr::PAGE_SIZE_4K;
use page_table_multiarch::MappingFlags;

use super::LoanKind;
use crate::{
    addr::GuestPhysRange,
    counted::Counted,
    extents::Extents,
    format::Format,
    frame::Frames,
    invalidate::{Content, Invalidate},
    platform::Platform,
};

/// A loan, whatever allocator its memory is from.
pub(crate) trait Lending: Send + Sync {
    /// What it is about.
    fn terms(&self) -> &Terms;

    /// At its end: frees what the lender left behind until `budget`, in frames of 4 KiB, is used up, page by page: an
    /// allocator that takes no pieces gets back what it gave.
    fn free_some(&mut self, budget: &mut usize);
}

/// What a loan is about.
pub(crate) struct Terms {
    pub kind: LoanKind,
    /// At the lender.
    pub lender: GuestPhysRange,
    /// At the borrower.
    pub borrower: GuestPhysRange,
    /// What the borrower may do at most.
    pub flags: MappingFlags,
    pub memory: Extents,
    /// How many bytes the borrower still maps.
    mapped: AtomicUsize,
    /// The lender was dropped: the memory is the record's.
    lender_is_gone: AtomicBool,
}

impl Terms {
    /// Those of a loan of which the borrower has mapped no page yet.
    pub(crate) fn new(
        kind: LoanKind,
        lender: GuestPhysRange,
        borrower: GuestPhysRange,
        flags: MappingFlags,
        memory: Extents,
    ) -> Self {
        Self {
            kind,
            lender,
            borrower,
            flags,
            memory,
            mapped: AtomicUsize::new(0),
            lender_is_gone: AtomicBool::new(false),
        }
    }

    /// How many bytes the borrower still maps. Acquire: its CPUs forgot the others before this says so.
    pub(crate) fn mapped(&self) -> usize {
        self.mapped.load(Ordering::Acquire)
    }

    /// The borrower maps all of it from now on.
    pub(crate) fn take_out(&self) {
        self.mapped.store(self.memory.size(), Ordering::Release);
    }

    /// No CPU of the borrower's reaches `bytes` of it any more.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.mapped.fetch_sub(bytes, Ordering::Release);
    }

    /// The lender is at its end, and no CPU of its reaches the memory any more.
    pub(crate) fn lender_ends(&self) {
        self.lender_is_gone.store(true, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod model;

/// A loan of a platform's memory.
pub(super) struct Record<P: Platform> {
    frames: P::Frames,
    operations: P::Invalidate,
    terms: Terms,
}

impl<P: Platform> Record<P> {
    /// The record of a loan; `None` where there is no memory for it.
    pub(super) fn of(frames: P::Frames, operations: P::Invalidate, terms: Terms) -> Option<Counted<dyn Lending>> {
        Counted::<dyn Lending>::try_new_as(Self { frames, operations, terms }, |inner| inner)
    }
}

impl<P: Platform> Lending for Record<P> {
    fn terms(&self) -> &Terms {
        &self.terms
    }

    fn free_some(&mut self, budget: &mut usize) {
        let page_size = 1 << P::Format::PAGE_SHIFT;
        let frames = page_size / PAGE_SIZE_4K;
        // The side that lets go last sees what the others did before.
        while *budget > 0
            && self.terms.lender_is_gone.load(Ordering::Relaxed)
            && let Some(page) = self.terms.memory.pop(page_size)
        {
            *budget = budget.saturating_sub(frames);
            // What guests left in the caches, or wrote past them, must not meet the next owner (H14).
            self.operations.synchronize(self.frames.pointer(page), page_size, Content::Data);
            // SAFETY: the lender is gone, and so are the borrower's areas, which go after their invalidation: nothing
            // reaches the page. It was the lender's own: a page that it allocated, or a piece of a block, which there
            // are only where any piece may be freed.
            unsafe { self.frames.free(page, frames) }
        }
    }
}

impl<P: Platform> Drop for Record<P> {
    fn drop(&mut self) {
        self.free_some(&mut { usize::MAX });
    }
}
