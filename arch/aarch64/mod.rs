//! `AArch64` stage 2.
//!
//! [`Capabilities`] say what the CPUs can do; [`Stage2`] is the format of one space, and [`Tlb`] its invalidations;
//! [`decode`] reads a guest's fault. All of it is pure and built on every host, but for `Instructions`, which carries
//! the operations out on the target.

mod bits;
mod capabilities;
mod config;
mod entry;
mod fault;
mod op;
mod operand;
mod pte;
mod tlb;

#[cfg(target_arch = "aarch64")]
mod executor;

pub use capabilities::{Capabilities, Errata, Features, IdRegisters};
pub use config::{ConfigError, HCR_BITS, HCR_FWB, HCR_VM, Root, Tracking, Vmid};
pub use entry::Stage2;
#[cfg(target_arch = "aarch64")]
pub use executor::Instructions;
pub use fault::{Decoded, Extension, Syndrome, Transfer, Unresolved, Width, decode, decode_distrusting};
pub use op::{Domain, Executor, Kind, Op, Stage1, Tlbi};
pub use pte::Stage2Entry;
pub use tlb::Tlb;
