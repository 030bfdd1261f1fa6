//! AMD's nested page tables (NPT).
//!
//! [`Capabilities`] say what the CPUs can do; [`Npt`] is the format of one space, and [`Tlb`] its invalidations;
//! [`decode`] reads a guest's nested page fault. All of it is pure and built on every host, but for `Instructions`,
//! which carries the operations out on the target, and leaves those to the hypervisor that are fields of its VMCB:
//! what the next `VMRUN` forgets is [`Owed`].

mod capabilities;
mod config;
mod entry;
mod fault;
mod op;
mod owed;
mod pte;
mod tlb;

#[cfg(target_arch = "x86_64")]
mod executor;

pub use super::interrupt::Interrupt;
pub use capabilities::{Capabilities, Features, Registers};
pub use config::{Asid, ConfigError, MemoryType, PAT_AT_RESET, Root};
pub use entry::Npt;
#[cfg(target_arch = "x86_64")]
pub use executor::{Instructions, NextRun};
pub use fault::{Decoded, Exit, decode};
pub use op::{Executor, Op};
pub use owed::{Owed, TlbControl};
pub use pte::NptEntry;
pub use tlb::Tlb;
