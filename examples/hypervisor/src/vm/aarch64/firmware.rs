//! The firmware that the guest sees: PSCI 1.0, by `SMC` or `HVC`.

use hypervisor::{psci, vcpu::Registers};

use super::Start;
use crate::machine::{Machine, NotStarted, State};

/// Answers a call.
pub fn call(machine: &'static Machine, index: usize, registers: &mut Registers) {
    let [function, a, b, c] = [registers.x[0], registers.x[1], registers.x[2], registers.x[3]];
    registers.x[0] = match function as u32 {
        psci::VERSION => 0x1_0000,
        psci::FEATURES => features(a as u32),
        psci::MIGRATE_INFO_TYPE => 2,
        psci::CPU_ON => cpu_on(machine, a, b, c),
        psci::CPU_OFF => cpu_off(machine, index),
        psci::AFFINITY_INFO => psci::call(psci::AFFINITY_INFO, [a, b, 0]),
        psci::SYSTEM_OFF => crate::finish(machine, "off"),
        psci::SYSTEM_RESET => crate::finish(machine, "reset"),
        _ => psci::NOT_SUPPORTED,
    };
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
fn cpu_on(machine: &'static Machine, affinity: u64, entry: u64, context: u64) -> u64 {
    let index = machine.cpus.iter().position(|&cpu| cpu == affinity);
    let Some(index) = index.filter(|&index| index < machine.vcpus.len()) else { return psci::INVALID_PARAMETERS };
    match machine.start_vcpu(index, Start { entry, context }) {
        Ok(()) => 0,
        Err(NotStarted::AlreadyOn) => psci::ALREADY_ON,
        Err(NotStarted::Refused(error)) => error,
    }
}

/// Stops this virtual CPU, and this CPU.
fn cpu_off(machine: &Machine, index: usize) -> u64 {
    *machine.vcpus[index].state.lock() = State::Off;
    psci::call(psci::CPU_OFF, [0; 3])
}
