//! Intel's extended page tables (EPT).
//!
//! [`Capabilities`] say what the CPUs can do; [`Ept`] is the format of one space, and [`Tlb`] its invalidations;
//! [`decode`] reads a guest's violation. All of it is pure and built on every host, but for `Instructions`, which
//! carries the operations out on the target.

mod capabilities;
mod config;
mod entry;
mod fault;
mod op;
mod pte;
mod tlb;

#[cfg(target_arch = "x86_64")]
mod executor;

pub use super::interrupt::Interrupt;
pub use capabilities::{Capabilities, Errata, Features, Registers};
pub use config::{ConfigError, Depth, Exceptions, LargeLeaves, Root, Tracking};
pub use entry::Ept;
#[cfg(target_arch = "x86_64")]
pub use executor::Instructions;
pub use fault::{Decoded, Exit, decode};
pub use op::{Executor, Invept, Op, VmFail};
pub use pte::EptEntry;
pub use tlb::{Tlb, forget_everything};
