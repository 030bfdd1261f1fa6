//! From QEMU's entry at EL2 to Rust, on the first CPU and on the others.
#![allow(unsafe_code, reason = "the first instructions")]

use core::arch::global_asm;

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
    /// The first instruction of a secondary CPU; `x0` points to a [`Start`].
    pub fn start_secondary();
}

global_asm!(
    r#"
    .section .text.boot, "ax"
    .global start
start:
    adrp x1, bss_start
    add  x1, x1, :lo12:bss_start
    adrp x2, bss_end
    add  x2, x2, :lo12:bss_end
1:  cmp  x1, x2
    b.hs 2f
    stp  xzr, xzr, [x1], #16
    b    1b
2:  adrp x1, boot_stack_top
    add  x1, x1, :lo12:boot_stack_top
    mov  sp, x1
    bl   build_boot_table
    bl   turn_mmu_on
    bl   boot_main
    b    .

    .global start_secondary
start_secondary:
    mov  x19, x0
    bl   turn_mmu_on
    ldr  x1, [x19]
    mov  sp, x1
    ldr  x0, [x19, #16]
    ldr  x1, [x19, #8]
    blr  x1
    b    .

// An identity map of 512 GiB in 1 GiB blocks: devices below 1 GiB, memory above.
build_boot_table:
    adrp x1, boot_table
    add  x1, x1, :lo12:boot_table
    mov  x2, #0x705             // valid block, attribute 1, inner shareable, accessed
    movk x2, #0x0040, lsl #48   // execute-never
    str  x2, [x1], #8
    mov  x2, #0x701             // valid block, attribute 0
    mov  x3, #0x40000000
    mov  x6, x3
    mov  x4, #511
1:  add  x5, x2, x3
    str  x5, [x1], #8
    add  x3, x3, x6
    subs x4, x4, #1
    b.ne 1b
    dsb  sy
    ret

turn_mmu_on:
    adrp x1, boot_table
    add  x1, x1, :lo12:boot_table
    msr  ttbr0_el2, x1
    mov  x1, #0x04ff            // attribute 1: Device-nGnRE; 0: Normal write-back
    msr  mair_el2, x1
    ldr  x1, =0x80823519        // TCR_EL2: T0SZ 25, write-back walks, inner shareable, 40-bit PA
    msr  tcr_el2, x1
    adrp x1, vectors
    add  x1, x1, :lo12:vectors
    msr  vbar_el2, x1
    isb
    tlbi alle2
    dsb  sy
    isb
    ldr  x1, =0x30c51835        // SCTLR_EL2: RES1, I, C, M
    msr  sctlr_el2, x1
    isb
    ret

    .section .bss.boot_table, "aw", @nobits
    .balign 4096
boot_table:
    .skip 4096
    "#
);
