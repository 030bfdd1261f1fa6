//! A guest's nested page fault, read from the exit information of the VMCB.
//!
//! AMD64 APM Vol. 2 (publication 24593, revision 3.42): 15.25.6 "Nested versus Guest Page Faults, Fault Ordering" for
//! `EXITINFO1` and `EXITINFO2`, appendix C for the exit codes.

use crate::{
    addr::GuestPhysAddr,
    fault::{Cause, Fault, Origin},
    format::Access,
};

/// What a `#VMEXIT` leaves in the VMCB.
///
/// # Example
/// ```
/// use stage2::{Access, Cause, x86_64::npt::{Decoded, Exit, decode}};
///
/// // A nested page fault: a write to what is present and cannot be written.
/// let exit = Exit { code: 0x400, info1: 1 << 32 | 0b111, info2: 0x4000_1008 };
/// let Decoded::Fault(fault) = decode(exit) else { panic!("not a nested page fault") };
/// assert_eq!((fault.access, fault.cause), (Access::Write, Cause::Permission));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// `EXITCODE` (VMCB offset 0x70).
    pub code: u64,
    /// `EXITINFO1` (0x78).
    pub info1: u64,
    /// `EXITINFO2` (0x80).
    pub info2: u64,
}

/// What an exit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A nested page fault, for [`GuestSpace::fault`](crate::GuestSpace::fault).
    Fault(Fault),
    /// An entry on the way to this address has a reserved bit set. The crate writes no such entry on CPUs that have the
    /// capabilities which it was given, with EFER.NXE set: the tables are damaged, do not run the guest again.
    ReservedBit(GuestPhysAddr),
    /// Not an exit of the second stage of translation.
    NotTranslation {
        /// The exit code.
        code: u64,
    },
}

/// `VMEXIT_NPF`.
const NESTED_PAGE_FAULT: u64 = 0x400;

/// `EXITINFO1` bit 0: all entries on the way are present.
const PRESENT: u64 = 1 << 0;
/// Bit 1: a write. Walks of the guest's own tables always are, since they may set accessed and dirty there.
const WRITE: u64 = 1 << 1;
/// Bit 3: an entry has a reserved bit set.
const RESERVED: u64 = 1 << 3;
/// Bit 4: a fetch.
const FETCH: u64 = 1 << 4;
/// Bit 33: on behalf of the guest's own tables. Bit 32 says that it was not.
const GUEST_WALK: u64 = 1 << 33;

/// Reads an exit.
#[must_use]
pub fn decode(exit: Exit) -> Decoded {
    if exit.code != NESTED_PAGE_FAULT {
        return Decoded::NotTranslation { code: exit.code };
    }
    if exit.has(RESERVED) {
        return Decoded::ReservedBit(exit.address());
    }
    Decoded::Fault(exit.fault())
}

impl Exit {
    const fn has(self, bit: u64) -> bool {
        self.info1 & bit != 0
    }

    const fn address(self) -> GuestPhysAddr {
        GuestPhysAddr::from_usize(self.info2 as usize)
    }

    const fn fault(self) -> Fault {
        let access = if self.has(FETCH) {
            Access::Execute
        } else if self.has(WRITE) {
            Access::Write
        } else {
            Access::Read
        };
        let cause = if self.has(PRESENT) { Cause::Permission } else { Cause::Translation };
        let origin = if self.has(GUEST_WALK) { Origin::GuestWalk } else { Origin::Instruction };
        Fault { gpa: self.address(), access, cause, origin }
    }
}

#[cfg(test)]
#[path = "tests/fault.rs"]
mod tests;
