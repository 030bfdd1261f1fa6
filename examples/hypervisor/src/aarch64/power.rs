//! The end.

use super::psci;

/// Turns the board off.
pub fn off() -> ! {
    let _off = psci::call(psci::SYSTEM_OFF, [0; 3]);
    loop {
        core::hint::spin_loop();
    }
}
