//! Memory that one space has and another sees: what is agreed, and what a page is to its space.

mod book;
mod record;

use core::fmt;

use page_table_multiarch::MappingFlags;

use self::record::{Lending, Record};
pub(crate) use self::{book::Loans, record::Terms};
pub use crate::ownership::{Handover, PageState};
use crate::{addr::GuestPhysRange, counted::Counted, platform::Platform};

/// Memory of one space that another has: what [`share`](crate::GuestSpace::share) and
/// [`lend`](crate::GuestSpace::lend) answer, and [`reclaim`](crate::GuestSpace::reclaim) takes.
///
/// A handle, of which there may be many. If one is lost, no memory is: [`loans`](crate::GuestSpace::loans) gives
/// another. When the lender is gone, the memory is free when the borrower's last mapping and the last handle are gone.
///
/// # Example
/// ```
/// use stage2::{LeafPolicy, Mapping, Populate, loan::Handover};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// let (owner, other) = (guest(1)?, guest(2)?);
/// let private = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
/// owner.map(range(0x8000_0000, 0x4000), private, RW)?;
///
/// let loan = owner.lend(range(0x8000_0000, 0x1000), &other, 0x4000_0000.into(), RW)?;
/// other.store(0x4000_0000.into(), 7_u32)?;
/// assert!(owner.load::<u32>(0x8000_0000.into()).is_err(), "the owner is without it");
/// owner.reclaim(&loan, &other, Handover::Keep)?;
/// assert_eq!(owner.load::<u32>(0x8000_0000.into())?, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Loan(Counted<dyn Lending>);

/// Whether the lender keeps access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoanKind {
    /// It does: both see what either writes.
    Shared,
    /// It does not, until it has the memory back.
    Lent,
}

impl Loan {
    /// A loan of a platform's memory; `None` where there is no memory to note it.
    pub(crate) fn new<P: Platform>(frames: P::Frames, operations: P::Invalidate, terms: Terms) -> Option<Self> {
        Record::<P>::of(frames, operations, terms).map(Self)
    }

    /// Whether the lender keeps access.
    #[must_use]
    pub fn kind(&self) -> LoanKind {
        self.terms().kind
    }

    /// Where it is in the lender's guest.
    #[must_use]
    pub fn lender_range(&self) -> GuestPhysRange {
        self.terms().lender
    }

    /// Where it was put in the borrower's guest.
    #[must_use]
    pub fn borrower_range(&self) -> GuestPhysRange {
        self.terms().borrower
    }

    /// What the borrower may do at most.
    #[must_use]
    pub fn flags(&self) -> MappingFlags {
        self.terms().flags
    }

    /// How many bytes the borrower still maps: what it unmapped it has returned.
    #[must_use]
    pub fn borrowed(&self) -> usize {
        self.terms().mapped()
    }

    /// Lets go of it, unless no other side has it.
    pub(crate) fn release(self) -> Option<Self> {
        self.0.release().map(Self)
    }

    /// Frees some of what the lender left behind, if no other side has it, until `budget`, in frames of 4 KiB, is used up.
    pub(crate) fn free_some(&mut self, budget: &mut usize) {
        if let Some(record) = self.0.sole() {
            record.free_some(budget);
        }
    }

    pub(crate) fn terms(&self) -> &Terms {
        self.0.terms()
    }
}

/// Handles are equal that are of the same loan.
impl PartialEq for Loan {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }
}

impl Eq for Loan {}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loan")
            .field("kind", &self.kind())
            .field("lender_range", &self.lender_range())
            .field("borrower_range", &self.borrower_range())
            .finish_non_exhaustive()
    }
}
