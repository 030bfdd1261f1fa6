//! What was removed from a space and no CPU reaches any more: freed in steps, without the space's lock.

use core::ops::Range;

use super::{Progress, inherit, shared};
use crate::{
    backend::Backend,
    counted::Counted,
    loan::{Loan, Loans},
    pages::{Inherited, Payer},
    platform::Platform,
    region::{RemovedRegions, View},
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
}

/// What one side has let go of, and of which pages are still to be looked at.
pub(super) struct RemovedPart {
    of: PartOf,
    pages: Range<usize>,
}

/// What it is a part of.
enum PartOf {
    /// A region, which an area showed.
    Region(View),
    Loan(Loan),
}

/// What else a space has that is at its end.
pub(super) struct Rest<'s> {
    pub areas: &'s mut MemorySet<Backend>,
    /// What it had on loan.
    pub loans: &'s mut Loans,
}

impl Removed {
    /// Areas that are gone, and nothing else.
    pub(super) fn of(areas: Few<MemoryArea<Backend>>) -> Self {
        Self { areas: RemovedAreas { areas, ..RemovedAreas::default() }, ..Self::default() }
    }

    /// Takes over what is in another, of which nothing is free yet. What there is no memory to name stays there.
    pub(super) fn take_over(&mut self, other: &mut Self) {
        self.memory.take_over(&mut other.memory);
        self.areas.take_over(&mut other.areas);
        self.regions.take_over(&mut other.regions);
    }

    /// Frees until `budget` is used up: each frame of 4 KiB takes one, and so does each area.
    ///
    /// `rest` is that of a space that is at its end.
    pub(super) fn step<P: Platform>(
        &mut self,
        context: &Context<P>,
        mut rest: Option<Rest<'_>>,
        budget: &mut usize,
    ) -> Progress {
        if !self.memory.is_empty() {
            self.memory.free(context, budget);
        }
        while *budget > 0 {
            if !self.regions.is_empty() {
                self.regions.step(budget);
            }
            self.areas.inherited.take_if(|inherited| inherited.free_some(budget));
            if let Some(part) = &mut self.part {
                part.free_some(budget);
            }
            if let Some(part) = self.part.take_if(|part| part.pages.is_empty())
                && let PartOf::Region(view) = part.of
            {
                self.regions.add(view);
                continue;
            }
            if *budget > 0 && self.part.is_none() {
                if let Some((loan, part)) = rest.as_mut().and_then(|rest| rest.loans.pop()) {
                    let pages = loan.terms().lender_pages(part);
                    self.part = Some(RemovedPart { of: PartOf::Loan(loan), pages });
                } else {
                    let area = self.areas.areas.pop().or_else(|| rest.as_mut()?.areas.pop());
                    let Some(area) = area else { break };
                    self.part = RemovedPart::of(area);
                }
            }
            *budget = budget.saturating_sub(1);
        }
        let is_rest_empty = rest.is_none_or(|rest| rest.areas.is_empty() && rest.loans.is_empty());
        if self.is_empty() && is_rest_empty { Progress::Done } else { Progress::More }
    }

    /// What is still to be let go of regions.
    pub(super) fn views(&self) -> impl Iterator<Item = &View> {
        let part = self.part.as_ref().and_then(|part| match &part.of {
            PartOf::Region(view) => Some(view),
            PartOf::Loan(_) => None,
        });
        part.into_iter().chain(self.areas.areas.iter().filter_map(|area| match area.backend() {
            Backend::Shared(view) => Some(view),
            _ => None,
        }))
    }

    /// Whether all is free.
    pub(super) fn is_empty(&self) -> bool {
        self.memory.is_empty()
            && self.areas.areas.is_empty()
            && self.areas.inherited.is_none()
            && self.part.is_none()
            && self.regions.is_empty()
    }
}

impl RemovedPart {
    /// What was behind an area, if others may have had it too.
    fn of(area: MemoryArea<Backend>) -> Option<Self> {
        let range = area.va_range();
        match area.into_backend() {
            Backend::Shared(view) => Some(Self { pages: view.pages(range), of: PartOf::Region(view) }),
            Backend::Borrowed(loan) => {
                let pages = loan.terms().borrower_pages(range);
                Some(Self { of: PartOf::Loan(loan), pages })
            }
            Backend::Linear(_) | Backend::Private(_) | Backend::CopyOnWrite(_) => None,
        }
    }

    /// Frees those of the pages that nothing else has, until `budget` is used up. What is done goes off the pages.
    fn free_some(&mut self, budget: &mut usize) {
        match &self.of {
            PartOf::Region(view) => view.free_unreachable(&mut self.pages, budget),
            PartOf::Loan(loan) => loan.terms().free_unreachable(&mut self.pages, budget),
        }
    }
}

/// What an exclusive operation removed and may be let go only after the invalidation: the last references to regions, and
/// pages that were inherited.
#[derive(Default)]
pub(super) struct RemovedAreas {
    pub areas: Few<MemoryArea<Backend>>,
    /// Where what was inherited is cut out, or was.
    pub inherited: Option<Counted<dyn Inherited>>,
}

impl RemovedAreas {
    /// Takes over what is in another. What there is no memory to name stays there.
    fn take_over(&mut self, other: &mut Self) {
        self.areas.take_over(&mut other.areas);
        // A space has one.
        self.inherited = other.inherited.take().or(self.inherited.take());
    }

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
