//! How a CPU in the guest is told to forget: by an NMI, or wrongly.
#![allow(unsafe_code, reason = "a space is reached from a handler")]

use core::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering},
};

use hypervisor::cpu;
use stage2::{CpuId, Error, GuestSpace, Platform, invalidate::Unreachable, x86_64::ept::Interrupt};

use crate::cpus;

/// A fault in the shootdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Flaw {
    /// None.
    None,
    /// The other CPU is not told: this one invalidates in its place, and says that it was done there.
    NotTold,
    /// The other CPU cannot be reached, and the hypervisor says so.
    Unreachable,
}

static NOW: AtomicU8 = AtomicU8::new(Flaw::None as u8);

/// Puts a fault in, or takes it out.
pub fn put_in(flaw: Flaw) {
    NOW.store(flaw as u8, Ordering::SeqCst);
}

/// The space that a CPU has entered, for an NMI's handler.
struct Entered {
    /// The space, or null.
    space: AtomicPtr<()>,
    /// What flushes a space of its type: a `Flush`.
    flush: AtomicUsize,
}

/// Flushes the space at an address on a CPU.
type Flush = unsafe fn(*const (), CpuId) -> Result<(), Error>;

static ENTERED: [Entered; cpus::MOST] =
    [const { Entered { space: AtomicPtr::new(ptr::null_mut()), flush: AtomicUsize::new(0) } }; cpus::MOST];

/// This CPU is about to enter a space.
pub(super) fn entering<P: Platform>(space: &GuestSpace<P>) {
    let flush: Flush = |space, cpu| {
        // SAFETY: the caller has the space's address from below.
        unsafe { &*space.cast::<GuestSpace<P>>() }.flush(cpu)
    };
    let entered = &ENTERED[cpus::here()];
    entered.flush.store(flush as usize, Ordering::SeqCst);
    entered.space.store((&raw const *space).cast_mut().cast(), Ordering::SeqCst);
}

/// This CPU has left it.
pub(super) fn left() {
    ENTERED[cpus::here()].space.store(ptr::null_mut(), Ordering::SeqCst);
}

/// Flushes the space that a CPU has entered, on this CPU.
fn flush(cpu: usize) -> Result<(), Error> {
    let space = ENTERED[cpu].space.load(Ordering::SeqCst);
    if space.is_null() {
        return Ok(());
    }
    // SAFETY: `entering` stored a `Flush` before the space.
    let flush: Flush = unsafe { core::mem::transmute(ENTERED[cpu].flush.load(Ordering::SeqCst)) };
    // SAFETY: a space that is entered is borrowed by the run that entered it, until `left`; all spaces of a program are
    // of one type.
    unsafe { flush(space, CpuId(cpu)) }
}

/// What an NMI does that reaches this program, or that a vendor's program hears of from the guest's exit.
///
/// # Panics
/// The space that this CPU has entered cannot be flushed.
pub fn on_nmi() {
    if let Err(error) = flush(cpus::here()) {
        panic!("{error}");
    }
}

/// The hook.
#[derive(Clone, Copy, Debug)]
pub struct Shooter;

impl Interrupt for Shooter {
    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        let flaw = NOW.load(Ordering::SeqCst);
        for other in cpus {
            if flaw == Flaw::NotTold as u8 {
                flush(other.0).map_err(|_| Unreachable(other))?;
            } else if flaw == Flaw::Unreachable as u8 {
                return Err(Unreachable(other));
            } else {
                cpu::interrupt(other.0 as u64);
            }
        }
        Ok(())
    }
}
