//! From the first instruction to Rust, on each CPU, and what an exception does.
#![allow(unsafe_code, reason = "the first instructions")]

use core::arch::global_asm;

unsafe extern "C" {
    /// The first instruction of the second virtual CPU.
    pub fn start_second();
}

/// What a probe found.
#[repr(C)]
struct Probed {
    value: u64,
    aborted: u64,
}

unsafe extern "C" {
    fn probe_word(at: usize) -> Probed;
}

/// What a word of memory holds; `None` if reading it aborts.
pub fn probe(at: usize) -> Option<u64> {
    // SAFETY: it reads, and an abort of that is expected.
    let Probed { value, aborted } = unsafe { probe_word(at) };
    (aborted == 0).then_some(value)
}

/// An unexpected exception: a bug.
#[unsafe(no_mangle)]
extern "C" fn unexpected_exception(esr: u64, elr: u64, far: u64) -> ! {
    panic!("exception at EL1: ESR {esr:#x}, ELR {elr:#x}, FAR {far:#x}")
}

// One table of 1 GiB blocks, mapped where they stand: devices below, memory above.
global_asm!(
    r#"
    .section .text.boot, "ax"
    .global start
start:
    adrp x1, table
    add  x1, x1, :lo12:table
    mov  x2, #0x405             // valid block, attribute 1, accessed
    movk x2, #0x0040, lsl #48   // execute-never
    str  x2, [x1]
    mov  x2, #0x40000000
    movk x2, #0x0701            // valid block, attribute 0, inner shareable, accessed
    str  x2, [x1, #8]
    dsb  sy
    adrp x1, first_stack_top
    add  x1, x1, :lo12:first_stack_top
    mov  sp, x1
    bl   turn_mmu_on
    bl   first
    b    .

    .global start_second
start_second:
    adrp x1, second_stack_top
    add  x1, x1, :lo12:second_stack_top
    mov  sp, x1
    bl   turn_mmu_on
    bl   second
    b    .

turn_mmu_on:
    adrp x1, table
    add  x1, x1, :lo12:table
    msr  ttbr0_el1, x1
    mov  x1, #0x04ff            // attribute 1: Device-nGnRE; 0: Normal write-back
    msr  mair_el1, x1
    movz x1, #0x3519            // T0SZ 25, write-back walks, inner shareable
    movk x1, #0x0080, lsl #16   // EPD1
    movk x1, #0x2, lsl #32      // 40-bit PA
    msr  tcr_el1, x1
    adrp x1, guest_vectors
    add  x1, x1, :lo12:guest_vectors
    msr  vbar_el1, x1
    isb
    tlbi vmalle1
    dsb  sy
    mrs  x1, sctlr_el1
    mov  x2, #0x1005            // M, C, I
    orr  x1, x1, x2
    msr  sctlr_el1, x1
    isb
    ret

    .balign 2048
guest_vectors:
    .rept 16
    .balign 128
    b    exception
    .endr

exception:
    mrs  x16, elr_el1           // a probe's: it goes on behind its load
    adrp x17, probe_load
    add  x17, x17, :lo12:probe_load
    cmp  x16, x17
    b.ne 1f
    add  x16, x16, #4
    msr  elr_el1, x16
    mov  x1, #1
    eret
1:  mrs  x0, esr_el1
    mrs  x1, elr_el1
    mrs  x2, far_el1
    b    unexpected_exception

    .global probe_word
probe_word:
    mov  x1, #0
probe_load:
    ldr  x0, [x0]
    ret

    .section .bss.table, "aw", @nobits
    .balign 4096
table:
    .skip 4096
    "#
);
