//! What is known of a loan by both sides, and by each handle.

use core::ops::Range;
#[cfg(not(loom))]
use core::sync::atomic::{AtomicBool, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use page_table_multiarch::MappingFlags;

use super::{Bargain, LoanKind, out::Out, parts::Parts};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange},
};

/// What a loan is about, and how much of it is still out.
pub(crate) struct Terms {
    pub kind: LoanKind,
    /// At the lender.
    pub lender: GuestPhysRange,
    /// At the borrower.
    pub borrower: GuestPhysRange,
    /// What the borrower may do at most.
    pub flags: MappingFlags,
    pub(super) page_size: usize,
    pub(super) memory: Parts,
    /// Which pages the borrower maps.
    out: Out,
    /// A page may be one that no side has any more, and that is still to be freed.
    leaves_some: AtomicBool,
}

impl Terms {
    /// Those of a loan of which the borrower has mapped no page yet.
    ///
    /// # Errors
    /// There is no memory to note its pages.
    pub(super) fn new(bargain: &Bargain, page_size: usize, memory: Parts) -> Result<Self, Exhausted> {
        let &Bargain { kind, lender, borrower, flags } = bargain;
        let out = Out::none_of(lender.size() / page_size)?;
        Ok(Self { kind, lender, borrower, flags, page_size, memory, out, leaves_some: AtomicBool::new(false) })
    }

    /// All its pages.
    pub(crate) fn pages(&self) -> Range<usize> {
        0..self.lender.size() / self.page_size
    }

    /// The pages in a part of the lender's range.
    pub(crate) fn lender_pages(&self, part: GuestPhysRange) -> Range<usize> {
        pages_in(self.lender, part, self.page_size)
    }

    /// The pages in a part of the borrower's range.
    pub(crate) fn borrower_pages(&self, part: GuestPhysRange) -> Range<usize> {
        pages_in(self.borrower, part, self.page_size)
    }

    /// Where pages are in the lender's guest.
    pub(crate) fn at_lender(&self, pages: &Range<usize>) -> GuestPhysRange {
        range_of(self.lender, pages, self.page_size)
    }

    /// Where pages were put in the borrower's guest.
    pub(crate) fn at_borrower(&self, pages: &Range<usize>) -> GuestPhysRange {
        range_of(self.borrower, pages, self.page_size)
    }

    /// The memory of some pages, in frames of 4 KiB.
    pub(crate) fn memory(&self, pages: Range<usize>) -> impl Iterator<Item = PhysAddr> {
        pages.filter_map(|page| self.memory.frame(page, self.page_size)).flat_map(|at| {
            // The frames of one page follow each other.
            (0..self.page_size).step_by(PAGE_SIZE_4K).map(move |offset| at + offset)
        })
    }

    /// Where the memory at an address of the lender's is, in frames of 4 KiB.
    pub(crate) fn frame_at_lender(&self, gpa: GuestPhysAddr) -> Option<PhysAddr> {
        self.frame_at(self.lender, gpa)
    }

    /// The same for an address of the borrower's.
    pub(crate) fn frame_at_borrower(&self, gpa: GuestPhysAddr) -> Option<PhysAddr> {
        self.frame_at(self.borrower, gpa)
    }

    fn frame_at(&self, range: GuestPhysRange, gpa: GuestPhysAddr) -> Option<PhysAddr> {
        let offset = gpa.as_usize().checked_sub(range.start.as_usize()).filter(|offset| *offset < range.size())?;
        let page = self.memory.frame(offset / self.page_size, self.page_size)?;
        Some(page + offset % self.page_size)
    }

    /// The pages, one by one, that the borrower maps and whose lender is gone.
    pub(crate) fn without_lender(&self) -> impl Iterator<Item = Range<usize>> {
        let is_left = |&page: &usize| self.memory.users(page).is_without_lender() && self.out.count(page..page + 1) > 0;
        self.pages().filter(is_left).map(|page| page..page + 1)
    }

    /// How many bytes of some pages the borrower still maps: its CPUs forgot the others before this says so.
    pub(crate) fn borrowed(&self, pages: Range<usize>) -> usize {
        self.out.count(pages) * self.page_size
    }

    /// The first pages side by side, among these, that the borrower still maps.
    pub(super) fn first_borrowed(&self, pages: Range<usize>) -> Option<Range<usize>> {
        self.out.first_run(pages)
    }

    /// The borrower maps all of it from now on.
    pub(crate) fn take_out(&self) {
        self.pages().for_each(|page| self.memory.users(page).add());
        self.out.take(self.pages());
    }

    /// No CPU of the borrower's reaches what was at a part of its addresses any more.
    pub(crate) fn give_back(&self, part: GuestPhysRange) {
        let pages = self.borrower_pages(part);
        self.leave(pages.clone(), |page| self.memory.users(page).give_back());
        self.out.give_back(pages);
    }

    /// The lender is at its end, and no CPU of its reaches what it has on loan at a part of its addresses.
    pub(crate) fn lender_ends(&self, part: GuestPhysRange) {
        self.leave(self.lender_pages(part), |page| self.memory.users(page).lender_ends());
    }

    /// One side lets go of some pages, by `leaves` of each, which says whether no side has it then.
    fn leave(&self, pages: Range<usize>, leaves: impl Fn(usize) -> bool) {
        // All of them, since the side lets go of each.
        if pages.filter(|&page| leaves(page)).count() > 0 {
            // Relaxed: who asks for it is the same side, later.
            self.leaves_some.store(true, Ordering::Relaxed);
        }
    }

    /// Frees those of some pages that no side has any more, until `budget`, in frames of 4 KiB, is used up; a page that is
    /// looked at takes as much. What is done goes off the range. A side calls it that has let go of them.
    pub(crate) fn free_unreachable(&self, pages: &mut Range<usize>, budget: &mut usize) {
        if !self.leaves_some.load(Ordering::Relaxed) {
            pages.start = pages.end;
        }
        while *budget > 0
            && let Some(page) = pages.next()
        {
            self.memory.free_unreachable(page);
            *budget = budget.saturating_sub(self.page_size / PAGE_SIZE_4K);
        }
    }
}

/// The pages of `whole` that are in a part of it.
fn pages_in(whole: GuestPhysRange, part: GuestPhysRange, page_size: usize) -> Range<usize> {
    (part.start - whole.start) / page_size..(part.end - whole.start) / page_size
}

/// Where pages of `whole` are.
fn range_of(whole: GuestPhysRange, pages: &Range<usize>, page_size: usize) -> GuestPhysRange {
    GuestPhysRange { start: whole.start + pages.start * page_size, end: whole.start + pages.end * page_size }
}

#[cfg(all(test, loom))]
mod model;
