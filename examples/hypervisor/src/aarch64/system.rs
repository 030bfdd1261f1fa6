//! The registers of EL1 that a virtual CPU takes along when it moves to another CPU: those of a guest without floating
//! point, interrupts or a timer.
#![allow(unsafe_code, reason = "system registers")]

use core::arch::asm;

/// Reads or writes each register.
macro_rules! registers {
    ($($name:literal)*) => {
        /// How many there are.
        const COUNT: usize = [$($name),*].len();

        /// This CPU's.
        fn read() -> [u64; COUNT] {
            // SAFETY: reads registers that EL2 does not use.
            unsafe {
                [$({
                    let value: u64;
                    asm!(concat!("mrs {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags));
                    value
                }),*]
            }
        }

        /// Makes them this CPU's.
        fn write(values: &[u64; COUNT]) {
            let mut values = values.iter();
            $(if let Some(value) = values.next() {
                // SAFETY: EL2 does not use them, and no guest runs here now.
                unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) *value, options(nomem, nostack, preserves_flags)) }
            })*
        }
    };
}

registers!(
    "sctlr_el1" "cpacr_el1" "ttbr0_el1" "ttbr1_el1" "tcr_el1" "mair_el1" "amair_el1" "contextidr_el1" "vbar_el1"
    "sp_el0" "sp_el1" "elr_el1" "spsr_el1" "esr_el1" "far_el1" "par_el1"
    "tpidr_el0" "tpidrro_el0" "tpidr_el1"
);

/// A virtual CPU's registers of EL1.
#[derive(Clone, Debug)]
pub struct System([u64; COUNT]);

impl System {
    /// Those of this CPU, on which the guest ran last.
    #[must_use]
    pub fn save() -> Self {
        Self(read())
    }

    /// Makes them this CPU's. What [`prepare`](super::vcpu::prepare) sets must be set before.
    pub fn load(&self) {
        write(&self.0);
        // SAFETY: what they change is seen by the guest, which an exception return parts from here.
        unsafe { asm!("isb", options(nomem, nostack, preserves_flags)) }
    }
}
