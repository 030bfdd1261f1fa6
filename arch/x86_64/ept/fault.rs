//! A guest's EPT violation or misconfiguration, read from the exit information of the VMCS.
//!
//! Intel SDM Vol. 3C (edition of December 2024): 28.2.1 with table 28-7 for the qualification of EPT violations, 28.2
//! for the addresses, appendix C for the exit reasons.

use crate::{
    addr::GuestPhysAddr,
    fault::{Cause, Fault, Origin},
    format::Access,
};

/// What a VM exit leaves in the VMCS.
///
/// # Example
/// ```
/// use stage2::{Access, Cause, x86_64::ept::{Decoded, Exit, decode}};
///
/// // An EPT violation: a write to what no entry maps, by the guest's own instruction.
/// let exit = Exit { reason: 48, qualification: 1 << 1 | 1 << 7 | 1 << 8, gpa: 0x4000_1008, linear: 0x1008 };
/// let Decoded::Fault(fault) = decode(exit) else { panic!("not a violation") };
/// assert_eq!((fault.access, fault.cause), (Access::Write, Cause::Translation));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// "Exit reason" (VMCS field 0x4402).
    pub reason: u32,
    /// "Exit qualification" (0x6400).
    pub qualification: u64,
    /// "Guest-physical address" (0x2400).
    pub gpa: u64,
    /// "Guest-linear address" (0x640a).
    pub linear: u64,
}

/// What an exit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// An EPT violation, for [`GuestSpace::fault`](crate::GuestSpace::fault).
    Fault(Fault),
    /// An entry on the way to this address is encoded wrongly, or uses what the CPU lacks. The crate writes no such
    /// entry on CPUs that have the capabilities which it was given: the tables are damaged, do not run the guest again.
    Misconfiguration(GuestPhysAddr),
    /// Not an exit of the second stage of translation.
    NotTranslation {
        /// The basic exit reason.
        reason: u16,
    },
}

/// Basic exit reason of an EPT violation.
const VIOLATION: u16 = 48;
/// Basic exit reason of an EPT misconfiguration.
const MISCONFIGURATION: u16 = 49;

/// Qualification bit 1: a write. With bit 0 too where the instruction reads and writes, and for accesses to the guest's
/// tables with accessed and dirty on (H17).
const WRITE: u64 = 1 << 1;
/// Qualification bit 2: a fetch.
const FETCH: u64 = 1 << 2;
/// Qualification bits 5:3: what all entries on the way allow; none where one is not present.
const ALLOWED: u64 = 0b111 << 3;
/// Qualification bit 7: the linear address is known. It is not where MOV to CR loads a guest's PDPTEs.
const LINEAR_KNOWN: u64 = 1 << 7;
/// Qualification bit 8, with bit 7: the access was to the linear address's translation, not to the guest's tables.
const TRANSLATED: u64 = 1 << 8;

/// Reads an exit.
#[must_use]
pub fn decode(exit: Exit) -> Decoded {
    match exit.basic_reason() {
        VIOLATION => Decoded::Fault(exit.fault()),
        MISCONFIGURATION => Decoded::Misconfiguration(exit.address()),
        reason => Decoded::NotTranslation { reason },
    }
}

impl Exit {
    /// Bits 15:0; above them are flags.
    const fn basic_reason(self) -> u16 {
        self.reason as u16
    }

    const fn has(self, bit: u64) -> bool {
        self.qualification & bit != 0
    }

    const fn address(self) -> GuestPhysAddr {
        GuestPhysAddr::from_usize(self.gpa as usize)
    }

    const fn fault(self) -> Fault {
        let access = if self.has(FETCH) {
            Access::Execute
        } else if self.has(WRITE) {
            Access::Write
        } else {
            Access::Read
        };
        let cause = if self.has(ALLOWED) { Cause::Permission } else { Cause::Translation };
        // What has no linear address is the guest's PDPTEs.
        let own = self.has(LINEAR_KNOWN) && self.has(TRANSLATED);
        let origin = if own { Origin::Instruction } else { Origin::GuestWalk };
        Fault { gpa: self.address(), access, cause, origin }
    }

    /// The guest-linear address of an EPT violation, where the CPU gives one.
    #[must_use]
    pub fn linear_address(self) -> Option<u64> {
        (self.basic_reason() == VIOLATION && self.has(LINEAR_KNOWN)).then_some(self.linear)
    }
}

#[cfg(test)]
#[path = "tests/fault.rs"]
mod tests;
