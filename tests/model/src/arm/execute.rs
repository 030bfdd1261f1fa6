//! Carrying out operations: barriers, invalidations, register writes.

use stage2::aarch64::{Domain, Kind, Op, Tlbi};

use super::{
    cpu::Pending,
    machine::{Machine, State},
    operand::{self, Stages},
    registers::vmid,
};
use crate::story::{Ledger, Rule};

impl Machine {
    /// Carries out one operation on a CPU.
    pub fn execute(&self, cpu: usize, operation: Op) {
        let mut state = self.state();
        let state = &mut *state;
        if self.maintain(state, operation) {
            return;
        }
        self.speculate(state);
        state.ledger.note(cpu, move || format!("{operation:x?}"));
        state.log.push((cpu, operation));
        match operation {
            Op::Dsb(domain, kind) => self.barrier(state, cpu, domain, kind),
            Op::Isb => state.cpus[cpu].vttbr = state.cpus[cpu].vttbr_written,
            Op::Tlbi(operation, operand) => self.issue(state, cpu, operation, operand),
            Op::SetVttbr(value) => set_vttbr(state, cpu, value),
            Op::SetVtcr(value) => state.cpus[cpu].vtcr = value,
            Op::ChangeHcr(clear, set) => state.cpus[cpu].hcr = state.cpus[cpu].hcr & !clear | set,
            Op::SetTcrEl1(value) => state.cpus[cpu].stage1.tcr = value,
            Op::SetSctlrEl1(value) => state.cpus[cpu].stage1.sctlr = value,
            Op::DcCivac(_) | Op::DcCvau(_) | Op::IcIalluis => {}
        }
        state.stirred = true;
        if !matches!(operation, Op::Dsb(..) | Op::Tlbi(..)) {
            state.cpus[cpu].settled = false;
        }
    }

    /// Cache maintenance, which no translation depends on; whether it was that.
    fn maintain(&self, state: &mut State, operation: Op) -> bool {
        let now = self.memory().tick();
        let line = |pointer| self.memory().physical(pointer);
        match operation {
            Op::DcCivac(pointer) => line(pointer).map(|at| state.caches.clean(at, now)),
            Op::DcCvau(pointer) => line(pointer).map(|at| state.caches.unify(at, now)),
            Op::IcIalluis => {
                state.caches.invalidate_instructions(now);
                return false;
            }
            _ => return false,
        };
        true
    }

    /// A TLBI takes effect at some time between here and the barrier that waits for it.
    fn issue(&self, state: &mut State, number: usize, operation: Tlbi, operand: u64) {
        let cpu = &mut state.cpus[number];
        match operand::decode(operation, operand, &self.config.features) {
            Err(what) => state.ledger.report(Rule::Operation, number, || what),
            Ok(target) => {
                let host = target.stages == Stages::First && cpu.hcr & super::registers::HCR_TGE != 0;
                // With E2H and TGE it is the host's own regime that goes (H2).
                if host && cpu.hcr & super::registers::HCR_E2H != 0 {
                    return;
                }
                let vmid = vmid(cpu.vttbr, cpu.vtcr);
                let unordered = state.cpus.iter().flat_map(|cpu| cpu.in_flight(self.memory())).collect();
                state.cpus[number].pending.push(Pending { vmid, target, unordered });
            }
        }
    }

    /// Waits for invalidations, if for all accesses and far enough; then makes stores visible to walkers.
    fn barrier(&self, state: &mut State, number: usize, domain: Domain, kind: Kind) {
        let far = domain != Domain::NonShareable;
        if kind == Kind::All {
            self.complete(state, number, far);
        }
        for (other, cpu) in state.cpus.iter_mut().enumerate() {
            if far || other == number {
                cpu.observe(self.memory());
            }
            if far && other != number {
                // What another CPU had issued before can no longer be overtaken by what is visible now.
                cpu.pending.iter_mut().for_each(|pending| pending.unordered.clear());
            }
        }
        if kind == Kind::All && far {
            state.cpus[number].ran = false;
        }
    }

    /// Invalidations without a barrier between them are done in the worst order: those of stage 1 first, so that what
    /// they remove comes back from stage-2 entries that are still to go.
    fn complete(&self, state: &mut State, number: usize, far: bool) {
        let pending = std::mem::take(&mut state.cpus[number].pending);
        let (mut now, later): (Vec<_>, Vec<_>) = pending.into_iter().partition(|one| far || !one.target.shareable);
        state.cpus[number].pending = later;
        if now.is_empty() {
            return;
        }
        now.sort_by_key(|one| one.target.stages != Stages::First);
        let split = now.partition_point(|one| one.target.stages == Stages::First);
        for group in [&now[..split], &now[split..]] {
            if !group.is_empty() {
                apply(state, number, group);
                self.speculate_before(state, group);
            }
        }
    }

    /// Speculation that still sees what was not ordered before the invalidations were issued.
    fn speculate_before(&self, state: &mut State, group: &[Pending]) {
        let unordered: Vec<_> = group.iter().flat_map(|one| one.unordered.iter().copied()).collect();
        if !unordered.is_empty() {
            let current: Vec<_> = state.cpus.iter().map(|cpu| cpu.seen.clone()).collect();
            for cpu in &mut state.cpus {
                cpu.seen.extend(unordered.iter().copied());
            }
            self.speculate(state);
            for (cpu, seen) in state.cpus.iter_mut().zip(current) {
                cpu.seen.extend(seen);
                cpu.settled = false;
            }
        }
        self.speculate(state);
    }
}

/// Removes what the invalidations of a CPU name.
fn apply(state: &mut State, number: usize, group: &[Pending]) {
    for one in group {
        for (other, cpu) in state.cpus.iter_mut().enumerate() {
            if one.target.shareable || other == number {
                cpu.tlb.invalidate(one.vmid, &one.target);
                cpu.settled = false;
                if one.target.stages == Stages::Both {
                    cpu.flushed.insert(one.vmid);
                }
            }
        }
    }
}

/// The write takes effect at the next `isb`. Walks of the old tables must have ended before (H2).
fn set_vttbr(state: &mut State, number: usize, value: u64) {
    let State { cpus, ledger, .. } = state;
    let cpu = &mut cpus[number];
    if value != cpu.vttbr_written && cpu.ran && cpu.translates() {
        report_in_flight(ledger, number, value);
    }
    cpu.vttbr_written = value;
}

fn report_in_flight(ledger: &mut Ledger, number: usize, value: u64) {
    ledger.report(Rule::WalksInFlight, number, || {
        format!("VTTBR_EL2 is set to {value:#x}, and no `dsb ish` waited for walks since the guest ran")
    });
}
