//! A small guest that talks to another, as it was loaded into the board's memory.

use alloc::string::String;

use super::{Start, layout};
use crate::{
    guest::{board_memory, write},
    machine::Machine,
};

/// It runs on one, and writes from the other while it is forked.
pub const CPUS: usize = 2;

/// Loads it: where it starts.
pub fn load(machine: &Machine) -> Result<Start, String> {
    write(machine, layout::KERNEL, board_memory(&machine.host.arguments.neighbour))?;
    Ok(Start::at(layout::KERNEL as u64, 0))
}
