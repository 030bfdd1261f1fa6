//! Spaces of each kind of tables, on CPUs whose instructions cost nothing, and what every bench does with one.

use std::marker::PhantomData;

use memory_addr::PAGE_SIZE_4K;
use stage2::{
    Access, Cause, Config, CpuId, Fault, Frames, GuestPhysAddr, GuestPhysRange, GuestSpace, LeafPolicy, Limits,
    Mapping, MappingFlags, Origin, Outcome, PhysAddr, Platform, Populate, aarch64,
    format::Format,
    invalidate::{Invalidate, Unreachable},
    lock::LockFamily,
    x86_64::ept,
};

/// A guest may read.
pub const READ: MappingFlags = MappingFlags::READ;
/// A guest may read and write.
pub const READ_WRITE: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

/// Where the guest's memory is: a multiple of every block's size.
pub const BASE: usize = 1 << 30;
/// Where a linear mapping leads: to no multiple of a block's size, so that it takes pages.
pub const TARGET: usize = (4 << 30) + PAGE_SIZE_4K;
/// How many pages 1 GiB has.
pub const GIB_PAGES: usize = (1 << 30) / PAGE_SIZE_4K;

/// Private memory in pages, each when it is first touched.
pub const LAZY: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
/// Private memory in pages, all at once.
pub const POPULATED: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };

/// A kind of tables, and the CPUs that walk them.
pub trait Kind: 'static {
    /// What a table of results calls it.
    const NAME: &'static str;
    /// The tables.
    type Format: Format;
    /// How the CPUs are made to forget.
    type Invalidate: Invalidate<<Self::Format as Format>::Root> + Clone;

    /// The tables of a space.
    fn format() -> Self::Format;

    /// How its CPUs are made to forget.
    fn invalidate() -> Self::Invalidate;
}

/// A CPU that does nothing when it is told to.
#[derive(Clone, Copy)]
pub struct Idle;

impl ept::Executor for Idle {
    #[inline]
    fn execute(&self, _: ept::Op) -> Result<(), ept::VmFail> {
        Ok(())
    }
}

impl ept::Interrupt for Idle {
    fn interrupt(&self, _: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        Ok(())
    }
}

impl aarch64::Executor for Idle {
    #[inline]
    fn execute(&self, _: aarch64::Op) {}

    #[inline]
    fn vttbr(&self) -> u64 {
        1 << 48
    }

    #[inline]
    fn vtcr(&self) -> u64 {
        // The space's own, which is active.
        0x8005_3558
    }

    #[inline]
    fn hcr(&self) -> u64 {
        0
    }

    #[inline]
    fn stage1(&self) -> aarch64::Stage1 {
        aarch64::Stage1 { tcr: 0, sctlr: 0 }
    }

    #[inline]
    fn mask_interrupts(&self) -> u64 {
        0
    }

    #[inline]
    fn restore_interrupts(&self, _: u64) {}
}

/// EPT of four levels, on CPUs without errata.
pub struct Ept;

impl Ept {
    fn capabilities() -> ept::Capabilities {
        let registers = ept::Registers { ept_vpid_cap: 0xf01_0673_4141, arch_capabilities: 0x41, physical_bits: 46 };
        ept::Capabilities::from_registers(registers)
    }
}

impl Kind for Ept {
    const NAME: &'static str = "EPT";
    type Format = ept::Ept;
    type Invalidate = ept::Tlb<Idle, Idle>;

    fn format() -> ept::Ept {
        ept::Ept::new(&Self::capabilities(), ept::Depth::Four).expect("the CPU can")
    }

    fn invalidate() -> Self::Invalidate {
        ept::Tlb::new(Self::capabilities(), Idle, Idle)
    }
}

