//! A virtual machine of EL1: QEMU's `virt` board less what masters the bus.
#![allow(unsafe_code, reason = "system registers")]

mod common;
mod devices;
mod devicetree;
mod exits;
mod firmware;
mod fork;
mod gift;
mod hypercalls;
pub mod layout;
mod linux;
mod neighbour;
mod tiny;
mod uart;

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::{
    arch::asm,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use hypervisor::{
    memory::Pool,
    system::System,
    vcpu::{self, Registers},
};
use stage2::{
    Config, CpuId, Limits, VcpuId,
    aarch64::{Syndrome, Vmid},
    native,
};

use crate::{
    arguments::{Arguments, Guest},
    machine::{Board, Machine, Next},
};

pub use common::{Common, leave};
pub use devices::Devices;

/// The invalidations.
pub type Invalidate = native::Invalidate;

/// What PSCI says where a CPU does not start.
pub type StartError = u64;

/// Where a virtual CPU starts.
#[derive(Clone)]
pub struct Start {
    /// What its registers hold.
    pub registers: Registers,
    /// What those of EL1 hold, if not what they do after a reset.
    pub system: Option<System>,
}

impl Start {
    /// As the firmware starts a CPU: at its first instruction, with a value in X0.
    pub fn at(entry: u64, context: u64) -> Self {
        let mut registers = Registers { pc: entry, pstate: 0x3c5, ..Registers::default() };
        registers.x[0] = context;
        Self { registers, system: None }
    }
}

/// What the space of machine `number` is made of. All of the board's CPUs are alike.
pub fn config(frames: Pool, number: usize, cpus: &Range<usize>) -> Result<Config<Board>, String> {
    let Here { capabilities, instructions } = Here::detect();
    let bits = 40.min(capabilities.physical_bits);
    let format = native::Format::new(&capabilities, bits, Vmid(number as u16)).map_err(|error| format!("{error}"))?;
    let invalidate = native::Invalidate::new(capabilities, instructions);
    Ok(Config { format, frames, invalidate, cpus: cpus.len(), limits: Limits::default() })
}

/// How many CPUs a guest has.
pub fn cpus(guest: Guest, arguments: &Arguments) -> usize {
    match guest {
        Guest::Linux | Guest::Tiny => arguments.cpus,
        Guest::Neighbour => neighbour::CPUS,
    }
}

/// Loads a machine's guest: where it starts.
pub fn load(machine: &Machine) -> Result<Start, String> {
    match machine.guest {
        Guest::Linux => linux::load(machine),
        Guest::Tiny => tiny::load(machine),
        Guest::Neighbour => neighbour::load(machine),
    }
}

/// This CPU.
struct Here {
    capabilities: native::Capabilities,
    instructions: native::Instructions,
}

impl Here {
    fn detect() -> Self {
        // SAFETY: this program runs at EL2, and its tables come from its pool.
        let instructions = unsafe { native::Instructions::new() };
        Self { capabilities: native::Capabilities::detect(), instructions }
    }
}

/// The command line that the emulator passes, and the board's CPUs.
pub fn board() -> Result<(&'static str, Vec<u64>), String> {
    // SAFETY: QEMU puts the board's device tree there for a program that is not a Linux kernel.
    let board = unsafe { fdt::Fdt::from_ptr(layout::BOARD_TREE as *const u8) };
    let board = board.map_err(|error| format!("the board's device tree: {error:?}"))?;
    let cpus = board.cpus().map(|cpu| cpu.ids().first() as u64).collect();
    Ok((board.chosen().bootargs().unwrap_or(""), cpus))
}

/// Runs a virtual CPU on this CPU, up to its end.
pub fn run(machine: &Arc<Machine>, index: usize, start: Start) -> Next {
    vcpu::prepare();
    if let Some(system) = &start.system {
        system.load();
    }
    machine.space.activate();
    let here = Here::detect();
    let mut registers = start.registers;
    loop {
        let syndrome = run_once(machine, index, &mut registers);
        if machine.ended.load(Ordering::Relaxed) {
            return Next::End("off");
        }
        match exits::handle(machine, &here, index, &mut registers, syndrome) {
            Next::Run => {}
            end => return end,
        }
    }
}

/// Runs the guest up to its next exit.
fn run_once(machine: &Machine, index: usize, registers: &mut Registers) -> Syndrome {
    let cpu = CpuId(index);
    if let Err(error) = machine.space.enter(cpu, VcpuId(index)) {
        panic!("{error}");
    }
    // SAFETY: this CPU's EL1 is this virtual CPU's, and the space is active.
    let syndrome = unsafe { vcpu::run(registers) };
    if let Err(error) = machine.space.leave(cpu) {
        panic!("{error}");
    }
    let (ttbr0, ttbr1): (u64, u64);
    // SAFETY: reads the guest's registers.
    unsafe {
        asm!("mrs {}, ttbr0_el1", "mrs {}, ttbr1_el1", out(reg) ttbr0, out(reg) ttbr1, options(nomem, nostack));
    }
    let store = |place: &AtomicU64, root| place.store(root, Ordering::Relaxed);
    store(&machine.vcpus[index].roots[0], ttbr1);
    store(&machine.vcpus[index].roots[1], ttbr0);
    syndrome
}

/// The levels of the guest's own tables.
pub const TABLE_LEVELS: usize = 4;

/// The address of the guest's own root table, out of the register's value.
pub fn root_table(register: u64) -> usize {
    register as usize & 0xffff_ffff_f000
}

/// The table that an entry of the guest's own, above the last level, leads to.
pub fn table_below(entry: u64) -> Option<usize> {
    (entry & 0b11 == 0b11).then_some(entry as usize & 0xffff_ffff_f000)
}

/// Lets the guest run for a millisecond.
pub fn pause() {
    let now = || {
        let count: u64;
        // SAFETY: reads the counter.
        unsafe { asm!("mrs {}, cntpct_el0", out(reg) count, options(nomem, nostack)) };
        count
    };
    let frequency: u64;
    // SAFETY: reads the counter's frequency.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
    let end = now() + frequency / 1000;
    while now() < end {
        core::hint::spin_loop();
    }
}
