//! CPUs with EPT: what they cache of guest-physical addresses, and for how long. Intel SDM Vol. 3C, section 29.4.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{
    cpu::{Cpu, Mapping, Stop, unjustified, walk},
    entry::{ACCESSED, DIRTY, EXECUTE, Features, READ, TRACKED, WRITE, check_pointer, ep4ta, shift},
    exit::{Access, Exit},
};
use crate::{
    Memory, Rule, Violation,
    arm::device_value,
    memory::{PAGE, Watch},
    story::{self, Ledger},
};

/// How a machine is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// CPUs.
    pub cpus: usize,
    /// What each can do.
    pub features: Features,
}

impl Default for Config {
    fn default() -> Self {
        Self { cpus: 2, features: Features::ALL }
    }
}

struct State {
    cpus: Vec<Cpu>,
    ledger: Ledger,
}

/// Some CPUs with EPT, over a [`Memory`]. They cache without bound, and refill between any two operations.
pub struct Machine {
    memory: Arc<Memory>,
    config: Config,
    state: Mutex<State>,
}

impl Machine {
    /// A machine on whose CPUs no guest runs.
    #[must_use]
    pub fn new(memory: &Arc<Memory>, config: Config) -> Arc<Self> {
        let cpus = (0..config.cpus).map(|_| Cpu::default()).collect();
        let state = Mutex::new(State { cpus, ledger: Ledger::default() });
        let machine = Arc::new(Self { memory: memory.clone(), config, state });
        let watcher: Weak<Self> = Arc::downgrade(&machine);
        memory.watch(watcher);
        machine
    }

    /// VM entry with an EPT pointer. Nothing is flushed by it.
    pub fn enter(&self, cpu: usize, eptp: u64) {
        let mut state = self.state();
        let State { cpus, ledger } = &mut *state;
        ledger.note(cpu, move || format!("enter {eptp:#x}"));
        if let Err(what) = check_pointer(eptp, &self.config.features) {
            ledger.report(Rule::Register, cpu, || what);
        }
        if cpus[cpu].eptp.replace(eptp) != Some(eptp) {
            cpus[cpu].used.clear();
        }
    }

    /// No guest runs on a CPU any more. What is cached stays.
    pub fn stop(&self, cpu: usize) {
        self.state().cpus[cpu].eptp = None;
    }

    /// `INVEPT`, single context: this CPU only.
    pub fn invept(&self, cpu: usize, eptp: u64) {
        let mut state = self.state();
        self.speculate(&mut state);
        state.ledger.note(cpu, move || format!("INVEPT {eptp:#x}"));
        state.cpus[cpu].leaves.retain(|key, _| key.0 != ep4ta(eptp));
        state.cpus[cpu].tables.retain(|key, _| key.0 != ep4ta(eptp));
        self.speculate(&mut state);
    }

    /// `INVEPT`, all contexts: this CPU only.
    pub fn invept_all(&self, cpu: usize) {
        let mut state = self.state();
        state.ledger.note(cpu, || "INVEPT all".into());
        state.cpus[cpu].leaves.clear();
        state.cpus[cpu].tables.clear();
        self.speculate(&mut state);
    }

    /// The guest on a CPU reaches the aligned word at a guest-physical address, through what is cached first. No
    /// operation of the hypervisor may be in progress.
    ///
    /// # Errors
    /// The exit.
    ///
    /// # Panics
    /// If no guest was entered there.
    pub fn access(&self, cpu: usize, gpa: u64, access: Access) -> Result<u64, Exit> {
        self.reach(cpu, gpa, access, true)
    }

    /// The same while operations may be in progress: old translations are no violation then.
    ///
    /// # Errors
    /// As for [`access`](Machine::access).
    ///
    /// # Panics
    /// As for [`access`](Machine::access).
    pub fn access_racing(&self, cpu: usize, gpa: u64, access: Access) -> Result<u64, Exit> {
        self.reach(cpu, gpa, access, false)
    }

