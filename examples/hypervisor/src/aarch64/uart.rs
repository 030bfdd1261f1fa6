//! The board's PL011, which the guest has too.
#![allow(unsafe_code, reason = "the UART's registers")]

/// The data register.
const DATA: *mut u32 = 0x0900_0000 as *mut u32;
/// The flag register.
const FLAGS: *const u32 = 0x0900_0018 as *const u32;
/// The transmit FIFO is full.
const FULL: u32 = 1 << 5;

/// Sends a byte.
pub fn send(byte: u8) {
    // SAFETY: the board's UART, mapped as a device.
    unsafe {
        while FLAGS.read_volatile() & FULL != 0 {}
        DATA.write_volatile(byte.into());
    }
}
