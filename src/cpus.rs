//! Which CPUs are in the guest, and what each must forget before it enters again (H6, H16, H20).
//!
//! On machines whose invalidations reach every CPU this file only tells two virtual CPUs on one CPU apart. On the
//! others it is the shootdown: the flusher waits for CPUs *in the guest* alone; any other owes the flush and pays it
//! in [`Cpus::enter`].

use alloc::{boxed::Box, vec::Vec};
use core::sync::atomic::{self, Ordering};

#[cfg(all(test, loom))]
use self::model::interrupted::{AtomicBool, AtomicU64, fence};
#[cfg(not(all(test, loom)))]
use core::sync::atomic::{AtomicBool, AtomicU64, fence};

use crate::cpu_id::{CpuId, VcpuId};

/// The CPUs of a space.
pub(crate) struct Cpus {
    /// The newest flush that every CPU must make. A CPU that never entered owes the first.
    generation: AtomicU64,
    /// Whether no CPU may enter.
    closed: AtomicBool,
    all: Box<[Cpu]>,
}

/// One CPU, on cache lines of its own.
#[repr(align(128))]
struct Cpu {
    in_guest: AtomicBool,
    /// The newest flush that it has made.
    flushed: AtomicU64,
    /// The newest flush that it was asked for and failed to make.
    refused: AtomicU64,
    // Only the CPU itself accesses these two: there is no order for a model to vary.
    /// Whether it ran the guest yet.
    has_run: atomic::AtomicBool,
    /// The virtual CPU that ran last.
    vcpu: atomic::AtomicUsize,
}

/// Why a CPU may not run the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barred {
    /// There is no such CPU.
    NoSuchCpu,
    /// No CPU may.
    Closed,
}

/// What a CPU must do before it runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owed {
    /// The flush to make, and then to report by [`Cpus::flushed`].
    pub flush: Option<Generation>,
    /// Whether another virtual CPU of the space ran here last.
    pub other_vcpu: bool,
}

/// The number of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(u64);

impl Cpus {
    /// `count` CPUs, none of them in the guest, each owing its first flush.
    pub(crate) fn new(count: usize) -> Option<Self> {
        let mut all = Vec::new();
        all.try_reserve_exact(count).ok()?;
        all.extend((0..count).map(|_| Cpu {
            in_guest: AtomicBool::new(false),
            flushed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            has_run: atomic::AtomicBool::new(false),
            vcpu: atomic::AtomicUsize::new(0),
        }));
        Some(Self { generation: AtomicU64::new(1), closed: AtomicBool::new(false), all: all.into_boxed_slice() })
    }

    /// The CPU is about to run the guest, unless it is barred.
    pub(crate) fn enter(&self, cpu: CpuId, vcpu: VcpuId) -> Result<Owed, Barred> {
        let this = self.all.get(cpu.0).ok_or(Barred::NoSuchCpu)?;
        this.in_guest.store(true, Ordering::Relaxed);
        // Orders the store above before the loads below. Without it both this CPU could miss the flusher's
        // generation and the flusher miss this CPU (H20); likewise where the space is closed.
        fence(Ordering::SeqCst);
        // Acquire: what was done while it was closed is over.
        if self.closed.load(Ordering::Acquire) {
            this.in_guest.store(false, Ordering::Release);
            return Err(Barred::Closed);
        }
        // Acquire: a CPU that flushes for a generation sees the entries that were written before it.
        let generation = self.generation.load(Ordering::Acquire);
        // Relaxed: only this CPU reports its flushes.
        let flush = (this.flushed.load(Ordering::Relaxed) < generation).then_some(Generation(generation));
        Ok(Owed { flush, other_vcpu: this.changes_vcpu(vcpu) })
    }

    /// The CPU is out of the guest: whether there is such a CPU.
    ///
    /// Release: what the guest did on this CPU comes before what is done by a CPU that sees it outside.
    pub(crate) fn leave(&self, cpu: CpuId) -> bool {
        let this = self.all.get(cpu.0);
        this.inspect(|this| this.in_guest.store(false, Ordering::Release)).is_some()
    }

