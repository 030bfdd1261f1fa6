//! How a CPU in the guest is told to forget: by an NMI, or wrongly.
#![allow(unsafe_code, reason = "a space is reached from a handler")]

use core::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU8, Ordering},
};

use hypervisor::cpu;
use stage2::{CpuId, Error, GuestSpace, Unreachable, x86_64::npt::Interrupt};
use stage2_bare::cpus;

use crate::machine::Parts;

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
pub fn put_in(fault: Flaw) {
    NOW.store(fault as u8, Ordering::SeqCst);
}

/// The space that each CPU has entered, for an NMI's handler.
static ENTERED: [AtomicPtr<GuestSpace<Parts>>; cpus::MOST] = [const { AtomicPtr::new(ptr::null_mut()) }; cpus::MOST];

/// This CPU is about to enter a space.
pub fn entering(space: &GuestSpace<Parts>) {
    ENTERED[cpus::here()].store((&raw const *space).cast_mut(), Ordering::SeqCst);
}

/// This CPU has left it.
pub fn left() {
    ENTERED[cpus::here()].store(ptr::null_mut(), Ordering::SeqCst);
}

/// Flushes the space that a CPU has entered, on this CPU.
fn flush(cpu: usize) -> Result<(), Error> {
    let space = ENTERED[cpu].load(Ordering::SeqCst);
    // SAFETY: a space that is entered is borrowed by whoever entered it, until `left`.
    unsafe { space.as_ref() }.map_or(Ok(()), |space| space.flush(CpuId(cpu)))
}

/// What an NMI does. One that made the guest exit comes here too, once the CPU takes interrupts again.
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
