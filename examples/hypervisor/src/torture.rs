//! A CPU that takes the guest's memory away from under it, and gives it back elsewhere, all the time.
#![allow(unsafe_code, reason = "a machine's address goes through a number")]

use alloc::{string::String, sync::Arc, vec::Vec};
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

/// Starts it on a CPU of its own.
pub fn start(machine: &Arc<Machine>) -> Result<(), String> {
    let host = machine.host;
    let place = host.take_cpus(1)?.start;
    machine.torture.running.store(true, Ordering::Release);
    cpu::start(host.cpus[place], main, Arc::into_raw(machine.clone()) as u64)
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
    // SAFETY: `start` passes the machine, and keeps it for this CPU.
    let machine = unsafe { Arc::from_raw(argument as *const Machine) };
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    while !machine.torture.stop.load(Ordering::Acquire) {
        for place in &machine.recent {
            relocate(&machine, place.load(Ordering::Relaxed));
        }
        for page in tables(&machine, random.next()) {
            relocate(&machine, page);
        }
        for _ in 0..ANYWHERE {
            relocate(&machine, layout::RAM + random.next() % layout::RAM_SIZE);
        }
    }
    machine.torture.running.store(false, Ordering::Release);
    drop(machine);
    cpu::stop()
}

/// Numbers without an order to them.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 as usize
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

/// Pages that hold the guest's own tables, from the roots that its CPUs had last. Which ones, if there are more than are
/// moved in one round, depends on the entry to begin with.
fn tables(machine: &Machine, first: usize) -> Vec<usize> {
    let mut pages = Vec::new();
    for root in machine.vcpus.iter().flat_map(|vcpu| &vcpu.roots) {
        collect(machine, vm::root_table(root.load(Ordering::Relaxed)), vm::TABLE_LEVELS, first, &mut pages);
    }
    pages
}

/// Adds a table of the guest's with so many levels, and those below it.
fn collect(machine: &Machine, table: usize, levels: usize, first: usize, pages: &mut Vec<usize>) {
    let memory = layout::RAM..layout::RAM + layout::RAM_SIZE;
    if pages.len() >= TABLES || !memory.contains(&table) || pages.contains(&table) {
        return;
    }
    pages.push(table);
    let mut bytes = [0; PAGE_SIZE_4K];
    if levels == 1
        || machine.space.translate(GuestPhysAddr::from_usize(table)).is_none()
        || machine.space.read(GuestPhysAddr::from_usize(table), &mut bytes).is_err()
    {
        return;
    }
    let (before, from) = bytes.as_chunks::<8>().0.split_at(first % (PAGE_SIZE_4K / 8));
    for entry in from.iter().chain(before) {
        if let Some(below) = vm::table_below(u64::from_le_bytes(*entry)) {
            collect(machine, below, levels - 1, first, pages);
        }
    }
}
