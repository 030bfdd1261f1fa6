//! The end.
#![allow(unsafe_code, reason = "I/O ports")]

use x86::io::outb;

use super::uart;

/// Where Bochs waits for the word.
const SHUTDOWN: u16 = 0x8900;

/// Turns the machine off, once all that was said is out.
pub fn off() -> ! {
    uart::drain();
    loop {
        for byte in *b"Shutdown" {
            // SAFETY: Bochs' own port, which ends it.
            unsafe { outb(SHUTDOWN, byte) }
        }
    }
}
