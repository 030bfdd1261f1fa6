//! The virtual machine: its space, its virtual CPUs, and the loop that runs one.
#![allow(unsafe_code, reason = "system registers")]

use alloc::vec::Vec;
use core::{
    arch::asm,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use hypervisor::{
    cpu,
    memory::{Pool, Watch},
    vcpu::{self, Registers},
};
use spin::Mutex;
use stage2::{Config, CpuId, Error, GuestPhysAddr, GuestSpace, Platform, VcpuId, aarch64::Vmid, native};

use crate::{arguments::Arguments, exits, layout};

/// This program's choice of parts.
pub struct Board;

impl Platform for Board {
    type Format = native::Format;
    type Frames = Pool;
    type Invalidate = native::Invalidate;
}

/// The one virtual machine.
pub struct Machine {
    pub arguments: Arguments,
    /// What PSCI calls the board's CPUs.
    pub cpus: Vec<u64>,
    pub space: GuestSpace<Board>,
    pub pool: Pool,
    pub instructions: native::Instructions,
    pub errata: stage2::aarch64::Errata,
    pub vcpus: Vec<Vcpu>,
    /// The last addresses that faulted, for the torturer.
    pub recent: [AtomicUsize; RECENT],
    pub next_recent: AtomicUsize,
    pub ended: AtomicBool,
    pub torture: crate::torture::Shared,
}

/// How many faults are remembered.
pub const RECENT: usize = 64;

/// What others know of a virtual CPU.
#[derive(Default)]
pub struct Vcpu {
    pub state: Mutex<State>,
    /// The roots of the guest's own tables, as last seen.
    pub ttbr0: AtomicU64,
    pub ttbr1: AtomicU64,
}

/// Whether a virtual CPU runs, and where it starts.
#[derive(Clone, Copy, Default)]
pub enum State {
    #[default]
    Off,
    Starting {
        entry: u64,
        context: u64,
    },
    On,
}

impl Machine {
    /// A machine in which nothing runs yet.
    pub fn new(arguments: Arguments, cpus: Vec<u64>) -> Result<Self, alloc::string::String> {
        let watch = if arguments.torture { Watch::Poison } else { Watch::Off };
        let pool = Pool::new(layout::POOL.start, layout::POOL.end, watch);
        let capabilities = native::Capabilities::detect();
        // SAFETY: this program runs at EL2, and its tables come from its pool.
        let instructions = unsafe { native::Instructions::new() };
        let text = |error: &dyn core::fmt::Display| alloc::format!("{error}");
        let format = native::Format::new(&capabilities, 40.min(capabilities.physical_bits), Vmid(1))
            .map_err(|error| text(&error))?;
        let config = Config {
            format,
            frames: pool,
            invalidate: native::Invalidate::new(capabilities, instructions),
            cpus: cpus.len(),
        };
        let space = GuestSpace::new(config).map_err(|error: Error| text(&error))?;
        let vcpus = (0..arguments.cpus).map(|_| Vcpu::default()).collect();
        Ok(Self {
            arguments,
            cpus,
            space,
            pool,
            instructions,
            errata: capabilities.errata,
            vcpus,
            recent: [const { AtomicUsize::new(0) }; RECENT],
            next_recent: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            torture: crate::torture::Shared::default(),
        })
    }

    /// Runs virtual CPU `index` on this CPU, for good.
    pub fn run_vcpu(&'static self, index: usize) -> ! {
        let vcpu = &self.vcpus[index];
        let (entry, context) = match *vcpu.state.lock() {
            State::Starting { entry, context } => (entry, context),
            State::Off | State::On => crate::finish(self, "panic: a virtual CPU without a start"),
        };
        *vcpu.state.lock() = State::On;
        vcpu::prepare();
        self.space.activate();
        let mut registers = Registers { pc: entry, pstate: 0x3c5, ..Registers::default() };
        registers.x[0] = context;
        loop {
            let syndrome = self.run_once(index, &mut registers);
            if self.ended.load(Ordering::Relaxed) {
                crate::finish(self, "off");
            }
            exits::handle(self, index, &mut registers, syndrome);
        }
    }

    /// Runs the guest up to its next exit.
    fn run_once(&self, index: usize, registers: &mut Registers) -> stage2::aarch64::Syndrome {
        let cpu = CpuId(index);
        if let Err(error) = self.space.enter(cpu, VcpuId(index)) {
            panic!("{error}");
        }
        // SAFETY: this CPU's EL1 is this virtual CPU's, and the space is active.
        let syndrome = unsafe { vcpu::run(registers) };
        if let Err(error) = self.space.leave(cpu) {
            panic!("{error}");
        }
        let (ttbr0, ttbr1): (u64, u64);
        // SAFETY: reads the guest's registers.
        unsafe {
            asm!("mrs {}, ttbr0_el1", "mrs {}, ttbr1_el1", out(reg) ttbr0, out(reg) ttbr1, options(nomem, nostack));
        }
        self.vcpus[index].ttbr0.store(ttbr0, Ordering::Relaxed);
        self.vcpus[index].ttbr1.store(ttbr1, Ordering::Relaxed);
        syndrome
    }

    /// Remembers where a fault was.
    pub fn remember(&self, gpa: GuestPhysAddr) {
        let place = self.next_recent.fetch_add(1, Ordering::Relaxed) % RECENT;
        self.recent[place].store(gpa.as_usize(), Ordering::Relaxed);
    }
}

/// What a secondary CPU runs: `argument` is the machine's address; its number is its place among the CPUs.
pub extern "C" fn secondary(argument: u64) -> ! {
    // SAFETY: `firmware::cpu_on` passes the machine, which lives for ever.
    let machine: &'static Machine = unsafe { &*(argument as *const Machine) };
    let here = cpu::affinity();
    match machine.cpus.iter().position(|&cpu| cpu == here) {
        Some(index) => machine.run_vcpu(index),
        None => panic!("CPU {here:#x} is not on the board"),
    }
}
