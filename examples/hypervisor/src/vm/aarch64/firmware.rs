//! The firmware that the guest sees: PSCI 1.0, by `SMC` or `HVC`.

use alloc::sync::Arc;

use hypervisor::{psci, vcpu::Registers};

use super::Start;
use crate::machine::{Machine, Next, NotStarted};

/// Answers a call.
pub fn call(machine: &Arc<Machine>, registers: &mut Registers) -> Next {
    let [function, a, b, c] = [registers.x[0], registers.x[1], registers.x[2], registers.x[3]];
    registers.x[0] = match function as u32 {
        psci::VERSION => 0x1_0000,
        psci::FEATURES => features(a as u32),
        psci::MIGRATE_INFO_TYPE => 2,
        psci::CPU_ON => cpu_on(machine, a, b, c),
        psci::CPU_OFF => return Next::Off,
        psci::AFFINITY_INFO => psci::call(psci::AFFINITY_INFO, [a, b, 0]),
        psci::SYSTEM_OFF => return Next::End("off"),
        psci::SYSTEM_RESET => return Next::End("reset"),
        _ => psci::NOT_SUPPORTED,
    };
    Next::Run
}

fn features(function: u32) -> u64 {
    match function {
        psci::VERSION
        | psci::FEATURES
        | psci::CPU_ON
        | psci::CPU_OFF
        | psci::AFFINITY_INFO
        | psci::SYSTEM_OFF
        | psci::SYSTEM_RESET => 0,
        _ => psci::NOT_SUPPORTED,
    }
}

/// Starts a virtual CPU on its own CPU.
fn cpu_on(machine: &Arc<Machine>, affinity: u64, entry: u64, context: u64) -> u64 {
    let index = machine.cpus().iter().position(|&cpu| cpu == affinity);
    let Some(index) = index else { return psci::INVALID_PARAMETERS };
    match machine.start_vcpu(index, Start::at(entry, context)) {
        Ok(()) => 0,
        Err(NotStarted::AlreadyOn) => psci::ALREADY_ON,
        Err(NotStarted::Refused(error)) => error,
    }
}
