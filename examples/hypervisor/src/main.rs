//! A type-1 hypervisor for QEMU's `virt` board and for a PC with VMX, all of whose second-stage operations are
//! `stage2`'s.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry's name")]

extern crate alloc;

mod arguments;
mod guest;
mod machine;
mod report;
mod torture;
/// What of the virtual machine is the CPU's.
#[cfg_attr(target_arch = "aarch64", path = "vm/aarch64/mod.rs")]
#[cfg_attr(target_arch = "x86_64", path = "vm/x86_64/mod.rs")]
mod vm;

use alloc::boxed::Box;
use core::sync::atomic::Ordering;

use arguments::Arguments;
use hypervisor::{console, line, memory, power};
use machine::Machine;

/// The first CPU, once it is in Rust.
#[unsafe(no_mangle)]
extern "C" fn boot_main() -> ! {
    memory::init_heap();
    console::init_log();
    match prepare() {
        Ok(machine) => machine.run_vcpu(0),
        Err(reason) => console::end_of_the_world(format_args!("hv: end panic: {reason}")),
    }
}

/// Everything before the guest's first instruction.
fn prepare() -> Result<&'static Machine, alloc::string::String> {
    let (options, cpus) = vm::board()?;
    let arguments = Arguments::parse(options).map_err(|option| alloc::format!("unknown option {option}"))?;
    let needed = arguments.cpus + usize::from(arguments.torture);
    if cpus.len() < needed {
        return Err(alloc::format!("{needed} CPUs are needed, the board has {}", cpus.len()));
    }
    let machine: &'static Machine = Box::leak(Box::new(Machine::new(arguments, cpus)?));
    guest::load(machine)?;
    report::map(machine, "before");
    if machine.arguments.torture {
        torture::start(machine)?;
    }
    Ok(machine)
}

/// The end: everything is said, and the board goes off.
fn finish(machine: &'static Machine, how: &str) -> ! {
    if machine.ended.swap(true, Ordering::AcqRel) {
        // Another CPU is saying it.
        loop {
            core::hint::spin_loop();
        }
    }
    torture::stop(machine);
    report::map(machine, "after");
    report::stats(machine);
    line!("hv: end {how}");
    power::off()
}
