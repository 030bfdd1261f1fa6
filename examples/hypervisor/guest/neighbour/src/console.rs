//! The console: the UART, whose lines the hypervisor keeps apart from those of others.
#![allow(unsafe_code, reason = "the UART's register")]

use core::fmt;

/// The data register.
const DATA: *mut u32 = 0x0900_0000 as *mut u32;

/// The UART. Only the first virtual CPU writes to it.
pub struct Uart;

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the guest's own UART, mapped as a device.
            unsafe { DATA.write_volatile(byte.into()) }
        }
        Ok(())
    }
}

/// Prints a line.
macro_rules! line {
    ($($arguments:tt)*) => {{
        use core::fmt::Write as _;
        // The UART takes everything.
        let _ = writeln!($crate::console::Uart, $($arguments)*);
    }};
}
pub(crate) use line;
