//! Exits, and how they report what the guest did. Intel SDM Vol. 3C, table 28-7.

use super::entry::{EXECUTE, READ, WRITE};

/// What the guest does at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads the word.
    Read,
    /// Stores this word.
    Write(u64),
    /// Fetches; answers the word.
    Execute,
    /// The walk of the guest's own tables; a write too, with accessed and dirty flags on.
    GuestWalk,
}

impl Access {
    /// The rights that it needs.
    pub(super) const fn wanted(self, tracked: bool) -> u64 {
        match self {
            Self::Write(_) => WRITE,
            Self::Execute => EXECUTE,
            Self::GuestWalk if tracked => READ | WRITE,
            Self::Read | Self::GuestWalk => READ,
        }
    }
}

/// Why the guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Exit reason 48.
    Violation {
        /// The guest-physical address, with its low bits.
        gpa: u64,
        /// The exit qualification.
        qualification: u64,
    },
    /// Exit reason 49.
    Misconfiguration {
        /// The guest-physical address.
        gpa: u64,
        /// What was wrong.
        why: &'static str,
    },
    /// No exit: the guest's own tables refuse, and the guest gets a page fault.
    PageFault,
}

impl Exit {
    /// Bits 2:0 the access, 5:3 the rights there, 7 a linear address is known, 8 it was its own translation.
    pub(super) const fn violation(gpa: u64, access: Access, wanted: u64, rights: u64) -> Self {
        let own = if matches!(access, Access::GuestWalk) { 0 } else { 1 << 8 };
        Self::Violation { gpa, qualification: wanted | (rights & 7) << 3 | 1 << 7 | own }
    }
}
