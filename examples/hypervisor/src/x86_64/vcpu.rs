//! A virtual CPU: into the guest by `VMLAUNCH`, out of it by a VM exit.
//!
//! Each stays on the CPU that made it. Vector registers, the debug registers, and the model-specific registers that VMX
//! does not switch stay in the hardware: this program uses none of them.
#![allow(unsafe_code, reason = "the world switch")]

use alloc::boxed::Box;
use core::arch::{asm, global_asm};

use stage2::x86_64::{Extension, ept};
use x86::{
    bits64::vmx as instructions,
    vmx::vmcs::{control, guest, ro},
};

pub use super::state::Mode;
use super::{
    cpu, state, svm,
    vmx::{self, Region},
};

/// The registers that a world switch exchanges; all others are the VMCS's.
#[repr(C)]
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "their names say it")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub cr2: u64,
}

/// Basic exit reasons (Intel SDM Vol. 3C, appendix C).
pub mod reason {
    /// An exception of the guest's that the bitmap catches, or an NMI.
    pub const EXCEPTION_OR_NMI: u16 = 0;
    /// An exception while a double fault was delivered.
    pub const TRIPLE_FAULT: u16 = 2;
    /// `CPUID`.
    pub const CPUID: u16 = 10;
    /// `HLT`.
    pub const HLT: u16 = 12;
    /// `VMCALL`.
    pub const VMCALL: u16 = 18;
    /// `MOV` to or from a control register.
    pub const CONTROL_REGISTER: u16 = 28;
    /// `RDMSR`.
    pub const RDMSR: u16 = 31;
    /// `WRMSR`.
    pub const WRMSR: u16 = 32;
    /// VM entry failed: the guest's state is not one.
    pub const INVALID_GUEST_STATE: u16 = 33;
    /// EPT violation.
    pub const EPT_VIOLATION: u16 = 48;
    /// EPT misconfiguration.
    pub const EPT_MISCONFIGURATION: u16 = 49;
}

/// An event that is delivered to the guest: an interrupt or an exception, as VMX writes it (25.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Vector, type, whether there is an error code, and bit 31.
    pub information: u32,
    /// The error code.
    pub error: u32,
    /// The length of the instruction that raised it, for software interrupts and exceptions.
    pub length: u32,
}

impl Event {
    /// What VM entry does not take back of what an exit gives: bit 12 and the reserved ones.
    const KNOWN: u32 = 0x8000_0fff;

    fn new(information: u64, error: u64, length: u32) -> Option<Self> {
        let information = information as u32;
        let valid = information & 1 << 31 != 0;
        valid.then_some(Self { information: information & Self::KNOWN, error: error as u32, length })
    }

    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.information as u8
    }

    /// Whether it is an NMI.
    #[must_use]
    pub const fn is_nmi(self) -> bool {
        self.information >> 8 & 0b111 == 2
    }
}

/// What a VM exit leaves.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// What the crate's decoder reads.
    pub translation: ept::Exit,
    /// The length of the guest's instruction, where it caused the exit.
    pub length: u32,
    /// The NMI or exception that caused the exit.
    pub event: Option<Event>,
    /// An event whose delivery the exit interrupted. The guest must get it again, by [`Vcpu::inject`], or it is lost.
    pub interrupted: Option<Event>,
}

impl Exit {
    /// The basic reason.
    #[must_use]
    pub const fn reason(&self) -> u16 {
        self.translation.reason as u16
    }

    /// Whether an NMI caused the exit: it has to be handled here, since no handler runs for it.
    #[must_use]
    pub fn is_nmi(&self) -> bool {
        self.reason() == reason::EXCEPTION_OR_NMI && self.event.is_some_and(Event::is_nmi)
    }
}

/// What a virtual CPU begins with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How the guest starts.
    pub mode: Mode,
    /// The tag of its linear translations, not 0: another one for each virtual CPU that runs on a CPU.
    pub vpid: u16,
    /// The exceptions that exit, a bit a vector.
    pub exceptions: u32,
}

/// A virtual CPU.
pub struct Vcpu {
    vmcs: Box<Region>,
    /// What the world switch exchanges.
    pub registers: Registers,
    launch: Launch,
}

