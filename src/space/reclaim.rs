//! Memory on loan that is taken back: a loan as a whole or in parts, from its borrower or after that has returned it.

use alloc::vec::Vec;

use page_table_multiarch::MappingFlags;

use super::{GuestSpace, State, exclusive::Held, shared};
use crate::{
    addr::GuestPhysRange,
    backend::Backend,
    error::Error,
    format::Owner,
    invalidate::Unreachable,
    loan::Loan,
    lock::LockFamily,
    ownership::Handover,
    platform::Platform,
    set::{MemoryArea, MemorySet},
    table::Noted,
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Takes back what was shared with, or lent to, `borrower`: what that still maps of it is unmapped there first, then
    /// the memory is this space's own again.
    ///
    /// Lent memory that is zeroed is so before this guest reaches it; shared memory, which it reaches all the time,
    /// may be read while it is being zeroed. A page that is shared by another loan too stays on loan, and is not zeroed: the
    /// last loan's end decides.
    ///
    /// # Errors
    /// - [`Error::SameSpace`] for a borrower that is this space;
    /// - [`Error::NoLoan`] if it is over, or another space's;
    /// - [`Error::StillBorrowed`] if yet another space has it;
    /// - [`Error::NoMemory`], of the hypervisor's heap: nothing changed;
    /// - [`Error::Invalidation`]: the borrower still has it. See there.
    pub fn reclaim(&self, loan: &Loan, borrower: &Self, handover: Handover) -> Result<(), Error> {
        let (lender, holder) = self.lock_both(loan.lender_range(), borrower)?;
        lender.check_loan(loan)?;
        self.take_from(lender, loan, loan.lender_range(), (borrower, holder), handover)
    }

    /// The same for a part of a loan: `range`, in this space's addresses, all of which is on loan by it.
    ///
    /// The rest stays on loan, on the same handle. A part is this space's own as if it had never been on loan; the last part
    /// that is taken back ends the loan. Blocks that the ends of `range` cut are split on both sides.
    ///
    /// # Errors
    /// As for [`reclaim`](Self::reclaim), and
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for a bad range;
    /// - [`Error::NoLoan`] with the range, if any of it is not on loan by this handle, or not any more;
    /// - [`Error::NoMemory`], [`Error::Limit`] of either space's tables, or of the borrower's areas, which a part in the middle
    ///   of one cuts in two: nothing changed;
    /// - [`Error::Invalidation`]: nothing was taken back; blocks that the ends of the range cut may be split.
    ///
    /// # Example
    /// ```
    /// use stage2::{Error, LeafPolicy, Mapping, Populate, loan::Handover};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::{RW, guest, range};
    ///
    /// let (owner, other) = (guest(1)?, guest(2)?);
    /// let private = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
    /// owner.map(range(0x8000_0000, 0x4000), private, RW)?;
    /// let loan = owner.lend(range(0x8000_0000, 0x4000), &other, 0x4000_0000.into(), RW)?;
    /// other.store(0x4000_1000.into(), 7_u32)?;
    ///
    /// owner.reclaim_part(&loan, range(0x8000_1000, 0x1000), &other, Handover::Keep)?;
    /// assert_eq!(owner.load::<u32>(0x8000_1000.into())?, 7);
    /// assert_eq!(loan.borrowed(), 0x3000);
    /// assert!(owner.load::<u32>(0x8000_2000.into()).is_err(), "the rest is still out");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reclaim_part(
        &self,
        loan: &Loan,
        range: GuestPhysRange,
        borrower: &Self,
        handover: Handover,
    ) -> Result<(), Error> {
        self.check(range)?;
        let (lender, holder) = self.lock_both(range, borrower)?;
        lender.check_part(loan, range)?;
        self.take_from(lender, loan, range, (borrower, holder), handover)
    }

    /// Takes back what the borrower has returned by itself, or by its end: all of the loan.
    ///
    /// # Errors
    /// - [`Error::NoLoan`] if it is over, or another space's;
    /// - [`Error::StillBorrowed`] with how much of it the borrower still maps: [`Loan::outstanding`] says which parts;
    /// - [`Error::NoMemory`], of the hypervisor's heap: nothing changed;
    /// - [`Error::Invalidation`] if an earlier operation's invalidation still fails.
    pub fn reclaim_returned(&self, loan: &Loan, handover: Handover) -> Result<(), Error> {
        let state = self.exclusive()?;
        state.check_loan(loan)?;
        self.take_returned(state, loan, loan.lender_range(), handover)
    }

    /// The same for a part of a loan: `range`, in this space's addresses, all of which is on loan by it and returned. See
    /// [`reclaim_part`](Self::reclaim_part).
    ///
    /// # Errors
    /// As for [`reclaim_returned`](Self::reclaim_returned), and
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for a bad range;
    /// - [`Error::NoLoan`] with the range, if any of it is not on loan by this handle, or not any more;
    /// - [`Error::StillBorrowed`] with where it is at the borrower, and how much of that it still maps;
    /// - [`Error::NoMemory`], [`Error::Limit`] of this space's tables: nothing changed;
    /// - [`Error::Invalidation`]: nothing was taken back; blocks that the ends of the range cut may be split.
    pub fn reclaim_returned_part(&self, loan: &Loan, range: GuestPhysRange, handover: Handover) -> Result<(), Error> {
        self.check(range)?;
        let state = self.exclusive()?;
        state.check_part(loan, range)?;
        self.take_returned(state, loan, range, handover)
    }

    /// Takes what is on loan in `range` back from its borrower.
    fn take_from(
        &self,
        mut lender: Held<'_, L>,
        loan: &Loan,
        range: GuestPhysRange,
        (borrower, mut holder): (&Self, Held<'_, L>),
        handover: Handover,
    ) -> Result<(), Error> {
        let terms = loan.terms();
        let pages = terms.lender_pages(range);
        let place = terms.at_borrower(&pages);
        let State { areas, table, .. } = &mut *holder;
        let parts = parts(areas, loan, place)?;
        let held: usize = parts.iter().map(|part| part.size()).sum();
        let elsewhere = terms.borrowed(pages).saturating_sub(held);
        if elsewhere > 0 {
            return Err(Error::StillBorrowed { range: place, bytes: elsewhere });
        }
        borrower.check_areas(place, areas.len(), 1, || areas.len_without(parts.iter().copied()))?;
        // What takes memory comes before anything changes.
        areas.reserve_removal(place).map_err(|_| Error::NoMemory(place))?;
        let span = parts.first().zip(parts.last()).map(|(first, last)| GuestPhysRange { end: last.end, ..*first });
        if let Some(span) = span {
            table.prepare_split(&borrower.context, span).map_err(|exhausted| exhausted.at(span))?;
        }
        if let Err(error) = self.prepare_to_take_back(&mut lender, range) {
            table.discard_split(&borrower.context);
            return Err(error);
        }
        let failed = |cause: Unreachable| Error::Invalidation { range: place, cause };
        if let Some(Err(cause)) = span.map(|span| table.split(&borrower.context, span)) {
            lender.table.discard_split(&self.context);
            return Err(failed(cause));
        }
        lender.table.split(&self.context, range).map_err(|cause| Error::Invalidation { range, cause })?;
        table.withdraw(&borrower.context, parts.iter().copied(), Owner::Borrowed).map_err(failed)?;
        for part in parts {
            areas.remove(part);
            table.vacate(&borrower.context, part);
            terms.give_back(part);
        }
        drop(holder);
        self.take_back(&mut lender, loan, range, handover);
        Ok(())
    }

    /// Takes back what is on loan in `range`, if its borrower has returned it.
    fn take_returned(
        &self,
        mut state: Held<'_, L>,
        loan: &Loan,
        range: GuestPhysRange,
        handover: Handover,
    ) -> Result<(), Error> {
        let terms = loan.terms();
        let pages = terms.lender_pages(range);
        match terms.borrowed(pages.clone()) {
            0 => {}
            bytes => return Err(Error::StillBorrowed { range: terms.at_borrower(&pages), bytes }),
        }
        self.prepare_to_take_back(&mut state, range)?;
        state.table.split(&self.context, range).map_err(|cause| Error::Invalidation { range, cause })?;
        self.take_back(&mut state, loan, range, handover);
        Ok(())
    }

    /// Ends the loans in `range`, which is shared, that have been returned and have no handle. The lender has reached the memory
    /// all the time, so that nothing comes to it. Where there is no memory to do it they are ended another time.
    pub(super) fn end_left_behind(&self, lender: &mut State, range: GuestPhysRange) {
        while let Some(loan) = lender.loans.left_behind(range).cloned() {
            let all = loan.lender_range();
            let is_ready = self.prepare_to_take_back(lender, all).is_ok();
            if !is_ready || lender.table.split(&self.context, all).is_err() {
                return;
            }
            self.take_back(lender, &loan, all, Handover::Keep);
        }
    }

    /// Reserves what taking back a part of a loan needs.
    fn prepare_to_take_back(&self, lender: &mut State, range: GuestPhysRange) -> Result<(), Error> {
        lender.loans.reserve().map_err(|exhausted| exhausted.at(range))?;
        lender.table.prepare_split(&self.context, range).map_err(|exhausted| exhausted.at(range))
    }

    /// Ends what is on loan by `loan` in `range`, of which the borrower maps no page any more. No block is cut.
    fn take_back(&self, lender: &mut State, loan: &Loan, range: GuestPhysRange, handover: Handover) {
        let terms = loan.terms();
        let may_be_written = shared::writes(terms.flags);
        // What was taken back before is the guest's own, and is left alone.
        while let Some(part) = lender.loans.take(loan, range) {
            let mut gpa = part.start;
            while gpa < part.end {
                let other = lender.loans.first_in(GuestPhysRange { start: gpa, end: part.end }).map(|(_, other)| other);
                let run = |end| GuestPhysRange { start: gpa, end };
                if let Some(other) = other.filter(|other| other.start <= gpa) {
                    // It stays on loan. A loan that ends later may be one that its borrower does not write.
                    let run = run(other.end.min(part.end));
                    if may_be_written {
                        lender.table.note_written(&self.context, run);
                    }
                    gpa = run.end;
                    continue;
                }
                let run = run(other.map_or(part.end, |other| other.start));
                let flags = lender.areas.iter_range(run).fold(MappingFlags::empty(), |all, area| all | area.flags());
                let memory = terms.memory(terms.lender_pages(run));
                self.context.hand_over(self.context.operations(), memory, handover, terms.flags, flags);
                let written = handover == Handover::Zero || may_be_written;
                let noted = if written { Noted::Written } else { Noted::AsBefore };
                lender.table.put_back(&self.context, run, noted);
                gpa = run.end;
            }
        }
    }
}

