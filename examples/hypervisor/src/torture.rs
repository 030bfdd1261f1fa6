//! A CPU that takes the guest's memory away from under it, and gives it back elsewhere, all the time.
#![allow(unsafe_code, reason = "the machine's address goes through a number")]

use alloc::{string::String, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hypervisor::cpu;
use memory_addr::PAGE_SIZE_4K;
use stage2::GuestPhysAddr;

use crate::{
    guest,
    machine::Machine,
    vm::{self, layout},
};

/// What the torturer and the others share.
#[derive(Default)]
pub struct Shared {
    /// How many leaves were moved.
    pub moved: AtomicU64,
    running: AtomicBool,
    stop: AtomicBool,
}

/// The most pages of the guest's own tables that are moved in one round.
const TABLES: usize = 48;
/// How many pages anywhere are moved in one round.
const ANYWHERE: usize = 16;

/// Starts it on the board's last CPU.
pub fn start(machine: &'static Machine) -> Result<(), String> {
    let last = machine.cpus[machine.arguments.cpus];
    machine.torture.running.store(true, Ordering::Release);
    cpu::start(last, main, (&raw const *machine) as u64)
        .map_err(|error| alloc::format!("the torturer's CPU: {error:x?}"))
}

/// Stops it, and waits until it has.
pub fn stop(machine: &Machine) {
    machine.torture.stop.store(true, Ordering::Release);
    while machine.torture.running.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
}

extern "C" fn main(argument: u64) -> ! {
    // SAFETY: `start` passes the machine, which lives for ever.
    let machine: &'static Machine = unsafe { &*(argument as *const Machine) };
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    while !machine.torture.stop.load(Ordering::Acquire) {
        for place in &machine.recent {
            relocate(machine, place.load(Ordering::Relaxed));
        }
        for page in tables(machine) {
            relocate(machine, page);
        }
        for _ in 0..ANYWHERE {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            relocate(machine, layout::RAM + random as usize % layout::RAM_SIZE);
        }
    }
    machine.torture.running.store(false, Ordering::Release);
    loop {
        core::hint::spin_loop();
    }
}

/// Moves the leaf at an address, if it is the guest's memory.
fn relocate(machine: &Machine, at: usize) {
    if !(layout::RAM..layout::RAM + layout::RAM_SIZE).contains(&at) || machine.torture.stop.load(Ordering::Acquire) {
        return;
    }
    match machine.space.relocate(guest::range(at & !(PAGE_SIZE_4K - 1), PAGE_SIZE_4K)) {
        Ok(0) => {}
        Ok(_) => {
            machine.torture.moved.fetch_add(1, Ordering::Relaxed);
            // Under an emulator every invalidation stops all CPUs: the guest must get on, too.
            vm::pause();
        }
        Err(error) => panic!("relocating {at:#x}: {error}"),
    }
}

/// Pages that hold the guest's own tables, from the roots that its CPUs had last.
fn tables(machine: &Machine) -> Vec<usize> {
    let mut pages = Vec::new();
    for root in machine.vcpus.iter().flat_map(|vcpu| &vcpu.roots) {
        collect(machine, vm::root_table(root.load(Ordering::Relaxed)), vm::TABLE_LEVELS, &mut pages);
    }
    pages
}

/// Adds a table of the guest's with so many levels, and those below it.
fn collect(machine: &Machine, table: usize, levels: usize, pages: &mut Vec<usize>) {
    let memory = layout::RAM..layout::RAM + layout::RAM_SIZE;
    if pages.len() >= TABLES || !memory.contains(&table) || pages.contains(&table) {
        return;
    }
    pages.push(table);
    let mut entries = [0; PAGE_SIZE_4K];
    if levels == 1
        || machine.space.translate(GuestPhysAddr::from_usize(table)).is_none()
        || machine.space.read(GuestPhysAddr::from_usize(table), &mut entries).is_err()
    {
        return;
    }
    for entry in entries.as_chunks::<8>().0 {
        if let Some(below) = vm::table_below(u64::from_le_bytes(*entry)) {
            collect(machine, below, levels - 1, pages);
        }
    }
}
