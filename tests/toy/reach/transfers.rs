//! What one guest gives another, for good or for a time, and what moves within one.

use stage2::loan::{Handover, Loan, LoanKind};

use super::*;

impl World {
    /// Pages that go, and where: another guest's pages, where nothing is.
    fn way(
        &self,
        guest: usize,
        (start, most): (usize, usize),
        (other, to): (usize, usize),
    ) -> Option<(Range<usize>, usize, Range<usize>)> {
        let others = self.spaces.len() - 1;
        if others == 0 {
            return None;
        }
        let other = (guest + 1 + other % others) % self.spaces.len();
        let place = self.twin.run(other, to % PAGES, most, |slot| slot.is_none())?;
        let pages = self.twin.run(guest, start, place.len(), |slot| self.is_convertible(slot))?;
        let place = place.start..place.start + pages.len();
        Some((pages, other, place))
    }

    /// What is untouched is populated, as the guest's own read would.
    fn populate(&mut self, guest: usize, pages: &Range<usize>) {
        pages.clone().for_each(|page| self.twin.touch(guest, page, None));
    }

    pub(super) fn donate(&mut self, guest: usize, from: (usize, usize), to: (usize, usize)) -> Verdict {
        let Some((pages, taker, place)) = self.way(guest, from, to) else { return Ok(()) };
        self.note(format!("guest {guest}: donate {pages:?} to guest {taker}, {place:?}"));
        let goes = self.twin.guests[guest].pooled && self.twin.guests[taker].pooled;
        let donated = self.spaces[guest].donate(span(&pages), &self.spaces[taker], at(place.start), RW, Handover::Keep);
        match donated {
            Ok(()) if goes => {}
            Err(Error::Allocators(_)) if !goes => return Ok(()),
            other => return Err(format!("donate: {other:?}")),
        }
        self.populate(guest, &pages);
        for (from, to) in pages.zip(place) {
            let slot = self.twin.guests[guest].slots[from].take().expect("a page");
            self.twin.guests[taker].slots[to] = Some(Slot { stand: Stand::Private, origin: None, ..slot });
        }
        Ok(())
    }

    /// A loan, from its beginning to its end.
    pub(super) fn lend(&mut self, guest: usize, from: (usize, usize), to: (usize, usize), how: usize) -> Verdict {
        let Some((pages, borrower, place)) = self.way(guest, from, to) else { return Ok(()) };
        let kind = if how.is_multiple_of(2) { LoanKind::Shared } else { LoanKind::Lent };
        self.note(format!("guest {guest}: {kind:?} {pages:?} to guest {borrower}, {place:?}"));
        let (lender, holder) = (&self.spaces[guest], &self.spaces[borrower]);
        let loan = match kind {
            LoanKind::Shared => lender.share(span(&pages), holder, at(place.start), RW),
            LoanKind::Lent => lender.lend(span(&pages), holder, at(place.start), RW),
        };
        let loan: Loan = loan.map_err(|error| format!("a loan: {error}"))?;
        self.populate(guest, &pages);
        for (from, to) in pages.clone().zip(place.clone()) {
            let slot = Slot { stand: Stand::Borrowed, own: Own::No, ..self.twin.slot(guest, from) };
            self.twin.guests[borrower].slots[to] = Some(slot);
        }
        self.check()?;
        self.stamp += 1;
        self.note(format!("guest {borrower}: write {:#x} to {}", self.stamp, place.start));
        let stored = self.spaces[borrower].store(at(place.start), self.stamp);
        stored.map_err(|error| format!("a borrower's write: {error}"))?;
        self.twin.touch(borrower, place.start, Some(self.stamp));
        self.check()?;
        if (how / 2).is_multiple_of(2) {
            self.note(format!("guest {borrower}: unmap {place:?}"));
            self.spaces[borrower].unmap(span(&place)).map_err(|error| format!("a return: {error}"))?;
        }
        self.note(format!("guest {guest}: reclaim {pages:?}"));
        let reclaimed = self.spaces[guest].reclaim(&loan, &self.spaces[borrower], Handover::Keep);
        reclaimed.map_err(|error| format!("reclaim: {error}"))?;
        self.twin.guests[borrower].slots[place].fill(None);
        Ok(())
    }

    /// Moves what is populated to other frames.
    pub(super) fn relocate(&mut self, guest: usize, start: usize, most: usize) -> Verdict {
        let is_its_own = |slot: Option<Slot>| slot.is_some_and(|slot| slot.is_its_own());
        let Some(pages) = self.twin.run(guest, start, most, is_its_own) else { return Ok(()) };
        self.note(format!("guest {guest}: relocate {pages:?}"));
        self.spaces[guest].relocate(span(&pages)).map_err(|error| format!("relocate: {error}"))?;
        for page in pages {
            self.twin.take_over(guest, page);
        }
        Ok(())
    }
}
