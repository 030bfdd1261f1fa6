//! What a guest can ask of the hypervisor by `HVC`, beside what it can ask of its firmware. The README has the table.

use alloc::{string::String, sync::Arc};

use hypervisor::{line, vcpu::Registers};
use stage2::MappingFlags;

use super::{common::What, firmware, fork, gift};
use crate::machine::{Machine, Next};

/// Of the numbers that belong to a hypervisor (SMCCC, Arm DEN 0028: vendor-specific hypervisor services, 64 bit).
const MAP: u64 = 0xc600_0001;
const FORK: u64 = 0xc600_0002;
const RUNS: u64 = 0xc600_0003;
const DONATE: u64 = 0xc600_0004;

/// The answer to what cannot be done.
const REFUSED: u64 = (-2_i64).cast_unsigned();

/// Answers a call.
pub fn call(machine: &Arc<Machine>, registers: &mut Registers) -> Next {
    let [function, a, b, c] = [registers.x[0], registers.x[1], registers.x[2], registers.x[3]];
    let answer = match function {
        MAP => map(machine, registers, [a, b, c]),
        FORK => fork::fork(machine, registers).map(|number| number as u64),
        RUNS => Ok(machine.host.machine_with(a as usize).is_some().into()),
        DONATE => gift::donate(machine, a as usize, b as usize).map(|at| at as u64),
        _ => return firmware::call(machine, registers),
    };
    registers.x[0] = answer.unwrap_or_else(|reason| {
        line!("hv: {}refused: {reason}", machine.label);
        REFUSED
    });
    Next::Run
}

/// Maps something that guests share: its size, and in X1 which end of the ring the guest is.
fn map(machine: &Machine, registers: &mut Registers, [what, at, access]: [u64; 3]) -> Result<u64, String> {
    let what = match what {
        0 => What::Ring,
        1 => What::Notes,
        _ => return Err("there is no such thing to map".into()),
    };
    let write = if access == 0 { MappingFlags::empty() } else { MappingFlags::WRITE };
    let (size, end) = machine.host.common.map(machine, what, at as usize, MappingFlags::READ | write)?;
    registers.x[1] = end as u64;
    Ok(size as u64)
}
