//! What the bare-metal programs have in common that run the scenarios on emulated MMUs: the memory that they hand out,
//! the second CPU, and what they print.
#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;

pub mod board;
pub mod cpus;
#[cfg(target_arch = "x86_64")]
pub mod pc;
#[cfg(target_arch = "x86_64")]
pub mod real_mode;
mod suite;

pub use suite::run;
