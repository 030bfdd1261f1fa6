//! Memory that one guest donates to another: its frames stay where they are.

use alloc::{format, string::String};

use hypervisor::line;
use stage2::{Error, MappingFlags, loan::Handover};

use super::layout;
use crate::{guest::range, machine::Machine, report};

/// Donates memory of a machine to the machine at the other end of its ring: the memory's address there.
///
/// # Errors
/// It cannot be given.
pub fn donate(machine: &Machine, from: usize, size: usize) -> Result<usize, String> {
    let taker = machine.host.common.partner(machine).ok_or("no machine is at the other end of the ring")?;
    let (given, got) = (range(from, size), range(layout::GIFTS, size));
    let before = report::frames(machine, given);
    let flags = MappingFlags::READ | MappingFlags::WRITE;
    let donated = machine.space.donate(given, &taker.space, got.start, flags, Handover::Keep);
    donated.map_err(|error: Error| format!("{error}"))?;
    line!("hv: {}gave {from:#x} in frames{before}", machine.label);
    line!("hv: {}got {:#x} in frames{}", taker.label, layout::GIFTS, report::frames(&taker, got));
    Ok(layout::GIFTS)
}
