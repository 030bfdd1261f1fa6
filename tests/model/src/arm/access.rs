//! What the guest does, and what comes of it.

use super::{
    config::Reset,
    descriptor::{Leaf, WRITE},
    fault::{Abort, Access, Cause, Fault, Report},
    machine::{Machine, State},
    registers::{Features, VTCR_HD, vmid},
    walker::{Refusal, Translation, View, Walker},
};
use crate::story::Rule;

/// Whether an access may meet what an operation in progress has not invalidated yet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judgement {
    Strict,
    Lenient,
}

/// What a device answers to a read: each address its own value.
#[must_use]
pub const fn device_value(at: u64) -> u64 {
    (at & !7) ^ 0xdec1_ce00_0000_0000
}

/// AP[2] of a stage-1 descriptor: read-only. Arm DDI 0487, section D8.4.1.
const STAGE1_READ_ONLY: u64 = 1 << 7;
/// PXN of a stage-1 descriptor.
const STAGE1_NEVER_AT_EL1: u64 = 1 << 53;

impl Machine {
    /// The guest, at EL1 on a CPU, reaches the aligned word at an address: virtual, or intermediate where its stage 1 is
    /// off. Answers what was read, fetched or stored.
    ///
    /// What is cached comes first, however old. If the tables do not justify it any more, that is a violation: no
    /// operation of the hypervisor may be in progress.
    ///
    /// # Errors
    /// The abort, with the registers that EL2 would see.
    pub fn access(&self, cpu: usize, address: u64, access: Access) -> Result<u64, Abort> {
        self.reach(cpu, address, access, Judgement::Strict)
    }

    /// The same while operations may be in progress on other threads: old translations are no violation then.
    ///
    /// # Errors
    /// As for [`access`](Machine::access).
    pub fn access_racing(&self, cpu: usize, address: u64, access: Access) -> Result<u64, Abort> {
        self.reach(cpu, address, access, Judgement::Lenient)
    }

    /// What the tables say, whatever is cached: the physical address, or why there is none. As `AT S12E1R`.
    ///
    /// # Errors
    /// The cause and level of the fault.
    pub fn probe(&self, cpu: usize, address: u64) -> Result<(u64, Leaf), (Cause, u8)> {
        let mut state = self.state();
        let mut walker = self.walker(&mut state, cpu, View::Justified).ok_or((Cause::Translation, 0))?;
        match walker.translate(address) {
            Ok(found) => Ok((found.pa, found.leaf)),
            Err(Refusal::Stage1(cause, level) | Refusal::Stage2(Fault { cause, level, .. })) => Err((cause, level)),
        }
    }

    /// The IPA of a virtual address by the guest's own tables, as `AT S1E1R` answers in `PAR_EL1`.
    #[must_use]
    pub fn stage1_translate(&self, cpu: usize, va: u64) -> Option<u64> {
        let mut state = self.state();
        let mut walker = self.walker(&mut state, cpu, View::Justified)?;
        if walker.cpu.stage1.enabled() { walker.stage1(va).ok().map(|(ipa, ..)| ipa) } else { Some(va) }
    }

    fn reach(&self, cpu: usize, address: u64, access: Access, judgement: Judgement) -> Result<u64, Abort> {
        let mut state = self.state();
        let state = &mut *state;
        self.enter_guest(state, cpu, address);
        self.speculate(state);
        state.ledger.note(cpu, move || format!("guest {access:x?} at {address:#x}"));
        let hpfar = self.config.hpfar;
        let aborted = |fault| Abort::Stage2(Report::new(fault, address, access, hpfar));
        let external = Fault { cause: Cause::External, level: 0, ipa: address, table_walk: false };
        let Some(mut walker) = self.walker(state, cpu, View::Oldest) else { return Err(aborted(external)) };
        walker.updates = true;
        let outcome = walker.translate(address).and_then(|found| walker.permit(found, access));
        if judgement == Judgement::Strict {
            walker.judge(address, access, outcome);
        }
        match outcome {
            Ok(found) => Ok(self.perform(state, cpu, found.pa, access)),
            Err(Refusal::Stage1(cause, level)) => Err(Abort::Stage1(cause, level)),
            Err(Refusal::Stage2(fault)) => Err(aborted(fault)),
        }
    }

    /// Returning to the guest synchronizes register writes.
    fn enter_guest(&self, state: &mut State, number: usize, address: u64) {
        let State { cpus, ledger, .. } = state;
        let cpu = &mut cpus[number];
        cpu.settled &= cpu.vttbr == cpu.vttbr_written;
        cpu.vttbr = cpu.vttbr_written;
        cpu.ran = true;
        if !cpu.translates() {
            ledger.report(Rule::Register, number, || "the guest runs with stage 2 off".into());
        }
        if cpu.stage1_for != cpu.vttbr {
            cpu.stage1_for = cpu.vttbr;
            cpu.used.clear();
            cpu.settled = false;
        }
        cpu.note_used(address, self.config.window);
        let vmid = vmid(cpu.vttbr, cpu.vtcr);
        if self.config.reset == Reset::Unknown && !cpu.flushed.contains(&vmid) {
            ledger.report(Rule::UnflushedVmid, number, || format!("VMID {vmid} was never flushed here"));
        }
    }

