//! The small guest: a program at EL1 with tables of its own, which fills and sums memory on each of its CPUs.
#![allow(unsafe_code, reason = "a guest's program")]

use alloc::string::String;
use core::arch::global_asm;

use super::{Start, layout};
use crate::{guest::write, machine::Machine};

/// Loads it: where it starts, and how many CPUs it has.
pub fn load(machine: &Machine) -> Result<Start, String> {
    write(machine, layout::KERNEL, program())?;
    Ok(Start::at(layout::KERNEL as u64, machine.host.arguments.cpus as u64))
}

/// The program, which runs wherever it is put.
fn program() -> &'static [u8] {
    unsafe extern "C" {
        static tiny_start: u8;
        static tiny_end: u8;
    }
    // SAFETY: the two labels enclose the program.
    unsafe {
        let (start, end) = (&raw const tiny_start, &raw const tiny_end);
        core::slice::from_raw_parts(start, end.addr() - start.addr())
    }
}

// X0 holds the number of CPUs on the first, and the CPU's number on the others.
//
// Each CPU turns its MMU on with a table in guest memory (1 GiB blocks: devices, RAM), fills 4 MiB of its own with
// numbers, sums them, stores the sum, and counts itself done. The first compares the sums and powers off.
global_asm!(
    r#"
    .section .rodata.tiny, "a"
    .balign 4096
    .global tiny_start
tiny_start:
    mov  x19, x0                // how many CPUs
    mov  x20, #0                // which one this is
    // One table, with the first GiB a device and the second memory.
    movz x1, #0x4400, lsl #16
    mov  x2, #0x405
    movk x2, #0x0040, lsl #48
    str  x2, [x1]
    mov  x2, #0x40000000
    movk x2, #0x0701
    str  x2, [x1, #8]
    movz x3, #0x4401, lsl #16   // the counter, then the sums
    str  xzr, [x3]
    dsb  sy
    mov  x21, #1
1:  cmp  x21, x19
    b.hs 2f
    movz x0, #0x0003            // CPU_ON
    movk x0, #0xc400, lsl #16
    mov  x1, x21
    adr  x2, other
    mov  x3, x21
    smc  #0
    add  x21, x21, #1
    b    1b
2:  bl   work
    movz x3, #0x4401, lsl #16
3:  ldr  x1, [x3]               // wait for all
    cmp  x1, x19
    b.lo 3b
    mov  x21, #0
    ldr  x4, [x3, #8]
4:  add  x5, x3, x21, lsl #3
    ldr  x5, [x5, #8]
    cmp  x5, x4
    b.ne failed
    add  x21, x21, #1
    cmp  x21, x19
    b.lo 4b
    // The sum of 0 .. 524287 is known.
    movz x5, #0x0000
    mov  x6, #0x7ffff
    add  x7, x6, #1
    mul  x5, x6, x7
    lsr  x5, x5, #1
    cmp  x4, x5
    b.ne failed
    adr  x0, good
    b    say
failed:
    adr  x0, bad
say:
    movz x1, #0x0900, lsl #16
5:  ldrb w2, [x0], #1
    cbz  w2, 6f
    str  w2, [x1]
    b    5b
6:  movz x0, #0x0008            // SYSTEM_OFF
    movk x0, #0x8400, lsl #16
    smc  #0
    b    .

other:
    mov  x20, x0
    bl   work
7:  wfi
    b    7b

work:
    movz x1, #0x4400, lsl #16
    msr  ttbr0_el1, x1
    mov  x1, #0x04ff
    msr  mair_el1, x1
    movz x1, #0x3519
    movk x1, #0x0080, lsl #16   // EPD1
    movk x1, #0x2, lsl #32
    msr  tcr_el1, x1
    isb
    tlbi vmalle1
    dsb  sy
    mrs  x1, sctlr_el1
    mov  x2, #0x1005
    orr  x1, x1, x2
    msr  sctlr_el1, x1
    isb
    movz x1, #0x5000, lsl #16
    add  x1, x1, x20, lsl #22
    mov  x2, #0
    mov  x4, #0x80000
8:  str  x2, [x1, x2, lsl #3]
    add  x2, x2, #1
    cmp  x2, x4
    b.lo 8b
    mov  x2, #0
    mov  x5, #0
9:  ldr  x6, [x1, x2, lsl #3]
    add  x5, x5, x6
    add  x2, x2, #1
    cmp  x2, x4
    b.lo 9b
    movz x3, #0x4401, lsl #16
    add  x6, x3, x20, lsl #3
    str  x5, [x6, #8]
    dmb  ish
10: ldaxr x5, [x3]
    add  x5, x5, #1
    stlxr w6, x5, [x3]
    cbnz w6, 10b
    ret

good:
    .asciz "guest: workload ok rounds=1 forks=0\r\n"
bad:
    .asciz "guest: workload FAILED: the sums differ\r\n"
    .balign 8
    .global tiny_end
tiny_end:
    "#
);
