//! The machine: its CPUs, and what may be done with it.

use std::{
    cell::Cell,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use stage2::aarch64::Op;

use super::{
    caches::Caches,
    config::{Caching, Config},
    cpu::Cpu,
    registers::{HCR_VM, Regime, Stage1},
    walker::{View, Walker},
};
use crate::{
    Memory, Violation,
    memory::{PAGE, Watch},
    story::{self, Ledger, Rule},
};

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// What a CPU's registers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// `VTTBR_EL2`.
    pub vttbr: u64,
    /// `VTCR_EL2`.
    pub vtcr: u64,
    /// `HCR_EL2`.
    pub hcr: u64,
    /// The guest's own.
    pub stage1: Stage1,
}

/// Some CPUs with stage 2, over a [`Memory`].
pub struct Machine {
    memory: Arc<Memory>,
    pub(super) config: Config,
    state: Mutex<State>,
}

/// All that changes.
pub(super) struct State {
    pub cpus: Vec<Cpu>,
    pub ledger: Ledger,
    pub caches: Caches,
    pub caching: Caching,
    pub log: Vec<(usize, Op)>,
    /// Whether an operation ran since the last speculation.
    pub stirred: bool,
}

impl Machine {
    /// A machine whose CPUs have stage 2 off.
    #[must_use]
    pub fn new(memory: &Arc<Memory>, config: Config) -> Arc<Self> {
        let state = State {
            cpus: (0..config.cpus).map(|_| Cpu::default()).collect(),
            ledger: Ledger::default(),
            caches: Caches::new(config.coherency),
            caching: Caching::Everything,
            log: Vec::new(),
            stirred: false,
        };
        let machine = Arc::new(Self { memory: memory.clone(), config, state: Mutex::new(state) });
        let watcher: Weak<Self> = Arc::downgrade(&machine);
        memory.watch(watcher);
        machine
    }

    /// Runs `work` as code of a CPU: what it executes through a [`ModelExecutor`](crate::ModelExecutor) runs there.
    /// Outside of it a thread is CPU 0. No two threads may be one CPU at the same time: barriers are counted by CPU.
    ///
    /// # Panics
    /// If the machine has no such CPU.
    pub fn on<R>(&self, cpu: usize, work: impl FnOnce() -> R) -> R {
        assert!(cpu < self.config.cpus, "CPU {cpu} of {}", self.config.cpus);
        let before = CURRENT.replace(cpu);
        let result = work();
        CURRENT.set(before);
        result
    }

    /// The CPU that this thread is.
    #[must_use]
    pub fn current(&self) -> usize {
        CURRENT.get()
    }

    /// The machine's memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// How it was made.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Loads a guest's registers on a CPU, as a hypervisor's switch does.
    pub fn load(&self, cpu: usize, vttbr: u64, vtcr: u64, hcr: u64) {
        let mut state = self.state();
        let cpu = &mut state.cpus[cpu];
        cpu.settled = false;
        (cpu.vttbr, cpu.vttbr_written, cpu.vtcr, cpu.hcr) = (vttbr, vttbr, vtcr, hcr);
    }

    /// The registers of a CPU, as it reads them itself.
    #[must_use]
    pub fn registers(&self, cpu: usize) -> Registers {
        let cpu = &self.state().cpus[cpu];
        Registers { vttbr: cpu.vttbr_written, vtcr: cpu.vtcr, hcr: cpu.hcr, stage1: cpu.stage1 }
    }

    /// Masks interrupts on a CPU; what to restore.
    pub fn mask_interrupts(&self, cpu: usize) -> u64 {
        let masked = &mut self.state().cpus[cpu].masked;
        *masked += 1;
        *masked - 1
    }

    /// Restores what [`mask_interrupts`](Machine::mask_interrupts) answered.
    pub fn restore_interrupts(&self, cpu: usize, saved: u64) {
        self.state().cpus[cpu].masked = saved;
    }

    /// Whether interrupts are masked on a CPU.
    #[must_use]
    pub fn interrupts_masked(&self, cpu: usize) -> bool {
        self.state().cpus[cpu].masked != 0
    }

    /// Has the CPUs make less of what they cached than the architecture allows: to compare with.
    pub fn set_caching(&self, caching: Caching) {
        self.state().caching = caching;
    }

