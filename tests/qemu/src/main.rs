//! The scenarios on a real, if emulated, MMU: EL2 of QEMU's `virt` board, with a guest at EL1.
//!
//! Prints a line a test and a closing line, and powers the board off.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry's name")]

extern crate alloc;

mod board;
mod checks;
mod cpus;
mod guest;
mod machine;
mod saboteur;

use hypervisor::{console, line, memory, power, vcpu};
use machine::Qemu;
use stage2_scenarios::{Scenario, Stop, Verdict, scenarios};

/// The first CPU, once it is in Rust.
#[unsafe(no_mangle)]
extern "C" fn boot_main() -> ! {
    memory::init_heap();
    console::init_log();
    vcpu::prepare();
    let qemu = Qemu::start();
    let mut count = Count::default();
    for Scenario { name, run } in scenarios::<Qemu>().iter().chain(checks::ALL) {
        count.add(name, run(&qemu));
    }
    line!("{} passed, {} failed", count.passed, count.failed);
    power::off()
}

#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn add(&mut self, name: &str, verdict: Verdict) {
        match verdict {
            Ok(()) => {
                self.passed += 1;
                line!("test {name} ... ok");
            }
            Err(Stop::Skipped(reason)) => line!("test {name} ... skipped: {reason}"),
            Err(Stop::Failed(story)) => {
                self.failed += 1;
                line!("test {name} ... FAILED: {story}");
            }
        }
    }
}
