//! How long it waits.
#![allow(unsafe_code, reason = "the counter")]

use core::arch::asm;

use crate::Failure;

/// After so many seconds in vain it gives up: another guest may boot meanwhile.
const PATIENCE: u64 = 200;

/// The counter, and how often it counts in a second.
fn now() -> (u64, u64) {
    let (count, frequency);
    // SAFETY: reads the counter.
    unsafe {
        asm!("isb", "mrs {}, cntvct_el0", "mrs {}, cntfrq_el0", out(reg) count, out(reg) frequency, options(nomem, nostack));
    }
    (count, frequency)
}

/// When a wait began, which ends after [`PATIENCE`].
pub struct Patience {
    since: u64,
}

impl Patience {
    pub fn new() -> Self {
        Self { since: now().0 }
    }

    /// Waits for a moment, for the `idle`th time in a row; `None` if that took too long.
    pub fn wait(&mut self, idle: u64) -> Option<()> {
        let (now, frequency) = now();
        if idle == 1 {
            self.since = now;
        }
        core::hint::spin_loop();
        (now - self.since < PATIENCE * frequency).then_some(())
    }
}

/// Waits until something is so.
pub fn wait(what: &'static str, is_so: impl Fn(u64) -> bool) -> Result<(), Failure> {
    let mut patience = Patience::new();
    for idle in 1.. {
        if is_so(idle) {
            break;
        }
        patience.wait(idle).ok_or(Failure::TooLong { what })?;
    }
    Ok(())
}
