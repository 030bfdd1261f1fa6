//! A guest's fault, and what came of it.

use page_table_multiarch::MappingFlags;

use crate::{addr::GuestPhysAddr, format::Access, ticket::Ticket};

/// A fault that the second stage of translation raised, as the architecture's decoder makes it from the registers.
///
/// # Example
/// ```
/// use stage2::{Access, Cause, CpuId, Fault, Origin, Outcome};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # let space = host::guest(1)?;
///
/// // As `aarch64::decode`, `ept::decode` and `npt::decode` make it.
/// let gpa = 0x0a00_0010.into();
/// let fault = Fault { gpa, access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction };
/// // Nothing is mapped there: a device to emulate.
/// assert_eq!(space.fault(CpuId(0), fault)?, Outcome::NotMapped);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address, with its low bits.
    pub gpa: GuestPhysAddr,
    /// What the guest tried.
    pub access: Access,
    /// Why the CPU refused.
    pub cause: Cause,
    /// What made the access.
    pub origin: Origin,
}

/// Why the CPU refused an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No valid entry.
    Translation,
    /// An entry that does not allow it.
    Permission,
    /// An entry whose accessed mark is clear, on a CPU that does not set it.
    AccessFlag,
}

/// What made an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An instruction's own access, or its fetch.
    Instruction,
    /// The walk of the guest's own tables (Arm's S1PTW; a guest-page-table access in Intel's qualification).
    GuestWalk,
}

/// What came of a fault. Every guest can cause each of them at any time.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub enum Outcome {
    /// The access will now go through: enter the guest again.
    Resolved,
    /// Another CPU has resolved the fault, or is about to, or the entry allows the access: enter the guest again.
    Retry,
    /// No area is there: a device to emulate, or a bus error.
    NotMapped,
    /// The area that is there does not allow it.
    Denied {
        /// What it allows.
        flags: MappingFlags,
    },
    /// The memory is lent to another space: it will go through when that has returned it.
    Lent,
    /// The guest put its own tables where there is no memory: it gets an external abort on a walk, never an
    /// emulated device ([H11](crate::hardware#h11)).
    Inject,
    /// The page comes from a source that has not brought it yet: the virtual CPU waits until the ticket is over, and then
    /// the same fault is answered anew. [`Pager`](crate::pager::Pager) says how no wake-up is lost.
    NotYet(Ticket),
    /// The page comes from a source that cannot have it: do what a machine does whose memory has failed, or call
    /// [`Pager::retry`](crate::pager::Pager::retry).
    SourceFailed(Ticket),
}
