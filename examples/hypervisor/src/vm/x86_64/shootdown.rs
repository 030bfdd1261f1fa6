//! How a CPU in the guest is told to forget: by an NMI.

use core::{
    ptr,
    sync::atomic::{AtomicPtr, Ordering},
};

use hypervisor::cpu;
use stage2::{CpuId, Unreachable, x86_64::ept::Interrupt};

use crate::machine::Machine;

/// The machine, for the handler.
static MACHINE: AtomicPtr<Machine> = AtomicPtr::new(ptr::null_mut());

/// Every CPU that runs the guest calls it first.
pub fn prepare(machine: &'static Machine) {
    MACHINE.store((&raw const *machine).cast_mut(), Ordering::SeqCst);
    cpu::on_nmi(on_nmi);
}

/// An NMI that meets the hypervisor itself. In the guest it exits, and the next `enter` pays; but one that comes between
/// `enter` and the guest's first instruction finds a CPU that is taken for being inside: it has to forget here.
fn on_nmi() {
    // SAFETY: the machine lives for ever.
    let Some(machine) = (unsafe { MACHINE.load(Ordering::SeqCst).as_ref() }) else { return };
    if let Err(error) = machine.space.flush(CpuId(cpu::affinity() as usize)) {
        panic!("{error}");
    }
}

/// The hook.
#[derive(Clone, Copy, Debug)]
pub struct Nmi;

impl Interrupt for Nmi {
    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        for other in cpus {
            cpu::interrupt(other.0 as u64);
        }
        Ok(())
    }
}
