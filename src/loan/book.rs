//! What a space has on loan to others.

use alloc::vec::Vec;

use super::Loan;
use crate::{account::Exhausted, addr::GuestPhysRange};

/// The loans that a space gave, by the addresses that the memory has in it. A page is on loan once.
#[derive(Default)]
pub(crate) struct Loans(Vec<Loan>);

impl Loans {
    /// Makes room for one more.
    pub(crate) fn reserve(&mut self) -> Result<(), Exhausted> {
        self.0.try_reserve(1).map_err(|_| Exhausted::Memory)
    }

    /// Adds a loan. Its room is reserved.
    pub(crate) fn add(&mut self, loan: Loan) {
        debug_assert!(self.0.len() < self.0.capacity(), "the room was reserved");
        let index = self.behind(loan.lender_range().start);
        self.0.insert(index, loan);
    }

    /// Whether it is there.
    pub(crate) fn has(&self, loan: &Loan) -> bool {
        self.first_in(loan.lender_range()) == Some(loan)
    }

    /// It is over.
    pub(crate) fn remove(&mut self, loan: &Loan) {
        self.0.retain(|other| other != loan);
    }

    /// The first of which memory lies in `range`.
    #[inline]
    pub(crate) fn first_in(&self, range: GuestPhysRange) -> Option<&Loan> {
        // Most spaces have none.
        let first = if self.0.is_empty() { None } else { self.0.get(self.behind(range.start)) };
        first.filter(|loan| loan.lender_range().start < range.end)
    }

    /// All of them, by their addresses.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Loan> {
        self.0.iter()
    }

    /// How many end at or before `gpa`.
    fn behind(&self, gpa: crate::addr::GuestPhysAddr) -> usize {
        self.0.partition_point(|loan| loan.lender_range().end <= gpa)
    }
}
