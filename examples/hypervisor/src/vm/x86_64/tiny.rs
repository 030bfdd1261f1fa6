//! The small guest: a 64-bit program with tables of its own, which fills and sums memory on each of its CPUs.
#![allow(unsafe_code, reason = "a guest's program")]

use alloc::string::String;
use core::arch::global_asm;

use hypervisor::vcpu::Mode;

use super::{Start, layout, tables::first_gib};
use crate::{guest::write, machine::Machine};

/// Where it goes: a page that a CPU can start at in real mode.
const PLACE: usize = 0x8000;
/// How many of its CPUs are done, and behind it their sums. All zero at the start.
const DONE: usize = 0x9000;

unsafe extern "C" {
    static tiny_start: u8;
    static tiny_first: u8;
    static tiny_end: u8;
}

/// Loads it: where it starts, and how many CPUs it has.
pub fn load(machine: &Machine) -> Result<Start, String> {
    write(machine, PLACE, program())?;
    write(machine, layout::TABLES, &first_gib(layout::TABLES))?;
    let first = (&raw const tiny_first).addr() - (&raw const tiny_start).addr();
    let mode = Mode::Long { cr3: layout::TABLES as u64, rip: (PLACE + first) as u64 };
    Ok(Start { mode, context: machine.host.arguments.cpus as u64 })
}

/// The program.
fn program() -> &'static [u8] {
    let (start, end) = (&raw const tiny_start, &raw const tiny_end);
    // SAFETY: the two labels enclose the program.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

// Each CPU fills 4 MiB of its own with numbers, sums them, stores the sum, and counts itself done. The first compares
// the sums, and resets the PC.
//
// R8 is the CPU's number, R9 on the first one how many there are.
global_asm!(
    r#"
    .section .rodata.tiny, "a"
    .balign 4096
    .global tiny_start, tiny_first, tiny_end
    .code16
tiny_start:                         // in real mode: the others
    cli
    lgdtl   %cs:tiny_gdt_pointer - tiny_start
    movl    %cr4, %eax
    orl     $0x20, %eax             // PAE
    movl    %eax, %cr4
    movl    ${tables}, %eax
    movl    %eax, %cr3
    movl    $0xc0000080, %ecx       // IA32_EFER: LME
    rdmsr
    orl     $0x100, %eax
    wrmsr
    movl    %cr0, %eax
    orl     $0x80000001, %eax       // PG, PE
    movl    %eax, %cr0
    ljmpl   $0x08, $tiny_other - tiny_start + {place}

    .code64
tiny_other:
    movl    $1, %eax
    cpuid
    shrl    $24, %ebx
    movl    %ebx, %r8d
    leaq    1f(%rip), %rdi
    jmp     tiny_work
1:  cli
    hlt
    jmp     1b

tiny_first:
    movq    %rsi, %r9
    movl    $1, %r8d
1:  cmpq    %r9, %r8
    jae     2f
    movl    $0x830, %ecx            // the command register: start at this page
    movl    %r8d, %edx
    movl    $0x600 + {place} / 0x1000, %eax
    wrmsr
    incl    %r8d
    jmp     1b
2:  xorl    %r8d, %r8d
    leaq    3f(%rip), %rdi
    jmp     tiny_work
3:  pause
    cmpq    %r9, {done}             // wait for all
    jb      3b
    movq    $0x1ffffc0000, %rax     // the sum of 0 .. 524287
    leaq    tiny_bad(%rip), %rsi
4:  decq    %r9
    js      5f
    cmpq    %rax, {done} + 8(,%r9,8)
    jne     6f
    jmp     4b
5:  leaq    tiny_good(%rip), %rsi
6:  movw    $0x3fd, %dx             // room for a byte?
    inb     %dx, %al
    testb   $0x20, %al
    jz      6b
    movw    $0x3f8, %dx
    lodsb
    testb   %al, %al
    jz      7f
    outb    %al, %dx
    jmp     6b
7:  lidt    tiny_nothing(%rip)      // a triple fault
    ud2

tiny_work:
    movq    %r8, %rax
    shlq    $22, %rax
    addq    $0x4000000, %rax
    xorl    %ecx, %ecx
8:  movq    %rcx, (%rax,%rcx,8)
    incq    %rcx
    cmpq    $0x80000, %rcx
    jb      8b
    xorl    %ecx, %ecx
    xorl    %edx, %edx
9:  addq    (%rax,%rcx,8), %rdx
    incq    %rcx
    cmpq    $0x80000, %rcx
    jb      9b
    movq    %rdx, {done} + 8(,%r8,8)
    lock incq {done}
    jmpq    *%rdi

    .balign 8
tiny_gdt:
    .quad   0
    .quad   0x00af9b000000ffff      // code, 64 bits
tiny_gdt_pointer:
    .word   tiny_gdt_pointer - tiny_gdt - 1
    .long   tiny_gdt - tiny_start + {place}
tiny_nothing:
    .word   0
    .quad   0
tiny_good:
    .asciz  "guest: workload ok rounds=1 forks=0\r\n"
tiny_bad:
    .asciz  "guest: workload FAILED: the sums differ\r\n"
tiny_end:
    "#,
    place = const PLACE,
    tables = const layout::TABLES,
    done = const DONE,
    options(att_syntax),
);
