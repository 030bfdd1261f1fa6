//! Loans: what the lender's tables mark, and what the borrowers' areas have.

use alloc::vec::Vec;

use memory_addr::PAGE_SIZE_4K;

use super::{
    Subject,
    areas::Map,
    frames::Claims,
    push,
    report::{Disagreement, Findings, Use},
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysRange, PhysAddr},
    backend::Backend,
    loan::{Loan, LoanKind},
    lock::LockFamily,
    platform::Platform,
};

/// The loans of all spaces.
pub(super) struct Lendings {
    /// By lender and address.
    lent: Vec<Lent>,
    borrowed: Vec<Borrowed>,
}

/// A part of a loan at its lender.
struct Lent {
    space: usize,
    loan: Loan,
    part: GuestPhysRange,
    /// How many bytes of it are marked as the loan says.
    marked: usize,
}

/// A part of a loan that a borrower has.
struct Borrowed {
    space: usize,
    range: GuestPhysRange,
    loan: Loan,
}

impl Lendings {
    /// What the spaces have lent.
    pub fn of<P: Platform, L: LockFamily>(subjects: &[Subject<'_, P, L>]) -> Result<Self, Exhausted> {
        let mut lent = Vec::new();
        for subject in subjects {
            for (loan, part) in subject.held.loans().entries() {
                push(&mut lent, Lent { space: subject.number, loan: loan.clone(), part, marked: 0 })?;
            }
        }
        Ok(Self { lent, borrowed: Vec::new() })
    }

    /// Whether a space's memory at `at`, which a range maps, is lent in that way, by as many loans as there are.
    pub fn lends(&mut self, space: usize, range: GuestPhysRange, at: PhysAddr, kind: LoanKind) -> bool {
        let mut rest = range.start;
        for lent in self.lent.iter_mut().filter(|lent| lent.space == space && lent.part.overlaps(range)) {
            let terms = lent.loan.terms();
            let part = GuestPhysRange { start: lent.part.start.max(range.start), end: lent.part.end.min(range.end) };
            let mut pages = (0..part.size()).step_by(PAGE_SIZE_4K);
            let is_there =
                |byte| terms.frame_at_lender(part.start + byte) == Some(at + (part.start - range.start) + byte);
            if terms.kind != kind || !pages.all(is_there) {
                return false;
            }
            lent.marked += part.size();
            if part.start <= rest {
                rest = rest.max(part.end);
            }
        }
        rest == range.end
    }

    /// Takes in what a space has borrowed, and looks at the order of what it lent.
    pub fn see<P: Platform, L: LockFamily>(
        &mut self,
        map: &Map<'_, '_, P, L>,
        findings: &mut Findings,
    ) -> Result<(), Exhausted> {
        let Subject { number: space, held } = map.subject;
        // Only shared memory is on loan more than once, and by one loan no page is.
        let mut before: Option<(GuestPhysRange, &Loan)> = None;
        for (loan, part) in held.loans().entries() {
            if let Some((other, first)) = before
                && (other.start > part.start
                    || (other.overlaps(part)
                        && (first == loan || [first, loan].iter().any(|loan| loan.kind() == LoanKind::Lent))))
            {
                findings.add(*space, part, Disagreement::LoanOrder);
            }
            before = Some((part, loan));
        }
        for area in map.areas().iter().copied().chain(held.removed()) {
            if let Backend::Borrowed(loan) = area.backend() {
                let range = area.va_range();
                if !loan.borrower_range().contains_range(range) {
                    findings.add(*space, range, Disagreement::BeyondLoan);
                }
                push(&mut self.borrowed, Borrowed { space: *space, range, loan: loan.clone() })?;
            }
        }
        Ok(())
    }

    /// Looks at each loan, when all spaces have been seen.
    pub fn check(&mut self, claims: &mut Claims, findings: &mut Findings) -> Result<(), Exhausted> {
        for Lent { space, part, marked, .. } in &self.lent {
            let size = part.size();
            if *marked != size {
                findings.add(*space, *part, Disagreement::NotOnLoan { size, found: *marked });
            }
        }
        let mut left = Vec::new();
        self.borrowed.sort_unstable_by_key(|part| part.loan.number());
        for parts in self.borrowed.chunk_by(|one, next| one.loan == next.loan) {
            let [first, ..] = parts else { continue };
            let (counted, found) = (first.loan.borrowed(), parts.iter().map(|part| part.range.size()).sum());
            // All of a loan is in one space.
            if counted != found {
                findings.add(first.space, first.range, Disagreement::Borrowed { counted, found });
            }
            let terms = first.loan.terms();
            for run in terms.without_lender() {
                let range = terms.at_borrower(&run);
                for (page, at) in terms.memory(run).enumerate() {
                    let start = range.start + page * PAGE_SIZE_4K;
                    let range = GuestPhysRange::from_start_size(start, PAGE_SIZE_4K);
                    push(&mut left, (at, first.space, range))?;
                }
            }
        }
        // Several loans may have a page.
        left.sort_unstable_by_key(|&(at, ..)| at);
        left.dedup_by_key(|&mut (at, ..)| at);
        for (at, space, range) in left {
            claims.add((at, PAGE_SIZE_4K), Use::LeftOnLoan, space, range)?;
        }
        Ok(())
    }
}
