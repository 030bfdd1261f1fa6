//! What a CPU must forget before it runs a guest again, until it does.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{Asid, Capabilities, Features};

/// What `VMRUN` forgets first: the VMCB's field `TLB_CONTROL` (offset 0x5c; APM Vol. 2, 15.16.1 and appendix B).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TlbControl {
    /// Nothing.
    Nothing = 0,
    /// The translations of all ASIDs.
    All = 1,
    /// Those of the VMCB's ASID.
    Guest = 3,
}

/// What one CPU owes: the place between [`Op::Flush`](super::Op::Flush) and the VMCB.
///
/// It is the CPU's and not a VMCB's: a virtual CPU that moves away would take its flush along, and one that came in its
/// place would find what was to be forgotten. A hypervisor has one a CPU:
///
/// 1. its executor calls [`add`](Self::add) on this CPU's;
/// 2. with interrupts and NMIs held back (`CLGI`), it writes what [`take`](Self::take) gives into `TLB_CONTROL` of the
///    VMCB, and executes `VMRUN`: nothing else may come in between.
///
/// # Example
/// ```
/// use stage2::x86_64::npt::{Asid, Capabilities, Owed, Registers, TlbControl};
///
/// let milan = Registers {
///     extended_ecx: 0x75c2_37ff,
///     extended_edx: 0x2fd3_fbff,
///     address_sizes: 0x3030,
///     asids: 0x8000,
///     svm_edx: 0x101b_bcff,
/// };
/// let capabilities = Capabilities::from_registers(milan);
/// let owed = Owed::everything();
/// // Before each VMRUN:
/// assert_eq!(owed.take(Asid(1), &capabilities), TlbControl::All, "the CPU's first");
/// owed.add(Asid(1));
/// assert_eq!(owed.take(Asid(1), &capabilities), TlbControl::Guest);
/// assert_eq!(owed.take(Asid(1), &capabilities), TlbControl::Nothing);
/// ```
#[derive(Debug)]
pub struct Owed(AtomicU64);

/// Nothing is owed.
const NOTHING: u64 = u64::MAX;
/// Everything is owed. No guest has this ASID.
const ALL: u64 = 0;

impl Owed {
    /// A CPU that starts: whatever was cached there, by a former hypervisor too, is forgotten at the first `VMRUN`.
    #[must_use]
    pub const fn everything() -> Self {
        Self(AtomicU64::new(ALL))
    }

    /// Owes the translations of one ASID, too.
    pub fn add(&self, asid: Asid) {
        let more = |owed| match owed {
            NOTHING => Some(u64::from(asid.0)),
            same if same == u64::from(asid.0) => None,
            _ => Some(ALL),
        };
        // An error only says that the value stays as it is.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// What `VMRUN` has to forget that follows, for a guest with this ASID; nothing is owed afterwards.
    #[must_use = "it is owed no more"]
    pub fn take(&self, asid: Asid, capabilities: &Capabilities) -> TlbControl {
        match self.0.swap(NOTHING, Ordering::Relaxed) {
            NOTHING => TlbControl::Nothing,
            owed if owed == u64::from(asid.0) && capabilities.features.contains(Features::FLUSH_BY_ASID) => {
                TlbControl::Guest
            }
            _ => TlbControl::All,
        }
    }
}

#[cfg(test)]
#[path = "tests/owed.rs"]
mod tests;
