//! A host of guests, by VMX or by SVM, on a PC without a BIOS: the ROM beside this crate maps the first 4 GiB where they
//! stand and jumps to 1 MiB.

mod apic;
pub mod boot;
pub mod cpu;
pub mod power;
mod state;
pub mod svm;
pub mod uart;
pub mod vcpu;
pub mod vmcb;
mod vmx;

/// Where the heap lies, behind the program.
pub(crate) const HEAP_START: usize = 0x100_0000;
