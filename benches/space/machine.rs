//! A space on a CPU whose instructions cost nothing, and the few things that every bench does with one.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use memory_addr::PAGE_SIZE_4K;
use stage2::{
    Access, Cause, Config, CpuId, Fault, GuestPhysAddr, GuestPhysRange, GuestSpace, LeafPolicy, Limits, Mapping,
    MappingFlags, Origin, PhysAddr, Platform, Populate,
    aarch64::{Capabilities, Executor, IdRegisters, Op, Stage1, Stage2, Tlb, Vmid},
};

use crate::pool::Pool;

pub const READ: MappingFlags = MappingFlags::READ;
pub const READ_WRITE: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

/// Where the guest's memory is: a multiple of every block's size.
pub const BASE: usize = 1 << 30;
/// Where a linear mapping leads: to no multiple of a block's size, so that it takes pages.
pub const TARGET: usize = (4 << 30) + PAGE_SIZE_4K;
/// How many pages 1 GiB has.
pub const GIB_PAGES: usize = (1 << 30) / PAGE_SIZE_4K;

pub const LAZY: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
pub const POPULATED: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };

thread_local! {
    static OPERATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts what a CPU would do, on the thread that stands for it.
#[derive(Clone)]
pub struct Counting;

impl Executor for Counting {
    fn execute(&self, _: Op) {
        OPERATIONS.set(OPERATIONS.get() + 1);
    }

    fn vttbr(&self) -> u64 {
        1 << 48
    }

    fn vtcr(&self) -> u64 {
        // The space's own, which is active.
        0x8005_3558
    }

    fn hcr(&self) -> u64 {
        0
    }

    fn stage1(&self) -> Stage1 {
        Stage1 { tcr: 0, sctlr: 0 }
    }

    fn mask_interrupts(&self) -> u64 {
        0
    }

    fn restore_interrupts(&self, _: u64) {}
}

/// How many operations this thread's CPU was asked for so far.
pub fn operations() -> u64 {
    OPERATIONS.get()
}

pub struct Bench;

impl Platform for Bench {
    type Format = Stage2;
    type Frames = Pool;
    type Invalidate = Tlb<Counting>;
}

pub type Space = GuestSpace<Bench>;

/// Those of CPUs that keep their caches coherent (`FEAT_S2FWB`, IDC, DIC).
pub fn capabilities() -> Capabilities {
    let registers = IdRegisters { mmfr0: 0x5, mmfr2: 1 << 40, ctr: 0x3004_0004, ..IdRegisters::default() };
    Capabilities::from_registers(registers)
}

/// A space of 40-bit addresses on CPUs that keep their caches coherent (`FEAT_S2FWB`, IDC, DIC).
pub fn space() -> Space {
    let capabilities = capabilities();
    let config = Config {
        format: Stage2::new(&capabilities, 40, Vmid(1)).expect("the CPU can"),
        frames: Pool,
        invalidate: Tlb::new(capabilities, Counting),
        cpus: 2,
        limits: Limits::default(),
    };
    GuestSpace::new(config).expect("there is memory")
}

/// A space with `pages` pages at [`BASE`].
pub fn mapped(mapping: Mapping, pages: usize) -> Space {
    let space = space();
    space.map(pages_at(0, pages), mapping, READ_WRITE).expect("nothing is there");
    space
}

/// A linear mapping of what lies from page `page` of [`BASE`] on.
pub fn linear(page: usize) -> Mapping {
    Mapping::Linear { to: PhysAddr::from_usize(TARGET + page * PAGE_SIZE_4K) }
}

/// The address of a page.
pub fn page(index: usize) -> GuestPhysAddr {
    GuestPhysAddr::from_usize(BASE + index * PAGE_SIZE_4K)
}

/// `count` pages from page `first` on.
pub fn pages_at(first: usize, count: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(page(first), count * PAGE_SIZE_4K)
}

/// A guest's store to a page that has no translation.
pub fn store_to(index: usize) -> Fault {
    Fault { gpa: page(index), access: Access::Write, cause: Cause::Translation, origin: Origin::Instruction }
}

/// The fault, answered.
pub fn fault(space: &Space, cpu: usize, index: usize) -> stage2::Outcome {
    space.fault(CpuId(cpu), store_to(index)).expect("there is memory")
}

/// Times `operation` on what `prepare` made each time, and nothing else.
pub fn each<T>(mut prepare: impl FnMut() -> T, mut operation: impl FnMut(&mut T)) -> impl FnMut(u64) -> Duration {
    move |iterations| {
        let one = |_| {
            let mut subject = prepare();
            let started = Instant::now();
            operation(&mut subject);
            started.elapsed()
        };
        (0..iterations).map(one).sum()
    }
}

/// Times `operation`, which leaves everything so that it can be done again, with the number of its turn.
pub fn again<R>(mut operation: impl FnMut(usize) -> R) -> impl FnMut(u64) -> Duration {
    move |iterations| {
        let started = Instant::now();
        for turn in 0..iterations as usize {
            std::hint::black_box(operation(turn));
        }
        started.elapsed()
    }
}

/// Which half of a round is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Operation,
    Undo,
}

/// Times one part of rounds of up to `most` turns: `operation` of all of them, then `undo` of all of them.
pub fn rounds(
    most: usize,
    timed: Part,
    mut operation: impl FnMut(usize),
    mut undo: impl FnMut(usize),
) -> impl FnMut(u64) -> Duration {
    move |iterations| {
        let (mut left, mut total) = (iterations as usize, Duration::ZERO);
        while left > 0 {
            let turns = left.min(most);
            let started = Instant::now();
            (0..turns).for_each(&mut operation);
            let turned = Instant::now();
            (0..turns).for_each(&mut undo);
            total += if timed == Part::Operation { turned - started } else { turned.elapsed() };
            left -= turns;
        }
        total
    }
}

/// Numbers below `limit`, in an order that no CPU guesses (Marsaglia's xorshift).
pub fn scattered(count: usize, limit: usize) -> Vec<usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize % limit
    };
    (0..count).map(next).collect()
}
