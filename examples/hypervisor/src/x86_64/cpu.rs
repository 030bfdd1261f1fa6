//! The CPUs: their segments, their exceptions, and how they reach each other.
#![allow(unsafe_code, reason = "system registers and stacks")]

use alloc::{boxed::Box, vec};
use core::{
    arch::{asm, global_asm},
    hint,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use x86::{
    Ring,
    dtables::{DescriptorTablePointer, lgdt, lidt},
    segmentation::{SegmentSelector, load_ds, load_es, load_ss},
    task::load_tr,
};

use super::{
    apic::{self, Message},
    boot,
};

unsafe extern "C" {
    /// The first of 32 entries, 16 bytes apart.
    static exception_stubs: u8;
}

/// How many CPUs there can be.
pub const MOST: usize = 8;

/// The bytes of a secondary CPU's stack.
const STACK: usize = 64 << 10;
/// The ROM's two words: where a secondary CPU goes on, and with what.
const MAILBOX: usize = 0x500;
/// The page that shows the ROM's beginning below 1 MiB: the SIPI vector.
const ROM: u8 = 0xf0;
/// How often a CPU that was started is looked for.
const PATIENCE: usize = 1_000_000;

/// The code segment.
pub(super) const CODE: SegmentSelector = SegmentSelector::new(1, Ring::Ring0);
/// The data segment.
pub(super) const DATA: SegmentSelector = SegmentSelector::new(2, Ring::Ring0);
/// The task state.
pub(super) const TASK: SegmentSelector = SegmentSelector::new(3, Ring::Ring0);

/// One CPU's segment descriptors, and the task state that one of them must describe (Intel SDM Vol. 3A, 3.4 and 7.7).
struct Segments {
    descriptors: [AtomicU64; 5],
    task: [AtomicU64; 13],
}

static SEGMENTS: [Segments; MOST] =
    [const { Segments { descriptors: [const { AtomicU64::new(0) }; 5], task: [const { AtomicU64::new(0) }; 13] } };
        MOST];

/// The interrupt descriptors of the 32 exceptions, two words each.
static EXCEPTIONS: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];

/// What an NMI does: a `fn()`, or 0.
static ON_NMI: AtomicUsize = AtomicUsize::new(0);
/// How many secondary CPUs have come up.
static STARTED: AtomicUsize = AtomicUsize::new(0);

impl Segments {
    /// The task state's address: VMX wants it in the VMCS.
    fn task(&self) -> u64 {
        (&raw const self.task).addr() as u64
    }

    /// Fills the descriptors and loads them.
    fn load(&self) {
        let task = self.task();
        // An available 64-bit TSS of 0x68 bytes, its address in pieces.
        let low = 0x67 | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
        let descriptors = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, low, task >> 32];
        for (place, descriptor) in self.descriptors.iter().zip(descriptors) {
            place.store(descriptor, Ordering::Relaxed);
        }
        // SAFETY: the descriptors are flat and live for ever; CS is changed by a far return to the next instruction.
        unsafe {
            lgdt(&DescriptorTablePointer::new(&self.descriptors));
            asm!(
                "push {code}", "lea {next}, [rip + 2f]", "push {next}", "retfq", "2:",
                code = in(reg) u64::from(CODE.bits()), next = out(reg) _,
            );
            load_ds(DATA);
            load_es(DATA);
            load_ss(DATA);
            load_tr(TASK);
        }
    }
}

/// What every CPU does first: segments, exceptions, the local APIC.
pub(super) fn prepare() {
    SEGMENTS[affinity() as usize].load();
    for (vector, descriptor) in EXCEPTIONS.as_chunks::<2>().0.iter().enumerate() {
        let stub = (&raw const exception_stubs).addr() as u64 + 16 * vector as u64;
        // A present interrupt gate of ring 0 (Intel SDM Vol. 3A, 6.14.1).
        let low = stub & 0xffff | u64::from(CODE.bits()) << 16 | 0x8e00 << 32 | (stub >> 16 & 0xffff) << 48;
        descriptor[0].store(low, Ordering::Relaxed);
        descriptor[1].store(stub >> 32, Ordering::Relaxed);
    }
    // SAFETY: the gates lead to the stubs below.
    unsafe { lidt(&DescriptorTablePointer::new(&EXCEPTIONS)) }
    apic::prepare();
}

/// The number of this CPU's local APIC: 0 on the first, and counted up.
#[must_use]
pub fn affinity() -> u64 {
    // CPUID leaf 1: the initial APIC number.
    u64::from(core::arch::x86_64::__cpuid(1).ebx >> 24)
}

