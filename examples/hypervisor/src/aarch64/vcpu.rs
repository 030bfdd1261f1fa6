//! A virtual CPU: into the guest by `ERET`, out of it by an exception.
//!
//! Each stays on one physical CPU, so that its EL1 registers stay in the hardware. This program is built without
//! floating point: the guest's vector registers stay there too.
#![allow(unsafe_code, reason = "the world switch")]

use core::arch::{asm, global_asm};

use stage2::aarch64::Syndrome;

/// The registers that a world switch exchanges.
#[repr(C)]
#[derive(Clone, Debug, Default)]
pub struct Registers {
    /// X0 to X30.
    pub x: [u64; 31],
    /// `ELR_EL2`: where the guest goes on.
    pub pc: u64,
    /// `SPSR_EL2`: its state there.
    pub pstate: u64,
}

/// Runs the guest until it takes an exception to EL2.
///
/// # Safety
/// This CPU's EL1 registers are the guest's, and stage 2 is active.
pub unsafe fn run(registers: &mut Registers) -> Syndrome {
    unsafe extern "C" {
        fn enter_guest(registers: *mut Registers);
    }
    // SAFETY: of the caller's promise; the routine saves what the calling convention asks for.
    unsafe { enter_guest(registers) };
    let (esr, far, hpfar): (u64, u64, u64);
    // SAFETY: reads what the exception left.
    unsafe {
        asm!("mrs {}, esr_el2", "mrs {}, far_el2", "mrs {}, hpfar_el2", out(reg) esr, out(reg) far, out(reg) hpfar,
            options(nomem, nostack, preserves_flags));
    }
    Syndrome { esr, far, hpfar }
}

/// What a fresh CPU's registers must hold before EL1 runs on it.
///
/// Interrupts and the timer go to the guest; `SMC` comes here; vector registers and pointer authentication are free.
pub fn prepare() {
    const HCR: u64 = 1 << 31 | 1 << 19 | 1 << 40 | 1 << 41; // RW, TSC, APK, API
    let pfr: u64;
    // SAFETY: EL2's own registers, and EL1's before the guest has run.
    unsafe {
        asm!("mrs {}, id_aa64pfr0_el1", out(reg) pfr, options(nomem, nostack));
        let mut hcr: u64;
        asm!("mrs {}, hcr_el2", out(reg) hcr, options(nomem, nostack));
        hcr |= HCR;
        asm!(
            "msr hcr_el2, {hcr}",
            "msr cnthctl_el2, {three}",
            "msr cntvoff_el2, xzr",
            "msr sctlr_el1, {sctlr}",
            "mrs {scratch}, midr_el1",
            "msr vpidr_el2, {scratch}",
            "mrs {scratch}, mpidr_el1",
            "msr vmpidr_el2, {scratch}",
            "msr cptr_el2, {cptr}",
            "msr hstr_el2, xzr",
            "mrs {scratch}, pmcr_el0",
            "ubfx {scratch}, {scratch}, #11, #5",
            "msr mdcr_el2, {scratch}",
            "msr S3_4_C12_C9_5, {sre}", // ICC_SRE_EL2
            "isb",
            hcr = in(reg) hcr, three = in(reg) 3_u64, sctlr = in(reg) 0x30d0_0800_u64,
            cptr = in(reg) 0x22ff_u64, sre = in(reg) 0xf_u64, scratch = out(reg) _,
            options(nostack),
        );
        if pfr >> 32 & 0xf != 0 {
            asm!("msr S3_4_C1_C2_0, {}", in(reg) 0xf_u64, options(nostack)); // ZCR_EL2
        }
        let pfr1: u64;
        asm!("mrs {}, id_aa64pfr1_el1", out(reg) pfr1, options(nomem, nostack));
        if pfr1 >> 24 & 0xf != 0 {
            asm!("msr S3_4_C1_C2_6, {}", in(reg) 0x8000_000f_u64, options(nostack)); // SMCR_EL2
        }
        asm!("isb", options(nostack));
    }
}

/// An exception in the hypervisor itself: a bug.
#[unsafe(no_mangle)]
extern "C" fn unexpected_exception(esr: u64, elr: u64, far: u64) -> ! {
    panic!("exception at EL2: ESR {esr:#x}, ELR {elr:#x}, FAR {far:#x}")
}

global_asm!(
    r#"
    .section .text.vectors, "ax"
    .balign 2048
    .global vectors
vectors:
    .rept 8
    .balign 128
    b own_exception
    .endr
    .balign 128
    b leave_guest
    .rept 7
    .balign 128
    b own_exception
    .endr

own_exception:
    mrs x0, esr_el2
    mrs x1, elr_el2
    mrs x2, far_el2
    b   unexpected_exception

    .global enter_guest
enter_guest:
    stp x19, x20, [sp, #-96]!
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    msr tpidr_el2, x0
    ldp x1, x2, [x0, #248]
    msr elr_el2, x1
    msr spsr_el2, x2
    ldp x2, x3, [x0, #16]
    ldp x4, x5, [x0, #32]
    ldp x6, x7, [x0, #48]
    ldp x8, x9, [x0, #64]
    ldp x10, x11, [x0, #80]
    ldp x12, x13, [x0, #96]
    ldp x14, x15, [x0, #112]
    ldp x16, x17, [x0, #128]
    ldp x18, x19, [x0, #144]
    ldp x20, x21, [x0, #160]
    ldp x22, x23, [x0, #176]
    ldp x24, x25, [x0, #192]
    ldp x26, x27, [x0, #208]
    ldp x28, x29, [x0, #224]
    ldr x30, [x0, #240]
    ldp x0, x1, [x0]
    eret

leave_guest:
    stp x0, x1, [sp, #-16]!
    mrs x0, tpidr_el2
    stp x2, x3, [x0, #16]
    stp x4, x5, [x0, #32]
    stp x6, x7, [x0, #48]
    stp x8, x9, [x0, #64]
    stp x10, x11, [x0, #80]
    stp x12, x13, [x0, #96]
    stp x14, x15, [x0, #112]
    stp x16, x17, [x0, #128]
    stp x18, x19, [x0, #144]
    stp x20, x21, [x0, #160]
    stp x22, x23, [x0, #176]
    stp x24, x25, [x0, #192]
    stp x26, x27, [x0, #208]
    stp x28, x29, [x0, #224]
    str x30, [x0, #240]
    ldp x2, x3, [sp], #16
    stp x2, x3, [x0]
    mrs x2, elr_el2
    mrs x3, spsr_el2
    stp x2, x3, [x0, #248]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp x19, x20, [sp], #96
    ret
    "#
);
