//! The ROM of a PC without a BIOS: from the reset vector to a 64-bit program at 1 MiB.
//!
//! Every CPU comes out of it in long mode, with interrupts off and the first 4 GiB mapped where they stand:
//!
//! - the first one jumps to the program at 1 MiB, which the emulator put there;
//! - one that was started by SIPI with vector 0xf0 reads two words at 0x500, and jumps to the first with the second in
//!   RDI. The CPU that starts it writes them.
//!
//! The ROM needs no memory but those two words: the tables are in the ROM, with the marks set that a CPU would set.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "it is assembly from end to end")]

use core::arch::global_asm;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

global_asm!(
    r#"
    .section .rom, "ax"
    .global rom_start
    // Where SIPI vector 0xf0 leads, in real mode with CS at the ROM's beginning; the reset vector jumps here.
    .code16
rom_start:
    cli
    cld
    lgdtl   %cs:gdt_pointer - rom_start
    movl    %cr0, %eax
    orl     $1, %eax                // PE
    movl    %eax, %cr0
    ljmpl   $0x08, $protected

    .code32
protected:
    movw    $0x10, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    movl    $0x1b, %ecx             // IA32_APIC_BASE: bit 8 is set on the first CPU
    rdmsr
    movl    %eax, %ebp
    testl   $0x100, %ebp
    jz      2f
    // Bochs gives memory its blocks of 128 KiB when they are touched first, and puts a large program into one run of
    // blocks of which it has given out the first only: touched in this order they are the program's.
    movl    $0x100000, %esi
1:  movb    (%esi), %al
    addl    $0x20000, %esi
    cmpl    $0x40000000, %esi
    jb      1b
2:  movl    %cr4, %eax
    orl     $0x20, %eax             // PAE
    movl    %eax, %cr4
    movl    $level4, %eax
    movl    %eax, %cr3
    movl    $0xc0000080, %ecx       // IA32_EFER: LME
    rdmsr
    orl     $0x100, %eax
    wrmsr
    movl    $0x80000033, %eax       // PG, NE, ET, MP, PE; caches on
    movl    %eax, %cr0
    ljmpl   $0x18, $long

    .code64
long:
    movw    $0x10, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    %ax, %ss
    xorl    %eax, %eax
    movw    %ax, %fs
    movw    %ax, %gs
    testl   $0x100, %ebp
    jz      3f
    movl    $0x100000, %eax
    jmpq    *%rax
3:  movq    0x508, %rdi
    jmpq    *0x500

    .balign 8
gdt:
    .quad   0
    .quad   0x00cf9b000000ffff      // 0x08: code, 32 bits
    .quad   0x00cf93000000ffff      // 0x10: data
    .quad   0x00af9b000000ffff      // 0x18: code, 64 bits
gdt_pointer:
    .word   gdt_pointer - gdt - 1
    .long   gdt

    // 4 GiB in blocks of 2 MiB, accessed and dirty.
    .balign 4096
level4:
    .quad   level3 + 0x23
    .fill   511, 8, 0
level3:
    .quad   level2 + 0x23
    .quad   level2 + 0x1023
    .quad   level2 + 0x2023
    .quad   level2 + 0x3023
    .fill   508, 8, 0
level2:
    .set    address, 0
    .rept   2048
    .quad   address + 0xe3
    .set    address, address + 0x200000
    .endr

    // The reset vector: a jump to the beginning of the segment.
    .org    rom_start + 0xfff0
    .byte   0xe9
    .word   0x000d
    .org    rom_start + 0x10000
    "#,
    options(att_syntax)
);
