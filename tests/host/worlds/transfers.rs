//! Memory that changes hands: lent, given away, made a region's and made private again.

use super::*;

impl<M: Machine> World<M> {
    /// Some pages that may go, from one of them on, and where the taker has room for them.
    pub(super) fn transfer(
        &self,
        goes: impl Fn(&Self, usize) -> bool,
        (number, count): (usize, usize),
        (taker, at): (usize, usize),
    ) -> Option<(Range<usize>, usize)> {
        let some: Vec<usize> = (0..PAGES).filter(|&page| near(page) && goes(self, page)).collect();
        let &start = some.get(number % some.len().max(1))?;
        let pages = start..(start..PAGES.min(start + count)).take_while(|&page| goes(self, page)).count() + start;
        let fits = |at: &usize| self.twin.first_mapped(taker, &(*at..at + pages.len())).is_none();
        let place = (at..=PAGES - pages.len()).find(fits).unwrap_or(0);
        Some((pages, place))
    }

    /// Whether a page is a guest's own, and in no loan.
    pub(super) fn gives(&self, guest: usize, page: usize) -> bool {
        self.twin.guests[guest][page].is_some_and(|page| {
            matches!(page.behind, Behind::Own(_) | Behind::Inherited(_, _, Some(_))) && page.loan.is_none()
        })
    }

    /// Whether something between guests failed for want of memory, as it may.
    fn is_short<T: std::fmt::Debug>(&self, guests: &[usize], result: &Result<T, Error>) -> bool {
        let short = matches!(result, Err(Error::NoMemory(_) | Error::Limit { .. }));
        let limited = guests.iter().any(|&guest| self.spaces[guest].usage().limits != Limits::default());
        assert!(!short || self.luck.is_some() || limited, "{result:?}");
        short
    }

    pub(super) fn lend(
        &mut self,
        kind: LoanKind,
        guest: usize,
        pages: &Range<usize>,
        (other, at): (usize, usize),
        flags: MappingFlags,
    ) {
        let name = Some(self.names[guest]);
        let is_alike = |terms: &Terms| (terms.lender, terms.at, terms.to) == (name, pages.start, at);
        if self.twin.loans.iter().any(|terms| is_alike(terms) && terms.open.contains(&true)) {
            // What `loans` answers could not be told apart.
            return;
        }
        let (lender, borrower, place) = (&self.spaces[guest], &self.spaces[other], at..at + pages.len());
        let result = match kind {
            LoanKind::Shared => lender.share(range(pages), borrower, gpa(at), flags),
            LoanKind::Lent => lender.lend(range(pages), borrower, gpa(at), flags),
        };
        if guest == other {
            return assert_eq!(result, Err(Error::SameSpace(range(pages))));
        }
        if result.is_ok() {
            self.take_what_is_left(guest, pages);
        }
        let free = self.twin.first_mapped(other, &place).is_none();
        if !free || !pages.clone().all(|page| self.lends(kind, guest, page, flags)) {
            return assert!(result.is_err() && !matches!(result, Err(Error::Invalidation { .. })), "{result:?}");
        }
        if self.is_short(&[guest, other], &result) {
            return;
        }
        let loan = result.expect("nothing is in its way");
        let number = self.twin.loans.len();
        let cells = pages.clone().filter_map(|page| self.twin.guests[guest][page]);
        let cells: Vec<Cell> = cells.map(|page| self.twin.visible(page.behind)).collect();
        let open = vec![true; pages.len()];
        self.twin.loans.push(Terms { lender: name, at: pages.start, to: at, cells, flags, open });
        for (index, page) in pages.clone().enumerate() {
            if let Some(there) = &mut self.twin.guests[guest][page] {
                there.loan = Some((there.loan.map_or(1, |(count, _)| count + 1), kind));
            }
            self.twin.guests[other][at + index] = Some(Page::new(flags, Behind::Borrowed(number, index)));
        }
        self.loans.push((number, loan));
    }

    /// Whether a page can be given to another guest with these flags: one that is shared can be shared again.
    pub(super) fn lends(&self, kind: LoanKind, guest: usize, page: usize, flags: MappingFlags) -> bool {
        let Some(there) = self.twin.guests[guest][page] else { return false };
        let is_shared = matches!(there.loan, Some((_, LoanKind::Shared)));
        (self.gives(guest, page) || kind == LoanKind::Shared && is_shared) && there.flags.contains(flags)
    }

