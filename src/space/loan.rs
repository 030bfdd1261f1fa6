//! Memory of one space that another sees: shared, and lent. `reclaim.rs` takes it back.

use alloc::vec::Vec;

use page_table_multiarch::MappingFlags;

use super::{
    GuestSpace, State,
    transfer::{Prepared, Sharing, Transfer},
};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange},
    backend::Backend,
    error::Error,
    extents::Seams,
    format::{Inexpressible, Owner},
    loan::{Bargain, Loan, LoanKind},
    lock::{LockFamily, SpaceLock},
    ownership::Handover,
    platform::Platform,
    set::{MemoryArea, MemorySet},
    table::Supplement,
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Gives another space a view of this one's own memory: both see what either writes.
    ///
    /// All of `range` is private memory; what is untouched yet is populated for it. What is refused changes nothing, but
    /// that pages which a source brought for it stay, and that for want of memory, at a limit, or where a frame or a CPU is the
    /// reason, what was left to the space alone of a dropped snapshot is its own again, and on its account.
    ///
    /// The memory appears at `at` in the borrower, where nothing is, with `flags`: no more than the guest itself may do, and
    /// never [`EXECUTE`](MappingFlags::EXECUTE). While it is on loan it cannot be unmapped, protected, moved, lent or donated, and no snapshot is taken of the space. The borrower's
    /// [`unmap`](Self::unmap) returns it. The frames stay on this space's [limit](crate::Limits).
    ///
    /// What is shared, or is in part, can be shared once more: with any number of borrowers, with one of them at several
    /// addresses, each time with other flags. Each time is a loan by itself, and a page is the space's own again when the
    /// last loan that has it is over. A [loan](Loan) that was returned and has no handle any more is over, as if reclaimed with
    /// [`Handover::Keep`], when any of its memory is shared again.
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
    /// - [`Error::NoMemory`], [`Error::Limit`] of either space's tables, of this space's frames, or of the borrower's areas;
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
        let give = || self.give(LoanKind::Shared, range, borrower, at, flags);
        self.paying(|| borrower.paying(give))
    }

    /// Gives another space this one's own memory until it is returned and [reclaimed](Self::reclaim): no CPU of this
    /// guest reaches it meanwhile, and a touch is [`Outcome::Lent`](crate::Outcome::Lent).
    ///
    /// Everything else is as for [`share`](Self::share), but that the type of memory may differ, and that a page which is
    /// lent is with one borrower only: what is shared is not lent, nor what is lent given to any other.
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
        let give = || self.give(LoanKind::Lent, range, borrower, at, flags);
        self.paying(|| borrower.paying(give))
    }

    /// All that the space has on loan to others, in the order of its addresses.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn loans(&self) -> Result<Vec<Loan>, Error> {
        let state = self.state.shared(super::any_cpu());
        let mut loans = Vec::new();
        let room = loans.try_reserve_exact(state.loans.entries().len());
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
        let sharing = if kind == LoanKind::Shared { Sharing::Allowed } else { Sharing::Refused };
        let transfer = Transfer { range, place, seams: Seams::Forgotten, sharing };
        let prepared = self.prepare(&transfer, borrower, |lender, holder| {
            // It is joined with no other area, which is of another loan.
            borrower.check_areas(place, holder.areas.len(), 1, || holder.areas.len() + 1)?;
            check_lendable(&lender.areas, range, kind, flags)
        })?;
        let Prepared { giver: mut lender, taker: mut holder, supplement, memory, had } = prepared;
        let out_of_memory = Error::NoMemory(range);
        let detached = borrower.detached(&holder, place, &memory, Owner::Borrowed, flags)?;
        let bargain = Bargain { kind, lender: range, borrower: place, flags };
        let owner = (self.context.frames.plain().clone(), self.context.operations().clone());
        let loan = Loan::new::<P>(&bargain, memory, owner, &lender.loans).ok_or(out_of_memory)?;
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
            let terms = loan.terms();
            self.context.hand_over(operations, terms.memory(terms.pages()), Handover::Keep, had, flags);
        }
        holder.table.graft(&borrower.context, detached);
        loan.terms().take_out();
        lender.loans.add(loan.clone());
        if kind == LoanKind::Shared {
            self.end_left_behind(&mut lender, range);
        }
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
    /// The space is at its end and no CPU reaches anything of it: what it borrowed is returned, and what it has on loan
    /// is its borrowers' until they return it. What they have returned already is to be freed.
    pub(super) fn end_loans(&self) {
        self.areas.iter().for_each(super::shared::give_back);
        self.removed.iter().for_each(super::shared::give_back);
        self.loans.entries().for_each(|(loan, part)| loan.terms().lender_ends(part));
    }
}
