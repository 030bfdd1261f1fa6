//! What a bare-metal program needs that runs guests, on each architecture: shared by the example hypervisor and by the
//! tests that run on emulated MMUs.
//!
//! A program defines `#[unsafe(no_mangle)] extern "C" fn boot_main() -> !`, which the first CPU reaches with its MMU
//! and caches on, everything mapped where it stands, and interrupts masked. It calls [`memory::init_heap`] first.
//! [`cpu::start`] starts another CPU, which calls [`vcpu::prepare`] before it runs a guest as the first CPU does;
//! [`power::off`] ends the program; a panic prints and powers off.
//!
//! `aarch64/` is for EL2 of QEMU's `virt` board, `x86_64/` for a PC without a BIOS (the ROM beside this crate): VMX root
//! operation in Bochs, SVM in QEMU.
#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;

#[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64/mod.rs")]
mod arch;

pub mod console;
pub mod memory;

pub use arch::*;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::end_of_the_world(format_args!("hv: end panic: {info}"))
}
