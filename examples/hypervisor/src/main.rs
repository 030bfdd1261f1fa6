//! A type-1 hypervisor for QEMU's `virt` board and for a PC with VMX, all of whose second-stage operations are
//! `stage2`'s.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the entry's name")]

extern crate alloc;

mod arguments;
mod guest;
mod host;
mod machine;
mod report;
mod torture;
/// What of the virtual machine is the CPU's.
#[cfg_attr(target_arch = "aarch64", path = "vm/aarch64/mod.rs")]
#[cfg_attr(target_arch = "x86_64", path = "vm/x86_64/mod.rs")]
mod vm;

use alloc::{boxed::Box, format, string::String, sync::Arc};

use arguments::{Arguments, Guest};
use host::Host;
use hypervisor::{console, memory};
use machine::Machine;

/// The first CPU, once it is in Rust.
#[unsafe(no_mangle)]
extern "C" fn boot_main() -> ! {
    memory::init_heap();
    console::init_log();
    match prepare() {
        Ok((machine, start)) => machine.start_here(0, start),
        Err(reason) => console::end_of_the_world(format_args!("hv: end panic: {reason}")),
    }
}

/// Everything before the first guest's first instruction; other guests run by then.
fn prepare() -> Result<(Arc<Machine>, vm::Start), String> {
    let (options, cpus) = vm::board()?;
    let arguments = Arguments::parse(options).map_err(|option| format!("unknown option {option}"))?;
    let host: &'static Host = Box::leak(Box::new(Host::new(arguments, cpus)));
    let mut guests = host.arguments.guests.iter().copied();
    let first = prepare_guest(host, guests.next().ok_or("no guest")?)?;
    if host.arguments.torture {
        torture::start(&first.0)?;
    }
    for guest in guests {
        let (machine, start) = prepare_guest(host, guest)?;
        machine.start_vcpu(0, start).map_err(|error| format!("{}{error:x?}", machine.label))?;
    }
    Ok(first)
}

/// A machine with its guest in it, and where that starts.
fn prepare_guest(host: &'static Host, guest: Guest) -> Result<(Arc<Machine>, vm::Start), String> {
    let machine = host.machine(guest, vm::cpus(guest, &host.arguments))?;
    let start = guest::load(&machine)?;
    report::map(&machine, "before");
    host.starts();
    Ok((machine, start))
}
