//! The local APIC, of either kind: how one CPU reaches another.
//!
//! Intel SDM Vol. 3A (edition of December 2024), 11.4 and 11.12.
#![allow(unsafe_code, reason = "the APIC's registers")]

use core::{
    arch::asm,
    sync::atomic::{Ordering, fence},
};

use x86::msr::{IA32_APIC_BASE, IA32_X2APIC_ICR, IA32_X2APIC_SIVR, rdmsr, wrmsr};

/// What is sent, as the command register's low half has it.
#[derive(Clone, Copy)]
pub(super) enum Message {
    /// An NMI.
    Nmi,
    /// INIT: the CPU waits to be started.
    Init,
    /// SIPI: it starts in real mode at this page.
    Start(u8),
}

/// How the registers are reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// By model-specific registers.
    X2Apic,
    /// By memory.
    XApic,
}

/// `IA32_APIC_BASE`: the APIC is on.
const ON: u64 = 1 << 11;
/// `IA32_APIC_BASE`: in x2APIC mode.
const X2APIC: u64 = 1 << 10;
/// Spurious interrupts: the APIC takes part, with the last vector.
const SPURIOUS: u64 = 0x1ff;
/// The command register: assert, which is all that is left of the choice.
const ASSERT: u32 = 1 << 14;
/// The command register: not sent yet.
const PENDING: u32 = 1 << 12;

/// Where the registers of the older kind are.
const REGISTERS: usize = 0xfee0_0000;
/// Where the numbers of the newer kind's begin.
const X2APIC_REGISTERS: u32 = 0x800;
const SPURIOUS_AT: usize = 0xf0;
const COMMAND_AT: usize = 0x300;
const DESTINATION_AT: usize = 0x310;
/// Where those are that a CPU sleeps by: they are the same for both kinds.
const END_OF_INTERRUPT_AT: usize = 0xb0;
const TIMER_AT: usize = 0x320;
const COUNT_AT: usize = 0x380;
const DIVISOR_AT: usize = 0x3e0;
/// The timer's divisor: one.
const UNDIVIDED: u32 = 0b1011;

impl Kind {
    fn here() -> Self {
        // CPUID leaf 1, ECX bit 21.
        if core::arch::x86_64::__cpuid(1).ecx & 1 << 21 != 0 { Self::X2Apic } else { Self::XApic }
    }
}

/// Turns this CPU's on, in the newest mode that it has.
pub(super) fn prepare() {
    // SAFETY: no code outside of this file uses the APIC.
    unsafe {
        match Kind::here() {
            Kind::X2Apic => {
                wrmsr(IA32_APIC_BASE, rdmsr(IA32_APIC_BASE) | ON | X2APIC);
                wrmsr(IA32_X2APIC_SIVR, SPURIOUS);
            }
            Kind::XApic => {
                wrmsr(IA32_APIC_BASE, rdmsr(IA32_APIC_BASE) | ON);
                register(SPURIOUS_AT).write_volatile(SPURIOUS as u32);
            }
        }
    }
}

/// Sleeps until the timer has counted so far down, and interrupts with `vector`.
pub(super) fn sleep(ticks: u32, vector: u8) {
    write(DIVISOR_AT, UNDIVIDED);
    write(TIMER_AT, vector.into());
    write(COUNT_AT, ticks);
    // SAFETY: the interrupt is taken behind HLT, not before; its handler is there.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) }
}

/// The interrupt that is being handled is over.
pub(super) fn end_of_interrupt() {
    write(END_OF_INTERRUPT_AT, 0);
}

/// Writes a register that both kinds have, and have alike.
fn write(offset: usize, value: u32) {
    // SAFETY: a register that is about this CPU's own interrupts; 11.12.1.2 for its number.
    unsafe {
        match Kind::here() {
            Kind::X2Apic => wrmsr(X2APIC_REGISTERS + offset as u32 / 16, value.into()),
            Kind::XApic => register(offset).write_volatile(value),
        }
    }
}

/// Sends a message to the CPU of that number.
pub(super) fn send(affinity: u64, message: Message) {
    let command = ASSERT
        | match message {
            Message::Nmi => 0b100 << 8,
            Message::Init => 0b101 << 8,
            Message::Start(page) => 0b110 << 8 | u32::from(page),
        };
    // What this CPU wrote before is visible to the other before it hears of it: in x2APIC mode the write orders nothing
    // by itself (11.12.3).
    fence(Ordering::SeqCst);
    // SAFETY: the command register; what it does to the other CPU is what the caller wants.
    unsafe {
        match Kind::here() {
            Kind::X2Apic => {
                asm!("lfence", options(nostack, preserves_flags));
                wrmsr(IA32_X2APIC_ICR, affinity << 32 | u64::from(command));
            }
            Kind::XApic => {
                register(DESTINATION_AT).write_volatile((affinity as u32) << 24);
                register(COMMAND_AT).write_volatile(command);
                while register(COMMAND_AT).read_volatile() & PENDING != 0 {
                    core::hint::spin_loop();
                }
            }
        }
    }
}

fn register(offset: usize) -> *mut u32 {
    core::ptr::with_exposed_provenance_mut(REGISTERS + offset)
}
