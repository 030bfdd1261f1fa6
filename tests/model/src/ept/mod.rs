//! Intel EPT: the walk over raw entries, and what CPUs cache of it by EP4TA.
//!
//! Guest-physical mappings and paging-structure entries by EP4TA; what is combined with the guest's own 4-level paging
//! by VPID too. AMD's nested page tables differ in the bits of entries, in the tag, which is an ASID, and in what flushes:
//! `VMRUN`, which is told to, in the place of INVEPT.

mod cpu;
mod entry;
mod exit;
mod guest;
mod machine;

pub use entry::{Entry, Features, Vendor, check_pointer, decode, nested_pointer};
pub use exit::{Access, Exit};
pub use guest::Guest;
pub use machine::{Config, Machine, Reset};
