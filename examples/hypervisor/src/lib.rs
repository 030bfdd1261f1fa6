//! What a bare-metal program at EL2 of QEMU's `virt` board needs: shared by the example hypervisor and by the tests
//! that run on the emulated MMU.
//!
//! A program defines `#[unsafe(no_mangle)] extern "C" fn boot_main() -> !`, which the first CPU reaches with its MMU
//! and caches on, everything mapped where it stands, and interrupts masked. It calls [`memory::init_heap`] first.
//! [`cpu::start`] starts another CPU; [`vcpu::run`] runs a guest; [`psci::power_off`] ends the program; a panic prints
//! and powers off.
#![no_std]
#![cfg(target_os = "none")]

extern crate alloc;

pub mod boot;
pub mod console;
pub mod cpu;
pub mod memory;
pub mod psci;
pub mod vcpu;

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::end_of_the_world(format_args!("hv: end panic: {info}"))
}
