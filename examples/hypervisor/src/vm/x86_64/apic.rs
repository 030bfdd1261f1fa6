//! The guest's local APICs: the real ones, but for the command register.
//!
//! Intel SDM Vol. 3A (edition of December 2024), 11.6.1 and 11.12.9.
#![allow(unsafe_code, reason = "a model-specific register")]

use alloc::sync::Arc;
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
/// Bits 19:18: the CPU itself, all CPUs, all others; or what the destination says.
const SHORTHAND: u64 = 0b11 << 18;
const ITSELF: u64 = 0b01 << 18;
const ALL: u64 = 0b10 << 18;
const OTHERS: u64 = 0b11 << 18;
/// Bit 11: the destination is a set of CPUs, all of one cluster of 16, and not a CPU's number.
const LOGICAL: u64 = 1 << 11;
/// Bits 63:32.
const DESTINATION: u32 = 32;

/// Whether another virtual CPU has sent this one an NMI.
pub fn take_nmi(index: usize) -> bool {
    NMI_COMING[index].swap(false, Ordering::SeqCst)
}

/// Virtual CPU `index` writes its command register.
///
/// Each CPU that is meant gets its own message, by its number: of the PC's CPUs not all are the guest's.
pub fn command(machine: &Arc<Machine>, index: usize, value: u64) {
    let destination = value >> DESTINATION;
    let is_meant = |&cpu: &usize| match value & SHORTHAND {
        ITSELF => cpu == index,
        ALL => true,
        OTHERS => cpu != index,
        _ if value & LOGICAL == 0 => cpu as u64 == destination,
        _ => {
            let name = logical(cpu);
            name >> 16 == destination >> 16 && name & destination & 0xffff != 0
        }
    };
    (0..machine.vcpus.len()).filter(is_meant).for_each(|cpu| send(machine, cpu, value as u32));
}

/// Sends to one CPU what the lower half of the register asks for.
fn send(machine: &Arc<Machine>, to: usize, message: u32) {
    let message = u64::from(message);
    match message >> 8 & 0b111 {
        // A virtual CPU that is off waits to be started already.
        MODE_INIT => {}
        MODE_START => start(machine, to, message as u8),
        MODE_NMI => {
            NMI_COMING[to].store(true, Ordering::SeqCst);
            // The CPU exits by this NMI, and its guest then gets one.
            cpu::interrupt(to as u64);
        }
        // SAFETY: an interrupt for a CPU of the guest's, which takes it as on a PC.
        _ => unsafe { wrmsr(IA32_X2APIC_ICR, (to as u64) << DESTINATION | message & !(SHORTHAND | LOGICAL)) },
    }
}

/// How virtual CPU `index` is named in sets: what the register is derived from the CPU's number as (11.12.10.2); Bochs
/// lacks the register.
pub const fn logical(index: usize) -> u64 {
    (index as u64 / 16) << 16 | 1 << (index % 16)
}

/// Starts a virtual CPU in real mode, as the first of two messages asks for.
fn start(machine: &Arc<Machine>, index: usize, page: u8) {
    let mode = Mode::Real { segment: u16::from(page) << 8, ip: 0 };
    if let Err(NotStarted::Refused(error)) = machine.start_vcpu(index, Start { mode, context: 0 }) {
        hypervisor::line!("hv: {error:x?} does not start");
    }
}
