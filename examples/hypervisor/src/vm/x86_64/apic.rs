//! The guest's local APICs: the real ones, but for the command register.
//!
//! Intel SDM Vol. 3A (edition of December 2024), 11.6.1 and 11.12.9.

use core::sync::atomic::{AtomicBool, Ordering};

use hypervisor::{
    cpu,
    vcpu::{Event, Mode},
};
use x86::msr::{IA32_X2APIC_ICR, wrmsr};

use super::Start;
use crate::machine::{Machine, NotStarted};

/// An NMI, as VM entry delivers it.
pub const NMI: Event = Event { information: 1 << 31 | 2 << 8 | 2, error: 0, length: 0 };

/// The virtual CPUs that have an NMI coming from another one.
static NMI_COMING: [AtomicBool; cpu::MOST] = [const { AtomicBool::new(false) }; cpu::MOST];

/// Delivery modes: bits 10:8 of the command register.
const MODE_NMI: u64 = 0b100;
const MODE_INIT: u64 = 0b101;
const MODE_START: u64 = 0b110;
/// Bits 19:18 name all CPUs, with and without this one: of the PC's, and not of the virtual machine's.
const SHORTHAND: u64 = 0b11 << 18;
const ALL: u64 = 0b10 << 18;
const OTHERS: u64 = 0b11 << 18;
/// Bit 11: the destination is a set of CPUs.
const LOGICAL: u64 = 1 << 11;
/// Bits 63:32: the destination.
const DESTINATION: u64 = 0xffff_ffff << 32;

/// Whether another virtual CPU has sent this one an NMI.
pub fn take_nmi(index: usize) -> bool {
    NMI_COMING[index].swap(false, Ordering::SeqCst)
}

/// Virtual CPU `index` writes its command register.
pub fn command(machine: &'static Machine, index: usize, value: u64) {
    let everyone = 0..machine.vcpus.len();
    match value & SHORTHAND {
        ALL => everyone.for_each(|other| send(machine, other, value)),
        OTHERS => everyone.filter(|&other| other != index).for_each(|other| send(machine, other, value)),
        _ if value & LOGICAL == 0 && value & SHORTHAND == 0 => send(machine, (value >> 32) as usize, value),
        // To itself, or to a set of CPUs: it knows none but its own.
        _ => write(value),
    }
}

/// Sends to one CPU.
fn send(machine: &'static Machine, to: usize, value: u64) {
    match value >> 8 & 0b111 {
        // A CPU that is to start here waits for nothing else.
        MODE_INIT => {}
        MODE_START => start(machine, to, value as u8),
        MODE_NMI if to < machine.vcpus.len() => {
            NMI_COMING[to].store(true, Ordering::SeqCst);
            // It exits by this one, and gets its own.
            cpu::interrupt(to as u64);
        }
        _ => write(value & !(DESTINATION | SHORTHAND | LOGICAL) | (to as u64) << 32),
    }
}

/// Starts a virtual CPU in real mode, as the first of two messages asks for.
fn start(machine: &'static Machine, index: usize, page: u8) {
    if index >= machine.vcpus.len() {
        return;
    }
    let mode = Mode::Real { segment: u16::from(page) << 8, ip: 0 };
    if let Err(NotStarted::Refused(error)) = machine.start_vcpu(index, Start { mode, context: 0 }) {
        hypervisor::line!("hv: {error:x?} does not start");
    }
}

/// Writes the command register.
fn write(value: u64) {
    // SAFETY: an interrupt for a CPU of the guest's, as far as it goes through to here.
    unsafe { wrmsr(IA32_X2APIC_ICR, value) }
}
