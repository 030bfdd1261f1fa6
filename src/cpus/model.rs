//! The shootdown in every interleaving of its loads and stores that the memory model allows (H16, H20).
//!
//! Run by `cargo xtask test --only loom`. The stories drive [`Shootdown`] itself. Their hardware is one entry, what each CPU
//! remembers of it, and an interrupt for each CPU, which comes before any of the loads and stores of [`Cpus`](super::Cpus),
//! within [`Shootdown::enter`] too, and there runs [`Shootdown::flush`]. Seen to fail: without the wait for CPUs in the guest,
//! without any of the three fences, where a CPU reports a flush or leaves without release, where a handler reports a
//! generation that it read after its flush, where a CPU does not say that it refused, where the flusher does not look, and
//! where a CPU may report less than it did before. The model checker calls an execution that waits for ever one of too many
//! branches.

use core::{cell::RefCell, ptr::NonNull};
use std::sync::Arc;

use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, spawn},
};

use super::{CpuId, Cpus, VcpuId};
use crate::{
    addr::GuestPhysAddr,
    invalidate::{Content, Invalidate, Reach, Scope, Unreachable},
    shootdown::Shootdown,
};

/// Atomics before each of whose accesses the CPU may be interrupted.
pub(crate) mod interrupted {
    use loom::sync::atomic::{self, Ordering};

    use super::take_interrupt;

    pub(crate) struct AtomicBool(atomic::AtomicBool);

    pub(crate) struct AtomicU64(atomic::AtomicU64);

    pub(crate) fn fence(order: Ordering) {
        take_interrupt();
        atomic::fence(order);
    }

    impl AtomicBool {
        pub(crate) fn new(value: bool) -> Self {
            Self(atomic::AtomicBool::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> bool {
            take_interrupt();
            self.0.load(order)
        }

        pub(crate) fn store(&self, value: bool, order: Ordering) {
            take_interrupt();
            self.0.store(value, order);
        }
    }

    impl AtomicU64 {
        pub(crate) fn new(value: u64) -> Self {
            Self(atomic::AtomicU64::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            take_interrupt();
            self.0.load(order)
        }

        pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            take_interrupt();
            self.0.fetch_add(value, order)
        }

        pub(crate) fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
            take_interrupt();
            self.0.fetch_max(value, order)
        }
    }
}

loom::thread_local! {
    /// The CPU that the thread is, while it takes interrupts.
    static THIS: RefCell<Option<(Arc<World>, CpuId)>> = RefCell::new(None);
}

/// The CPU's handler, where an interrupt is pending.
fn take_interrupt() {
    let Some((world, cpu)) = THIS.with(|this| this.borrow().clone()) else { return };
    // Relaxed: where none is seen, nothing is learnt of the CPU that may have sent one.
    if world.hardware.interrupts[cpu.0].load(Ordering::Relaxed) {
        world.hardware.interrupts[cpu.0].swap(false, Ordering::AcqRel);
        // A handler is not interrupted itself.
        THIS.with(|this| this.borrow_mut().take());
        let _ = world.shootdown.flush(cpu);
        THIS.with(|this| *this.borrow_mut() = Some((world, cpu)));
    }
}

// SAFETY: the cell's contents are nothing, and the model checker looks at every access to it.
#[allow(unsafe_code, reason = "the model checker's cell")]
unsafe impl Sync for Hardware {}

/// A page, the entry that maps it, and what CPUs have of it.
struct Hardware {
    mapped: AtomicBool,
    freed: AtomicBool,
    /// What is in the page. The model checker sees accesses to it that nothing orders.
    page: UnsafeCell<()>,
    interrupts: [AtomicBool; 2],
    /// Whether a CPU remembers the entry: only it looks there, so that there is nothing to interleave.
    remembers: [core::sync::atomic::AtomicBool; 2],
    /// The CPUs refuse to forget.
    refuses: core::sync::atomic::AtomicBool,
    has_refused: core::sync::atomic::AtomicBool,
}

impl Hardware {
    fn remember(&self, cpu: CpuId, what: bool) {
        self.remembers[cpu.0].store(what, Ordering::Relaxed);
    }

    /// A CPU that does not remember the entry looks at it, because the guest needs it or by speculation.
    fn walk(&self, cpu: CpuId) -> bool {
        let found = self.remembers[cpu.0].load(Ordering::Relaxed) || self.mapped.load(Ordering::Relaxed);
        self.remember(cpu, found);
        found
    }

