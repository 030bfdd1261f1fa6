//! The memory of a loan, some of which other loans may have too.

use alloc::vec::Vec;

use memory_addr::PhysAddr;

use super::{
    Loans,
    holding::{Holding, Users},
};
use crate::{account::Exhausted, addr::GuestPhysRange, counted::Counted};

/// The memory of a loan: parts side by side, from the first page on.
pub(super) struct Parts(Vec<Part>);

/// Some of it, which lies side by side in memory that other loans may have too.
struct Part {
    /// Its first page, in the loan.
    first: usize,
    holding: Counted<dyn Holding>,
    /// Its first page, in the holding.
    at: usize,
}

impl Parts {
    /// The memory of a loan of `range`. Where others have it on loan already it is shared with those, so that each page
    /// has one count of who has it. For the rest it is what `fresh` answers, which is memory of all the range.
    ///
    /// # Errors
    /// There is no memory to note it.
    pub(super) fn of(
        range: GuestPhysRange,
        page_size: usize,
        others: &Loans,
        fresh: impl FnOnce() -> Option<Counted<dyn Holding>>,
    ) -> Result<Self, Exhausted> {
        let (mut parts, mut fresh, mut made) = (Vec::new(), Some(fresh), None);
        let mut gpa = range.start;
        while gpa < range.end {
            let first = (gpa - range.start) / page_size;
            let (part, end) = match others.first_in(GuestPhysRange { start: gpa, end: range.end }) {
                Some((loan, there)) if there.start <= gpa => {
                    let other = loan.terms();
                    let page = other.lender_pages(GuestPhysRange { start: gpa, end: there.end }).start;
                    let (part, end) = other.memory.part(page);
                    let end = end.map_or(there.end, |end| there.end.min(other.at_lender(&(page..end)).end));
                    (Part { first, holding: part.holding.clone(), at: part.at + (page - part.first) }, end)
                }
                next => {
                    if let Some(fresh) = fresh.take() {
                        made = fresh();
                    }
                    let holding = made.clone().ok_or(Exhausted::Memory)?;
                    (Part { first, holding, at: first }, next.map_or(range.end, |(_, there)| there.start))
                }
            };
            parts.try_reserve(1).map_err(|_| Exhausted::Memory)?;
            parts.push(part);
            gpa = end;
        }
        Ok(Self(parts))
    }

    /// The memory of a loan that is all of a holding, in the order of that.
    #[cfg(all(test, loom))]
    pub(super) fn sole(holding: Counted<dyn Holding>) -> Self {
        Self(Vec::from([Part { first: 0, holding, at: 0 }]))
    }

    /// The part that a page is in, and where the next begins.
    fn part(&self, page: usize) -> (&Part, Option<usize>) {
        let next = self.0.partition_point(|part| part.first <= page);
        (&self.0[next - 1], self.0.get(next).map(|next| next.first))
    }

    /// The holding that a page is in, and its number there.
    fn place(&self, page: usize) -> (&dyn Holding, usize) {
        let (part, _) = self.part(page);
        (&*part.holding, part.at + (page - part.first))
    }

    /// Who has a page.
    pub(super) fn users(&self, page: usize) -> &Users {
        let (holding, page) = self.place(page);
        holding.users(page)
    }

    /// Where a page's memory begins.
    pub(super) fn frame(&self, page: usize, page_size: usize) -> Option<PhysAddr> {
        let (holding, page) = self.place(page);
        holding.memory().at(page * page_size).map(|(at, _)| at)
    }

    /// Frees a page that no side has.
    pub(super) fn free_unreachable(&self, page: usize) {
        let (holding, page) = self.place(page);
        holding.free_unreachable(page);
    }
}
