//! The guest's program, and how a virtual CPU is put before it.
#![allow(unsafe_code, reason = "a guest's program")]

use hypervisor::vcpu::{Exit, Mode, Registers, Setup, Vcpu};
use stage2_bare::pc::{self, Errand, Translations};
use stage2_scenarios::View;
use x86::vmx::vmcs::guest;

stage2_bare::guest_program!("vmcall");

/// This CPU's virtual CPU for a scenario's one of that number, all of whose exceptions exit.
pub fn vcpu(number: usize) -> Vcpu {
    Vcpu::new(Setup { mode: Mode::Long { cr3: 0, rip: 0 }, vpid: number as u16 + 1, exceptions: u32::MAX })
}

/// Puts the guest before an errand.
pub fn prepare(vcpu: &mut Vcpu, errand: Errand, view: View) {
    let start = pc::start(errand, view);
    // Only then: what it forgets, a shootdown need not make it forget.
    if start.translations == Translations::Forgotten || vcpu.read(guest::CR3) != start.cr3 {
        vcpu.load_cr3(start.cr3);
    }
    vcpu.write(guest::RIP, start.rip);
    vcpu.write(guest::RFLAGS, 1 << 1);
    vcpu.registers = Registers { rcx: start.address, rdx: start.value, ..Registers::default() };
}

/// Whether the guest is done, and with what.
pub fn done(vcpu: &Vcpu, exit: &Exit) -> Option<u64> {
    (exit.reason() == hypervisor::vcpu::reason::VMCALL).then_some(vcpu.registers.rax)
}
