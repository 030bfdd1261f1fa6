//! The guest's programs, and the virtual CPU that runs them.
#![allow(unsafe_code, reason = "a guest's program")]

use hypervisor::vcpu::{Exit, Mode, Registers, Setup, Vcpu, reason};
use stage2::x86_64::ept::{Decoded, decode};
use stage2_bare::pc::{self, shooter};
use stage2_scenarios::Attempt;
use x86::vmx::vmcs::guest;

stage2_bare::guest_program!("vmcall");
stage2_bare::real_mode_program!("vmcall");

/// A virtual CPU with a VMCS, and its number for its VPID.
pub struct WithVmcs(Vcpu);

impl pc::Vcpu for WithVmcs {
    fn new(number: usize, mode: Mode) -> Self {
        Self(Vcpu::new(Setup { mode, vpid: number as u16 + 1, exceptions: u32::MAX }))
    }

    fn load(&mut self) {
        self.0.load();
    }

    fn start(&mut self, mode: Mode) {
        self.0.start(mode);
    }

    fn registers(&mut self) -> &mut Registers {
        &mut self.0.registers
    }

    fn rip(&mut self) -> u64 {
        self.0.read(guest::RIP)
    }

    fn set_rip(&mut self, rip: u64) {
        self.0.write(guest::RIP, rip);
        self.0.write(guest::RFLAGS, 1 << 1);
    }

    fn cr3(&mut self) -> u64 {
        self.0.read(guest::CR3)
    }

    fn load_cr3(&mut self, cr3: u64) {
        self.0.load_cr3(cr3);
    }

    unsafe fn run(&mut self) -> Option<Attempt> {
        // SAFETY: of the caller's promise.
        let exit = unsafe { self.0.run() };
        if exit.is_nmi() {
            // It is the exit: no handler of this program's hears of it.
            shooter::on_nmi();
            return None;
        }
        Some(self.read_exit(&exit))
    }
}

impl WithVmcs {
    /// What an exit says of a step.
    fn read_exit(&self, exit: &Exit) -> Attempt {
        if exit.reason() == reason::VMCALL {
            return Attempt::Done(self.0.registers.rax);
        }
        match decode(exit.translation) {
            Decoded::Fault(fault) => Attempt::Fault(fault),
            Decoded::NotTranslation { reason: reason::EXCEPTION_OR_NMI } => Attempt::GuestException,
            other => Attempt::Unexpected(alloc::format!("{other:x?}, {exit:x?}")),
        }
    }
}
