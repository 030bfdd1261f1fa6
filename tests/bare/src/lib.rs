//! What the bare-metal programs have in common that run the scenarios on emulated MMUs: the memory that they hand out,
//! the second CPU, and what they print.
//!
//! Two of them run on a PC, one for each vendor's CPUs: [`pc`] has all that is the same there.
#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;

pub mod board;
pub mod cpus;
#[cfg(target_arch = "x86_64")]
pub mod pc;
mod suite;
mod tags;

pub use suite::{main, no_freed_frame_was_written};
pub use tags::Tags;
