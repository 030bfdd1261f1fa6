//! Memory of one space that another sees: shared, lent, and taken back.

use alloc::vec::Vec;

use page_table_multiarch::MappingFlags;

use super::{GuestSpace, State, transfer::Prepared, transfer::Transfer};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange},
    backend::Backend,
    error::Error,
    extents::Seams,
    format::{Inexpressible, Owner},
    loan::{Loan, LoanKind, Terms},
    lock::{LockFamily, SpaceLock},
    ownership::Handover,
    platform::Platform,
    set::{MemoryArea, MemorySet},
    table::{Noted, Supplement},
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Gives another space a view of this one's own memory: both see what either writes.
    ///
    /// All of `range` is private memory; what is untouched yet is populated for it. What is refused changes nothing, but
    /// that pages which a source brought for it stay. The memory appears at `at` in the borrower, where nothing is, with `flags`: no more than the guest itself may do, and never
    /// [`EXECUTE`](MappingFlags::EXECUTE). While it is on loan it cannot be unmapped, protected, moved, or given to
    /// any other, and no snapshot is taken of the space. The borrower's [`unmap`](Self::unmap) returns it. The frames
    /// stay on this space's [limit](crate::Limits).
    ///
    /// Both spaces' locks are held, in the order of their addresses. What is missing is allocated and zeroed without them,
    /// unless the guest touched some of it meanwhile.
    ///
    /// # Errors
    /// - [`Error::SameSpace`] for a borrower that is this space;
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`], [`Error::Overflow`] for either range;
    /// - [`Error::Flags`] for flags with `EXECUTE` or `DEVICE`, of another type of memory than the guest's, or that the
    ///   borrower's format cannot express;
    /// - [`Error::Denied`] for flags that this guest does not have itself;
    /// - [`Error::NotMapped`] with the first hole, [`Error::State`] with the first page that is not the space's own;
    /// - [`Error::Overlap`] with the first area in the way at the borrower, [`Error::BadTarget`] for frames that the
    ///   borrower's entries do not hold;
    /// - [`Error::NotYet`], [`Error::SourceFailed`] with the first page that its source has not brought, and was asked for;
    /// - [`Error::NoMemory`], [`Error::Limit`] of either space's tables, or of this space's frames;
    /// - [`Error::Invalidation`]: nothing was given; blocks that the ends of the range cut may be split. See there.
    pub fn share(
        &self,
        range: GuestPhysRange,
        borrower: &Self,
        at: GuestPhysAddr,
        flags: MappingFlags,
    ) -> Result<Loan, Error>
    where
        P::Invalidate: Clone,
    {
        self.give(LoanKind::Shared, range, borrower, at, flags)
    }

    /// Gives another space this one's own memory until it is returned and [reclaimed](Self::reclaim): no CPU of this
    /// guest reaches it meanwhile, and a touch is [`Outcome::Lent`](crate::Outcome::Lent).
    ///
    /// Everything else is as for [`share`](Self::share), but that the type of memory may differ.
    ///
    /// # Errors
    /// As for [`share`](Self::share).
    pub fn lend(
        &self,
        range: GuestPhysRange,
        borrower: &Self,
        at: GuestPhysAddr,
        flags: MappingFlags,
    ) -> Result<Loan, Error>
    where
        P::Invalidate: Clone,
    {
        self.give(LoanKind::Lent, range, borrower, at, flags)
    }

    /// Takes back what was shared with, or lent to, `borrower`: what that still maps of it is unmapped there first, then
    /// the memory is this space's own again.
    ///
    /// Lent memory that is zeroed is so before this guest reaches it; shared memory, which it reaches all the time,
    /// may be read while it is being zeroed.
    ///
    /// # Errors
    /// - [`Error::SameSpace`] for a borrower that is this space;
    /// - [`Error::NoLoan`] if it is over, or another space's;
    /// - [`Error::StillBorrowed`] if yet another space has it;
    /// - [`Error::Invalidation`]: the borrower still has it. See there.
    pub fn reclaim(&self, loan: &Loan, borrower: &Self, handover: Handover) -> Result<(), Error> {
        let terms = loan.terms();
        let (mut lender, mut holder) = self.lock_both(terms.lender, borrower)?;
        lender.check_loan(loan)?;
        let State { areas, table, .. } = &mut *holder;
        let parts = parts(areas, loan)?;
        let held: usize = parts.iter().map(|part| part.size()).sum();
        let elsewhere = terms.mapped().saturating_sub(held);
        if elsewhere > 0 {
            return Err(Error::StillBorrowed { range: terms.borrower, bytes: elsewhere });
        }
        table
            .withdraw(&borrower.context, parts.iter().copied(), Owner::Borrowed)
            .map_err(|cause| Error::Invalidation { range: terms.borrower, cause })?;
        for part in parts {
            areas.remove_whole(part);
            table.vacate(&borrower.context, part);
        }
        terms.give_back(held);
        drop(holder);
        self.take_back(&mut lender, loan, handover);
        Ok(())
    }

    /// Takes back what the borrower has returned by itself, or by its end.
    ///
    /// # Errors
    /// - [`Error::NoLoan`] if it is over, or another space's;
    /// - [`Error::StillBorrowed`] with how much of it the borrower still maps;
    /// - [`Error::Invalidation`] if an earlier operation's invalidation still fails.
    pub fn reclaim_returned(&self, loan: &Loan, handover: Handover) -> Result<(), Error> {
        let mut state = self.exclusive()?;
        state.check_loan(loan)?;
        match loan.terms().mapped() {
            0 => self.take_back(&mut state, loan, handover),
            bytes => return Err(Error::StillBorrowed { range: loan.borrower_range(), bytes }),
        }
        Ok(())
    }

    /// All that the space has on loan to others, in the order of its addresses.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn loans(&self) -> Result<Vec<Loan>, Error> {
        let state = self.state.shared(super::any_cpu());
        let mut loans = Vec::new();
        let room = loans.try_reserve_exact(state.loans.iter().len());
        room.map_err(|_| Error::NoMemory(self.context.everything()))?;
        loans.extend(state.loans.iter().cloned());
        Ok(loans)
    }

    /// Shares or lends.
    fn give(
        &self,
        kind: LoanKind,
        range: GuestPhysRange,
        borrower: &Self,
        at: GuestPhysAddr,
        flags: MappingFlags,
    ) -> Result<Loan, Error>
    where
        P::Invalidate: Clone,
    {
        let place = self.check_transfer(range, borrower, at)?;
        let never = flags & (MappingFlags::EXECUTE | MappingFlags::DEVICE);
        if !never.is_empty() {
            return Err(Error::Flags { range: place, flags: Inexpressible(never) });
        }
        borrower.check_flags(place, flags)?;
        let transfer = Transfer { range, place, seams: Seams::Forgotten };
        let prepared = self.prepare(&transfer, borrower, |lender| check_lendable(&lender.areas, range, kind, flags))?;
        let Prepared { giver: mut lender, taker: mut holder, supplement, memory, had } = prepared;
        let out_of_memory = Error::NoMemory(range);
        let detached = borrower.detached(&holder, place, &memory, Owner::Borrowed, flags)?;
        let terms = Terms::new(kind, range, place, flags, memory);
        let (frames, operations) = (self.context.frames.plain().clone(), self.context.operations().clone());
        let loan = Loan::new::<P>(frames, operations, terms).ok_or(out_of_memory)?;
        lender.loans.reserve().map_err(|_| out_of_memory)?;
        let area = MemoryArea::new(place.start, place.size(), flags, Backend::Borrowed(loan.clone()));
        holder.areas.insert(area).map_err(|_| Error::NoMemory(place))?;
        if let Err(error) = self.part_with(&mut lender, range, kind, supplement) {
            holder.areas.remove_whole(place);
            return Err(error);
        }
        // Nothing fails from here on.
        if kind == LoanKind::Lent {
            let operations = borrower.context.operations();
            self.context.hand_over(operations, &loan.terms().memory, Handover::Keep, had, flags);
        }
        holder.table.graft(&borrower.context, detached);
        loan.terms().take_out();
        lender.loans.add(loan.clone());
        Ok(loan)
    }

    /// Marks or withdraws the memory of a loan, and maps what the lender lacked of it.
    fn part_with(
        &self,
        lender: &mut State,
        range: GuestPhysRange,
        kind: LoanKind,
        supplement: Supplement<'_, P>,
    ) -> Result<(), Error> {
        self.split_at_ends(&mut lender.table, range)?;
        match kind {
            LoanKind::Shared => {
                supplement.graft(&self.context, &mut lender.table);
                lender.table.change_owners(&self.context, range, Owner::Space, Owner::OnLoan);
            }
            LoanKind::Lent => {
                self.withdraw_own(&mut lender.table, range)?;
                supplement.graft_lent(&self.context, &mut lender.table);
            }
        }
        Ok(())
    }

    /// Ends a loan of which the borrower maps no page any more.
    fn take_back(&self, lender: &mut State, loan: &Loan, handover: Handover) {
        let terms = loan.terms();
        let flags = lender.areas.iter_range(terms.lender).fold(MappingFlags::empty(), |all, area| all | area.flags());
        self.context.hand_over(self.context.operations(), &terms.memory, handover, terms.flags, flags);
        let written = handover == Handover::Zero || super::shared::writes(terms.flags);
        let noted = if written { Noted::Written } else { Noted::AsBefore };
        lender.table.put_back(&self.context, terms.lender, noted);
        lender.loans.remove(loan);
    }
}

/// The parts of a loan that a borrower's areas have, side by side in one piece.
fn parts(areas: &MemorySet<Backend>, loan: &Loan) -> Result<Vec<GuestPhysRange>, Error> {
    let place = loan.borrower_range();
    let mine = || areas.iter_range(place).filter(|area| *area.backend() == Backend::Borrowed(loan.clone()));
    let mut parts: Vec<GuestPhysRange> = Vec::new();
    parts.try_reserve_exact(mine().count()).map_err(|_| Error::NoMemory(place))?;
    for range in mine().map(MemoryArea::va_range) {
        match parts.last_mut() {
            // A block may reach across areas that touch.
            Some(last) if last.end == range.start => last.end = range.end,
            _ => parts.push(range),
        }
    }
    Ok(parts)
}

/// Refuses to give what the guest does not have itself: what it may do in `range`, all areas together.
fn check_lendable(
    areas: &MemorySet<Backend>,
    range: GuestPhysRange,
    kind: LoanKind,
    flags: MappingFlags,
) -> Result<MappingFlags, Error> {
    let mut all = MappingFlags::empty();
    for area in areas.iter_range(range) {
        let (may, memory_type) = (area.flags(), MappingFlags::UNCACHED);
        let part = GuestPhysRange { start: area.start().max(range.start), end: area.end().min(range.end) };
        if !may.contains(flags - memory_type) {
            return Err(Error::Denied { range: part, flags: may });
        }
        // Two views of one memory that disagree about its caches see different bytes.
        let differing = (may ^ flags) & memory_type;
        if kind == LoanKind::Shared && !differing.is_empty() {
            return Err(Error::Flags { range: part, flags: Inexpressible(differing) });
        }
        all |= may;
    }
    Ok(all)
}

impl State {
    /// Refuses a loan that this space did not give, or that is over.
    fn check_loan(&self, loan: &Loan) -> Result<(), Error> {
        if self.loans.has(loan) { Ok(()) } else { Err(Error::NoLoan(loan.lender_range())) }
    }

    /// The space is at its end and no CPU reaches anything of it: what it borrowed is returned, and what it has on loan
    /// is its borrowers' until they return it.
    pub(super) fn end_loans(&mut self) {
        self.areas.iter().for_each(super::shared::give_back);
        self.removed.areas.iter().for_each(super::shared::give_back);
        core::mem::take(&mut self.loans).iter().for_each(|loan| loan.terms().lender_ends());
    }
}
