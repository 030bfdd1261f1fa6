//! What a guest does that needs the hypervisor.

use alloc::sync::Arc;

use hypervisor::{
    line,
    vcpu::{Event, Exit, Vcpu, reason},
};
use stage2::{
    CpuId, Fault, Outcome,
    x86_64::ept::{Decoded, decode},
};
use x86::{
    msr::{IA32_X2APIC_ICR, IA32_X2APIC_LDR},
    vmx::vmcs::guest,
};

use super::{apic, cpuid};
use crate::machine::{Machine, Next};

/// The hardware exception of general protection, with an error code of 0 (Intel SDM Vol. 3C, 25.8.3).
const GENERAL_PROTECTION: Event = Event { information: 1 << 31 | 1 << 11 | 3 << 8 | 0xd, error: 0, length: 0 };
/// That of an instruction that does not exist.
const UNDEFINED: Event = Event { information: 1 << 31 | 3 << 8 | 0x6, error: 0, length: 0 };

/// The model-specific registers that are read here.
pub const READS: [u32; 1] = [IA32_X2APIC_LDR];
/// Those that are written here.
pub const WRITES: [u32; 1] = [IA32_X2APIC_ICR];

/// Handles one exit.
pub fn handle(machine: &Arc<Machine>, index: usize, vcpu: &mut Vcpu, exit: &Exit) -> Next {
    match decode(exit.translation) {
        Decoded::Fault(fault) => answer(machine, index, vcpu, fault),
        Decoded::Misconfiguration(gpa) => panic!("the tables are encoded wrongly at {gpa:x?}"),
        Decoded::NotTranslation { reason } => return other(machine, index, vcpu, exit, reason),
    }
    Next::Run
}

fn other(machine: &Arc<Machine>, index: usize, vcpu: &mut Vcpu, exit: &Exit, reason: u16) -> Next {
    match reason {
        // Of the shootdown: leaving the guest was all that was wanted.
        reason::EXCEPTION_OR_NMI if exit.is_nmi() => {}
        reason::CPUID => {
            cpuid::answer(&mut vcpu.registers);
            vcpu.skip(exit);
        }
        reason::WRMSR if vcpu.registers.rcx as u32 == IA32_X2APIC_ICR => {
            let (high, low) = (vcpu.registers.rdx, vcpu.registers.rax);
            vcpu.skip(exit);
            apic::command(machine, index, high << 32 | low & 0xffff_ffff);
        }
        reason::RDMSR if vcpu.registers.rcx as u32 == IA32_X2APIC_LDR => {
            vcpu.skip(exit);
            [vcpu.registers.rdx, vcpu.registers.rax] = [0, apic::logical(index)];
        }
        reason::RDMSR | reason::WRMSR => vcpu.inject(GENERAL_PROTECTION),
        reason::VMCALL => vcpu.inject(UNDEFINED),
        // The guest resets the PC so where it finds no other way. Whether it had done its work, its console says.
        reason::TRIPLE_FAULT => return Next::End("off"),
        _ => panic!("exit {reason} at {:#x}: {exit:x?}", vcpu.read(guest::RIP)),
    }
    Next::Run
}

/// Lets the space answer a fault.
fn answer(machine: &Machine, index: usize, vcpu: &Vcpu, fault: Fault) {
    match machine.space.fault(CpuId(index), fault) {
        Ok(Outcome::Resolved) => machine.remember(fault.gpa),
        Ok(Outcome::Retry) => {}
        // No guest here has memory from a source: the outcome is never that it waits for a page.
        Ok(outcome) => {
            line!("hv: {fault:x?}: {outcome:?}, at {:#x}: an exception for the guest", vcpu.read(guest::RIP));
            vcpu.inject(GENERAL_PROTECTION);
        }
        Err(error) => panic!("{fault:x?}: {error}"),
    }
}
