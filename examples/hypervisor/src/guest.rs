//! The guest's memory and what it starts with.
#![allow(unsafe_code, reason = "what the emulator loaded")]

use alloc::{format, string::String};
use core::ops::Range;

use stage2::{Error, GuestPhysAddr, GuestPhysRange, Mapping, MappingFlags, PhysAddr, Populate};

use crate::{
    machine::Machine,
    vm::{self, layout},
};

/// Maps the guest's world and puts its first program there: where that starts.
pub fn load(machine: &Machine) -> Result<vm::Start, String> {
    map(machine).map_err(|error| format!("{error}"))?;
    vm::load(machine)
}

fn map(machine: &Machine) -> Result<(), Error> {
    let memory = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
    let device = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::DEVICE;
    let lazy = Mapping::Private { populate: Populate::Lazy, leaf: machine.host.arguments.leaf };
    machine.space.map(range(layout::RAM, layout::RAM_SIZE), lazy, memory)?;
    for registers in machine.devices.passed_through() {
        let to = PhysAddr::from_usize(registers.start);
        machine.space.map(range(registers.start, registers.len()), Mapping::Linear { to }, device)?;
    }
    Ok(())
}

/// Puts something into the guest's memory.
pub fn write(machine: &Machine, at: usize, bytes: &[u8]) -> Result<(), String> {
    machine.space.write(GuestPhysAddr::from_usize(at), bytes).map_err(|error| format!("loading the guest: {error}"))
}

/// What the emulator loaded into the board's memory.
pub fn board_memory(place: &Range<usize>) -> &'static [u8] {
    // SAFETY: outside of the program, the pool and the heap, and never written.
    unsafe { core::slice::from_raw_parts(place.start as *const u8, place.len()) }
}

/// A range from its start and size.
pub fn range(start: usize, size: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(GuestPhysAddr::from_usize(start), size)
}