/// How the guest is entered.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Launch {
    First = 0,
    Again = 1,
}

/// What a fresh CPU must do before it has virtual ones: it becomes a host, and forgets former guests' translations.
///
/// # Panics
/// The CPU has neither SVM nor VMX with EPT.
pub fn prepare() {
    if Extension::detect() == Some(Extension::Svm) {
        return svm::prepare();
    }
    vmx::enter();
    let capabilities = ept::Capabilities::detect();
    // SAFETY: this CPU is in VMX root operation now, and nothing else in this program makes EPT tables but the crate.
    let forgotten = ept::forget_everything(&capabilities, &unsafe { ept::Instructions::new() });
    assert!(forgotten.is_ok(), "INVEPT: {forgotten:?}");
}

impl Vcpu {
    /// A virtual CPU of this CPU, and the current one. Its EPT pointer is not set yet: `GuestSpace::activate` does that.
    ///
    /// # Panics
    /// The CPU is not in VMX root operation; so do all other calls.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let vcpu = Self { vmcs: Region::new(), registers: Registers::default(), launch: Launch::First };
        // SAFETY: the region is this CPU's and fresh.
        let cleared = unsafe { instructions::vmclear(vcpu.vmcs.address()) };
        assert!(cleared.is_ok(), "VMCLEAR: {cleared:?}");
        vcpu.load();
        state::write_controls(&vcpu, setup);
        state::write_host(leave_guest as *const () as u64);
        vcpu.start(setup.mode);
        vcpu
    }

    /// Makes this the CPU's current one.
    ///
    /// # Panics
    /// As for [`new`](Self::new).
    pub fn load(&self) {
        // SAFETY: a VMCS of this CPU.
        let loaded = unsafe { instructions::vmptrld(self.vmcs.address()) };
        assert!(loaded.is_ok(), "VMPTRLD: {loaded:?}");
    }

    /// Puts the guest at its start. It is the current one.
    pub fn start(&self, mode: Mode) {
        state::write_guest(self, mode);
    }

    /// Reads a field of the VMCS, which is the current one.
    ///
    /// # Panics
    /// There is no such field.
    #[must_use]
    pub fn read(&self, field: u32) -> u64 {
        // SAFETY: reading changes nothing.
        match unsafe { instructions::vmread(field) } {
            Ok(value) => value,
            Err(failure) => panic!("VMREAD {field:#x}: {failure:?}"),
        }
    }

    /// Writes a field of the VMCS, which is the current one: a control, or the guest's state.
    ///
    /// # Panics
    /// There is no such field, or it is the host's.
    pub fn write(&self, field: u32, value: u64) {
        assert!(!is_of_host(field), "VMWRITE {field:#x}: the host's");
        // SAFETY: VM entry checks the guest's state; what the controls point to is the caller's.
        let written = unsafe { instructions::vmwrite(field, value) };
        assert!(written.is_ok(), "VMWRITE {field:#x}: {written:?}");
    }

    /// Gives the guest another root table, with what a `MOV` to CR3 does: its linear translations are forgotten.
    ///
    /// # Panics
    /// INVVPID fails.
    pub fn load_cr3(&self, cr3: u64) {
        self.write(guest::CR3, cr3);
        let descriptor = [self.read(control::VPID), 0];
        let failed: u8;
        // SAFETY: INVVPID of one context; the descriptor is the VPID and zeros.
        unsafe {
            asm!("invvpid {}, [{}]", "setna {failed}", in(reg) 1_u64, in(reg) &raw const descriptor,
                failed = lateout(reg_byte) failed, options(nostack));
        }
        assert!(failed == 0, "INVVPID: error {}", self.read(ro::VM_INSTRUCTION_ERROR));
    }

    /// Has the guest's reads and writes of some model-specific registers exit, all of them below 0x2000.
    ///
    /// # Panics
    /// A number is too high.
    pub fn trap_registers(&self, reads: &[u32], writes: &[u32]) {
        // The CPU reads it for as long as the VMCS is used.
        let bitmap: &'static state::Bitmap = Box::leak(state::Bitmap::of(reads, writes));
        self.write(control::MSR_BITMAPS_ADDR_FULL, bitmap.address());
    }

    /// Delivers an event at the next entry.
    pub fn inject(&self, event: Event) {
        self.write(control::VMENTRY_INTERRUPTION_INFO_FIELD, event.information.into());
        self.write(control::VMENTRY_EXCEPTION_ERR_CODE, event.error.into());
        self.write(control::VMENTRY_INSTRUCTION_LEN, event.length.into());
    }

    /// Steps over the instruction that caused an exit.
    pub fn skip(&self, exit: &Exit) {
        self.write(guest::RIP, self.read(guest::RIP) + u64::from(exit.length));
    }

    /// Runs the guest until it exits. It is the current one.
    ///
    /// # Panics
    /// VM entry is refused: the controls are wrong.
    ///
    /// # Safety
    /// Its EPT pointer is a space's that this CPU has entered.
    pub unsafe fn run(&mut self) -> Exit {
        // SAFETY: of the caller's promise; the routine saves what the calling convention asks for.
        let failed = unsafe { enter_guest(&raw mut self.registers, self.launch as u64) };
        assert!(failed == 0, "VM entry: error {}", self.read(ro::VM_INSTRUCTION_ERROR));
        self.launch = Launch::Again;
        let exit = self.read_exit();
        if exit.is_nmi() {
            self.unblock_nmis();
        }
        exit
    }

    fn read_exit(&self) -> Exit {
        let length = self.read(ro::VMEXIT_INSTRUCTION_LEN) as u32;
        let event = |information, error| Event::new(self.read(information), self.read(error), length);
        Exit {
            translation: ept::Exit {
                reason: self.read(ro::EXIT_REASON) as u32,
                qualification: self.read(ro::EXIT_QUALIFICATION),
                gpa: self.read(ro::GUEST_PHYSICAL_ADDR_FULL),
                linear: self.read(ro::GUEST_LINEAR_ADDR),
            },
            length,
            event: event(ro::VMEXIT_INTERRUPTION_INFO, ro::VMEXIT_INTERRUPTION_ERR_CODE),
            interrupted: event(ro::IDT_VECTORING_INFO, ro::IDT_VECTORING_ERR_CODE),
        }
    }

    /// Ends the blocking of further NMIs by one that caused an exit, in the guest and on this CPU.
    ///
    /// The CPU blocks them until it executes an IRET (25.5.1.1 and 28.4.3). Bochs blocks them even past a VM entry that
    /// should end it, and notes the CPU's own blocking in the guest's state.
    fn unblock_nmis(&self) {
        const BLOCKED: u64 = 1 << 3;
        let state = self.read(guest::INTERRUPTIBILITY_STATE);
        self.write(guest::INTERRUPTIBILITY_STATE, state & !BLOCKED);
        cpu::unblock_nmis();
    }
}