    /// The guest touches the page.
    fn touch(&self, cpu: CpuId) {
        if self.walk(cpu) {
            assert!(!self.freed.load(Ordering::Relaxed), "the guest reaches a page that was freed");
            self.page.with(|_| ());
        }
    }
}

/// The CPUs' instructions.
struct Instructions(Arc<Hardware>);

impl Invalidate<()> for Instructions {
    fn reach(&self) -> Reach {
        Reach::ThisCpu
    }

    fn publish(&self) {}

    fn invalidate(&self, (): (), _: Scope) {
        unreachable!("others are interrupted");
    }

    fn invalidate_all(&self, (): ()) {
        unreachable!("`flush` may fail");
    }

    fn flush(&self, (): (), cpu: CpuId) -> Result<(), Unreachable> {
        take_interrupt();
        if self.0.refuses.load(Ordering::Relaxed) {
            self.0.has_refused.store(true, Ordering::Relaxed);
            return Err(Unreachable(cpu));
        }
        self.0.remember(cpu, false);
        take_interrupt();
        // The guest's tables are active: the CPU may walk them at any time.
        self.0.walk(cpu);
        Ok(())
    }

    fn invalidate_denial(&self, (): (), _: GuestPhysAddr) {}

    fn switch_vcpu(&self, (): ()) {}

    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        // Release: the handler sees what the sender did.
        cpus.for_each(|cpu| self.0.interrupts[cpu.0].store(true, Ordering::Release));
        Ok(())
    }

    fn synchronize(&self, _: NonNull<u8>, _: usize, _: Content) {}

    fn activate(&self, (): ()) {}
}

struct World {
    hardware: Arc<Hardware>,
    shootdown: Shootdown<Instructions, ()>,
    lock: Mutex<()>,
}

impl World {
    /// `count` CPUs that owe nothing and remember the page: each was in the guest before.
    fn new(count: usize) -> Arc<Self> {
        let hardware = Arc::new(Hardware {
            mapped: AtomicBool::new(true),
            freed: AtomicBool::new(false),
            page: UnsafeCell::new(()),
            interrupts: [AtomicBool::new(false), AtomicBool::new(false)],
            remembers: Default::default(),
            refuses: Default::default(),
            has_refused: Default::default(),
        });
        let shootdown = Shootdown::new(Instructions(hardware.clone()), (), Cpus::new(count).unwrap());
        let world = Arc::new(Self { hardware, shootdown, lock: Mutex::new(()) });
        for cpu in (0..count).map(CpuId) {
            assert!(world.enter(cpu));
            world.hardware.touch(cpu);
            world.leave(cpu);
        }
        world
    }

    /// Whether the CPU is in the guest.
    fn enter(&self, cpu: CpuId) -> bool {
        matches!(self.shootdown.enter(cpu, VcpuId(0)), Ok(Ok(())))
    }

    fn leave(&self, cpu: CpuId) {
        assert!(self.shootdown.leave(cpu), "the model has this CPU");
    }

    /// A virtual CPU in the guest.
    fn run(&self, cpu: CpuId) {
        if self.enter(cpu) {
            self.hardware.touch(cpu);
            take_interrupt();
            self.hardware.touch(cpu);
            self.leave(cpu);
        }
    }

    /// The page goes: out of the tables, out of the TLBs, to the allocator. Whether it did.
    fn unmap(&self) -> bool {
        self.hardware.mapped.store(false, Ordering::Release);
        let forgotten = self.shootdown.invalidate_all().is_ok();
        if forgotten {
            self.hardware.freed.store(true, Ordering::Release);
            self.hardware.page.with_mut(|_| ());
        }
        forgotten
    }
}

/// A thread that is the CPU.
fn on(cpu: usize, world: &Arc<World>, job: impl FnOnce(&World, CpuId) + 'static) -> JoinHandle<()> {
    let world = world.clone();
    spawn(move || as_cpu(cpu, &world, job))
}

/// What this thread does as the CPU.
fn as_cpu(cpu: usize, world: &Arc<World>, job: impl FnOnce(&World, CpuId)) {
    THIS.with(|this| *this.borrow_mut() = Some((world.clone(), CpuId(cpu))));
    job(world, CpuId(cpu));
    THIS.with(|this| this.borrow_mut().take());
}

/// How often the model changes threads where it need not, in one execution.
const PREEMPTIONS: usize = 3;

