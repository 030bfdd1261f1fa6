//! The board's firmware, reached by `SMC` (PSCI, Arm DEN 0022).
#![allow(unsafe_code, reason = "calls of the firmware")]

use core::arch::asm;

/// `PSCI_VERSION`.
pub const VERSION: u32 = 0x8400_0000;
/// `CPU_OFF`.
pub const CPU_OFF: u32 = 0x8400_0002;
/// `CPU_ON` (64 bit).
pub const CPU_ON: u32 = 0xc400_0003;
/// `AFFINITY_INFO` (64 bit).
pub const AFFINITY_INFO: u32 = 0xc400_0004;
/// `MIGRATE_INFO_TYPE`.
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// `SYSTEM_OFF`.
pub const SYSTEM_OFF: u32 = 0x8400_0008;
/// `SYSTEM_RESET`.
pub const SYSTEM_RESET: u32 = 0x8400_0009;
/// `PSCI_FEATURES`.
pub const FEATURES: u32 = 0x8400_000a;

/// The answer to what is not there.
pub const NOT_SUPPORTED: u64 = u64::MAX;
/// The answer to a CPU that is not there.
pub const INVALID_PARAMETERS: u64 = u64::MAX - 1;
/// The answer to a CPU that runs already.
pub const ALREADY_ON: u64 = u64::MAX - 3;

/// Calls the firmware: its answer.
#[must_use]
pub fn call(function: u32, arguments: [u64; 3]) -> u64 {
    let result;
    // SAFETY: the SMC calling convention: X0 to X17 may change, no other register does.
    unsafe {
        asm!("smc #0",
            inout("x0") u64::from(function) => result,
            inout("x1") arguments[0] => _, inout("x2") arguments[1] => _, inout("x3") arguments[2] => _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _,
            out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
            options(nostack));
    }
    result
}
