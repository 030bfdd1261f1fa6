//! The scenarios on a real, if emulated, MMU: EL2 of QEMU's `virt` board, with a guest at EL1.
//!
//! Prints a line a test and a closing line, and powers the board off.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry's name")]

extern crate alloc;

mod checks;
mod guest;
mod machine;
mod saboteur;

use machine::Qemu;

/// The first CPU, once it is in Rust.
#[unsafe(no_mangle)]
extern "C" fn boot_main() -> ! {
    stage2_bare::main(Qemu::start, checks::ALL)
}