/// The time-stamp counter.
#[must_use]
pub fn ticks() -> u64 {
    // SAFETY: reading it changes nothing.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The address of this CPU's task state.
pub(super) fn task() -> u64 {
    SEGMENTS[affinity() as usize].task()
}

/// No CPU has that number, or it is up already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotStarted(pub u64);

/// Starts the CPU of that number, which runs `main(argument)` with a stack of its own.
///
/// # Errors
/// It did not come up.
pub fn start(affinity: u64, main: extern "C" fn(u64) -> !, argument: u64) -> Result<(), NotStarted> {
    let stack = Box::leak(vec![0_u128; STACK / 16].into_boxed_slice());
    let top = stack.as_ptr_range().end as u64;
    let start = Box::leak(Box::new(boot::Start { stack: top, main, argument }));
    let before = STARTED.load(Ordering::SeqCst);
    let mailbox = core::ptr::with_exposed_provenance_mut::<[u64; 2]>(MAILBOX);
    // SAFETY: the ROM's words, in memory that nothing else uses.
    unsafe { mailbox.write_volatile([boot::start_secondary as *const () as u64, &raw const *start as u64]) }
    apic::send(affinity, Message::Init);
    for page in [ROM, ROM] {
        apic::send(affinity, Message::Start(page));
        for _ in 0..PATIENCE {
            if STARTED.load(Ordering::SeqCst) != before {
                return Ok(());
            }
            hint::spin_loop();
        }
    }
    Err(NotStarted(affinity))
}

/// A secondary CPU is up.
pub(super) fn say_started() {
    STARTED.fetch_add(1, Ordering::SeqCst);
}

/// Waits until another CPU stores to `place`, if `waits` still says so, or until something else wakes this CPU.
pub fn wait_for_store<T>(place: &T, waits: impl Fn() -> bool) {
    // CPUID leaf 1, ECX bit 3.
    if core::arch::x86_64::__cpuid(1).ecx & 1 << 3 == 0 {
        return hint::spin_loop();
    }
    // SAFETY: MONITOR only looks. A store between it and MWAIT ends the wait at once.
    unsafe {
        asm!("monitor", in("rax") &raw const *place, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags));
        if waits() {
            asm!("mwait", in("eax") 0, in("ecx") 0, options(nostack, preserves_flags));
        }
    }
}

/// Sends an NMI to a CPU: in a guest it makes it leave, elsewhere it has it do what [`on_nmi`] says.
pub fn interrupt(affinity: u64) {
    apic::send(affinity, Message::Nmi);
}

/// Executes an IRET to the next instruction.
pub(super) fn unblock_nmis() {
    // SAFETY: all that it loads is as it was.
    unsafe {
        asm!(
            "mov {stack}, rsp", "push {data}", "push {stack}", "pushfq", "push {code}", "lea {stack}, [rip + 2f]",
            "push {stack}", "iretq", "2:",
            stack = out(reg) _, data = in(reg) u64::from(DATA.bits()), code = in(reg) u64::from(CODE.bits()),
        );
    }
}

/// What an NMI does that meets the hypervisor itself.
pub fn on_nmi(handler: fn()) {
    ON_NMI.store(handler as usize, Ordering::SeqCst);
}

/// Halts this CPU until its local timer has counted `ticks`. Not for a CPU that runs a guest: the timer is the guest's.
pub fn sleep(ticks: u32) {
    apic::sleep(ticks, TIMER as u8);
}

/// Stops this CPU, for good.
pub fn stop() -> ! {
    loop {
        hint::spin_loop();
    }
}

/// The vector of an NMI.
const NMI: u64 = 2;
/// The vector of the local timer: one that no exception has.
const TIMER: u64 = 31;

/// An exception in the hypervisor itself: an NMI, what it sleeps until, or a bug.
extern "C" fn exception(vector: u64, error: u64, rip: u64, cr2: u64) {
    match vector {
        NMI => {
            let handler = ON_NMI.load(Ordering::SeqCst);
            if handler != 0 {
                // SAFETY: `on_nmi` stored a `fn()`.
                let handler: fn() = unsafe { core::mem::transmute(handler) };
                handler();
            }
        }
        TIMER => apic::end_of_interrupt(),
        _ => panic!("exception {vector} in the hypervisor: error {error:#x}, RIP {rip:#x}, CR2 {cr2:#x}"),
    }
}

global_asm!(
    r#"
    .section .text.exceptions, "ax"
    .balign 16
exception_stubs:
    .irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .balign 16
    .if (0x60227d00 >> \vector) & 1     // the CPU pushes an error code with these
    .else
    push 0
    .endif
    push \vector
    jmp  exception_common
    .endr

exception_common:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    mov  rdi, [rsp + 72]
    mov  rsi, [rsp + 80]
    mov  rdx, [rsp + 88]
    mov  rcx, cr2
    cld
    call {exception}
    pop  r11
    pop  r10
    pop  r9
    pop  r8
    pop  rdi
    pop  rsi
    pop  rdx
    pop  rcx
    pop  rax
    add  rsp, 16
    iretq
    "#,
    exception = sym exception,
);
