//! The scenarios on a real, if emulated, MMU: a PC with SVM, with a guest under NPT.
//!
//! Prints a line a test and a closing line, and turns the PC off.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry's name")]

extern crate alloc;

mod checks;
mod guest;
mod machine;
mod real_mode;
mod shooter;
mod tables;

use hypervisor::{console, memory, power, vcpu};
use machine::Svm;

/// The first CPU, once it is in Rust.
#[unsafe(no_mangle)]
extern "C" fn boot_main() -> ! {
    memory::init_heap();
    console::init_log();
    vcpu::prepare();
    stage2_bare::run(&Svm::start(), checks::ALL);
    power::off()
}
