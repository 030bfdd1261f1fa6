//! How a CPU in the guest is told to forget: by an NMI.

use core::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use hypervisor::cpu;
use stage2::{CpuId, invalidate::Unreachable, x86_64::ept::Interrupt};

use crate::machine::Machine;

/// The machine that each CPU runs, for the handler.
static HERE: [AtomicPtr<Machine>; cpu::MOST] = [const { AtomicPtr::new(ptr::null_mut()) }; cpu::MOST];

/// Every CPU that runs a guest calls it first.
pub fn prepare(machine: &Machine) {
    here().store((&raw const *machine).cast_mut(), Ordering::SeqCst);
    cpu::on_nmi(on_nmi);
}

/// This CPU runs the guest no more.
pub fn end() {
    here().store(ptr::null_mut(), Ordering::SeqCst);
}

fn here() -> &'static AtomicPtr<Machine> {
    &HERE[cpu::affinity() as usize]
}

/// An NMI that meets the hypervisor itself. In the guest it exits, and the next `enter` flushes; one that comes between
/// `enter` and the guest's first instruction finds a CPU that is taken for being inside: it has to forget here.
fn on_nmi() {
    // SAFETY: the machine is there while this CPU runs its guest.
    let Some(machine) = (unsafe { here().load(Ordering::SeqCst).as_ref() }) else { return };
    let Some(index) = machine.cpus().iter().position(|&cpu| cpu == cpu::affinity()) else { return };
    if let Err(error) = machine.space.flush(CpuId(index)) {
        panic!("{error}");
    }
}

/// The hook, for a machine whose CPUs begin with that one.
#[derive(Clone, Copy, Debug)]
pub struct Nmi {
    /// The first one's number among the PC's.
    pub first: usize,
}

impl Interrupt for Nmi {
    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        for other in cpus {
            cpu::interrupt((self.first + other.0) as u64);
        }
        Ok(())
    }
}