    /// Turns stage 2 off on a CPU: no guest is to run there any more. Speculation ends; what is cached stays. To be
    /// done on every CPU before a space is dropped.
    pub fn stop(&self, cpu: usize) {
        self.state().cpus[cpu].hcr &= !HCR_VM;
    }

    /// Loads the guest's own translation registers on a CPU.
    pub fn set_stage1(&self, cpu: usize, stage1: Stage1) {
        let mut state = self.state();
        state.cpus[cpu].stage1 = stage1;
        state.cpus[cpu].settled = false;
    }

    /// The guest's own `TLBI VMALLE1` and `DSB` on a CPU: what it does after a change of its tables.
    pub fn guest_flush(&self, cpu: usize) {
        let mut state = self.state();
        let cpu = &mut state.cpus[cpu];
        let vmid = super::registers::vmid(cpu.vttbr, cpu.vtcr);
        cpu.tlb.combined.retain(|key, _| key.0 != vmid);
        cpu.tlb.combined_walks.retain(|key, _| key.0 != vmid);
        cpu.settled = false;
        cpu.observe(&self.memory);
    }

    /// The operations so far, with the CPU of each. Cache maintenance by line is not among them.
    #[must_use]
    pub fn operations(&self) -> Vec<(usize, Op)> {
        self.state().log.clone()
    }

    /// Forgets the operations so far, for a test of what comes next.
    pub fn forget_operations(&self) {
        self.state().log.clear();
    }

    /// A moment, for [`cleaned_since`](Machine::cleaned_since).
    #[must_use]
    pub fn now(&self) -> u64 {
        self.memory.tick()
    }

    /// Whether every line of some bytes was cleaned to the point of coherency after a moment.
    #[must_use]
    pub fn cleaned_since(&self, at: u64, bytes: u64, time: u64) -> bool {
        self.state().caches.cleaned_since(at, bytes, time)
    }

    /// Whether every line of some bytes was cleaned, and the instruction caches invalidated, after a moment.
    #[must_use]
    pub fn fetchable_since(&self, at: u64, bytes: u64, time: u64) -> bool {
        self.state().caches.fetchable_since(at, bytes, time)
    }

    /// The violations so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.state().ledger.violations().to_vec()
    }

    /// The violations so far, forgotten: for a test that expects them.
    #[must_use]
    pub fn take_violations(&self) -> Vec<Violation> {
        self.state().ledger.take()
    }

    /// Panics if there was a violation.
    ///
    /// # Panics
    /// With its story.
    #[track_caller]
    pub fn check(&self) {
        story::check(&self.violations());
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A walk on a CPU, if its registers make sense.
    pub(super) fn walker<'a>(&'a self, state: &'a mut State, number: usize, view: View) -> Option<Walker<'a>> {
        let State { cpus, ledger, caches, caching, .. } = state;
        let cpu = &mut cpus[number];
        let features = self.config.features;
        match Regime::decode(cpu.vttbr, cpu.vtcr, cpu.hcr, &features) {
            Err(what) => {
                ledger.report(Rule::Register, number, || what);
                None
            }
            Ok(regime) => Some(Walker {
                memory: &self.memory,
                ledger,
                cpu,
                number,
                features,
                regime,
                view,
                updates: false,
                caches,
                caching: *caching,
                early: false,
                path: [None; 4],
                entry: 0,
            }),
        }
    }
}

impl Watch for Machine {
    /// No cached entry may name a frame that is given back, and no CPU may walk from it.
    fn freed(&self, at: u64, count: u64) {
        let mut state = self.state();
        if state.stirred {
            self.speculate(&mut state);
        }
        let State { cpus, ledger, .. } = &mut *state;
        for (number, cpu) in cpus.iter_mut().enumerate() {
            for what in cpu.tlb.purge(at, count * PAGE) {
                cpu.settled = false;
                ledger.report(Rule::FreedWhileReachable, number, || {
                    format!("{count} pages at {at:#x} are freed while there is cached {what}")
                });
            }
            let root = cpu.vttbr & 0xffff_ffff_fffe;
            if cpu.translates() && root >= at && root < at + count * PAGE {
                ledger.report(Rule::FreedWhileReachable, number, || {
                    format!("the root at {root:#x} is freed while VTTBR_EL2 names it and stage 2 is on")
                });
            }
            cpu.forget(at, count * PAGE);
        }
    }
}
