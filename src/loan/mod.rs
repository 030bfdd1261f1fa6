//! Memory that one space has and another sees: what is agreed, and what a page is to its space.

mod book;
mod holding;
mod out;
mod parts;
mod record;

use core::{fmt, ops::Range};

use page_table_multiarch::MappingFlags;

pub(crate) use self::{book::Loans, record::Terms};
use self::{holding::Held, parts::Parts};
pub use crate::ownership::{Handover, PageState};
use crate::{addr::GuestPhysRange, counted::Counted, extents::Extents, format::Format, platform::Platform};

/// Memory of one space that another has: what [`share`](crate::GuestSpace::share) and
/// [`lend`](crate::GuestSpace::lend) answer, and [`reclaim`](crate::GuestSpace::reclaim) takes.
///
/// A handle, of which there may be many. If one is lost, no memory is: [`loans`](crate::GuestSpace::loans) gives
/// another. Each says which parts are [still out](Self::outstanding), and parts can be taken back
/// ([`reclaim_part`](crate::GuestSpace::reclaim_part)).
///
/// What was given and never reclaimed takes some of the hypervisor's heap, on no account, though the borrower has returned it.
/// Of lent memory that is once a page: none is given again before it is reclaimed. Shared memory can be shared again: when it
/// is, or any part of it, all loans of it are over that were returned and have no handle any more. A host that keeps the
/// handles of such loans reclaims them itself. When the lender is gone, each page is free as soon as no borrower
/// maps it any more; a handle keeps none.
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
pub struct Loan(Counted<Terms>);

/// Whether the lender keeps access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoanKind {
    /// It does: both see what either writes, and so does every other borrower that it is shared with.
    Shared,
    /// It does not, until it has the memory back.
    Lent,
}

impl Loan {
    /// A loan of a platform's memory, some of which `others` may have too; `None` where there is no memory to note it.
    pub(crate) fn new<P: Platform>(
        bargain: &Bargain,
        memory: Extents,
        (frames, operations): (P::Frames, P::Invalidate),
        others: &Loans,
    ) -> Option<Self> {
        let page_size = 1 << P::Format::PAGE_SHIFT;
        let fresh = || Held::<P>::of(frames, operations, memory);
        let parts = Parts::of(bargain.lender, page_size, others, fresh).ok()?;
        let terms = Terms::new(bargain, page_size, parts).ok()?;
        Counted::try_new(terms).map(Self)
    }

    /// Whether the lender keeps access.
    #[must_use]
    pub fn kind(&self) -> LoanKind {
        self.terms().kind
    }

    /// Where it was in the lender's guest when it was given, whatever has been taken back since.
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

    /// How many bytes the borrower still maps: what it unmapped it has returned, and what was reclaimed is not out.
    #[must_use]
    pub fn borrowed(&self) -> usize {
        self.terms().borrowed(self.terms().pages())
    }

    /// Which parts the borrower still maps, in the lender's addresses and their order. What is in none of them can be
    /// taken back [without the borrower](crate::GuestSpace::reclaim_returned_part), if it is not back already.
    ///
    /// A part that the borrower returns meanwhile may be in it, or not.
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
    /// let loan = owner.share(range(0x8000_0000, 0x4000), &other, 0x4000_0000.into(), RW)?;
    ///
    /// other.unmap(range(0x4000_1000, 0x1000))?;
    /// owner.reclaim_part(&loan, range(0x8000_3000, 0x1000), &other, Handover::Keep)?;
    /// let left: Vec<_> = loan.outstanding().collect();
    /// assert_eq!(left, [range(0x8000_0000, 0x1000), range(0x8000_2000, 0x1000)]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn outstanding(&self) -> impl Iterator<Item = GuestPhysRange> {
        let terms = self.terms();
        let mut rest: Range<usize> = terms.pages();
        core::iter::from_fn(move || {
            let run = terms.first_borrowed(rest.clone())?;
            rest.start = run.end;
            Some(terms.at_lender(&run))
        })
    }

    /// How many handles, areas and entries of the lender's book have it.
    pub(crate) fn owners(&self) -> usize {
        self.0.owners()
    }

    /// Which loan it is: a number that no other loan has.
    pub(crate) fn number(&self) -> usize {
        self.0.address()
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.0
    }
}

/// What the sides of a loan agree on.
pub(crate) struct Bargain {
    pub kind: LoanKind,
    /// At the lender.
    pub lender: GuestPhysRange,
    /// At the borrower.
    pub borrower: GuestPhysRange,
    /// What the borrower may do at most.
    pub flags: MappingFlags,
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
