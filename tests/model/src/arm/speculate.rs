//! What the CPUs fill by themselves, between any two operations (H29).

use super::{
    config::Speculation,
    machine::{Machine, State},
    walker::View,
};
use crate::story::Rule;

impl Machine {
    /// Every CPU refills what the guest used lately, and what lies beside it: from what is cached and from the oldest
    /// words first, then from memory as it is.
    pub(super) fn speculate(&self, state: &mut State) {
        state.stirred = false;
        for number in 0..state.cpus.len() {
            let cpu = &state.cpus[number];
            if !cpu.translates() || (cpu.settled && cpu.in_flight(self.memory()).is_empty()) {
                continue;
            }
            if cpu.stage1_for == cpu.vttbr {
                self.refill(state, number);
                state.cpus[number].settled = true;
            } else if self.config.speculation == Speculation::AcrossSwitch {
                stray(state, number);
            }
        }
    }

    fn refill(&self, state: &mut State, number: usize) {
        let pages = state.cpus[number].nearby();
        for view in [View::Oldest, View::Newest] {
            let Some(mut walker) = self.walker(state, number, view) else { return };
            for page in &pages {
                walker.prefetch(*page);
            }
        }
    }
}

/// A CPU with the erratum walks one guest's stage 1 through another's stage 2.
fn stray(state: &mut State, number: usize) {
    const EPD: u64 = 1 << 7 | 1 << 23;
    let State { cpus, ledger, .. } = state;
    let (stage1, used) = (cpus[number].stage1, !cpus[number].used.is_empty());
    if used && (stage1.tcr & EPD != EPD || !stage1.enabled()) {
        ledger.report(Rule::WalksInFlight, number, || {
            "stage-1 walks of one guest start while another's VTTBR_EL2 is loaded (erratum 1319367)".into()
        });
    }
}
