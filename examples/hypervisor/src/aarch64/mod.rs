//! EL2 of QEMU's `virt` board.

pub mod boot;
pub mod cpu;
pub mod power;
pub mod psci;
pub mod system;
pub mod uart;
pub mod vcpu;

/// Where the heap lies, behind the program.
pub(crate) const HEAP_START: usize = 0x4400_0000;
