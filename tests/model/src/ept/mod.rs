//! Intel EPT: the walk over raw entries, and what CPUs cache of it by EP4TA.
//!
//! Guest-physical mappings and paging-structure entries by EP4TA; what is combined with the guest's own 4-level paging
//! by VPID too.

mod cpu;
mod entry;
mod exit;
mod guest;
mod machine;

pub use entry::{Entry, Features, check_pointer, decode};
pub use exit::{Access, Exit};
pub use guest::Guest;
pub use machine::{Config, Machine, Reset};
