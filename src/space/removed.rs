//! What was removed from a space and no CPU reaches any more: freed in steps, without the space's lock.

use core::ops::Range;

use super::{Progress, inherit, shared};
use crate::{
    backend::Backend,
    counted::Counted,
    loan::{Loan, Loans},
    pages::{Inherited, Payer},
    platform::Platform,
    region::{Lease, RemovedRegions, View},
    set::{Few, MemoryArea, MemorySet},
    table::{Context, RemovedMemory},
};

/// Tables, frames, areas, and what stood behind those for the last time.
#[derive(Default)]
pub(super) struct Removed {
    pub memory: RemovedMemory,
    pub areas: RemovedAreas,
    pub part: Option<RemovedPart>,
    pub regions: RemovedRegions,
    /// What a space that is at its end had on loan.
    pub loans: Loans,
    pub loan: Option<RemovedLoan>,
}

/// A part of a loan that one side has let go of, of which pages are still to be looked at.
pub(super) struct RemovedLoan {
    loan: Loan,
    pages: Range<usize>,
}

/// What an area showed of a region, of which pages are still to be looked at.
pub(super) struct RemovedPart {
    view: View,
    pages: Range<usize>,
}

impl Removed {
    /// Areas that are gone, and nothing else.
    pub(super) fn of(areas: Few<MemoryArea<Backend>>) -> Self {
        Self { areas: RemovedAreas { areas, ..RemovedAreas::default() }, ..Self::default() }
    }

    /// Frees until `budget` is used up: each frame of 4 KiB takes one, and so does each area.
    ///
    /// `areas` are those of a space that is at its end.
    pub(super) fn step<P: Platform>(
        &mut self,
        context: &Context<P>,
        mut areas: Option<&mut MemorySet<Backend>>,
        mut budget: usize,
    ) -> Progress {
        if !self.memory.is_empty() {
            self.memory.free(context, &mut budget);
        }
        while budget > 0 {
            if !self.regions.is_empty() {
                self.regions.step(&mut budget);
            }
            self.areas.inherited.take_if(|inherited| inherited.free_some(&mut budget));
            if let Some(RemovedLoan { loan, pages }) = &mut self.loan {
                loan.terms().free_unreachable(pages, &mut budget);
            }
            self.loan.take_if(|part| part.pages.is_empty());
            if let Some(RemovedPart { view, pages }) = &mut self.part {
                view.free_unreachable(pages, &mut budget);
            }
            if let Some(part) = self.part.take_if(|part| part.pages.is_empty()) {
                self.regions.add(part.view);
                continue;
            }
            // Permissions to write come first: each keeps its region, too.
            let is_free = budget > 0 && self.part.is_none() && self.loan.is_none();
            if is_free && let Some((loan, part)) = self.loans.pop() {
                let pages = loan.terms().lender_pages(part);
                self.loan = Some(RemovedLoan { loan, pages });
            } else if is_free && self.areas.leases.pop().is_none() {
                let area = self.areas.areas.pop().or_else(|| areas.as_deref_mut()?.pop());
                let Some(area) = area else { break };
                let range = area.va_range();
                match area.into_backend() {
                    Backend::Shared(view) => {
                        self.part = Some(RemovedPart { pages: view.pages(range), view });
                    }
                    Backend::Borrowed(loan) => {
                        let pages = loan.terms().borrower_pages(range);
                        self.loan = Some(RemovedLoan { loan, pages });
                    }
                    Backend::Linear(_) | Backend::Private(_) | Backend::CopyOnWrite(_) => {}
                }
            }
            budget = budget.saturating_sub(1);
        }
        if self.is_empty() && areas.is_none_or(|areas| areas.is_empty()) { Progress::Done } else { Progress::More }
    }

    /// Whether all is free.
    fn is_empty(&self) -> bool {
        self.memory.is_empty()
            && self.areas.leases.is_empty()
            && self.areas.areas.is_empty()
            && self.areas.inherited.is_none()
            && self.part.is_none()
            && self.regions.is_empty()
            && self.loans.is_empty()
            && self.loan.is_none()
    }
}

/// What an exclusive operation removed and may be let go only after the invalidation: the last references to regions,
/// permissions to write them, and pages that were inherited.
#[derive(Default)]
pub(super) struct RemovedAreas {
    /// Permissions that areas have lost which are still there.
    pub leases: Few<Lease>,
    pub areas: Few<MemoryArea<Backend>>,
    /// Where what was inherited is cut out, or was.
    pub inherited: Option<Counted<dyn Inherited>>,
}

impl RemovedAreas {
    /// Ends the waits for pages that were removed. Called without any lock: sources are told.
    pub(super) fn end_waits(&self) {
        if let Some(inherited) = &self.inherited {
            inherited.end_waits();
        }
    }

    /// No CPU reaches what was removed any more: what was borrowed is returned, no region is shown and written through it,
    /// and what was inherited there is left.
    pub(super) fn give_back(&self, payer: &Payer) {
        self.areas.iter().for_each(shared::give_back);
        let Some(inherited) = &self.inherited else { return };
        for area in self.areas.iter().filter(|area| inherit::is_inherited(area)) {
            inherited.cut(&inherit::pages(area.va_range()), payer);
        }
    }
}
