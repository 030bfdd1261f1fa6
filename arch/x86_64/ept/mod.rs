//! Intel's extended page tables (EPT).
//!
//! [`Capabilities`] say what the CPUs can do, [`Ept`] is the format of one space. All of it is pure and built on every
//! host.

mod config;
mod entry;
mod pte;

pub use config::{Capabilities, ConfigError, Depth, Exceptions, Features, Root, Tracking};
pub use entry::Ept;
pub use pte::EptEntry;
