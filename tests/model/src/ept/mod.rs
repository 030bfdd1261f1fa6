//! Intel EPT: the walk over raw entries, and what CPUs cache of it by EP4TA.
//!
//! Smaller than its Arm counterpart: guest-physical mappings and paging-structure entries, no guest tables.

mod cpu;
mod entry;
mod exit;
mod machine;

pub use entry::{Entry, Features, check_pointer, decode};
pub use exit::{Access, Exit};
pub use machine::{Config, Machine};
