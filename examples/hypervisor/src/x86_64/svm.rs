//! SVM: what the CPU needs before it runs guests, and a virtual CPU: into the guest by `VMRUN`, out of it by a
//! `#VMEXIT`.
//!
//! AMD64 APM Vol. 2 (publication 24593, revision 3.42), chapter 15. A virtual CPU may move from one CPU to another.
//! Vector registers, the debug registers, and the model-specific registers that SVM does not switch stay in the
//! hardware: this program uses none of them.
#![allow(unsafe_code, reason = "the world switch")]

use alloc::boxed::Box;
use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use stage2::x86_64::npt::{self, Asid, Capabilities, NextRun, Owed, PAT_AT_RESET, Root};
use x86::msr::{IA32_EFER, IA32_PAT, rdmsr, wrmsr};

use super::{
    cpu::{self, MOST},
    vcpu::Registers,
    vmcb::{Mode, Vmcb},
};

/// Exit codes (appendix C).
pub mod code {
    /// The exception of vector 0; those of the others follow.
    pub const EXCEPTION: u64 = 0x40;
    /// The last one.
    pub const LAST_EXCEPTION: u64 = 0x5f;
    /// An NMI. It is still pending, and comes to the hypervisor itself.
    pub const NMI: u64 = 0x61;
    /// `VMMCALL`.
    pub const VMMCALL: u64 = 0x81;
}

/// EFER: SVM is on.
pub(super) const SVM_ENABLE: u64 = 1 << 12;
/// EFER: entries can forbid execution, nested ones too.
const NO_EXECUTE_ENABLE: u64 = 1 << 11;
/// `VM_CR` (15.30.1).
const VM_CR: u32 = 0xc001_0114;
/// `VM_CR`: SVM cannot be turned on.
const SVM_DISABLED: u64 = 1 << 4;
/// `VM_HSAVE_PA`: where VMRUN keeps the host's state (15.30.4).
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// The PAT while this program runs, and its guests: as at reset, but for write-combining in the place of PWT.
pub const PAT: u64 = PAT_AT_RESET & !0xff00 | 0x0100;

/// The page where a CPU keeps the host's state, or this program the part of it that VMRUN leaves alone.
#[repr(C, align(4096))]
struct Page(#[allow(dead_code, reason = "the CPU writes it")] [AtomicU64; 512]);

impl Page {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 512])
    }

    /// Its physical address: memory is mapped where it stands.
    fn address(&'static self) -> u64 {
        (&raw const *self).addr() as u64
    }
}

/// What is one CPU's.
struct Host {
    /// VMRUN's.
    saved: Page,
    /// VMSAVE's.
    rest: Page,
    owed: Owed,
    /// What was activated last.
    ncr3: AtomicU64,
    asid: AtomicU32,
}

static HOSTS: [Host; MOST] = [const {
    Host {
        saved: Page::new(),
        rest: Page::new(),
        owed: Owed::everything(),
        ncr3: AtomicU64::new(0),
        asid: AtomicU32::new(0),
    }
}; MOST];

/// This CPU's.
fn here() -> &'static Host {
    &HOSTS[cpu::affinity() as usize]
}

/// What a fresh CPU must do before it has virtual ones. Former guests' translations go at the first `VMRUN`.
///
/// # Panics
/// The firmware does not allow SVM.
pub(super) fn prepare() {
    // SAFETY: registers that only prepare SVM; no entry of this program's own tables forbids execution, and none chooses
    // another place in the PAT than the first.
    unsafe {
        assert!(rdmsr(VM_CR) & SVM_DISABLED == 0, "the firmware does not allow SVM");
        wrmsr(IA32_EFER, rdmsr(IA32_EFER) | SVM_ENABLE | NO_EXECUTE_ENABLE);
        wrmsr(VM_HSAVE_PA, here().saved.address());
        wrmsr(IA32_PAT, PAT);
    }
}

/// The way from the crate to the VMCB of this CPU's next `VMRUN`: each virtual CPU that runs takes root and debts from
/// the CPU that it runs on.
#[derive(Clone, Copy, Debug)]
pub struct Next;

// SAFETY: `Vcpu::run` reads both for each VMRUN, with nothing in between that could change them.
unsafe impl NextRun for Next {
    fn owe(&self, asid: Asid) {
        here().owed.add(asid);
    }

    fn set_root(&self, root: Root) {
        here().ncr3.store(root.ncr3, Ordering::Relaxed);
        here().asid.store(root.asid.0, Ordering::Relaxed);
    }
}

/// What a `#VMEXIT` leaves.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// What the crate's decoder reads.
    pub translation: npt::Exit,
    /// An event whose delivery the exit interrupted (`EXITINTINFO`). The guest must get it again, or it is lost.
    pub interrupted: u64,
}

impl Exit {
    /// Whether an NMI caused the exit.
    #[must_use]
    pub const fn is_nmi(&self) -> bool {
        self.translation.code == code::NMI
    }

