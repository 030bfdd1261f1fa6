//! The board's CPUs.
#![allow(unsafe_code, reason = "system registers and stacks")]

use alloc::{boxed::Box, vec};
use core::arch::asm;

use super::{boot, psci};

/// The bytes of a secondary CPU's stack.
const STACK: usize = 64 << 10;

/// `MPIDR_EL1` without its flags: how PSCI names this CPU.
#[must_use]
pub fn affinity() -> u64 {
    let value: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value & 0xff_00ff_ffff
}

/// Waits for a moment, if `waits` says so: another CPU will store to `place`.
pub fn wait_for_store<T>(_place: &T, waits: impl Fn() -> bool) {
    if waits() {
        core::hint::spin_loop();
    }
}

/// Starts the CPU that PSCI calls `affinity`, which runs `main(argument)` with a stack of its own.
///
/// # Errors
/// PSCI's answer.
pub fn start(affinity: u64, main: extern "C" fn(u64) -> !, argument: u64) -> Result<(), u64> {
    let stack = Box::leak(vec![0_u128; STACK / 16].into_boxed_slice());
    let top = stack.as_ptr_range().end as u64;
    let start = Box::leak(Box::new(boot::Start { stack: top, main, argument }));
    let entry = boot::start_secondary as *const () as u64;
    match psci::call(psci::CPU_ON, [affinity, entry, &raw const *start as u64]) {
        0 => Ok(()),
        error => Err(error),
    }
}

/// Turns this CPU off.
pub fn stop() -> ! {
    let _off = psci::call(psci::CPU_OFF, [0; 3]);
    loop {
        core::hint::spin_loop();
    }
}
