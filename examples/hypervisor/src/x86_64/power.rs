//! The end.
#![allow(unsafe_code, reason = "I/O ports")]

use x86::io::{outb, outl};

use super::uart;

/// Where Bochs waits for the word.
const SHUTDOWN: u16 = 0x8900;

/// Where QEMU's `isa-debug-exit` waits for any word.
const DEBUG_EXIT: u16 = 0xf4;

/// Turns the machine off, once all that was said is out.
pub fn off() -> ! {
    uart::drain();
    // SAFETY: QEMU's own port, which ends it; other machines have no device there.
    unsafe { outl(DEBUG_EXIT, 0) }
    loop {
        for byte in *b"Shutdown" {
            // SAFETY: Bochs' own port, which ends it.
            unsafe { outb(SHUTDOWN, byte) }
        }
    }
}
