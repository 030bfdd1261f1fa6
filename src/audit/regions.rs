//! Regions: what their books count, against what the spaces' areas show.

use alloc::vec::Vec;
use core::ops::Range;

use page_table_multiarch::MappingFlags;

use super::{
    Meanwhile,
    areas::Map,
    frames::Claims,
    push,
    report::{Disagreement, Findings},
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, PhysAddr},
    backend::Backend,
    counted::Counted,
    lock::LockFamily,
    platform::Platform,
    region::{Numbers, Region, View},
};

/// The regions behind the spaces' areas, in no order that means anything.
pub(super) struct Regions(Vec<Known>);

/// A region.
struct Known {
    /// Which it is.
    address: usize,
    numbers: Numbers,
    /// Where it was found first.
    space: usize,
    range: GuestPhysRange,
    /// The mappings that were found.
    mappings: Vec<usize>,
    /// The pages that they show.
    shown: Vec<Range<usize>>,
    /// How many pages they may write.
    writable: usize,
}

impl Regions {
    /// The regions that some spaces have areas of.
    pub fn of<P: Platform, L: LockFamily>(maps: &[Map<'_, '_, P, L>]) -> Result<Self, Exhausted> {
        let mut regions = Self(Vec::new());
        for map in maps {
            let (number, held) = (map.subject.number, &map.subject.held);
            for area in map.areas().iter().copied().chain(held.removed()) {
                if let Backend::Shared(view) = area.backend() {
                    regions.know(view.region(), number, area.va_range())?;
                }
            }
        }
        Ok(regions)
    }

    fn place_of(&self, address: usize) -> Result<usize, usize> {
        self.0.binary_search_by_key(&address, |known| known.address)
    }

    fn know(&mut self, region: &Counted<dyn Region>, space: usize, range: GuestPhysRange) -> Result<(), Exhausted> {
        let address = region.address();
        let Err(place) = self.place_of(address) else { return Ok(()) };
        let numbers = region.numbers()?;
        self.0.try_reserve(1).map_err(|_| Exhausted::Memory)?;
        let (mappings, shown) = (Vec::new(), Vec::new());
        self.0.insert(place, Known { address, numbers, space, range, mappings, shown, writable: 0 });
        Ok(())
    }

    /// The frame that a region has for the page at an address.
    pub fn frame(&self, view: &View, gpa: GuestPhysAddr) -> Option<PhysAddr> {
        let known = &self.0[self.place_of(view.region().address()).ok()?];
        let pages = &known.numbers.pages;
        let found = pages.binary_search_by_key(&view.place(gpa), |named| named.page).ok()?;
        Some(pages[found].at)
    }

    /// Takes in what a space shows.
    pub fn see<P: Platform, L: LockFamily>(&mut self, map: &Map<'_, '_, P, L>) -> Result<(), Exhausted> {
        let held = &map.subject.held;
        for area in map.areas().iter().copied().chain(held.removed()) {
            let Backend::Shared(view) = area.backend() else { continue };
            let Ok(place) = self.place_of(view.region().address()) else { continue };
            let (known, pages) = (&mut self.0[place], view.pages(area.va_range()));
            if area.flags().contains(MappingFlags::WRITE) {
                known.writable += pages.len();
            }
            push(&mut known.mappings, view.mapping())?;
            push(&mut known.shown, pages)?;
        }
        // What is still to be freed shows nothing, and is a mapping until then.
        for view in held.owed_views() {
            if let Ok(place) = self.place_of(view.region().address()) {
                push(&mut self.0[place].mappings, view.mapping())?;
            }
        }
        for (region, pages) in held.removed_leases().map(crate::region::Lease::parts) {
            if let Ok(place) = self.place_of(region.address()) {
                self.0[place].writable += pages;
            }
        }
        Ok(())
    }

    /// Looks at each region, when all spaces have been seen.
    pub fn check(
        &mut self,
        meanwhile: Meanwhile,
        claims: &mut Claims,
        findings: &mut Findings,
    ) -> Result<(), Exhausted> {
        for known in &mut self.0 {
            known.check(meanwhile, findings)?;
            claims.name(known.space, &known.numbers.pages)?;
        }
        Ok(())
    }
}

impl Known {
    fn check(&mut self, meanwhile: Meanwhile, findings: &mut Findings) -> Result<(), Exhausted> {
        self.mappings.sort_unstable();
        self.mappings.dedup();
        let (counted, found) = (self.numbers.mappings, self.mappings.len());
        let mut complain = |what| findings.add(self.space, self.range, what);
        if counted < found {
            complain(Disagreement::Mappings { counted, found });
        }
        // Then no other space's mapping is counted, nor one that waits to be freed.
        let is_all = counted == found && meanwhile == Meanwhile::Nothing;
        let differs = |counted: usize, found: usize| counted < found || (is_all && counted > found);
        let Numbers { writable, is_frozen, .. } = self.numbers;
        if differs(writable, self.writable) {
            complain(Disagreement::Writable { counted: writable, found: self.writable });
        }
        if is_frozen && writable.max(self.writable) > 0 {
            complain(Disagreement::FrozenWritable { pages: writable.max(self.writable) });
        }
        let found = runs(&self.shown)?;
        let starts = found.iter().chain(&self.numbers.cover).map(|run| run.0);
        let wrong = starts.filter(|&page| differs(count_at(&self.numbers.cover, page), count_at(&found, page)));
        if let Some(page) = wrong.min() {
            let (counted, found) = (count_at(&self.numbers.cover, page), count_at(&found, page));
            complain(Disagreement::Shown { page, counted, found });
        }
        Ok(())
    }
}

/// Runs of pages that as many ranges have: the first page of each, and how many.
fn runs(shown: &[Range<usize>]) -> Result<Vec<(usize, usize)>, Exhausted> {
    let mut ends = Vec::new();
    for range in shown.iter().filter(|range| !range.is_empty()) {
        push(&mut ends, (range.start, true))?;
        push(&mut ends, (range.end, false))?;
    }
    ends.sort_unstable();
    let (mut runs, mut count): (Vec<(usize, usize)>, usize) = (Vec::new(), 0);
    for (page, begins) in ends {
        // At one page, ends come before beginnings.
        count = if begins { count + 1 } else { count.saturating_sub(1) };
        match runs.last_mut().filter(|run| run.0 == page) {
            Some(run) => run.1 = count,
            None => push(&mut runs, (page, count))?,
        }
    }
    Ok(runs)
}

/// How many there are at a page, of which runs say so.
fn count_at(runs: &[(usize, usize)], page: usize) -> usize {
    let next = runs.partition_point(|run| run.0 <= page);
    next.checked_sub(1).map_or(0, |run| runs[run].1)
}
