//! Linux as its boot protocol for arm64 has it.

use alloc::{format, string::String};

use super::{Start, devicetree, layout};
use crate::{
    guest::{board_memory, write},
    machine::Machine,
};

/// Loads it: where it starts.
pub fn load(machine: &Machine) -> Result<Start, String> {
    let arguments = &machine.host.arguments;
    write(machine, layout::KERNEL, board_memory(&arguments.kernel))?;
    write(machine, layout::INITRD, board_memory(&arguments.initrd))?;
    let initrd = (layout::INITRD as u64, (layout::INITRD + arguments.initrd.len()) as u64);
    let command_line = format!("console=ttyAMA0 rdinit=/init panic=-1 loglevel=4 nokaslr{}", arguments.rest);
    let tree = devicetree::build(machine.cpus(), &command_line, Some(initrd))
        .map_err(|error| format!("the guest's device tree: {error:?}"))?;
    write(machine, layout::TREE, &tree)?;
    if !arguments.is_alone() {
        machine.host.common.introduce(machine)?;
    }
    Ok(Start::at(layout::KERNEL as u64, layout::TREE as u64))
}
