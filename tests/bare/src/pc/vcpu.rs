//! The virtual CPU that runs the guest.
#![allow(unsafe_code, reason = "into the guest")]

use hypervisor::vcpu::{Mode, Registers};
use stage2::{Error, GuestSpace, Platform};
use stage2_scenarios::{Attempt, Seat, View};

use super::{
    guest::{self, Errand, Translations},
    shooter,
};

/// A virtual CPU, as one vendor's CPUs have them.
pub trait Vcpu: Sized {
    /// One at its start, for the CPU that makes it. All its exceptions exit. Its number is its own on that CPU.
    fn new(number: usize, mode: Mode) -> Self;

    /// Makes it this CPU's current one, where there is such a thing: before all the others.
    fn load(&mut self) {}

    /// Puts the guest at its start.
    fn start(&mut self, mode: Mode);

    /// The registers that a program exchanges by itself.
    fn registers(&mut self) -> &mut Registers;

    /// Where the guest stands.
    fn rip(&mut self) -> u64;

    /// Puts the guest somewhere else, with its flags as at the start.
    fn set_rip(&mut self, rip: u64);

    /// The guest's root table.
    fn cr3(&mut self) -> u64;

    /// Gives the guest another root table, and makes it forget its own translations.
    fn load_cr3(&mut self, cr3: u64);

    /// Runs the guest until it exits: what the exit says, or `None` where it was an NMI, which is over then.
    ///
    /// # Safety
    /// The space that was activated last on this CPU is entered.
    unsafe fn run(&mut self) -> Option<Attempt>;
}

/// Puts the guest before an errand.
pub(super) fn prepare(vcpu: &mut impl Vcpu, errand: Errand, view: View) {
    let start = guest::start(errand, view);
    // Only then: what it forgets, a shootdown need not make it forget.
    if start.translations == Translations::Forgotten || vcpu.cr3() != start.cr3 {
        vcpu.load_cr3(start.cr3);
    }
    vcpu.set_rip(start.rip);
    *vcpu.registers() = Registers { rcx: start.address, rdx: start.value, ..Registers::default() };
}

/// Runs the guest from where it is until it exits for something else than an NMI. It is the current one.
///
/// # Errors
/// The space cannot be entered or left.
pub(super) fn enter<P: Platform>(space: &GuestSpace<P>, seat: Seat, vcpu: &mut impl Vcpu) -> Result<Attempt, Error> {
    space.activate();
    shooter::entering(space);
    let attempt = space.enter(seat.cpu, seat.vcpu).map(|()| {
        loop {
            // SAFETY: the space is active and entered.
            if let Some(attempt) = unsafe { vcpu.run() } {
                return attempt;
            }
        }
    });
    let left = space.leave(seat.cpu);
    shooter::left();
    left.and(attempt)
}
