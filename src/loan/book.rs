//! What a space has on loan to others.

use alloc::vec::Vec;

use super::{Loan, LoanKind};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange},
};

/// The loans that a space gave, by the addresses that the memory has in it. Shared memory may be on loan several times;
/// of a loan that was taken back in part there are several entries.
#[derive(Default)]
pub(crate) struct Loans(Vec<Entry>);

/// Some of a loan that is not taken back, in one piece. Entries stand in the order of their first addresses.
struct Entry {
    part: GuestPhysRange,
    /// Where the entries up to this one end: a search by it finds the first that reaches behind an address.
    reach: GuestPhysAddr,
    loan: Loan,
}

impl Loans {
    /// Makes room for one entry more.
    pub(crate) fn reserve(&mut self) -> Result<(), Exhausted> {
        self.0.try_reserve(1).map_err(|_| Exhausted::Memory)
    }

    /// Adds a loan. Its room is reserved.
    pub(crate) fn add(&mut self, loan: Loan) {
        self.insert(loan.lender_range(), loan);
    }

    /// What is on loan by `loan` and contains `range`.
    pub(crate) fn part(&self, loan: &Loan, range: GuestPhysRange) -> Option<GuestPhysRange> {
        let of_loan = self.within(range).filter(|(other, _)| *other == loan);
        of_loan.map(|(_, part)| part).find(|part| part.contains_range(range))
    }

    /// Whether any of it is there.
    pub(crate) fn has(&self, loan: &Loan) -> bool {
        self.within(loan.lender_range()).any(|(other, _)| other == loan)
    }

    /// Takes out what is on loan by `loan` in the first entry that has any of `range`. A loan that is cut in two takes room,
    /// which is reserved.
    pub(crate) fn take(&mut self, loan: &Loan, range: GuestPhysRange) -> Option<GuestPhysRange> {
        let is_it = |entry: &Entry| entry.loan == *loan && entry.part.overlaps(range);
        let first = self.behind(range.start);
        let index = first + self.0.get(first..)?.iter().position(is_it)?;
        let entry = &mut self.0[index];
        let whole = entry.part;
        let part = GuestPhysRange { start: whole.start.max(range.start), end: whole.end.min(range.end) };
        entry.part.end = part.start;
        if entry.part.is_empty() {
            self.0.remove(index);
        }
        self.note_reach(index);
        if part.end < whole.end {
            self.insert(GuestPhysRange { start: part.end, end: whole.end }, loan.clone());
        }
        Some(part)
    }

    /// Takes an entry out, whichever.
    pub(crate) fn pop(&mut self) -> Option<(Loan, GuestPhysRange)> {
        self.0.pop().map(|entry| (entry.loan, entry.part))
    }

    /// Whether there is none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first that has memory in `range`, and what it has there and around.
    #[inline]
    pub(crate) fn first_in(&self, range: GuestPhysRange) -> Option<(&Loan, GuestPhysRange)> {
        // Most spaces have none.
        let first = if self.0.is_empty() { None } else { self.0.get(self.behind(range.start)) };
        first.filter(|entry| entry.part.start < range.end).map(|entry| (&entry.loan, entry.part))
    }

    /// The first of memory in `range` that the lender is without.
    pub(crate) fn first_lent_in(&self, range: GuestPhysRange) -> Option<(&Loan, GuestPhysRange)> {
        self.within(range).find(|(loan, _)| loan.kind() == LoanKind::Lent)
    }

    /// Some loan in `range`, where nothing is lent, that is only here: its borrower has returned all of it, and there is no
    /// handle.
    pub(crate) fn left_behind(&self, range: GuestPhysRange) -> Option<&Loan> {
        self.within(range).map(|(loan, _)| loan).find(|loan| {
            let entries = || self.within(loan.lender_range()).filter(|(other, _)| other == loan).count();
            loan.borrowed() == 0 && loan.owners() == entries()
        })
    }

    /// All of them, each once, by their addresses.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Loan> {
        let is_first = |entry: &&Entry| {
            let before = GuestPhysRange { start: entry.loan.lender_range().start, end: entry.part.start };
            !self.within(before).any(|(other, _)| *other == entry.loan)
        };
        self.0.iter().filter(is_first).map(|entry| &entry.loan)
    }

    /// What is on loan, entry by entry.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (&Loan, GuestPhysRange)> {
        self.0.iter().map(|entry| (&entry.loan, entry.part))
    }

    /// All entries that have memory in `range`, in order.
    fn within(&self, range: GuestPhysRange) -> impl Iterator<Item = (&Loan, GuestPhysRange)> {
        let rest = self.0.get(self.behind(range.start)..).unwrap_or_default();
        let near = rest.iter().take_while(move |entry| entry.part.start < range.end);
        near.filter(move |entry| entry.part.end > range.start).map(|entry| (&entry.loan, entry.part))
    }

    /// The index of the first entry that ends behind `gpa`.
    fn behind(&self, gpa: GuestPhysAddr) -> usize {
        self.0.partition_point(|entry| entry.reach <= gpa)
    }

    fn insert(&mut self, part: GuestPhysRange, loan: Loan) {
        debug_assert!(self.0.len() < self.0.capacity(), "the room was reserved");
        let index = self.0.partition_point(|entry| entry.part.start <= part.start);
        self.0.insert(index, Entry { part, reach: part.end, loan });
        self.note_reach(index);
    }

    /// Notes how far the entries reach, from the one at `index` on.
    fn note_reach(&mut self, index: usize) {
        let mut reach = index.checked_sub(1).map_or(GuestPhysAddr::from_usize(0), |before| self.0[before].reach);
        for entry in &mut self.0[index..] {
            reach = reach.max(entry.part.end);
            entry.reach = reach;
        }
    }
}
