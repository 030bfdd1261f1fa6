//! The protocol in every interleaving of its loads and stores that the memory model allows (H16, H20).
//!
//! Run by `cargo xtask test --only loom`. Without either fence of [`Cpus`] the first two fail, without that of `close` the one that closes; with `leave` behind the
//! lock, or a flusher that waits for CPUs outside the guest, the third never ends.

use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{CpuId, Cpus, VcpuId};

/// A page, the entry that maps it, and an interrupt for each CPU that may run the guest.
struct World {
    cpus: Cpus,
    mapped: AtomicBool,
    freed: AtomicBool,
    interrupts: [AtomicBool; 2],
    lock: Mutex<()>,
}

/// What one CPU remembers of the entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tlb {
    Empty,
    Page,
}

impl World {
    /// `count` CPUs that owe nothing: each was in the guest before.
    fn new(count: usize) -> Arc<Self> {
        let cpus = Cpus::new(count).unwrap();
        for cpu in (0..count).map(CpuId) {
            let owed = cpus.enter(cpu, VcpuId(0)).unwrap();
            cpus.flushed(cpu, owed.flush.unwrap());
            cpus.leave(cpu).unwrap();
        }
        Arc::new(Self {
            cpus,
            mapped: AtomicBool::new(true),
            freed: AtomicBool::new(false),
            interrupts: [AtomicBool::new(false), AtomicBool::new(false)],
            lock: Mutex::new(()),
        })
    }

    /// The guest touches the page, by what its CPU remembers.
    fn touch(&self, tlb: &mut Tlb) {
        if *tlb == Tlb::Empty && self.mapped.load(Ordering::Relaxed) {
            *tlb = Tlb::Page;
        }
        if *tlb == Tlb::Page {
            assert!(!self.freed.load(Ordering::Relaxed), "the guest reaches a page that was freed");
        }
    }

    fn enter(&self, cpu: CpuId, tlb: &mut Tlb) {
        if let Some(generation) = self.cpus.enter(cpu, VcpuId(0)).unwrap().flush {
            *tlb = Tlb::Empty;
            self.cpus.flushed(cpu, generation);
        }
    }

    /// The CPU's handler, where an interrupt is pending.
    fn answer(&self, cpu: CpuId, tlb: &mut Tlb) {
        if self.interrupts[cpu.0].swap(false, Ordering::AcqRel) {
            let generation = self.cpus.newest();
            *tlb = Tlb::Empty;
            self.cpus.flushed(cpu, generation);
        }
    }

    /// A virtual CPU in the guest, twice, on a CPU that remembers the page.
    fn run(&self, cpu: CpuId) {
        let mut tlb = Tlb::Page;
        for _ in 0..2 {
            self.enter(cpu, &mut tlb);
            self.touch(&mut tlb);
            self.answer(cpu, &mut tlb);
            self.touch(&mut tlb);
            self.cpus.leave(cpu).unwrap();
        }
    }

    /// The shootdown.
    fn shoot(&self) {
        let generation = self.cpus.owe();
        for cpu in self.cpus.must_be_told(generation) {
            self.interrupts[cpu.0].store(true, Ordering::Release);
        }
        for cpu in (0..self.cpus.count()).map(CpuId) {
            while self.cpus.owes_inside(cpu, generation) {
                thread::yield_now();
            }
        }
    }

    /// The page goes: out of the tables, out of the TLBs, to the allocator.
    fn unmap(&self) {
        self.mapped.store(false, Ordering::Release);
        self.shoot();
        self.freed.store(true, Ordering::Release);
    }
}

#[test]
fn a_page_is_freed_after_every_cpu_forgot_it() {
    loom::model(|| {
        let world = World::new(1);
        let guest = thread::spawn({
            let world = world.clone();
            move || world.run(CpuId(0))
        });
        world.unmap();
        guest.join().unwrap();
    });
}

#[test]
fn a_cpu_outside_the_guest_is_not_waited_for_and_pays_when_it_enters() {
    loom::model(|| {
        let world = World::new(2);
        let guest = thread::spawn({
            let world = world.clone();
            move || {
                let mut tlb = Tlb::Page;
                world.enter(CpuId(1), &mut tlb);
                world.touch(&mut tlb);
                world.cpus.leave(CpuId(1)).unwrap();
                tlb
            }
        });
        world.unmap();
        let mut tlb = guest.join().unwrap();
        // CPU 0 never entered since, CPU 1 left: the shootdown came back, and both still owe.
        let mut other = Tlb::Page;
        world.enter(CpuId(0), &mut other);
        world.enter(CpuId(1), &mut tlb);
        world.touch(&mut other);
        world.touch(&mut tlb);
    });
}

/// H20: each CPU is now in the guest and now wants the lock, whose holder waits for CPUs in the guest.
#[test]
fn nobody_waits_for_a_cpu_that_waits_for_the_lock() {
    loom::model(|| {
        let world = World::new(2);
        let run = |cpu: CpuId| {
            let world = world.clone();
            move || {
                let mut tlb = Tlb::Empty;
                world.enter(cpu, &mut tlb);
                world.answer(cpu, &mut tlb);
                world.cpus.leave(cpu).unwrap();
                let guard = world.lock.lock().unwrap();
                world.shoot();
                drop(guard);
            }
        };
        let other = thread::spawn(run(CpuId(1)));
        run(CpuId(0))();
        other.join().unwrap();
    });
}

/// Whoever closes the guest finds a CPU inside, or keeps it out.
#[test]
fn a_closed_guest_is_not_entered() {
    loom::model(|| {
        let cpus = Arc::new(Cpus::new(1).unwrap());
        let at_rest = Arc::new(AtomicBool::new(false));
        let guest = thread::spawn({
            let (cpus, at_rest) = (cpus.clone(), at_rest.clone());
            move || {
                for _ in 0..2 {
                    if cpus.enter(CpuId(0), VcpuId(0)).is_ok() {
                        assert!(!at_rest.load(Ordering::Relaxed), "the guest runs");
                        cpus.leave(CpuId(0)).unwrap();
                    }
                }
            }
        });
        if cpus.close().is_ok() {
            at_rest.store(true, Ordering::Relaxed);
            at_rest.store(false, Ordering::Relaxed);
            cpus.open();
        }
        guest.join().unwrap();
    });
}

/// A CPU that cannot forget lets nobody wait, and nothing is freed.
#[test]
fn a_refusal_ends_the_wait() {
    loom::model(|| {
        let world = World::new(1);
        world.cpus.enter(CpuId(0), VcpuId(0)).unwrap();
        let generation = world.cpus.owe();
        let guest = thread::spawn({
            let world = world.clone();
            move || world.cpus.refuse(CpuId(0), world.cpus.newest())
        });
        while world.cpus.owes_inside(CpuId(0), generation) && !world.cpus.refused(CpuId(0), generation) {
            thread::yield_now();
        }
        assert!(world.cpus.owes_inside(CpuId(0), generation));
        guest.join().unwrap();
    });
}