    /// The violations so far.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.state().ledger.violations().to_vec()
    }

    /// The violations so far, forgotten.
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

    fn reach(&self, number: usize, gpa: u64, access: Access, strict: bool) -> Result<u64, Exit> {
        let mut state = self.state();
        self.speculate(&mut state);
        let State { cpus, ledger } = &mut *state;
        ledger.note(number, move || format!("guest {access:x?} at {gpa:#x}"));
        let cpu = &mut cpus[number];
        let eptp = cpu.eptp.expect("a guest on this CPU");
        cpu.used.insert(gpa & !(PAGE - 1));
        let wanted = access.wanted(eptp & TRACKED != 0);
        let cached = cpu.translate(&self.memory, self.config.features, eptp, gpa);
        let found = match cached {
            Ok(found) if found.rights & wanted == wanted => found,
            // A violation drops what it was decided by (section 29.4.3.1): a denial is never met twice.
            Ok(found) => {
                cpu.drop_mapping(eptp, gpa);
                return Err(Exit::violation(gpa, access, wanted, found.rights));
            }
            Err(Stop::Absent) => {
                cpu.drop_mapping(eptp, gpa);
                return Err(Exit::violation(gpa, access, wanted, 0));
            }
            Err(Stop::Misconfigured(why)) => return Err(Exit::Misconfiguration { gpa, why }),
        };
        if strict {
            let now = self.walk(eptp, gpa, None);
            if let Some(what) = unjustified(&found, now.as_ref().ok(), wanted) {
                ledger.report(Rule::Stale, number, || format!("{access:x?} at GPA {gpa:#x}: {what}"));
            }
        }
        if eptp & TRACKED != 0 {
            self.track(cpu, eptp, gpa, wanted);
        }
        let at = found.hpa | gpa & ((1 << shift(found.level)) - 1);
        Ok(self.perform(ledger, number, at, access))
    }

    fn perform(&self, ledger: &mut Ledger, cpu: usize, hpa: u64, access: Access) -> u64 {
        let at = hpa & !7;
        if self.memory.contains(at) && self.memory.owner(at).is_none() {
            ledger.report(Rule::FreeFrameReached, cpu, || format!("the guest reaches {hpa:#x}, which nobody holds"));
        }
        match access {
            Access::Write(value) if self.memory.contains(at) => {
                self.memory.write(at, value);
                value
            }
            Access::Write(value) => value,
            _ => self.memory.read(at).unwrap_or_else(|| device_value(at)),
        }
    }

    /// Sets accessed flags on the way and the dirty flag for a write, unless they are cached as set (section 29.3.5).
    fn track(&self, cpu: &mut Cpu, eptp: u64, gpa: u64, wanted: u64) {
        let Some(known) = cpu.leaf_mut(eptp, gpa) else { return };
        let dirty = wanted & WRITE != 0 && !known.dirty;
        let bits = if dirty { ACCESSED | DIRTY } else { ACCESSED };
        known.dirty |= dirty;
        if dirty || wanted & WRITE == 0 {
            let _ = self.walk(eptp, gpa, Some(bits));
        }
    }

    /// Walks memory, whatever is cached; sets flags if asked.
    fn walk(&self, eptp: u64, gpa: u64, set: Option<u64>) -> Result<Mapping, Stop> {
        let start = (4, eptp & 0xf_ffff_ffff_f000, READ | WRITE | EXECUTE);
        walk(&self.memory, self.config.features, start, gpa, set, |_, _, _| {})
    }

    fn speculate(&self, state: &mut State) {
        for cpu in &mut state.cpus {
            let Some(eptp) = cpu.eptp else { continue };
            for gpa in cpu.used.clone() {
                let _ = cpu.translate(&self.memory, self.config.features, eptp, gpa);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch for Machine {
    fn freed(&self, at: u64, count: u64) {
        let mut state = self.state();
        let State { cpus, ledger } = &mut *state;
        for (number, cpu) in cpus.iter_mut().enumerate() {
            let mut found = cpu.purge(at, count * PAGE);
            let root = cpu.eptp.map(|eptp| eptp & 0xf_ffff_ffff_f000);
            if root.is_some_and(|root| root >= at && root < at + count * PAGE) {
                found.push("the root of the guest that runs there".into());
            }
            for what in found {
                ledger.report(Rule::FreedWhileReachable, number, || {
                    format!("{count} pages at {at:#x} are freed while there is cached {what}")
                });
            }
        }
    }
}
