//! The guest's program at EL1: one access a run, with stage 1 off or behind tables in its own memory.
#![allow(unsafe_code, reason = "a guest's program and its registers")]

use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicU64, Ordering},
};

use hypervisor::vcpu::{self, Registers};
use memory_addr::PAGE_SIZE_4K;
use stage2::{PhysAddr, aarch64::Syndrome};
use stage2_bare::cpus;
use stage2_scenarios::{Step, View, reserved};

/// Where a routine begins in the program's page; the vectors come first.
const READ: usize = 0x800;
const WRITE: usize = 0x820;
const EXECUTE: usize = 0x840;
const COUNT: usize = 0x860;
const FORGET: usize = 0x8a0;

/// What TTBR1 adds to an address.
const HIGH: usize = 0xffff_ff80_0000_0000;

// SCTLR_EL1 (Arm DDI 0487, D23.2): RES1 bits; M, C and I.
const STAGE1_OFF: u64 = 0x30d0_0800;
const STAGE1_ON: u64 = STAGE1_OFF | 1 << 0 | 1 << 2 | 1 << 12;
/// `TCR_EL1`: 39 bits in both halves, 4 KiB granule, write-back walks, inner shareable, 48-bit output.
const TCR: u64 = 0x19 | 0x35 << 8 | 0x19 << 16 | 0x35 << 24 | 0b10 << 30 | 0b101 << 32;
/// `MAIR_EL1`: attribute 0 is write-back.
const MAIR: u64 = 0xff;

/// What the stage-1 registers of each CPU hold. They are written only when they change: QEMU forgets all translations
/// when they do.
struct Held {
    sctlr: AtomicU64,
    ttbr0: AtomicU64,
}

static HELD: [Held; cpus::MOST] =
    [const { Held { sctlr: AtomicU64::new(STAGE1_OFF), ttbr0: AtomicU64::new(0) } }; cpus::MOST];

/// Two pages: the table of the upper half, and the program.
pub const PAGES: usize = 2;

/// The program's place in every space: the last pages that a machine may have.
pub fn place() -> usize {
    reserved().end.as_usize() - PAGES * PAGE_SIZE_4K
}

/// The program's place on the host.
pub fn program() -> PhysAddr {
    unsafe extern "C" {
        static guest_pages: u8;
    }
    PhysAddr::from_usize((&raw const guest_pages).expose_provenance())
}

/// What a fresh CPU's stage-1 registers hold for good.
pub fn prepare() {
    // SAFETY: EL1's registers, before it has run.
    unsafe {
        asm!(
            "msr mair_el1, {}", "msr tcr_el1, {}", "msr ttbr1_el1, {}", "msr ttbr0_el1, xzr", "msr vbar_el1, {}",
            "msr sctlr_el1, {}", "isb",
            in(reg) MAIR, in(reg) TCR, in(reg) place(), in(reg) HIGH + place() + PAGE_SIZE_4K, in(reg) STAGE1_OFF,
            options(nostack, preserves_flags),
        );
    }
}

/// Sets this CPU's stage 1.
pub fn set_view(view: View) {
    let held = &HELD[cpus::here()];
    let sctlr = if view == View::Physical { STAGE1_OFF } else { STAGE1_ON };
    if let View::Virtual(root) = view
        && held.ttbr0.swap(root.as_usize() as u64, Ordering::Relaxed) != root.as_usize() as u64
    {
        // SAFETY: the guest's own register.
        unsafe { asm!("msr ttbr0_el1, {}", "isb", in(reg) root.as_usize(), options(nostack, preserves_flags)) }
    }
    if held.sctlr.swap(sctlr, Ordering::Relaxed) != sctlr {
        let vectors = place() + PAGE_SIZE_4K + if view == View::Physical { 0 } else { HIGH };
        // SAFETY: as above.
        unsafe {
            asm!("msr sctlr_el1, {}", "msr vbar_el1, {}", "isb", in(reg) sctlr, in(reg) vectors,
                options(nostack, preserves_flags));
        }
    }
}

/// Runs one step, up to the next exception to EL2: that, and X0.
///
/// # Safety
/// A space is active and entered, with the program at its [`place`].
pub unsafe fn run(step: Step, view: View) -> (Syndrome, u64) {
    let (routine, address, value) = match step {
        Step::Read(at) => (READ, at, 0),
        Step::Write(at, value) => (WRITE, at, value),
        Step::Execute(at) => (EXECUTE, at, 0),
        Step::CountTo(at, value) => (COUNT, at, value),
        Step::Forget => (FORGET, 0, 0),
    };
    let high = if view == View::Physical { 0 } else { HIGH };
    let pc = high + place() + PAGE_SIZE_4K + routine;
    // EL1 with its own stack pointer, all interrupts masked.
    let mut registers = Registers { pc: pc as u64, pstate: 0x3c5, ..Registers::default() };
    registers.x[1] = address as u64;
    registers.x[2] = value;
    // SAFETY: of the caller's promise, and `prepare` set up EL1.
    let syndrome = unsafe { vcpu::run(&mut registers) };
    (syndrome, registers.x[0])
}

/// `AT S12E1R` or `AT S12E1W` with stage 1 off: the host address that the tables give, or `None`.
///
/// # Safety
/// A space is active.
pub unsafe fn translate(at: usize, access: stage2::Access) -> Option<usize> {
    set_view(View::Physical);
    let par: usize;
    // SAFETY: no other code uses PAR_EL1; the instructions only look at the tables.
    unsafe {
        if access == stage2::Access::Write {
            asm!("at s12e1w, {}", in(reg) at, options(nostack, preserves_flags));
        } else {
            asm!("at s12e1r, {}", in(reg) at, options(nostack, preserves_flags));
        }
        asm!("isb", "mrs {}, par_el1", out(reg) par, options(nostack, preserves_flags));
    }
    // PAR_EL1: F, bit 0; PA, [47:12].
    (par & 1 == 0).then_some((par & 0xffff_ffff_f000) | (at & 0xfff))
}

/// The parked CPU's root: an empty table of the largest size.
pub fn nowhere() -> u64 {
    #[repr(align(65536))]
    struct Empty([AtomicU64; 8192]);
    static EMPTY: Empty = Empty([const { AtomicU64::new(0) }; 8192]);
    EMPTY.0.as_ptr().expose_provenance() as u64
}

global_asm!(
    r#"
    .section .rodata.guest, "a"
    .balign 8192
    .global guest_pages
guest_pages:
    // The first GiB of the upper half: a block, accessed, inner shareable, write-back.
    .quad 0x701
    .balign 4096
guest_program:
    .rept 16
    .balign 128
    hvc #1
    b   .
    .endr
    .org guest_program + 0x800
    ldr x0, [x1]
    hvc #0
    .org guest_program + 0x820
    str x2, [x1]
    hvc #0
    .org guest_program + 0x840
    blr x1
    hvc #0
    .org guest_program + 0x860
    add x4, x1, #0x1000
1:  ldr x0, [x1]
    ldr x3, [x4]
    cmp x0, x3
    b.lo 2f
    cmp x0, x2
    b.hs 2f
    add x0, x0, #1
    str x0, [x1]
    str x0, [x4]
    b   1b
2:  hvc #0
    .org guest_program + 0x8a0
    tlbi vmalle1
    dsb ish
    isb
    hvc #0
    .balign 4096
    "#
);
