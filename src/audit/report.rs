//! What an audit found, in words.

use alloc::vec::Vec;
use core::fmt;

use page_table_multiarch::MappingFlags;

use crate::{
    account::Resource,
    addr::{GuestPhysRange, Level, PhysAddr},
    format::Owner,
    space::AreaKind,
};

/// How many findings are kept: one fault may be seen at each page.
const MOST: usize = 64;

/// What an audit found: one line for each [`Finding`] where it is displayed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    findings: Vec<Finding>,
    left_off: usize,
}

/// A place where two parts of a space disagree.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Finding {
    /// The space's number among those that were audited, from 0 on.
    pub space: usize,
    /// The guest-physical addresses that it is about.
    pub range: GuestPhysRange,
    /// What is wrong there.
    pub what: Disagreement,
}

/// What a frame is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is a table.
    Table,
    /// It is memory of a space's own.
    Memory,
    /// It is a page of a region's, or one that was inherited: several may name it.
    Named,
    /// It is memory that a lender left to its borrower when it went.
    LeftOnLoan,
    /// It is no CPU's any more, and still to be freed.
    Owed,
}

/// How two parts of a space disagree.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Disagreement {
    /// An area is empty, not of whole pages, or reaches past the addresses that the tables translate.
    #[error("the area is no range of whole pages that the tables translate")]
    BadArea,
    /// An area begins before the one before it ends.
    #[error("the area begins before the area before it ends")]
    AreaOrder,
    /// Two areas side by side agree in all, and should be one.
    #[error("the area and its neighbour before it agree in all and are not one")]
    AreaSplit,
    /// A search for an address in the area does not find it.
    #[error("the area is not found by its addresses")]
    AreaLost,
    /// An entry maps memory where no area is.
    #[error("an entry maps memory where no area is")]
    NoArea,
    /// A table stands where no area is.
    #[error("a table stands where no area is")]
    TableWithoutArea,
    /// An entry of the last level points to a table.
    #[error("an entry of {0} points to a table")]
    TableTooLow(Level),
    /// An entry is marked or busy, and no operation is left that would finish it.
    #[error("an entry is marked or busy, and nothing is left that would finish it")]
    Unfinished,
    /// A leaf's owner is not one that its area can have.
    #[error("a leaf says that its frame is {owner:?}, in an area that is {kind:?}")]
    Owner {
        /// What the leaf says.
        owner: Owner,
        /// What stands behind the area.
        kind: AreaKind,
    },
    /// A leaf's frame is not the one that stands behind its area.
    #[error("a leaf maps {at:#x?}, where {expected:#x?} stands behind the area")]
    Frame {
        /// What the leaf maps there.
        at: PhysAddr,
        /// What it should map; `None` if there is no frame.
        expected: Option<PhysAddr>,
    },
    /// A leaf allows more than its area, or another type of memory.
    #[error("a leaf allows {flags:?}, where {allowed:?} is the most")]
    Flags {
        /// What the leaf allows.
        flags: MappingFlags,
        /// What the area allows to this owner's memory.
        allowed: MappingFlags,
    },
    /// Of memory that is mapped as a whole from the beginning some is not.
    #[error("{missing:#x} bytes of the area are mapped by no entry")]
    NotMapped {
        /// How many bytes.
        missing: usize,
    },
    /// A page that the space inherits lies in no area that inherits.
    #[error("the page at {0:#x?} is inherited where no area inherits")]
    InheritedWithoutArea(PhysAddr),
    /// A page is inherited, though the space has its own there.
    #[error("the space has a page of its own, and inherits the one at {0:#x?} there still")]
    InheritedAndOwn(PhysAddr),
    /// A frame has two uses.
    #[error("the frame at {at:#x?} is {is}, and {other} of space {holder} too")]
    TwoUses {
        /// The frame.
        at: PhysAddr,
        /// What it is here.
        is: Use,
        /// What it is elsewhere, or here once more.
        other: Use,
        /// The number of the other space.
        holder: usize,
    },
    /// An account differs from what is found.
    #[error("the account has {counted} {what}, and {found} are found")]
    Account {
        /// Which account.
        what: Resource,
        /// How many frames, or areas, are on it.
        counted: usize,
        /// How many there are.
        found: usize,
    },
    /// A region counts other mappings than are found.
    #[error("the region behind the area counts {counted} mappings, and {found} are found")]
    Mappings {
        /// How many the region counts.
        counted: usize,
        /// How many of the audited spaces' there are.
        found: usize,
    },
    /// A region counts other mappings of a page than are found.
    #[error("page {page} of the region behind the area is shown by {counted} mappings, and {found} are found")]
    Shown {
        /// The number of the first page for which that is so.
        page: usize,
        /// How many mappings show it, as the region counts.
        counted: usize,
        /// How many of the audited spaces' do.
        found: usize,
    },
    /// A region counts other pages that guests may write than are found.
    #[error("the region behind the area counts {counted} pages that guests may write, and {found} are found")]
    Writable {
        /// How many the region counts.
        counted: usize,
        /// How many there are.
        found: usize,
    },
    /// A frozen region can be written.
    #[error("the region behind the area is frozen, and {pages} pages of it may be written")]
    FrozenWritable {
        /// How many pages.
        pages: usize,
    },
    /// Memory is marked as on loan that is in no loan of that kind.
    #[error("memory is marked as on loan, and is in no such loan")]
    NoLoan,
    /// A loan's memory at the lender is not marked as on loan, or another space's.
    #[error("of a loan of {size:#x} bytes, {found:#x} are marked as on loan")]
    NotOnLoan {
        /// The size in bytes of what is out, side by side.
        size: usize,
        /// How many bytes are marked as it should be.
        found: usize,
    },
    /// Loans are not in the order of their addresses, or have a page in common that is not shared by two.
    #[error("the loan is not behind the one before it, or has a page of it that only one loan can have")]
    LoanOrder,
    /// An area of borrowed memory lies outside the range of its loan.
    #[error("the area is not within the range of its loan")]
    BeyondLoan,
    /// A loan counts other borrowed bytes than are found.
    #[error("the loan counts {counted:#x} bytes that are borrowed, and {found:#x} are found")]
    Borrowed {
        /// How many the loan counts.
        counted: usize,
        /// How many the borrower maps.
        found: usize,
    },
}

impl Report {
    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.left_off == 0
    }

    /// What was found, the first 64 at most.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_clean() {
            return f.write_str("all agree");
        }
        for (index, finding) in self.findings.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{finding}")?;
        }
        if self.left_off > 0 {
            write!(f, "\nand {} more", self.left_off)?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { space, range, what } = self;
        write!(f, "space {space}, {range:#x?}: {what}")
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => "a table",
            Self::Memory => "memory of its own",
            Self::Named => "a page that several may have",
            Self::LeftOnLoan => "memory that a lender left",
            Self::Owed => "what is still to be freed",
        })
    }
}

/// What is found, while it is being looked for.
#[derive(Default)]
pub(super) struct Findings(Report);

impl Findings {
    /// Notes that something is wrong. Where there is no memory to note it, it is counted.
    pub fn add(&mut self, space: usize, range: GuestPhysRange, what: Disagreement) {
        let Report { findings, left_off } = &mut self.0;
        if findings.len() < MOST && findings.try_reserve(1).is_ok() {
            findings.push(Finding { space, range, what });
        } else {
            *left_off += 1;
        }
    }

    pub fn into_report(self) -> Report {
        self.0
    }
}
