//! What a guest does that needs the hypervisor.
#![allow(unsafe_code, reason = "system registers")]

use alloc::sync::Arc;
use core::arch::asm;

use hypervisor::{line, vcpu::Registers};
use stage2::{
    CpuId, Fault, Outcome,
    aarch64::{Decoded, Syndrome, decode_distrusting},
};

use super::{Here, firmware, hypercalls};
use crate::machine::{Machine, Next};

/// `HVC` from AArch64 (`ESR_EL2.EC`, Arm DDI 0487 D24.2).
const HVC: u8 = 0x16;
/// `SMC` from AArch64, trapped.
const SMC: u8 = 0x17;

/// Handles one exit.
pub fn handle(
    machine: &Arc<Machine>,
    here: &Here,
    index: usize,
    registers: &mut Registers,
    syndrome: Syndrome,
) -> Next {
    match decode_distrusting(syndrome, here.capabilities.errata) {
        Decoded::Fault(fault) | Decoded::CacheMaintenance(Some(fault)) => {
            answer(machine, index, registers, syndrome, fault);
        }
        Decoded::NeedsTranslation(unresolved) => {
            // `None`: the guest's tables changed meanwhile; it tries again.
            if let Some(fault) = here.instructions.resolve(unresolved) {
                answer(machine, index, registers, syndrome, fault);
            }
        }
        Decoded::CacheMaintenance(None) => registers.pc += 4,
        Decoded::NotAnAbort { class: HVC } => return hypercalls::call(machine, registers),
        Decoded::NotAnAbort { class: SMC } => {
            registers.pc += 4;
            return firmware::call(machine, registers);
        }
        other => {
            line!("hv: {}{other:x?} at {:#x}: an abort for the guest", machine.label, registers.pc);
            inject(registers, syndrome);
        }
    }
    Next::Run
}

/// Lets the space answer a fault.
fn answer(machine: &Machine, index: usize, registers: &mut Registers, syndrome: Syndrome, fault: Fault) {
    match machine.space.fault(CpuId(index), fault) {
        Ok(Outcome::Resolved) => machine.remember(fault.gpa),
        Ok(Outcome::Retry) => {}
        Ok(Outcome::NotMapped) if machine.devices.access(fault.gpa, registers, syndrome).is_some() => {}
        // No guest here has memory from a source: the outcome is never that it waits for a page.
        Ok(outcome) => {
            line!("hv: {}{fault:x?}: {outcome:?}, at {:#x}: an abort for the guest", machine.label, registers.pc);
            inject(registers, syndrome);
        }
        Err(error) => panic!("{fault:x?}: {error}"),
    }
}

/// Gives the guest a synchronous external abort for what it just did (Arm DDI 0487, D1.3.6).
fn inject(registers: &mut Registers, syndrome: Syndrome) {
    /// ESR: a 32-bit instruction.
    const IL: u64 = 1 << 25;
    /// DFSC: synchronous external abort.
    const EXTERNAL: u64 = 0x10;
    /// The exception level and stack pointer in PSTATE.
    const MODE: u64 = 0b1111;
    let (from, offset) = match registers.pstate & MODE {
        0b0101 => (1, 0x200),
        0b0100 => (1, 0x000),
        _ if registers.pstate & 1 << 4 != 0 => (0, 0x600),
        _ => (0, 0x400),
    };
    // An instruction or a data abort, from a lower exception level or the same one.
    let class = (syndrome.esr >> 26 & 0x3f) | from;
    let vectors: u64;
    // SAFETY: the guest's own registers, as an exception to EL1 would write them.
    unsafe {
        asm!(
            "msr spsr_el1, {}", "msr elr_el1, {}", "msr esr_el1, {}", "msr far_el1, {}", "mrs {}, vbar_el1",
            in(reg) registers.pstate, in(reg) registers.pc, in(reg) class << 26 | IL | EXTERNAL,
            in(reg) syndrome.far, out(reg) vectors, options(nostack),
        );
    }
    registers.pc = vectors + offset;
    registers.pstate = 0x3c5;
}
