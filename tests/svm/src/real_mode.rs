//! A guest as a PC's CPU starts.
#![allow(unsafe_code, reason = "a guest's program")]

use hypervisor::{svm::Vcpu, vcpu::Mode};
use stage2::{CpuId, VcpuId};
use stage2_bare::real_mode::{CODE, End, From, runs_on_lazy_memory};
use stage2_scenarios::{Seat, Verdict, View};

use crate::machine::{Svm, enter, read_exit};

stage2_bare::real_mode_program!("vmmcall");

/// In real mode.
pub fn a_guest_in_real_mode_runs_on_lazy_memory(svm: &Svm) -> Verdict {
    let seat = Seat { cpu: CpuId(0), vcpu: VcpuId(9), view: View::Physical };
    let mode = |ip| Mode::Real { segment: CODE, ip };
    let mut vcpu = Vcpu::new(mode(0));
    runs_on_lazy_memory(svm, |guest, from| {
        if let From::Start(ip) = from {
            vcpu.vmcb().start(mode(ip));
        }
        let exit = enter(guest, seat, &mut vcpu)?;
        Ok(End { attempt: read_exit(&vcpu, &exit), rbx: vcpu.registers.rbx, rip: vcpu.vmcb().rip() })
    })
}