    /// Whether an exception of the guest's own caused the exit.
    #[must_use]
    pub const fn is_exception(&self) -> bool {
        matches!(self.translation.code, code::EXCEPTION..=code::LAST_EXCEPTION)
    }
}

/// What the guest has of its own linear translations.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Linear {
    Kept,
    Forgotten,
}

/// A virtual CPU.
pub struct Vcpu {
    vmcb: Box<Vmcb>,
    /// What the world switch exchanges.
    pub registers: Registers,
    capabilities: Capabilities,
    linear: Linear,
}

impl Vcpu {
    /// A virtual CPU with all its exceptions exiting. Its tables are those of the space that is activated on the CPU
    /// that runs it.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let vmcb = Vmcb::new(mode);
        let capabilities = Capabilities::detect();
        Self { vmcb, registers: Registers::default(), capabilities, linear: Linear::Kept }
    }

    /// What the CPU reads and writes.
    pub fn vmcb(&mut self) -> &mut Vmcb {
        &mut self.vmcb
    }

    /// Gives the guest another root table, with what a `MOV` to CR3 does: its linear translations are forgotten.
    pub fn load_cr3(&mut self, cr3: u64) {
        self.vmcb.set_cr3(cr3);
        self.linear = Linear::Forgotten;
    }

    /// Runs the guest until it exits.
    ///
    /// # Panics
    /// `VMRUN` is refused: the VMCB is wrong.
    ///
    /// # Safety
    /// The space that was activated last on this CPU is entered.
    pub unsafe fn run(&mut self) -> Exit {
        let host = here();
        let asid = Asid(host.asid.load(Ordering::Relaxed));
        if core::mem::replace(&mut self.linear, Linear::Kept) == Linear::Forgotten {
            host.owed.add(asid);
        }
        self.vmcb.set_rax(self.registers.rax);
        // SAFETY: CLGI holds back even NMIs, until STGI: what is owed cannot grow between `take` and VMRUN.
        unsafe { asm!("clgi") };
        let control = host.owed.take(asid, &self.capabilities);
        self.vmcb.set_root(Root { ncr3: host.ncr3.load(Ordering::Relaxed), asid }, control);
        let (vmcb, rest) = (self.vmcb.address(), host.rest.address());
        // SAFETY: of the caller's promise; the routine saves what the calling convention asks for.
        unsafe { run_guest(&raw mut self.registers, vmcb, rest) }
        // SAFETY: an NMI that was held back, or made the guest exit, comes now.
        unsafe { asm!("stgi") };
        self.registers.rax = self.vmcb.rax();
        let translation = self.vmcb.exit();
        assert!(translation.code >> 32 == 0, "VMRUN: exit {:#x}: the VMCB is not one", translation.code);
        Exit { translation, interrupted: self.vmcb.interrupted() }
    }
}

unsafe extern "C" {
    /// Runs the guest of the VMCB at a physical address; what VMRUN does not switch of the host is kept at `rest`.
    fn run_guest(registers: *mut Registers, vmcb: u64, rest: u64);
}

global_asm!(
    r#"
    .section .text.world_switch, "ax"
    .global run_guest
run_guest:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rdx
    mov  rax, rdx
    vmsave rax
    mov  rax, rsi
    push rdi
    mov  rbx, [rdi + 0x08]
    mov  rcx, [rdi + 0x10]
    mov  rdx, [rdi + 0x18]
    mov  rsi, [rdi + 0x20]
    mov  rbp, [rdi + 0x30]
    mov  r8,  [rdi + 0x38]
    mov  r9,  [rdi + 0x40]
    mov  r10, [rdi + 0x48]
    mov  r11, [rdi + 0x50]
    mov  r12, [rdi + 0x58]
    mov  r13, [rdi + 0x60]
    mov  r14, [rdi + 0x68]
    mov  r15, [rdi + 0x70]
    mov  rdi, [rdi + 0x28]
    vmload rax
    vmrun rax
    vmsave rax                      // RAX and RSP are the host's again, the others still the guest's
    xchg rdi, [rsp]                 // the registers' place; the guest's RDI
    mov  [rdi + 0x08], rbx
    mov  [rdi + 0x10], rcx
    mov  [rdi + 0x18], rdx
    mov  [rdi + 0x20], rsi
    mov  [rdi + 0x30], rbp
    mov  [rdi + 0x38], r8
    mov  [rdi + 0x40], r9
    mov  [rdi + 0x48], r10
    mov  [rdi + 0x50], r11
    mov  [rdi + 0x58], r12
    mov  [rdi + 0x60], r13
    mov  [rdi + 0x68], r14
    mov  [rdi + 0x70], r15
    pop  qword ptr [rdi + 0x28]
    pop  rax
    vmload rax
    pop  r15
    pop  r14
    pop  r13
    pop  r12
    pop  rbp
    pop  rbx
    cld
    ret
    "#
);