    /// A lender takes back a part of a loan: so many pages from one of them on.
    fn reclaim_part(&mut self, at: usize, from: From, handover: Handover, (first, count): (usize, usize)) {
        let (number, loan) = self.loans[at].clone();
        let terms = &self.twin.loans[number];
        let first = first % terms.cells.len();
        let part = first..(first + count).min(terms.cells.len());
        let Some(lender) = self.names.iter().position(|name| terms.lender == Some(*name)) else { return };
        let here = range(&(terms.at + part.start..terms.at + part.end));
        let there = range(&(terms.to + part.start..terms.to + part.end));
        let is_open = part.clone().all(|index| terms.open[index]);
        let has = |guest: &usize| {
            let mut pages = self.twin.guests[*guest].iter().flatten();
            pages.any(|page| matches!(page.behind, Behind::Borrowed(other, _) if other == number))
        };
        let borrowed = self.twin.borrowed_of(number, &part);
        let (result, is_returned) = match (from, (0..self.spaces.len()).find(has)) {
            (From::Borrower, Some(holder)) => {
                (self.spaces[lender].reclaim_part(&loan, here, &self.spaces[holder], handover), false)
            }
            _ => (self.spaces[lender].reclaim_returned_part(&loan, here, handover), true),
        };
        if !is_open {
            return assert_eq!(result, Err(Error::NoLoan(here)));
        }
        if is_returned && borrowed > 0 {
            return assert_eq!(result, Err(Error::StillBorrowed { range: there, bytes: borrowed * PAGE }));
        }
        let all: Vec<usize> = (0..self.spaces.len()).collect();
        if self.is_short(&all, &result) {
            return;
        }
        assert_eq!(result, Ok(()));
        self.twin.close(lender, number, &part, handover == Handover::Zero);
    }

    /// A lender takes a loan back as a whole, or, of every other loan, a page or two from the first that is not back.
    pub(super) fn reclaim_some(&mut self, at: usize, from: From, handover: Handover) {
        let (number, _) = self.loans[at];
        if number.is_multiple_of(2) {
            return self.reclaim(at, from, handover);
        }
        let first = self.twin.loans[number].open.iter().position(|open| *open).unwrap_or(0);
        self.reclaim_part(at, from, handover, (first, 1 + number / 2 % 2));
    }

    pub(super) fn reclaim(&mut self, at: usize, from: From, handover: Handover) {
        let (number, loan) = self.loans[at].clone();
        let outstanding: usize = loan.outstanding().map(stage2::GuestPhysRange::size).sum();
        assert_eq!(outstanding, loan.borrowed());
        let (terms, borrowed) = (&self.twin.loans[number], self.twin.borrowed(number));
        assert_eq!(loan.borrowed(), borrowed * PAGE);
        let Some(lender) = self.names.iter().position(|name| terms.lender == Some(*name)) else { return };
        let has = |guest: &usize| {
            let pages = self.twin.guests[*guest].iter().flatten();
            pages.into_iter().any(|page| matches!(page.behind, Behind::Borrowed(other, _) if other == number))
        };
        let holder = (0..self.spaces.len()).find(has);
        let result = match (from, holder) {
            (From::Borrower, Some(holder)) => self.spaces[lender].reclaim(&loan, &self.spaces[holder], handover),
            _ => self.spaces[lender].reclaim_returned(&loan, handover),
        };
        if !terms.open.contains(&true) {
            return assert_eq!(result, Err(Error::NoLoan(loan.lender_range())));
        }
        if matches!(from, From::Returned) && borrowed > 0 {
            let range = loan.borrower_range();
            return assert_eq!(result, Err(Error::StillBorrowed { range, bytes: borrowed * PAGE }));
        }
        assert_eq!(result, Ok(()));
        let all = 0..self.twin.loans[number].cells.len();
        self.twin.close(lender, number, &all, handover == Handover::Zero);
    }

    /// Every lender takes back what it lent, by handles that are asked for anew.
    pub(super) fn end_loans(&mut self) {
        self.luck = None;
        for lender in 0..self.spaces.len() {
            for loan in self.spaces[lender].loans().expect("loans") {
                let number = (0..self.twin.loans.len()).find(|&number| {
                    let terms = &self.twin.loans[number];
                    terms.lender == Some(self.names[lender])
                        && terms.open.contains(&true)
                        && loan.lender_range() == range(&(terms.at..terms.at + terms.cells.len()))
                        && loan.borrower_range().start == gpa(terms.to)
                });
                let number = number.expect("a loan that the twin knows");
                self.loans.push((number, loan));
                self.reclaim(self.loans.len() - 1, From::Borrower, Handover::Keep);
            }
        }
        assert!(
            self.twin.loans.iter().all(|loan| !loan.open.contains(&true) || loan.lender.is_none()),
            "a loan was forgotten"
        );
        self.loans.clear();
    }

