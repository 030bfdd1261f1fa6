//! Invalidation everywhere: the architecture's operations, and the CPUs that they do not reach.

use core::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(loom))]
use core::hint::spin_loop;
#[cfg(loom)]
use loom::hint::spin_loop;

use crate::{
    cpu_id::{CpuId, VcpuId},
    cpus::{Barred, Cpus, Generation},
    invalidate::{Invalidate, Invalidations, Reach, Scope, Unreachable},
};

/// One space's way to make CPUs forget.
pub(crate) struct Shootdown<I, R> {
    invalidate: I,
    root: R,
    cpus: Cpus,
    counters: Counters,
}

/// How often the CPUs were asked to forget, by kind.
#[derive(Default)]
struct Counters {
    ranges: AtomicU64,
    all: AtomicU64,
    denials: AtomicU64,
}

impl<R: Copy, I: Invalidate<R>> Shootdown<I, R> {
    /// For the CPUs `cpus`; forgets whatever a former user of the root's identifier left (H6). Where an invalidation
    /// does not reach every CPU, each owes its first flush until it enters (H16).
    pub(crate) fn new(invalidate: I, root: R, cpus: Cpus) -> Self {
        if invalidate.reach() == Reach::Everywhere {
            invalidate.invalidate_all(root);
        }
        Self { invalidate, root, cpus, counters: Counters::default() }
    }

    /// The architecture's operations.
    pub(crate) fn operations(&self) -> &I {
        &self.invalidate
    }

    /// The registers' values.
    pub(crate) fn root(&self) -> R {
        self.root
    }

    /// Publishes, and makes every CPU forget what it cached of `scope`.
    ///
    /// # Errors
    /// A CPU in the guest could not be told.
    pub(crate) fn invalidate(&self, scope: Scope) -> Result<(), Unreachable> {
        self.counters.ranges.fetch_add(1, Ordering::Relaxed);
        match self.invalidate.reach() {
            Reach::Everywhere => {
                self.invalidate.invalidate(self.root, scope);
                Ok(())
            }
            Reach::ThisCpu => self.shoot(),
        }
    }

    /// Makes every CPU forget everything of this space.
    ///
    /// # Errors
    /// A CPU in the guest could not be told.
    pub(crate) fn invalidate_all(&self) -> Result<(), Unreachable> {
        self.counters.all.fetch_add(1, Ordering::Relaxed);
        match self.invalidate.reach() {
            Reach::Everywhere => {
                self.invalidate.invalidate_all(self.root);
                Ok(())
            }
            Reach::ThisCpu => self.shoot(),
        }
    }

    /// Has the CPUs in the guest flush now; the others, this one too, owe it until they enter.
    fn shoot(&self) -> Result<(), Unreachable> {
        self.invalidate.publish();
        let generation = self.cpus.owe();
        if self.cpus.must_be_told(generation).next().is_none() {
            return Ok(());
        }
        self.invalidate.interrupt(&mut self.cpus.must_be_told(generation))?;
        for cpu in (0..self.cpus.count()).map(CpuId) {
            while self.cpus.owes_inside(cpu, generation) {
                if self.cpus.refused(cpu, generation) {
                    return Err(Unreachable(cpu));
                }
                spin_loop();
            }
        }
        Ok(())
    }

    /// The flush executor: what an interrupted CPU runs, and the only thing that may run in a handler (H21).
    ///
    /// # Errors
    /// The CPU refused.
    pub(crate) fn flush(&self, cpu: CpuId) -> Result<(), Unreachable> {
        self.pay(cpu, self.cpus.newest())
    }

    /// Flushes this CPU, on behalf of everything up to `generation`.
    fn pay(&self, cpu: CpuId, generation: Generation) -> Result<(), Unreachable> {
        match self.invalidate.flush(self.root, cpu) {
            Ok(()) => {
                self.cpus.flushed(cpu, generation);
                Ok(())
            }
            Err(unreachable) => {
                // The flusher that waits for this CPU must not wait for ever.
                self.cpus.refuse(cpu, generation);
                Err(unreachable)
            }
        }
    }

    /// This CPU is about to run the guest.
    ///
    /// # Errors
    /// It is barred, or refused to flush: it is not in the guest.
    pub(crate) fn enter(&self, cpu: CpuId, vcpu: VcpuId) -> Result<Result<(), Unreachable>, Barred> {
        let owed = self.cpus.enter(cpu, vcpu)?;
        if let (Reach::ThisCpu, Some(generation)) = (self.invalidate.reach(), owed.flush)
            && let Err(unreachable) = self.pay(cpu, generation)
        {
            self.cpus.leave(cpu);
            return Ok(Err(unreachable));
        }
        if owed.other_vcpu {
            self.invalidate.switch_vcpu(self.root);
        }
        Ok(Ok(()))
    }

    /// This CPU is out of the guest: whether there is such a CPU.
    pub(crate) fn leave(&self, cpu: CpuId) -> bool {
        self.cpus.leave(cpu)
    }

    /// Lets no CPU enter from now on.
    ///
    /// # Errors
    /// With a CPU that is in the guest: all may go on entering.
    pub(crate) fn close(&self) -> Result<(), CpuId> {
        self.cpus.close()
    }

    /// Lets CPUs enter again.
    pub(crate) fn open(&self) {
        self.cpus.open();
    }

    /// A CPU that is in the guest.
    pub(crate) fn inside(&self) -> Option<CpuId> {
        self.cpus.inside()
    }

    /// This CPU took a permission fault that the entry does not justify any more.
    pub(crate) fn invalidate_denial(&self, gpa: crate::addr::GuestPhysAddr) {
        self.counters.denials.fetch_add(1, Ordering::Relaxed);
        self.invalidate.invalidate_denial(self.root, gpa);
    }

    /// How often the CPUs were asked to forget, by kind, since the space was made.
    pub(crate) fn counts(&self) -> Invalidations {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Invalidations {
            ranges: read(&self.counters.ranges),
            all: read(&self.counters.all),
            denials: read(&self.counters.denials),
        }
    }
}
