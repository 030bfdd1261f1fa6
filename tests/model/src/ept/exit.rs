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
    /// A violation as AMD's CPUs report it in `EXITINFO1`: bit 0 present, 1 write, 2 user, 4 fetch, 32 the guest's own
    /// access, 33 its walk (AMD64 APM Vol. 2, 15.25.6).
    #[must_use]
    pub fn error_code(qualification: u64) -> u64 {
        let bit = |from: u32, to: u32| (qualification >> from & 1) << to;
        // Something is allowed.
        let present = [bit(3, 0), bit(4, 0), bit(5, 0)].into_iter().fold(0, |any, one| any | one);
        present | bit(1, 1) | 1 << 2 | bit(2, 4) | bit(8, 32) | (bit(8, 33) ^ 1 << 33)
    }

    /// Bits 2:0 the access, 5:3 the rights there, 7 a linear address is known, 8 it was its own translation.
    pub(super) const fn violation(gpa: u64, access: Access, wanted: u64, rights: u64) -> Self {
        let own = if matches!(access, Access::GuestWalk) { 0 } else { 1 << 8 };
        Self::Violation { gpa, qualification: wanted | (rights & 7) << 3 | 1 << 7 | own }
    }
}
