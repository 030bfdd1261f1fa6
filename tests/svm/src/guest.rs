//! The guest's program, and how a virtual CPU is put before it.
#![allow(unsafe_code, reason = "a guest's program")]

use hypervisor::{
    svm::{Exit, Vcpu, code},
    vcpu::{Mode, Registers},
};
use stage2_bare::pc::{self, Errand, Translations};
use stage2_scenarios::View;

stage2_bare::guest_program!("vmmcall");

/// A virtual CPU that is not anywhere yet.
pub fn vcpu() -> Vcpu {
    Vcpu::new(Mode::Long { cr3: 0, rip: 0 })
}

/// Puts the guest before an errand.
pub fn prepare(vcpu: &mut Vcpu, errand: Errand, view: View) {
    let start = pc::start(errand, view);
    // Only then: what it forgets, a shootdown need not make it forget.
    if start.translations == Translations::Forgotten || vcpu.vmcb().cr3() != start.cr3 {
        vcpu.load_cr3(start.cr3);
    }
    vcpu.vmcb().set_rip(start.rip);
    vcpu.registers = Registers { rcx: start.address, rdx: start.value, ..Registers::default() };
}

/// Whether the guest is done, and with what.
pub fn done(vcpu: &Vcpu, exit: &Exit) -> Option<u64> {
    (exit.translation.code == code::VMMCALL).then_some(vcpu.registers.rax)
}
