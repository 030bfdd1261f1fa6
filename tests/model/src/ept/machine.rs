//! CPUs with EPT: what they cache of guest-physical addresses, and for how long. Intel SDM Vol. 3C, section 29.4.

use std::{
    cell::Cell,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use super::{
    cpu::{Cpu, Mapping, Stop, unjustified, walk},
    entry::{ACCESSED, DIRTY, EXECUTE, Entry, Features, READ, TRACKED, WRITE, check_pointer, decode, ep4ta, shift},
    exit::{Access, Exit},
    guest::{Combined, Guest, Paging, Refusal},
};
use crate::{
    Memory, Rule, Violation,
    arm::device_value,
    memory::{PAGE, Watch},
    story::{self, Ledger},
};

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// The address in an EPT pointer.
const ADDRESS: u64 = 0xf_ffff_ffff_f000;

/// How a machine is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// CPUs.
    pub cpus: usize,
    /// What each can do.
    pub features: Features,
    /// What they remember at first.
    pub reset: Reset,
}

impl Default for Config {
    fn default() -> Self {
        Self { cpus: 2, features: Features::ALL, reset: Reset::Empty }
    }
}

/// What is cached when a machine starts, from before its reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Nothing.
    Empty,
    /// Anything, of any EP4TA: to run a guest by one that was not flushed since the reset, or whose root was another
    /// space's meanwhile, is a violation (section 29.4.3.3).
    Unknown,
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

    /// Does something as one of the CPUs.
    ///
    /// # Panics
    /// If there is no such CPU.
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

    /// VM entry with an EPT pointer, of a guest without paging. It flushes no translations.
    pub fn enter(&self, cpu: usize, eptp: u64) {
        self.enter_as(cpu, eptp, Guest::default());
    }

    /// VM entry with an EPT pointer. It flushes no translations.
    pub fn enter_as(&self, number: usize, eptp: u64, guest: Guest) {
        let mut state = self.state();
        let State { cpus, ledger } = &mut *state;
        ledger.note(number, move || format!("enter {eptp:#x} {guest:x?}"));
        if let Err(what) = check_pointer(eptp, &self.config.features) {
            ledger.report(Rule::Register, number, || what);
        }
        let root = eptp & ADDRESS;
        if self.memory.contains(root) && self.memory.owner(root).is_none() {
            ledger.report(Rule::LostTable, number, || format!("the root at {root:#x} is free"));
        }
        let cpu = &mut cpus[number];
        if self.config.reset == Reset::Unknown && !cpu.clean.allows(eptp) {
            ledger.report(Rule::Unflushed, number, || format!("EPTP {eptp:#x} was not flushed since it was another's"));
        }
        if cpu.eptp.replace(eptp) != Some(eptp) || cpu.guest != guest {
            cpu.used.clear();
        }
        cpu.guest = guest;
        cpu.running = true;
    }

    /// VM exit. What is cached stays.
    pub fn leave(&self, cpu: usize) {
        self.state().cpus[cpu].running = false;
    }

    /// VM entry of the guest that left last.
    pub fn resume(&self, cpu: usize) {
        self.state().cpus[cpu].running = true;
    }

    /// The entry of the leaf over a guest-physical address, as it is in memory.
    #[must_use]
    pub fn leaf_entry(&self, eptp: u64, gpa: u64) -> Option<u64> {
        let mut table = eptp & ADDRESS;
        for level in (1..=4).rev() {
            let raw = self.memory.read(table + (gpa >> shift(level) & 0x1ff) * 8)?;
            match decode(raw, level, &self.config.features) {
                Entry::Table(next) => table = next,
                Entry::Leaf(_) => return Some(raw),
                Entry::Absent | Entry::Misconfigured(_) => return None,
            }
        }
        None
    }

    /// No guest runs on a CPU any more, and none is about to. What is cached stays.
    pub fn stop(&self, cpu: usize) {
        let cpu = &mut self.state().cpus[cpu];
        cpu.eptp = None;
        cpu.running = false;
    }

    /// `INVEPT`, single context: this CPU only.
    pub fn invept(&self, cpu: usize, eptp: u64) {
        let mut state = self.state();
        self.speculate(&mut state);
        state.ledger.note(cpu, move || format!("INVEPT {eptp:#x}"));
        state.cpus[cpu].invept(Some(eptp));
        self.speculate(&mut state);
    }

    /// `INVEPT`, all contexts: this CPU only.
    pub fn invept_all(&self, cpu: usize) {
        let mut state = self.state();
        state.ledger.note(cpu, || "INVEPT all".into());
        state.cpus[cpu].invept(None);
        self.speculate(&mut state);
    }

    /// `INVVPID`, all contexts: what is combined goes, guest-physical mappings stay.
    pub fn invvpid_all(&self, cpu: usize) {
        let mut state = self.state();
        state.ledger.note(cpu, || "INVVPID all".into());
        state.cpus[cpu].combined.clear();
        state.cpus[cpu].structures.clear();
        self.speculate(&mut state);
    }

    /// The guest's `MOV` to CR3, or the hypervisor's `INVLPG` in its stead: nothing of EPT's own goes.
    pub fn guest_flush(&self, cpu: usize) {
        let mut state = self.state();
        state.ledger.note(cpu, || "guest MOV CR3".into());
        if let Some(eptp) = state.cpus[cpu].eptp {
            state.cpus[cpu].drop_linear(eptp);
        }
        self.speculate(&mut state);
    }

    /// The guest on a CPU reaches the aligned word at an address, guest-physical while its paging is off, through what is
    /// cached first. No operation of the hypervisor may be in progress.
    ///
    /// # Errors
    /// The exit.
    ///
    /// # Panics
    /// If no guest was entered there.
    pub fn access(&self, cpu: usize, address: u64, access: Access) -> Result<u64, Exit> {
        self.reach(cpu, address, access, true)
    }

    /// The same while operations may be in progress: old translations are no violation then.
    ///
    /// # Errors
    /// As for [`access`](Machine::access).
    ///
    /// # Panics
    /// As for [`access`](Machine::access).
    pub fn access_racing(&self, cpu: usize, address: u64, access: Access) -> Result<u64, Exit> {
        self.reach(cpu, address, access, false)
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

    fn reach(&self, number: usize, address: u64, access: Access, strict: bool) -> Result<u64, Exit> {
        let mut state = self.state();
        self.speculate(&mut state);
        let State { cpus, ledger } = &mut *state;
        ledger.note(number, move || format!("guest {access:x?} at {address:#x}"));
        let cpu = &mut cpus[number];
        let eptp = cpu.eptp.expect("a guest on this CPU");
        cpu.used.insert(address & !(PAGE - 1));
        let wanted = access.wanted(eptp & TRACKED != 0);
        let Combined { gpa, mapping: found, path } = self.translate(cpu, eptp, address, access, wanted)?;
        let gpa = gpa | address & (PAGE - 1);
        if found.rights & wanted != wanted {
            // A violation drops what it was decided by (section 29.4.3.1): a denial is never met twice.
            cpu.drop_mapping(eptp, gpa);
            cpu.combined.remove(&(cpu.guest.vpid, ep4ta(eptp), address >> 12));
            return Err(Exit::violation(gpa, access, wanted, found.rights));
        }
        if found.doomed {
            ledger.report(Rule::FreedWhileReachable, number, || {
                format!("{access:x?} at {address:#x} goes by what names memory that was freed, and was never forgotten")
            });
        }
        if strict {
            let now = self.walk(eptp, gpa, None);
            if let Some(what) = unjustified(&found, now.as_ref().ok(), wanted) {
                ledger.report(Rule::Stale, number, || format!("{access:x?} at GPA {gpa:#x}: {what}"));
            }
            self.judge_path(ledger, number, eptp, &path);
        }
        if eptp & TRACKED != 0 {
            for (table, _) in &path {
                let _ = self.walk(eptp, *table, Some(ACCESSED | DIRTY));
            }
            self.track(cpu, eptp, (address, gpa), wanted);
        }
        let at = found.hpa | gpa & ((1 << shift(found.level)) - 1);
        Ok(self.perform(ledger, number, at, access))
    }

    /// By EPT alone, or by the guest's paging before it.
    fn translate(&self, cpu: &mut Cpu, eptp: u64, address: u64, access: Access, wanted: u64) -> Result<Combined, Exit> {
        let features = self.config.features;
        if cpu.guest.cr3.is_none() {
            return match cpu.translate(&self.memory, features, eptp, address) {
                Ok(mapping) => Ok(Combined { gpa: address & !(PAGE - 1), mapping, path: Vec::new() }),
                Err(Stop::Absent) => {
                    cpu.drop_mapping(eptp, address);
                    Err(Exit::violation(address, access, wanted, 0))
                }
                Err(Stop::Misconfigured(why)) => Err(Exit::Misconfiguration { gpa: address, why }),
            };
        }
        let paging = Paging { memory: &self.memory, features, eptp, guest: cpu.guest };
        cpu.translate_linear(&paging, address).map_err(|refusal| match refusal {
            Refusal::PageFault => Exit::PageFault,
            Refusal::Misconfigured { gpa, why } => Exit::Misconfiguration { gpa, why },
            Refusal::Walk { gpa, wanted, rights } => {
                cpu.drop_mapping(eptp, gpa);
                Exit::violation(gpa, Access::GuestWalk, wanted, rights)
            }
            Refusal::Absent { gpa } => {
                cpu.drop_mapping(eptp, gpa);
                Exit::violation(gpa, access, wanted, 0)
            }
        })
    }

    /// The pages of the guest's tables that a translation went over must still be where it found them.
    fn judge_path(&self, ledger: &mut Ledger, cpu: usize, eptp: u64, path: &[(u64, u64)]) {
        for (gpa, hpa) in path {
            let now = self.walk(eptp, *gpa, None).map(|found| found.hpa | gpa & ((1 << shift(found.level)) - 1));
            if now.as_ref().ok() != Some(hpa) {
                ledger.report(Rule::Stale, cpu, || {
                    format!("a walk over the guest's table at GPA {gpa:#x} went to {hpa:#x}, where it is no more")
                });
            }
        }
    }

    fn perform(&self, ledger: &mut Ledger, cpu: usize, hpa: u64, access: Access) -> u64 {
        let at = hpa & !7;
        if self.memory.contains(at) && self.memory.owner(at).is_none() {
            ledger
                .report(Rule::FreeFrameReached, cpu, || format!("the guest reaches {hpa:#x}, which is not allocated"));
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
    fn track(&self, cpu: &mut Cpu, eptp: u64, (address, gpa): (u64, u64), wanted: u64) {
        let key = (cpu.guest.vpid, ep4ta(eptp), address >> 12);
        let combined = cpu.guest.cr3.and(cpu.combined.get(&key)).map(|combined| combined.mapping.dirty);
        let Some(known) = combined.or_else(|| Some(cpu.leaf_mut(eptp, gpa)?.dirty)) else { return };
        let dirty = wanted & WRITE != 0 && !known;
        if dirty || wanted & WRITE == 0 {
            let _ = self.walk(eptp, gpa, Some(if dirty { ACCESSED | DIRTY } else { ACCESSED }));
        }
        if dirty {
            cpu.leaf_mut(eptp, gpa).into_iter().for_each(|known| known.dirty = true);
            cpu.combined.get_mut(&key).into_iter().for_each(|combined| combined.mapping.dirty = true);
        }
    }

    /// Walks memory, whatever is cached; sets flags if asked.
    fn walk(&self, eptp: u64, gpa: u64, set: Option<u64>) -> Result<Mapping, Stop> {
        let start = (4, eptp & ADDRESS, READ | WRITE | EXECUTE);
        walk(&self.memory, self.config.features, start, gpa, set, |_, _, _| {})
    }

    fn speculate(&self, state: &mut State) {
        let features = self.config.features;
        for cpu in state.cpus.iter_mut().filter(|cpu| cpu.running) {
            let Some(eptp) = cpu.eptp else { continue };
            let paging = Paging { memory: &self.memory, features, eptp, guest: cpu.guest };
            for address in cpu.used.clone() {
                if cpu.guest.cr3.is_some() {
                    let _ = cpu.translate_linear(&paging, address);
                } else {
                    let _ = cpu.translate(&self.memory, features, eptp, address);
                }
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
            let mut found = cpu.freed(at, count * PAGE);
            let root = cpu.eptp.map(|eptp| eptp & ADDRESS);
            if root.is_some_and(|root| root >= at && root < at + count * PAGE) {
                found.push("the root of the guest that runs there".into());
            }
            // What no guest can use is forgotten before one enters.
            for what in found.into_iter().filter(|_| cpu.running) {
                ledger.report(Rule::FreedWhileReachable, number, || {
                    format!("{count} pages at {at:#x} are freed while there is cached {what}")
                });
            }
        }
    }
}
