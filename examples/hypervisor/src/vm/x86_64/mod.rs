//! A virtual machine of VMX: a PC without a BIOS, PCI or I/O APIC.
//!
//! Its interrupts, timers and I/O ports are the PC's own; no device that it reaches masters the bus. What comes here
//! are second-stage faults, CPUID, and the command register of the local APIC, by which it starts CPUs.
#![allow(unsafe_code, reason = "VM entry, and a space that is reached from a handler")]

mod acpi;
mod apic;
mod cpuid;
mod devices;
mod exits;
pub mod layout;
pub mod linux;
mod shootdown;
mod tables;
pub mod tiny;

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::{ffi::CStr, ops::Range, sync::atomic::Ordering};

pub use devices::Devices;
use hypervisor::{
    cpu,
    memory::Pool,
    vcpu::{self, Exit, Mode, Setup, Vcpu},
};
use stage2::{
    Config, CpuId, Limits, VcpuId, native,
    x86_64::ept::{Depth, LargeLeaves},
};
pub use tables::{TABLE_LEVELS, root_table, table_below};
use x86::vmx::vmcs::guest;

use crate::{
    arguments::{Arguments, Guest},
    machine::{Board, Machine, Next},
};

/// The invalidations.
pub type Invalidate = native::Invalidate<shootdown::Nmi>;

/// What there is to say where a CPU does not start.
pub type StartError = cpu::NotStarted;

/// Where a virtual CPU starts.
#[derive(Clone, Copy)]
pub struct Start {
    /// Its first instruction, and in which mode.
    pub mode: Mode,
    /// What it finds in RSI.
    pub context: u64,
}

/// What the space is made of. All of the PC's CPUs are alike.
pub fn config(frames: Pool, _number: usize, cpus: &Range<usize>) -> Result<Config<Board>, String> {
    let capabilities = native::Capabilities::detect();
    let format = native::Format::new(&capabilities, Depth::Four).map_err(|error| format!("{error}"))?;
    // The guest is one that the example's user trusts: it does not try to cause a machine check.
    let format = format.with_large_leaves(LargeLeaves::Executable);
    // SAFETY: only CPUs that run the guest invalidate, after `vcpu::prepare`; a space is activated when the virtual
    // CPU's VMCS is the current one; the tables come from this program's pool.
    let instructions = unsafe { native::Instructions::new() };
    let invalidate = native::Invalidate::new(capabilities, instructions, shootdown::Nmi { first: cpus.start });
    Ok(Config { format, frames, invalidate, cpus: cpus.len(), limits: Limits::default() })
}

/// The command line that the emulator passes, and all CPUs that there may be: no table says how many there are.
pub fn board() -> Result<(&'static str, Vec<u64>), String> {
    let page = crate::guest::board_memory(&layout::COMMAND_LINE);
    let line = CStr::from_bytes_until_nul(page).map_err(|error| format!("the command line: {error}"))?;
    let line = line.to_str().map_err(|error| format!("the command line: {error}"))?;
    Ok((line, (0..cpu::MOST as u64).collect()))
}

/// How many CPUs a guest has.
pub fn cpus(_guest: Guest, arguments: &Arguments) -> usize {
    arguments.cpus
}

/// Loads a machine's guest: where it starts.
pub fn load(machine: &Machine) -> Result<Start, String> {
    match machine.guest {
        Guest::Linux => linux::load(machine),
        Guest::Tiny => tiny::load(machine),
        Guest::Neighbour => Err("two guests are for EL2: a PC's devices are one guest's".into()),
    }
}

/// Machines share no memory here.
pub type Common = ();

/// A machine is at its end.
pub fn leave(_machine: &Machine) {}

/// Runs a virtual CPU on this CPU, up to its end.
pub fn run(machine: &Arc<Machine>, index: usize, start: Start) -> Next {
    vcpu::prepare();
    shootdown::prepare(machine);
    let mut vcpu = Vcpu::new(Setup { mode: start.mode, vpid: index as u16 + 1, exceptions: 0 });
    vcpu.trap_registers(&exits::READS, &exits::WRITES);
    vcpu.registers.rsi = start.context;
    machine.space.activate();
    let end = loop {
        let exit = run_once(machine, index, &mut vcpu);
        if machine.ended.load(Ordering::Relaxed) {
            break Next::End("off");
        }
        if let Some(event) = exit.interrupted {
            vcpu.inject(event);
        } else if apic::take_nmi(index) {
            vcpu.inject(apic::NMI);
        }
        match exits::handle(machine, index, &mut vcpu, &exit) {
            Next::Run => {}
            end => break end,
        }
    };
    shootdown::end();
    end
}

/// Runs the guest up to its next exit.
fn run_once(machine: &Machine, index: usize, vcpu: &mut Vcpu) -> Exit {
    let cpu = CpuId(index);
    if let Err(error) = machine.space.enter(cpu, VcpuId(index)) {
        panic!("{error}");
    }
    // SAFETY: the space is active and entered.
    let exit = unsafe { vcpu.run() };
    if let Err(error) = machine.space.leave(cpu) {
        panic!("{error}");
    }
    machine.vcpus[index].roots[0].store(vcpu.read(guest::CR3), Ordering::Relaxed);
    exit
}

/// Lets the guest run for a while, as its clock has it a millisecond: under Bochs each of a CPU's instructions is a tick.
pub fn pause() {
    cpu::sleep(50_000);
}
