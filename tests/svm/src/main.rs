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

use machine::Svm;
use stage2_bare::pc::Pc;

/// The first CPU, once it is in Rust.
#[unsafe(no_mangle)]
extern "C" fn boot_main() -> ! {
    stage2_bare::main(|| Pc::start(Svm::detect()), checks::ALL)
}