    pub(super) fn donate(
        &mut self,
        guest: usize,
        pages: &Range<usize>,
        (other, at): (usize, usize),
        flags: MappingFlags,
        handover: Handover,
    ) {
        let place = at..at + pages.len();
        let result = self.spaces[guest].donate(range(pages), &self.spaces[other], gpa(at), flags, handover);
        if let Some(first) = self.twin.first_mapped(other, &place) {
            let Err(Error::Overlap { with, .. }) = result else { return assert!(self.is_short(&[guest], &result)) };
            return assert!(pages_of(with).contains(&first), "{with:?} is not the first");
        }
        if self.is_short(&[guest, other], &result) {
            return;
        }
        assert_eq!(result, Ok(()));
        for (index, page) in pages.clone().enumerate() {
            let cell = self.twin.guests[guest][page].map(|page| self.twin.visible(page.behind)).expect("a page");
            self.pass_on(cell, handover);
            self.twin.guests[guest][page] = None;
            self.twin.guests[other][at + index] = Some(Page::new(flags, Behind::Own(cell)));
        }
    }

    pub(super) fn make_shared(&mut self, guest: usize, pages: &Range<usize>) {
        let result = self.spaces[guest].make_shared(range(pages));
        if result.is_ok() {
            self.take_what_is_left(guest, pages);
        }
        if let Some(hole) = self.twin.first_hole(guest, pages).filter(|hole| {
            // What comes before it is refused first.
            (pages.start..*hole).all(|page| self.gives(guest, page))
        }) {
            let end = self.twin.first_mapped(guest, &(hole..pages.end)).unwrap_or(pages.end);
            return assert_eq!(result, Err(Error::NotMapped(range(&(hole..end)))));
        }
        // What was left to the guest of a snapshot becomes its own first, which may take a table.
        if self.is_short(&[guest], &result) {
            return;
        }
        if !pages.clone().all(|page| self.gives(guest, page)) {
            return assert!(matches!(result, Err(Error::State { .. } | Error::NotMapped(_))), "{result:?}");
        }
        let region = result.expect("nothing is in its way");
        let cells = pages.clone().filter_map(|page| self.twin.guests[guest][page]);
        let cells = cells.map(|page| self.twin.visible(page.behind)).collect();
        let number = self.twin.region_of(cells);
        for (index, page) in pages.clone().enumerate() {
            let there = self.twin.guests[guest][page].as_mut().expect("a page");
            there.behind = Behind::Shared(number, index);
        }
        self.handles.push((number, Handle::Region(region)));
    }

    pub(super) fn make_private(&mut self, guest: usize, number: usize, handover: Handover) {
        let region_at = |page: usize| match self.twin.guests[guest][page]?.behind {
            Behind::Shared(region, _) => Some(region),
            _ => None,
        };
        let shared: Vec<usize> = (0..PAGES).filter(|&page| region_at(page).is_some()).collect();
        let Some(&start) = shared.get(number % shared.len().max(1)) else { return };
        let region = region_at(start).expect("a region");
        let end = (start..PAGES).find(|&page| region_at(page) != Some(region)).unwrap_or(PAGES);
        self.handles.retain(|(other, _)| *other != region);
        let result = self.until_there(|| self.spaces[guest].make_private(range(&(start..end)), handover));
        let elsewhere = |page: &Page| matches!(page.behind, Behind::Shared(other, _) | Behind::Inherited(other, ..) if other == region);
        let others = (0..self.spaces.len()).filter(|&other| other != guest);
        let seen = others.flat_map(|other| self.twin.guests[other].iter().flatten()).any(elsewhere);
        let Region { frozen, windows, .. } = self.twin.regions[region];
        if frozen || seen {
            return assert!(matches!(result, Err(Error::Region { .. })), "{result:?}");
        }
        if windows > 1 && matches!(result, Err(Error::Region { cause: RegionError::InUse { .. }, .. })) {
            return;
        }
        if self.is_short(&[guest], &result) {
            return;
        }
        assert_eq!(result, Ok(()));
        for page in start..end {
            let cell = self.twin.guests[guest][page].map(|page| self.twin.visible(page.behind)).expect("a page");
            self.pass_on(cell, handover);
            self.twin.guests[guest][page].as_mut().expect("a page").behind = Behind::Own(cell);
        }
    }

    /// What a guest inherited, and nothing else reaches, became its own when it was given away.
    fn take_what_is_left(&mut self, guest: usize, pages: &Range<usize>) {
        pages.clone().for_each(|page| self.take(guest, page));
    }

    /// A cell's new owner sees what is in it, or zeros.
    fn pass_on(&mut self, cell: Cell, handover: Handover) {
        if handover == Handover::Zero {
            self.twin.cells[cell].clear();
        }
    }
}
