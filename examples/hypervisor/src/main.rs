//! A type-1 hypervisor for QEMU's `virt` board, all of whose stage-2 operations are `stage2`'s.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry's name, and what QEMU loaded")]

extern crate alloc;

mod arguments;
mod devicetree;
mod exits;
mod firmware;
mod guest;
mod layout;
mod machine;
mod report;
mod tiny;
mod torture;

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
    // SAFETY: QEMU puts the board's device tree there for a program that is not a Linux kernel.
    let board = unsafe { fdt::Fdt::from_ptr(layout::BOARD_TREE as *const u8) };
    let board = board.map_err(|error| alloc::format!("the board's device tree: {error:?}"))?;
    let arguments = Arguments::parse(board.chosen().bootargs().unwrap_or(""))
        .map_err(|option| alloc::format!("unknown option {option}"))?;
    let cpus = board.cpus().map(|cpu| cpu.ids().first() as u64).collect::<alloc::vec::Vec<_>>();
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