    /// Lets no CPU enter from now on, if none is in the guest; else the first that is. One at a time.
    pub(crate) fn close(&self) -> Result<(), CpuId> {
        // Looked at before, so that no CPU is barred where closing fails anyway.
        self.inside().map_or(Ok(()), Err)?;
        self.closed.store(true, Ordering::Relaxed);
        // Orders the store before the reads of `in_guest`: the other half of `enter`'s fence.
        fence(Ordering::SeqCst);
        let inside = self.inside();
        if inside.is_some() {
            self.open();
        }
        inside.map_or(Ok(()), Err)
    }

    /// Lets CPUs enter again. Release: what was done meanwhile is over.
    pub(crate) fn open(&self) {
        self.closed.store(false, Ordering::Release);
    }

    /// What an interrupted CPU flushes: everything up to here. Acquire: as in `enter`.
    pub(crate) fn newest(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// The CPU has made a flush that began after `generation` was read. Release: it comes before what is freed then.
    ///
    /// The larger of two numbers counts: an interrupt in the midst of `enter` may have reported a later flush.
    pub(crate) fn flushed(&self, cpu: CpuId, generation: Generation) {
        if let Some(this) = self.all.get(cpu.0) {
            this.flushed.fetch_max(generation.0, Ordering::Release);
        }
    }

    /// The CPU tried to make a flush up to `generation`, and could not.
    pub(crate) fn refuse(&self, cpu: CpuId, generation: Generation) {
        if let Some(this) = self.all.get(cpu.0) {
            this.refused.fetch_max(generation.0, Ordering::Release);
        }
    }

    /// Whether the CPU tried to make the flush, and could not.
    pub(crate) fn refused(&self, cpu: CpuId, generation: Generation) -> bool {
        self.all.get(cpu.0).is_some_and(|this| this.refused.load(Ordering::Acquire) >= generation.0)
    }

    /// Every CPU owes a flush from now on.
    #[inline]
    pub(crate) fn owe(&self) -> Generation {
        // Release: the entries that were written before come before the flush for this generation.
        let generation = self.generation.fetch_add(1, Ordering::Release) + 1;
        // Orders the bump before the reads of `in_guest` in `must_be_told`: the other half of `enter`'s fence.
        fence(Ordering::SeqCst);
        Generation(generation)
    }

    /// The CPUs that are in the guest and have not made the flush.
    #[inline]
    pub(crate) fn must_be_told(&self, generation: Generation) -> impl Iterator<Item = CpuId> {
        let owing = self.all.iter().enumerate().filter(move |(_, cpu)| cpu.owes_inside(generation));
        owing.map(|(number, _)| CpuId(number))
    }

    /// Whether the CPU is in the guest and has not made the flush.
    pub(crate) fn owes_inside(&self, cpu: CpuId, generation: Generation) -> bool {
        self.all.get(cpu.0).is_some_and(|this| this.owes_inside(generation))
    }

    /// The first CPU that is in the guest.
    pub(crate) fn inside(&self) -> Option<CpuId> {
        self.all.iter().position(|cpu| cpu.in_guest.load(Ordering::Acquire)).map(CpuId)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.len()
    }
}

impl Cpu {
    /// Whether the CPU is in the guest and has not made the flush.
    #[inline]
    fn owes_inside(&self, generation: Generation) -> bool {
        self.in_guest.load(Ordering::Acquire) && self.flushed.load(Ordering::Acquire) < generation.0
    }

    /// The CPU is about to run `vcpu`: whether another one ran here last.
    fn changes_vcpu(&self, vcpu: VcpuId) -> bool {
        let before = self.vcpu.load(Ordering::Relaxed);
        self.vcpu.store(vcpu.0, Ordering::Relaxed);
        let has_run = self.has_run.load(Ordering::Relaxed);
        self.has_run.store(true, Ordering::Relaxed);
        has_run && before != vcpu.0
    }
}

#[cfg(all(test, loom))]
pub(crate) mod model;
