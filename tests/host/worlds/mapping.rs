//! The map of a guest changes.

use super::*;

impl<M: Machine> World<M> {
    /// Whether a mapping is refused for what is there already.
    #[track_caller]
    pub(super) fn overlaps(&self, guest: usize, pages: &Range<usize>, result: Result<(), Error>) -> bool {
        let Some(first) = self.twin.first_mapped(guest, pages) else { return false };
        let Err(Error::Overlap { with, .. }) = result else { panic!("{result:?}") };
        assert!(pages_of(with).contains(&first), "{with:?} is not the first");
        true
    }

    pub(super) fn map(
        &mut self,
        guest: usize,
        pages: &Range<usize>,
        (populate, leaf): (Populate, LeafPolicy),
        flags: MappingFlags,
    ) {
        let result = self.spaces[guest].map(range(pages), Mapping::Private { populate, leaf }, flags);
        if self.overlaps(guest, pages, result) || self.excused(guest, &result, pages.len()) {
            return;
        }
        assert_eq!(result, Ok(()));
        for page in pages.clone() {
            let behind = Behind::Own(self.twin.cell());
            self.twin.guests[guest][page] = Some(Page::new(flags, behind));
        }
    }

    /// Maps pages of a region, as `mapping` makes it of the region and an offset: shared, or copy-on-write.
    pub(super) fn map_region(
        &mut self,
        guest: usize,
        pages: &Range<usize>,
        (handle, from): (usize, usize),
        flags: MappingFlags,
        mapping: fn(SharedRegion, usize) -> Mapping,
    ) {
        let (number, handle) = &self.handles[handle];
        let number = *number;
        let mapping = mapping(handle.region().clone(), from * PAGE);
        let shared = matches!(mapping, Mapping::Shared { .. });
        let result = self.spaces[guest].map(range(pages), mapping, flags);
        let region = &self.twin.regions[number];
        let refused = |cause| Err(Error::Region { range: range(pages), cause });
        if !shared && !region.frozen {
            return assert_eq!(result, refused(RegionError::NotFrozen));
        }
        if from + pages.len() > region.cells.len() {
            return assert!(matches!(result, Err(Error::Region { cause: RegionError::Beyond { .. }, .. })));
        }
        if shared && region.frozen && flags.contains(MappingFlags::WRITE) {
            return assert_eq!(result, refused(RegionError::Frozen));
        }
        if !self.overlaps(guest, pages, result) {
            assert_eq!(result, Ok(()));
            self.twin.regions[number].windows += usize::from(shared);
            for (page, at) in (from..).zip(pages.clone()) {
                let behind = if shared { Behind::Shared(number, page) } else { Behind::Inherited(number, page, None) };
                self.twin.guests[guest][at] = Some(Page::new(flags, behind));
            }
        }
    }

    pub(super) fn unmap(&mut self, guest: usize, pages: &Range<usize>, pace: Pace) {
        let space = &self.spaces[guest];
        let result = match pace {
            None => space.unmap(range(pages)),
            Some(budget) => {
                space.unmap_in_steps(range(pages)).map(|mut rest| while rest.step(budget) == Progress::More {})
            }
        };
        if self.twin.first_mapped(guest, pages).is_none() {
            return assert_eq!(result, Err(Error::NotMapped(range(pages))));
        }
        if self.twin.guests[guest][pages.clone()].iter().flatten().any(|page| page.loan.is_some()) {
            return assert!(matches!(result, Err(Error::State { .. })), "{result:?}");
        }
        if !self.excused(guest, &result, 0) {
            assert_eq!(result, Ok(()));
            self.twin.guests[guest][pages.clone()].fill(None);
        }
    }

    pub(super) fn protect(&mut self, guest: usize, pages: &Range<usize>, flags: MappingFlags, pace: Pace) {
        let (result, done) = match pace {
            None => (self.spaces[guest].protect(range(pages), flags), pages.start),
            Some(entries) => {
                let mut protecting = self.spaces[guest].protect_in_steps(range(pages), flags).expect("flags");
                let result = loop {
                    match protecting.step(entries) {
                        Ok(Progress::More) => {}
                        Ok(Progress::Done) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                };
                (result, pages_of(protecting.rest()).start)
            }
        };
        let here = || self.twin.guests[guest][pages.clone()].iter().flatten();
        let hole = self.twin.first_hole(guest, pages);
        if hole.is_some() && here().any(|page| page.loan.is_some() || matches!(page.behind, Behind::Borrowed(..))) {
            return assert!(result.is_err(), "a hole, or a loan");
        }
        if let Some(hole) = hole {
            let end = self.twin.first_mapped(guest, &(hole..pages.end)).unwrap_or(pages.end);
            return assert_eq!(result, Err(Error::NotMapped(range(&(hole..end)))));
        }
        if self.twin.in_loans(guest) {
            let on_loan = |page: &Page| page.loan.is_some();
            let too_much = |page: &Page| matches!(page.behind, Behind::Borrowed(loan, _) if !self.twin.loans[loan].flags.contains(flags));
            let some = || self.twin.guests[guest][pages.clone()].iter().flatten();
            match (some().any(on_loan), some().any(too_much)) {
                (true, false) => return assert!(matches!(result, Err(Error::State { .. } | Error::Region { .. }))),
                (false, true) => return assert!(matches!(result, Err(Error::Denied { .. } | Error::Region { .. }))),
                (true, true) => return assert!(result.is_err()),
                (false, false) => {}
            }
        }
        let frozen = |page: &Page| matches!(page.behind, Behind::Shared(region, _) if self.twin.regions[region].frozen);
        let some = self.twin.guests[guest][pages.clone()].iter().flatten();
        if flags.contains(MappingFlags::WRITE) && some.into_iter().any(frozen) {
            return assert!(matches!(result, Err(Error::Region { cause: RegionError::Frozen, .. })), "{result:?}");
        }
        // What was done before it failed is done.
        let changed = if self.excused(guest, &result, 0) { pages.start..done } else { pages.clone() };
        assert!(result.is_ok() || changed.end < pages.end, "{result:?}");
        self.twin.guests[guest][changed].iter_mut().flatten().for_each(|page| page.flags = flags);
    }

    pub(super) fn relocate(&mut self, guest: usize, pages: &Range<usize>) {
        let result = self.spaces[guest].relocate(range(pages));
        for index in pages.clone() {
            match self.twin.guests[guest][index] {
                None => return assert_eq!(result, Err(Error::NotMapped(range(&(index..pages.end))))),
                Some(Page { behind: Behind::Shared(..), .. }) => {
                    return assert!(matches!(result, Err(Error::NotMemory(area)) if area.contains(gpa(index))));
                }
                Some(Page { behind: Behind::Borrowed(..), .. }) => {
                    return assert!(matches!(result, Err(Error::State { state: PageState::Borrowed, .. })));
                }
                Some(_) => {}
            }
        }
        if self.twin.guests[guest][pages.clone()].iter().flatten().any(|page| page.loan.is_some()) {
            return assert!(matches!(result, Err(Error::State { .. })), "{result:?}");
        }
        // A move takes no more frames on the account.
        assert!(result.is_ok() || matches!(result, Err(Error::NoMemory(_))) && self.luck.is_some(), "{result:?}");
    }
}
