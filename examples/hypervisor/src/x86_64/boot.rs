//! From the ROM's jump in long mode to Rust, on the first CPU and on the others.
#![allow(unsafe_code, reason = "the first instructions")]

use core::arch::global_asm;

use super::{cpu, uart};

/// What a secondary CPU needs to reach Rust.
#[repr(C)]
pub struct Start {
    /// The top of its stack.
    pub stack: u64,
    /// What it runs.
    pub main: extern "C" fn(u64) -> !,
    /// What that gets.
    pub argument: u64,
}

unsafe extern "C" {
    /// The first instruction of a secondary CPU after the ROM's; RDI points to a [`Start`].
    pub fn start_secondary();
    /// The program.
    safe fn boot_main() -> !;
}

extern "C" fn first_cpu() -> ! {
    uart::prepare();
    cpu::prepare();
    boot_main()
}

extern "C" fn secondary_cpu(start: &'static Start) -> ! {
    cpu::prepare();
    cpu::say_started();
    (start.main)(start.argument)
}

global_asm!(
    r#"
    .section .text.boot, "ax"
    .global start
start:
    lea  rdi, [rip + bss_start]
    lea  rcx, [rip + bss_end]
    sub  rcx, rdi
    xor  eax, eax
    rep  stosb
    lea  rsp, [rip + boot_stack_top]
    call {first}

    .global start_secondary
start_secondary:
    mov  rsp, [rdi]
    call {secondary}
    "#,
    first = sym first_cpu,
    secondary = sym secondary_cpu,
);
