//! The guest's memory and what it starts with.
#![allow(unsafe_code, reason = "what QEMU loaded")]

use alloc::{format, string::String};
use core::ops::Range;

use memory_addr::PAGE_SIZE_4K;
use stage2::{Error, GuestPhysAddr, GuestPhysRange, Mapping, MappingFlags, PhysAddr, Populate};

use crate::{
    arguments::Guest,
    devicetree, layout,
    machine::{Machine, State},
    tiny,
};

/// Maps the guest's world and puts its first program there.
pub fn load(machine: &Machine) -> Result<(), String> {
    map(machine).map_err(|error| format!("{error}"))?;
    let (entry, context) = match machine.arguments.guest {
        Guest::Linux => linux(machine)?,
        Guest::Tiny => {
            write(machine, layout::KERNEL, tiny::program())?;
            (layout::KERNEL, machine.arguments.cpus)
        }
    };
    *machine.vcpus[0].state.lock() = State::Starting { entry: entry as u64, context: context as u64 };
    Ok(())
}

fn map(machine: &Machine) -> Result<(), Error> {
    let memory = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
    let device = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE;
    let lazy = Mapping::Private { populate: Populate::Lazy, leaf: machine.arguments.leaf };
    machine.space.map(range(layout::RAM, layout::RAM_SIZE), lazy, memory)?;
    for registers in [layout::GIC, layout::UART..layout::UART + PAGE_SIZE_4K] {
        let to = PhysAddr::from_usize(registers.start);
        machine.space.map(range(registers.start, registers.len()), Mapping::Linear { to }, device)?;
    }
    Ok(())
}

/// Loads Linux: its entry, and its device tree's address.
fn linux(machine: &Machine) -> Result<(usize, usize), String> {
    let arguments = &machine.arguments;
    write(machine, layout::KERNEL, board_memory(&arguments.kernel))?;
    write(machine, layout::INITRD, board_memory(&arguments.initrd))?;
    let initrd = (layout::INITRD as u64, (layout::INITRD + arguments.initrd.len()) as u64);
    let command_line = format!("console=ttyAMA0 rdinit=/init panic=-1 loglevel=4 nokaslr{}", arguments.rest);
    let tree = devicetree::build(&machine.cpus[..arguments.cpus], &command_line, Some(initrd))
        .map_err(|error| format!("the guest's device tree: {error:?}"))?;
    write(machine, layout::TREE, &tree)?;
    Ok((layout::KERNEL, layout::TREE))
}

fn write(machine: &Machine, at: usize, bytes: &[u8]) -> Result<(), String> {
    machine.space.write(GuestPhysAddr::from_usize(at), bytes).map_err(|error| format!("loading the guest: {error}"))
}

/// What QEMU loaded into the board's memory.
fn board_memory(place: &Range<usize>) -> &'static [u8] {
    // SAFETY: behind the pool, where nothing else is; nobody writes it.
    unsafe { core::slice::from_raw_parts(place.start as *const u8, place.len()) }
}

/// A range from its start and size.
pub fn range(start: usize, size: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(GuestPhysAddr::from_usize(start), size)
}