fn model(story: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.check(story);
}

#[test]
fn a_page_is_freed_after_every_cpu_forgot_it() {
    model(|| {
        let world = World::new(1);
        let guest = on(0, &world, |world, cpu| {
            world.run(cpu);
            world.run(cpu);
        });
        assert!(world.unmap());
        guest.join().unwrap();
    });
}

/// The interrupt of an invalidation that the CPU answered as it entered comes late, and meets the next invalidation.
#[test]
fn a_late_interrupt_answers_for_no_later_invalidation() {
    model(|| {
        let world = World::new(1);
        let guest = on(0, &world, World::run);
        world.shootdown.invalidate_all().unwrap();
        assert!(world.unmap());
        guest.join().unwrap();
    });
}

/// The interrupt comes while the CPU pays an earlier flush as it enters: what it reports then is less than what the handler
/// reported.
#[test]
fn a_cpu_that_stays_in_the_guest_is_not_waited_for_twice() {
    model(|| {
        let world = World::new(1);
        world.shootdown.invalidate_all().unwrap();
        let guest = on(0, &world, |world, cpu| {
            assert!(world.enter(cpu));
            while !world.hardware.freed.load(Ordering::Relaxed) {
                loom::hint::spin_loop();
                take_interrupt();
            }
            world.leave(cpu);
        });
        assert!(world.unmap());
        guest.join().unwrap();
    });
}

#[test]
fn a_cpu_outside_the_guest_is_not_waited_for_and_pays_when_it_enters() {
    model(|| {
        let world = World::new(2);
        let guest = on(1, &world, World::run);
        assert!(world.unmap());
        guest.join().unwrap();
        // CPU 0 never entered since, CPU 1 left: the shootdown came back, and both still owe.
        as_cpu(0, &world, World::run);
        as_cpu(1, &world, World::run);
    });
}

/// H20: each CPU is in the guest and then asks for the lock, whose holder waits for CPUs in the guest.
#[test]
fn no_flusher_waits_for_a_cpu_that_waits_for_the_lock() {
    model(|| {
        let world = World::new(2);
        let job = |world: &World, cpu| {
            world.run(cpu);
            let held = world.lock.lock().unwrap();
            world.shootdown.invalidate_all().unwrap();
            drop(held);
        };
        let other = on(1, &world, job);
        as_cpu(0, &world, job);
        other.join().unwrap();
    });
}

/// The CPU that closes the guest finds a CPU inside, or keeps it out.
#[test]
fn a_closed_guest_is_not_entered() {
    model(|| {
        let world = World::new(1);
        let at_rest = Arc::new(AtomicBool::new(false));
        let guest = on(0, &world, {
            let at_rest = at_rest.clone();
            move |world, cpu| {
                for _ in 0..2 {
                    if world.enter(cpu) {
                        assert!(!at_rest.load(Ordering::Relaxed), "the guest runs");
                        world.leave(cpu);
                    }
                }
            }
        });
        if world.shootdown.close().is_ok() {
            at_rest.store(true, Ordering::Relaxed);
            at_rest.store(false, Ordering::Relaxed);
            world.shootdown.open();
        }
        guest.join().unwrap();
    });
}

/// A CPU that cannot forget lets no flusher wait, and nothing is freed that it may reach.
#[test]
fn a_refusal_ends_the_wait_and_frees_nothing() {
    model(|| {
        let world = World::new(1);
        assert!(world.enter(CpuId(0)));
        world.hardware.refuses.store(true, Ordering::Relaxed);
        let guest = on(0, &world, |world, cpu| {
            world.hardware.touch(cpu);
            while !world.hardware.has_refused.load(Ordering::Relaxed) {
                loom::hint::spin_loop();
                take_interrupt();
            }
            world.hardware.touch(cpu);
        });
        assert!(!world.unmap(), "the CPU did not forget");
        guest.join().unwrap();
    });
}

/// Either it is told that it may not enter, or it owes nothing.
#[test]
fn a_cpu_that_refuses_as_it_enters_is_not_waited_for() {
    model(|| {
        let world = World::new(1);
        world.hardware.refuses.store(true, Ordering::Relaxed);
        let guest = on(0, &world, |world, cpu| {
            if world.enter(cpu) {
                world.hardware.touch(cpu);
                world.leave(cpu);
            }
        });
        world.unmap();
        guest.join().unwrap();
        assert_eq!(world.shootdown.inside(), None);
    });
}
