//! A guest as a PC's CPU starts.
#![allow(unsafe_code, reason = "a guest's program")]

use hypervisor::vcpu::{Mode, Setup, Vcpu};
use stage2::{CpuId, VcpuId};
use stage2_bare::real_mode::{CODE, End, From, runs_on_lazy_memory};
use stage2_scenarios::{Seat, Verdict, View};
use x86::vmx::vmcs::guest::RIP;

use crate::machine::{Bochs, enter, read_exit};

stage2_bare::real_mode_program!("vmcall");

/// A tag that no virtual CPU of the scenarios has.
const VPID: u16 = 9;

/// In real mode, which only "unrestricted guest" allows.
pub fn a_guest_in_real_mode_runs_on_lazy_memory(bochs: &Bochs) -> Verdict {
    let seat = Seat { cpu: CpuId(0), vcpu: VcpuId(usize::from(VPID)), view: View::Physical };
    let mode = |ip| Mode::Real { segment: CODE, ip };
    let mut vcpu = Vcpu::new(Setup { mode: mode(0), vpid: VPID, exceptions: u32::MAX });
    runs_on_lazy_memory(bochs, |guest, from| {
        vcpu.load();
        if let From::Start(ip) = from {
            vcpu.start(mode(ip));
        }
        let exit = enter(guest, seat, &mut vcpu)?;
        Ok(End { attempt: read_exit(&vcpu, &exit), rbx: vcpu.registers.rbx, rip: vcpu.read(RIP) })
    })
}