/// Bits 11:10 of a field's number say which area of the VMCS it is in (25.11.2).
pub(super) const fn is_of_host(field: u32) -> bool {
    field >> 10 & 0b11 == 3
}

unsafe extern "C" {
    /// Enters the guest by `VMLAUNCH` (0) or `VMRESUME` (1); answers 0 after an exit, 1 where the entry was refused.
    fn enter_guest(registers: *mut Registers, launch: u64) -> u64;
    /// Where an exit leads, inside the routine above.
    fn leave_guest();
}

global_asm!(
    r#"
    .section .text.world_switch, "ax"
    .global enter_guest
enter_guest:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push rdi
    mov  eax, 0x6c14                // host RSP
    vmwrite rax, rsp
    mov  rax, [rdi + 0x78]
    mov  cr2, rax
    cmp  rsi, 0                     // nothing below changes the flags
    mov  rax, [rdi]
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
    jne  1f
    vmlaunch
    jmp  2f
1:  vmresume
2:  pop  rdi                        // refused: the guest's registers were not touched
    mov  eax, 1
    jmp  3f

    .global leave_guest
leave_guest:
    xchg rdi, [rsp]                 // the registers' place; the guest's RDI
    mov  [rdi], rax
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
    mov  rax, cr2
    mov  [rdi + 0x78], rax
    xor  eax, eax
3:  pop  r15
    pop  r14
    pop  r13
    pop  r12
    pop  rbp
    pop  rbx
    cld
    ret
    "#
);