/// The parts of a loan that a borrower's areas have in `place`, side by side in one piece.
fn parts(areas: &MemorySet<Backend>, loan: &Loan, place: GuestPhysRange) -> Result<Vec<GuestPhysRange>, Error> {
    let mine = || areas.iter_range(place).filter(|area| *area.backend() == Backend::Borrowed(loan.clone()));
    let mut parts: Vec<GuestPhysRange> = Vec::new();
    parts.try_reserve_exact(mine().count()).map_err(|_| Error::NoMemory(place))?;
    for range in mine().map(MemoryArea::va_range) {
        let range = GuestPhysRange { start: range.start.max(place.start), end: range.end.min(place.end) };
        match parts.last_mut() {
            // A block may reach across areas that touch.
            Some(last) if last.end == range.start => last.end = range.end,
            _ => parts.push(range),
        }
    }
    Ok(parts)
}

impl State {
    /// Refuses a loan that this space did not give, or that is over.
    fn check_loan(&self, loan: &Loan) -> Result<(), Error> {
        if self.loans.has(loan) { Ok(()) } else { Err(Error::NoLoan(loan.lender_range())) }
    }

    /// Refuses a part that is not on loan by this handle, or not any more.
    fn check_part(&self, loan: &Loan, range: GuestPhysRange) -> Result<(), Error> {
        if self.loans.part(loan, range).is_some() { Ok(()) } else { Err(Error::NoLoan(range)) }
    }
}
