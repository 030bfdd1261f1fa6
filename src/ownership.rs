//! What a page is to its space, and what becomes of it where it changes hands.

use core::fmt;

use crate::format::{Entry, Marked, Owner};

/// What a page is to its space, as its entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// There is no memory: the page is unmapped, or untouched.
    Nothing,
    /// The space's own.
    Owned,
    /// The space's own, and another space has a view of it ([`share`](crate::GuestSpace::share)).
    SharedOut,
    /// The space's own, and another space has it ([`lend`](crate::GuestSpace::lend)).
    Lent,
    /// Another space's.
    Borrowed,
    /// A region's.
    Region,
    /// A frozen region's, to be copied before it is written.
    Frozen,
    /// A device, or memory that is passed through.
    Foreign,
}

/// What becomes of what is written in memory that changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// The memory's new owner sees it.
    Keep,
    /// The memory's new owner sees zeros.
    Zero,
}

impl PageState {
    /// The state that an entry says; `None` while another CPU is about to finish it.
    pub(crate) const fn of(entry: &Entry) -> Option<Self> {
        match entry {
            Entry::Absent | Entry::Table(_) | Entry::Marked(Marked::Table(_)) => Some(Self::Nothing),
            // A marked leaf is one whose flags are being changed: one that is being unmapped has no area any more.
            Entry::Leaf(leaf) | Entry::Marked(Marked::Leaf(leaf)) => Some(Self::of_owner(leaf.owner)),
            Entry::Lent(_) => Some(Self::Lent),
            Entry::Busy => None,
        }
    }

    const fn of_owner(owner: Owner) -> Self {
        match owner {
            Owner::Space => Self::Owned,
            Owner::Foreign => Self::Foreign,
            Owner::Shared => Self::Region,
            Owner::Frozen => Self::Frozen,
            Owner::OnLoan => Self::SharedOut,
            Owner::Borrowed => Self::Borrowed,
        }
    }
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Owned => "the space's own",
            Self::SharedOut => "shared with another space",
            Self::Lent => "lent to another space",
            Self::Borrowed => "borrowed from another space",
            Self::Region => "a region's",
            Self::Frozen => "a frozen region's",
            Self::Foreign => "foreign",
        })
    }
}
