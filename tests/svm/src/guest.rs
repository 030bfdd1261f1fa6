//! The guest's programs, and the virtual CPU that runs them.
#![allow(unsafe_code, reason = "a guest's program")]

use hypervisor::{
    svm::{Exit, Vcpu, code},
    vcpu::{Mode, Registers},
};
use stage2::x86_64::npt::{Decoded, decode};
use stage2_bare::pc;
use stage2_scenarios::Attempt;

stage2_bare::guest_program!("vmmcall");
stage2_bare::real_mode_program!("vmmcall");

/// A virtual CPU with a VMCB. Its number does not matter: the tag is the space's.
pub struct WithVmcb(Vcpu);

impl pc::Vcpu for WithVmcb {
    fn new(_: usize, mode: Mode) -> Self {
        Self(Vcpu::new(mode))
    }

    fn start(&mut self, mode: Mode) {
        self.0.vmcb().start(mode);
    }

    fn registers(&mut self) -> &mut Registers {
        &mut self.0.registers
    }

    fn rip(&mut self) -> u64 {
        self.0.vmcb().rip()
    }

    fn set_rip(&mut self, rip: u64) {
        self.0.vmcb().set_rip(rip);
    }

    fn cr3(&mut self) -> u64 {
        self.0.vmcb().cr3()
    }

    fn load_cr3(&mut self, cr3: u64) {
        self.0.load_cr3(cr3);
    }

    unsafe fn run(&mut self) -> Option<Attempt> {
        // SAFETY: of the caller's promise.
        let exit = unsafe { self.0.run() };
        // An NMI comes to this program's handler, too, once the CPU takes interrupts again.
        (!exit.is_nmi()).then(|| self.read_exit(&exit))
    }
}

impl WithVmcb {
    /// What an exit says of a step.
    fn read_exit(&self, exit: &Exit) -> Attempt {
        if exit.translation.code == code::VMMCALL {
            return Attempt::Done(self.0.registers.rax);
        }
        match decode(exit.translation) {
            Decoded::Fault(fault) => Attempt::Fault(fault),
            Decoded::NotTranslation { .. } if exit.is_exception() => Attempt::GuestException,
            other => Attempt::Unexpected(alloc::format!("{other:x?}, {exit:x?}")),
        }
    }
}
