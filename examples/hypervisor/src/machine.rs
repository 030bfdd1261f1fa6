//! The virtual machine: its space, its virtual CPUs, and what others know of them.
#![allow(unsafe_code, reason = "the machine's address goes through a number")]

use alloc::{string::String, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use hypervisor::{
    cpu,
    memory::{Pool, Watch},
};
use spin::Mutex;
use stage2::{GuestPhysAddr, GuestSpace, Platform, native};

use crate::{
    arguments::Arguments,
    vm::{self, layout},
};

/// This program's choice of parts.
pub struct Board;

impl Platform for Board {
    type Format = native::Format;
    type Frames = Pool;
    type Invalidate = vm::Invalidate;
}

/// The one virtual machine.
pub struct Machine {
    pub arguments: Arguments,
    /// How the board's CPUs are addressed.
    pub cpus: Vec<u64>,
    pub space: GuestSpace<Board>,
    pub pool: Pool,
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
    pub roots: [AtomicU64; 2],
}

/// Whether a virtual CPU runs, and where it starts.
#[derive(Clone, Copy, Default)]
pub enum State {
    #[default]
    Off,
    Starting(vm::Start),
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

impl Machine {
    /// A machine in which nothing runs yet.
    pub fn new(arguments: Arguments, cpus: Vec<u64>) -> Result<Self, String> {
        let watch = if arguments.torture { Watch::Poison } else { Watch::Off };
        let pool = Pool::new(layout::POOL.start, layout::POOL.end, watch);
        let space = GuestSpace::new(vm::config(pool, cpus.len())?).map_err(|error| alloc::format!("{error}"))?;
        let vcpus = (0..arguments.cpus).map(|_| Vcpu::default()).collect();
        Ok(Self {
            arguments,
            cpus,
            space,
            pool,
            vcpus,
            recent: [const { AtomicUsize::new(0) }; RECENT],
            next_recent: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            torture: crate::torture::Shared::default(),
        })
    }

    /// Runs virtual CPU `index` on this CPU, for good.
    pub fn run_vcpu(&'static self, index: usize) -> ! {
        let mut state = self.vcpus[index].state.lock();
        let State::Starting(start) = core::mem::replace(&mut *state, State::On) else {
            crate::finish(self, "panic: a virtual CPU without a start")
        };
        drop(state);
        vm::run(self, index, start)
    }

    /// Starts virtual CPU `index` on its own CPU.
    ///
    /// # Errors
    /// It runs already, or its CPU does not start.
    pub fn start_vcpu(&'static self, index: usize, start: vm::Start) -> Result<(), NotStarted> {
        let mut state = self.vcpus[index].state.lock();
        if !matches!(*state, State::Off) {
            return Err(NotStarted::AlreadyOn);
        }
        cpu::start(self.cpus[index], secondary, (&raw const *self) as u64).map_err(NotStarted::Refused)?;
        // The other CPU waits for the lock.
        *state = State::Starting(start);
        Ok(())
    }

    /// Remembers where a fault was.
    pub fn remember(&self, gpa: GuestPhysAddr) {
        let place = self.next_recent.fetch_add(1, Ordering::Relaxed) % RECENT;
        self.recent[place].store(gpa.as_usize(), Ordering::Relaxed);
    }
}

/// What a secondary CPU runs: `argument` is the machine's address; its number is its place among the CPUs.
extern "C" fn secondary(argument: u64) -> ! {
    // SAFETY: `start_vcpu` passes the machine, which lives for ever.
    let machine: &'static Machine = unsafe { &*(argument as *const Machine) };
    let here = cpu::affinity();
    match machine.cpus.iter().position(|&cpu| cpu == here) {
        Some(index) => machine.run_vcpu(index),
        None => panic!("CPU {here:#x} is not on the board"),
    }
}
