//! The first serial port, a 16550.
#![allow(unsafe_code, reason = "I/O ports")]

use x86::io::{inb, outb};

/// COM1: the data register, and the low half of the divisor.
const PORT: u16 = 0x3f8;
/// Interrupts, and the high half of the divisor.
const INTERRUPTS: u16 = PORT + 1;
/// The line's control: bit 7 shows the divisor.
const LINE: u16 = PORT + 3;
/// The line's status.
const STATUS: u16 = PORT + 5;
/// Status: there is room for a byte.
const ROOM: u8 = 1 << 5;
/// Status: everything is on the line.
const EMPTY: u8 = 1 << 6;

/// 115,200 baud, 8 bits, no parity, no interrupts.
pub(super) fn prepare() {
    // SAFETY: the port's registers; no other code uses them.
    unsafe {
        outb(LINE, 0x80);
        outb(PORT, 1);
        outb(INTERRUPTS, 0);
        outb(LINE, 0x03);
    }
}

/// Sends a byte.
pub fn send(byte: u8) {
    wait_for(ROOM);
    // SAFETY: the port's data register.
    unsafe { outb(PORT, byte) }
}

/// Waits until everything that was sent is out.
pub(super) fn drain() {
    wait_for(EMPTY);
}

fn wait_for(state: u8) {
    // SAFETY: reads the port's status.
    while unsafe { inb(STATUS) } & state == 0 {
        core::hint::spin_loop();
    }
}
