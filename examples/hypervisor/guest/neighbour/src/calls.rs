//! What it asks of the hypervisor and of the firmware.
#![allow(unsafe_code, reason = "calls of the hypervisor, and the memory that it maps")]

use core::arch::asm;

use exchange::{End, Word};

/// The hypervisor's functions; the example's README has the table.
const MAP: u64 = 0xc600_0001;
const FORK: u64 = 0xc600_0002;
const RUNS: u64 = 0xc600_0003;
const DONATE: u64 = 0xc600_0004;
/// The firmware's (PSCI, Arm DEN 0022).
const CPU_OFF: u64 = 0x8400_0002;
const CPU_ON: u64 = 0xc400_0003;
const AFFINITY_INFO: u64 = 0xc400_0004;
const SYSTEM_OFF: u64 = 0x8400_0008;
/// What `AFFINITY_INFO` says of a CPU that is off.
const OFF: u64 = 1;

/// Something that can be mapped.
#[derive(Clone, Copy)]
pub enum What {
    Ring = 0,
    Notes = 1,
}

/// What is to be done with it.
#[derive(Clone, Copy)]
pub enum Access {
    Read = 0,
    Write = 1,
}

/// Something that is mapped.
#[derive(Clone, Copy)]
pub struct Mapped {
    pub words: &'static [Word],
    /// Which end of the ring it is, if it is one.
    pub end: Option<End>,
}

/// Which of the two machines returns from a fork.
pub enum Forked {
    Parent { child: u64 },
    Child,
}

/// Maps something at an unmapped address; `None` if that is refused.
pub fn map(what: What, at: usize, access: Access) -> Option<Mapped> {
    let [size, end] = call(MAP, [what as u64, at as u64, access as u64]);
    if !is_good(size) {
        return None;
    }
    let words = core::ptr::with_exposed_provenance::<Word>(at);
    // SAFETY: the hypervisor mapped so many bytes there, for good; all guests that share them use atomics.
    let words = unsafe { core::slice::from_raw_parts(words, size as usize / size_of::<Word>()) };
    Some(Mapped { words, end: End::new(end) })
}

/// Forks this machine; `None` if that is refused.
pub fn fork() -> Option<Forked> {
    match call(FORK, [0; 3])[0] {
        0 => Some(Forked::Child),
        child => is_good(child).then_some(Forked::Parent { child }),
    }
}

/// Whether a machine has not ended.
pub fn runs(number: u64) -> bool {
    call(RUNS, [number, 0, 0])[0] == 1
}

/// Donates memory to the guest at the other end of the ring: its address there, or `None` if that is refused.
pub fn donate(at: usize, size: usize) -> Option<usize> {
    let [place, _] = call(DONATE, [at as u64, size as u64, 0]);
    is_good(place).then_some(place as usize)
}

/// Starts the virtual CPU after this one, which is the machine's first: what the firmware answers.
pub fn start_second(entry: unsafe extern "C" fn()) -> u64 {
    call(CPU_ON, [second(), entry as usize as u64, 0])[0]
}

/// Whether that one is off again.
pub fn second_is_off() -> bool {
    call(AFFINITY_INFO, [second(), 0, 0])[0] == OFF
}

/// How the firmware calls the second virtual CPU: it is the board's next after the first.
fn second() -> u64 {
    let affinity: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {}, mpidr_el1", out(reg) affinity, options(nomem, nostack, preserves_flags)) };
    (affinity & 0xff) + 1
}

/// Turns this virtual CPU off.
pub fn cpu_off() -> ! {
    let _ = call(CPU_OFF, [0; 3]);
    panic!("it is still on")
}

/// The end.
pub fn power_off() -> ! {
    let _ = call(SYSTEM_OFF, [0; 3]);
    loop {
        core::hint::spin_loop();
    }
}

/// Whether an answer is not one of the small negative numbers that say no.
fn is_good(answer: u64) -> bool {
    answer.cast_signed() >= 0
}

/// Calls: X0 and X1 of the answer. Memory may have changed afterwards.
fn call(function: u64, arguments: [u64; 3]) -> [u64; 2] {
    let (first, second);
    // SAFETY: the SMC calling convention: X0 to X17 may change, no other register does.
    unsafe {
        asm!("hvc #0",
            inout("x0") function => first,
            inout("x1") arguments[0] => second, inout("x2") arguments[1] => _, inout("x3") arguments[2] => _,
            out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _, out("x10") _,
            out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _, out("x17") _,
            options(nostack));
    }
    [first, second]
}
