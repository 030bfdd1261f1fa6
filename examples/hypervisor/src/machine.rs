//! A virtual machine: its space, its virtual CPUs, and what others know of them.
#![allow(unsafe_code, reason = "a machine's address goes through a number")]

use alloc::{boxed::Box, format, string::String, sync::Arc, vec::Vec};
use core::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use hypervisor::{cpu, memory::Pool};
use spin::Mutex;
use stage2::{GuestPhysAddr, GuestSpace, Platform, native};

use crate::{arguments::Guest, host::Host, torture, vm};

/// This program's choice of parts.
pub struct Board;

impl Platform for Board {
    type Format = native::Format;
    type Frames = Pool;
    type Invalidate = vm::Invalidate;
}

/// A virtual machine. Each of its virtual CPUs that runs keeps it.
pub struct Machine {
    pub host: &'static Host,
    /// From 1 on.
    #[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "a PC has one guest"))]
    pub number: usize,
    /// What the lines about it begin with: empty where there is only one machine.
    pub label: String,
    pub guest: Guest,
    /// Which of the board's CPUs are its own, one for each virtual CPU.
    cpus: Range<usize>,
    pub space: GuestSpace<Board>,
    pub vcpus: Vec<Vcpu>,
    /// Its devices.
    pub devices: vm::Devices,
    /// The last addresses that faulted, for the torturer.
    pub recent: [AtomicUsize; RECENT],
    pub next_recent: AtomicUsize,
    pub ended: AtomicBool,
    pub torture: torture::Shared,
}

/// How many faults are remembered.
pub const RECENT: usize = 64;

/// What others know of a virtual CPU.
#[derive(Default)]
pub struct Vcpu {
    pub state: Mutex<State>,
    /// The roots of the guest's own tables, as last seen.
    pub roots: [AtomicU64; 2],
}

/// Whether a virtual CPU runs, and where it starts.
#[derive(Default)]
pub enum State {
    #[default]
    Off,
    Starting(Box<vm::Start>),
    On,
}

/// Why a virtual CPU does not start.
#[derive(Clone, Copy, Debug)]
pub enum NotStarted {
    /// It runs already.
    AlreadyOn,
    /// What its CPU's firmware says.
    Refused(vm::StartError),
}

/// What comes after an exit.
pub enum Next {
    /// The guest goes on.
    Run,
    /// This virtual CPU is off.
    #[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "a PC has no firmware to ask for it"))]
    Off,
    /// The machine has ended so.
    End(&'static str),
}

impl Machine {
    /// A machine in which nothing runs yet.
    ///
    /// # Errors
    /// Its space cannot be had.
    pub fn new(host: &'static Host, number: usize, guest: Guest, cpus: Range<usize>) -> Result<Self, String> {
        let config = vm::config(host.pool, number, &cpus)?;
        let space = GuestSpace::new(config).map_err(|error| format!("{error}"))?;
        let alone = host.arguments.is_alone();
        Ok(Self {
            host,
            number,
            label: if alone { String::new() } else { format!("guest {number}: ") },
            guest,
            space,
            vcpus: cpus.clone().map(|_| Vcpu::default()).collect(),
            cpus,
            devices: vm::Devices::new(guest, number, alone),
            recent: [const { AtomicUsize::new(0) }; RECENT],
            next_recent: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            torture: torture::Shared::default(),
        })
    }

    /// How its CPUs are addressed.
    pub fn cpus(&self) -> &[u64] {
        &self.host.cpus[self.cpus.clone()]
    }

    /// Starts virtual CPU `index` on this CPU, for good.
    pub fn start_here(self: Arc<Self>, index: usize, start: vm::Start) -> ! {
        *self.vcpus[index].state.lock() = State::Starting(Box::new(start));
        self.run_vcpu(index)
    }

    /// Runs virtual CPU `index` on this CPU, for good.
    fn run_vcpu(self: Arc<Self>, index: usize) -> ! {
        let mut state = self.vcpus[index].state.lock();
        let State::Starting(start) = core::mem::replace(&mut *state, State::On) else {
            panic!("a virtual CPU without a start")
        };
        drop(state);
        match vm::run(&self, index, *start) {
            Next::Run => panic!("a virtual CPU that ran out"),
            Next::Off => {
                *self.vcpus[index].state.lock() = State::Off;
                drop(self);
                cpu::stop()
            }
            Next::End(how) => self.host.end(self, how),
        }
    }

    /// Starts virtual CPU `index` on its own CPU.
    ///
    /// # Errors
    /// It runs already, or its CPU does not start.
    pub fn start_vcpu(self: &Arc<Self>, index: usize, start: vm::Start) -> Result<(), NotStarted> {
        let mut state = self.vcpus[index].state.lock();
        if !matches!(*state, State::Off) {
            return Err(NotStarted::AlreadyOn);
        }
        let kept = Arc::into_raw(self.clone());
        if let Err(error) = cpu::start(self.cpus()[index], secondary, kept as u64) {
            // SAFETY: the CPU was not started, so that it did not take it.
            drop(unsafe { Arc::from_raw(kept) });
            return Err(NotStarted::Refused(error));
        }
        // The other CPU cannot read the state before: this one holds the lock.
        *state = State::Starting(Box::new(start));
        Ok(())
    }

    /// Remembers where a fault was.
    pub fn remember(&self, gpa: GuestPhysAddr) {
        let place = self.next_recent.fetch_add(1, Ordering::Relaxed) % RECENT;
        self.recent[place].store(gpa.as_usize(), Ordering::Relaxed);
    }
}

/// What a secondary CPU runs: `argument` is the machine's address; its number is its place among the machine's CPUs.
extern "C" fn secondary(argument: u64) -> ! {
    // SAFETY: `start_vcpu` passes the machine, and keeps it for this CPU.
    let machine = unsafe { Arc::from_raw(argument as *const Machine) };
    let here = cpu::affinity();
    match machine.cpus().iter().position(|&cpu| cpu == here) {
        Some(index) => machine.run_vcpu(index),
        None => panic!("CPU {here:#x} is not the machine's"),
    }
}