    /// The access itself. A guest's store to its own tables is ordered as the guest orders it, so at once.
    fn perform(&self, state: &mut State, cpu: usize, pa: u64, access: Access) -> u64 {
        let at = pa & !7;
        let memory = self.memory();
        if !memory.contains(at) {
            return if let Access::Write(value) = access { value } else { device_value(at) };
        }
        if memory.owner(at).is_none() {
            let what = || format!("the guest reaches {pa:#x}, which is not allocated: {access:x?}");
            state.ledger.report(Rule::FreeFrameReached, cpu, what);
        }
        if let Access::Write(value) = access {
            memory.write(at, value);
            for cpu in &mut state.cpus {
                cpu.seen.entry(at).and_modify(|seen| *seen = value);
                // It may have been to the guest's own tables.
                cpu.settled &= !cpu.stage1.enabled();
            }
        }
        memory.read(at).unwrap_or(0)
    }
}

impl Walker<'_> {
    /// Whether a translation allows an access; the hardware's dirty state is set where it may be.
    fn permit(&mut self, found: Translation, access: Access) -> Result<Translation, Refusal> {
        let refused = match access {
            Access::Write(_) => found.stage1 & STAGE1_READ_ONLY != 0,
            Access::Execute => found.stage1 & STAGE1_NEVER_AT_EL1 != 0,
            Access::Read => false,
        };
        if refused {
            let level = 3;
            return Err(Refusal::Stage1(Cause::Permission, level));
        }
        if allows(found.leaf, access, self.regime.vtcr, &self.features) {
            if matches!(access, Access::Write(_)) {
                self.mark_dirty(found.ipa, found.leaf);
            }
            return Ok(found);
        }
        let Translation { ipa, leaf, .. } = found;
        Err(Fault { cause: Cause::Permission, level: leaf.level, ipa, table_walk: false }.into())
    }

    /// The hardware sets `S2AP[1]` of an entry with DBM, in memory, and takes it into its caches.
    pub(super) fn mark_dirty(&mut self, ipa: u64, cached: Leaf) {
        if cached.writable() {
            return;
        }
        let view = std::mem::replace(&mut self.view, View::Justified);
        let current = self.stage2(ipa, false);
        self.view = view;
        if let Ok(leaf) = current
            && leaf.becomes_writable()
            && !leaf.conflicts(&cached, ipa, self.regime.fwb)
            && self.update(self.entry, leaf.raw, leaf.raw | WRITE)
        {
            self.cpu.tlb.mark_dirty(self.regime.vmid, ipa);
        }
    }

    /// Reports an outcome that the tables do not justify.
    fn judge(&mut self, va: u64, access: Access, outcome: Result<Translation, Refusal>) {
        self.view = View::Justified;
        self.updates = false;
        let now = self.translate(va);
        let what = match (outcome, now) {
            (Ok(found), Ok(now)) => self.compare(found, now, access),
            // An access flag that was cleared may stay unseen: ageing costs no invalidation.
            (Ok(_), Err(Refusal::Stage2(Fault { cause: Cause::AccessFlag, .. }))) => None,
            (Err(Refusal::Stage2(fault)), now) => self.compare_fault(fault, now),
            (one, now) if one.err() == now.err() => None,
            (one, now) => Some(format!("got {one:x?}, the tables say {now:x?}")),
        };
        if let Some(what) = what {
            self.report(Rule::Stale, || format!("{access:x?} at {va:#x}: {what}"));
        }
    }

    fn compare(&self, found: Translation, now: Translation, access: Access) -> Option<String> {
        let vtcr = self.regime.vtcr;
        let write = matches!(access, Access::Write(_));
        if found.pa != now.pa {
            Some(format!("reached {:#x}, the tables say {:#x}", found.pa, now.pa))
        } else if found.leaf.conflicts(&now.leaf, now.ipa, self.regime.fwb) {
            Some(format!("through {:x?}, the tables say {:x?}", found.leaf, now.leaf))
        } else if !allows(now.leaf, access, vtcr, &self.features) {
            Some(format!("allowed by {:x?}, the tables refuse it: {:x?}", found.leaf, now.leaf))
        } else if write && !now.leaf.writable() {
            Some(format!("a write through {:x?} left {:x?} clean", found.leaf, now.leaf))
        } else {
            None
        }
    }

    /// A refusal may be old, if an entry for the same memory denied it. What went must be gone all the same.
    fn compare_fault(&mut self, fault: Fault, now: Result<Translation, Refusal>) -> Option<String> {
        let leaf = self.stage2(fault.ipa, fault.table_walk);
        let stale = |(level, table): &(u8, u64)| self.path[*level as usize] != Some(*table);
        if let Some((level, table)) = self.cpu.tlb.walk(self.regime.vmid, fault.ipa).filter(stale) {
            return Some(format!("the walk for IPA {:#x} went through level-{level} table {table:#x}", fault.ipa));
        }
        if fault.cause != Cause::Permission {
            return None;
        }
        let cached = self.cpu.tlb.leaf(self.regime.vmid, fault.ipa)?.leaf;
        match leaf {
            Err(Fault { cause: Cause::AccessFlag, .. }) => None,
            Err(gone) => Some(format!("refused by {cached:x?}, the tables say {gone:x?}")),
            Ok(leaf) if leaf.conflicts(&cached, fault.ipa, self.regime.fwb) => {
                Some(format!("refused by {cached:x?}, the tables say {leaf:x?}, {now:x?}"))
            }
            Ok(_) => None,
        }
    }
}

/// Whether a leaf allows EL1 an access. Arm DDI 0487, section D8.4.
pub(super) fn allows(leaf: Leaf, access: Access, vtcr: u64, features: &Features) -> bool {
    match access {
        Access::Read => leaf.readable(),
        Access::Write(_) => leaf.writable() || leaf.becomes_writable() && vtcr & VTCR_HD != 0,
        Access::Execute => leaf.executable(features),
    }
}