/// Stage 2 with addresses of 40 bits, on CPUs that keep their caches coherent (`FEAT_S2FWB`, IDC, DIC) and set the
/// dirty state if they are told to.
fn arm_capabilities() -> aarch64::Capabilities {
    let registers = aarch64::IdRegisters {
        mmfr0: 0x5,
        mmfr1: 0x2,
        mmfr2: 1 << 40,
        ctr: 0x3004_0004,
        ..aarch64::IdRegisters::default()
    };
    aarch64::Capabilities::from_registers(registers)
}

fn arm_format() -> aarch64::Stage2 {
    aarch64::Stage2::new(&arm_capabilities(), 40, aarch64::Vmid(1)).expect("the CPU can")
}

/// Stage 2 of `AArch64`; the hypervisor notes which leaves were used.
pub struct Arm;

impl Kind for Arm {
    const NAME: &'static str = "AArch64";
    type Format = aarch64::Stage2;
    type Invalidate = aarch64::Tlb<Idle>;

    fn format() -> aarch64::Stage2 {
        arm_format()
    }

    fn invalidate() -> Self::Invalidate {
        aarch64::Tlb::new(arm_capabilities(), Idle)
    }
}

/// The same; the CPU notes which leaves were used and written.
pub struct ArmDirty;

impl Kind for ArmDirty {
    const NAME: &'static str = "AArch64, dirty state";
    type Format = aarch64::Stage2;
    type Invalidate = aarch64::Tlb<Idle>;

    fn format() -> aarch64::Stage2 {
        arm_format().with_tracking(aarch64::Tracking::DirtyState).expect("the CPU can")
    }

    fn invalidate() -> Self::Invalidate {
        Arm::invalidate()
    }
}

/// A platform with a kind of tables and an allocator.
pub struct Machine<K, F>(PhantomData<fn() -> (K, F)>);

impl<K: Kind, F: Frames> Platform for Machine<K, F> {
    type Format = K::Format;
    type Frames = F;
    type Invalidate = K::Invalidate;
}

/// A space of it, behind the lock that is the crate's own choice.
pub type Space<K, F> = GuestSpace<Machine<K, F>>;

/// A space in which nothing is mapped, for so many CPUs.
pub fn space_of<K: Kind, F: Frames, L: LockFamily>(frames: F, cpus: usize) -> GuestSpace<Machine<K, F>, L> {
    let (format, invalidate) = (K::format(), K::invalidate());
    let config = Config { format, frames, invalidate, cpus, limits: Limits::default() };
    GuestSpace::new(config).expect("there is memory")
}

/// A linear mapping of what lies from page `page` of [`BASE`] on.
#[must_use]
pub fn linear(page: usize) -> Mapping {
    Mapping::Linear { to: PhysAddr::from_usize(TARGET + page * PAGE_SIZE_4K) }
}

/// The address of a page.
#[must_use]
pub fn page(index: usize) -> GuestPhysAddr {
    GuestPhysAddr::from_usize(BASE + index * PAGE_SIZE_4K)
}

/// `count` pages from page `first` on.
#[must_use]
pub fn pages_at(first: usize, count: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(page(first), count * PAGE_SIZE_4K)
}

/// A guest's access to a page that has no translation.
#[must_use]
pub fn touch(index: usize, access: Access) -> Fault {
    Fault { gpa: page(index), access, cause: Cause::Translation, origin: Origin::Instruction }
}

/// A guest's store to such a page, answered.
pub fn fault<P: Platform, L: LockFamily>(space: &GuestSpace<P, L>, cpu: usize, index: usize) -> Outcome {
    space.fault(CpuId(cpu), touch(index, Access::Write)).expect("there is memory")
}

/// Numbers below `limit`, in an order that no CPU guesses (Marsaglia's xorshift).
#[must_use]
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

/// Every number below `limit` once, likewise; the first `count` of them.
#[must_use]
pub fn shuffled(count: usize, limit: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..limit).collect();
    for (place, other) in scattered(limit, limit).into_iter().enumerate() {
        numbers.swap(place, other);
    }
    numbers.truncate(count);
    numbers
}
