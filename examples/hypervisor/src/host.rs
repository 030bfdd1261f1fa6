//! The board, which virtual machines share: its CPUs, its frames, and which machines there are.

use alloc::{
    format,
    string::String,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use hypervisor::{
    cpu, line,
    memory::{Pool, Watch},
    power,
};
use spin::Mutex;

use crate::{
    arguments::{Arguments, Guest},
    machine::Machine,
    report, torture,
    vm::{self, layout},
};

/// What there is once, for all virtual machines.
pub struct Host {
    pub arguments: Arguments,
    /// How the board's CPUs are addressed.
    pub cpus: Vec<u64>,
    pub pool: Pool,
    /// What some of the machines share.
    #[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "a PC has one guest"))]
    pub common: vm::Common,
    /// By number, from 1 on; those that ended are gone.
    machines: Mutex<Vec<Weak<Machine>>>,
    /// How many of the CPUs are taken, from the first on.
    taken: AtomicUsize,
    /// How many machines have not ended.
    running: AtomicUsize,
}

impl Host {
    /// A board on which nothing runs yet.
    pub fn new(arguments: Arguments, cpus: Vec<u64>) -> Self {
        let watch = if arguments.torture || !arguments.is_alone() { Watch::Poison } else { Watch::Off };
        Self {
            cpus,
            pool: Pool::new(layout::POOL.start, layout::POOL.end, watch),
            common: vm::Common::default(),
            machines: Mutex::default(),
            taken: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            arguments,
        }
    }

    /// A machine without memory, with CPUs that no other has.
    ///
    /// # Errors
    /// There are no such CPUs, or a space cannot be had.
    pub fn machine(&'static self, guest: Guest, cpus: usize) -> Result<Arc<Machine>, String> {
        let cpus = self.take_cpus(cpus)?;
        let mut machines = self.machines.lock();
        let machine = Arc::new(Machine::new(self, machines.len() + 1, guest, cpus)?);
        machines.push(Arc::downgrade(&machine));
        Ok(machine)
    }

    /// A machine is about to start: the board stays on until it has ended.
    pub fn starts(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    /// CPUs that no machine has yet.
    ///
    /// # Errors
    /// There are no more.
    pub fn take_cpus(&self, count: usize) -> Result<Range<usize>, String> {
        let first = self.taken.fetch_add(count, Ordering::AcqRel);
        if first + count <= self.cpus.len() {
            return Ok(first..first + count);
        }
        self.taken.fetch_sub(count, Ordering::AcqRel);
        Err(format!("{} CPUs are needed, the board has {}", first + count, self.cpus.len()))
    }

    /// The machine with a number, while it is there.
    #[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "a PC has one guest"))]
    pub fn machine_with(&self, number: usize) -> Option<Arc<Machine>> {
        self.machines.lock().get(number.checked_sub(1)?)?.upgrade()
    }

    /// The end of a machine: prints its report, gives back what was its own, and with the last turns the board off.
    pub fn end(&self, machine: Arc<Machine>, how: &str) -> ! {
        if machine.ended.swap(true, Ordering::AcqRel) {
            // Another CPU is printing the report.
            drop(machine);
            cpu::stop();
        }
        torture::stop(&machine);
        report::map(&machine, "after");
        report::stats(&machine);
        if !self.arguments.is_alone() {
            vm::leave(&machine);
            line!("hv: {}ended: {how}", machine.label);
        }
        drop(machine);
        if self.running.fetch_sub(1, Ordering::AcqRel) > 1 {
            cpu::stop();
        }
        if !self.arguments.is_alone() {
            report::frames_left(self.pool);
        }
        line!("hv: end {how}");
        power::off()
    }
}
