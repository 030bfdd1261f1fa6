//! The words that the scenarios are told in.

use core::sync::atomic::{AtomicBool, Ordering};

pub(crate) use memory_addr::PAGE_SIZE_4K as PAGE;
pub(crate) use stage2::{
    Access, Cause, CpuId, Error, Fault, LeafPolicy, Limits, Mapping, MappingFlags, Origin, Outcome, PhysAddr, Populate,
    SharedRegion,
    format::Used,
    loan::{Handover, PageState},
    region::RegionError,
    space::{AreaKind, Populated, Refill, Resource},
};

pub(crate) use crate::{
    Came::{Denied, GuestException, Injected, Lent, NotMapped, Value},
    Guest, Machine, Marks, Setting, Step, Stop, Tag, Verdict, gpa, range,
};

/// A block of the second lowest level.
pub(crate) const BLOCK: usize = 2 << 20;
/// A block of the third lowest level.
pub(crate) const LARGE: usize = 1 << 30;
/// Where the guests' memory is.
pub(crate) const RAM: usize = 0x4000_0000;
/// Where the guests keep their own tables.
pub(crate) const TABLES: usize = 0x6000_0000;
/// A virtual address that the guests' tables translate.
pub(crate) const VIRTUAL: usize = 0x20_0000;

pub(crate) const READ: MappingFlags = MappingFlags::READ;
pub(crate) const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
pub(crate) const RX: MappingFlags = MappingFlags::READ.union(MappingFlags::EXECUTE);
pub(crate) const RWX: MappingFlags = RW.union(MappingFlags::EXECUTE);
pub(crate) const DEVICE: MappingFlags = RW.union(MappingFlags::DEVICE);

/// Pages on first touch.
pub(crate) const LAZY: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
/// Blocks on first touch.
pub(crate) const LAZY_BLOCKS: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Largest };
/// Pages at once.
pub(crate) const PAGES: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };
/// Blocks at once.
pub(crate) const BLOCKS: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Largest };

/// Host memory from `to` on.
pub(crate) const fn linear(to: usize) -> Mapping {
    Mapping::Linear { to: PhysAddr::from_usize(to) }
}

/// Passes over a scenario that needs a second CPU.
pub(crate) fn need_two_cpus<M: Machine>(machine: &M) -> Verdict {
    if machine.facts().cpus < 2 { Err(Stop::Skipped("it needs two CPUs")) } else { Ok(()) }
}

/// Does something again and again, until it is over.
pub(crate) fn until(over: &AtomicBool, mut something: impl FnMut() -> Verdict) -> Verdict {
    while !over.load(Ordering::Acquire) {
        something()?;
    }
    Ok(())
}

/// What of a space must be as before when an operation was refused.
pub(crate) fn picture<M: Machine>(guest: &Guest<'_, M>) -> alloc::string::String {
    let stats = guest.stats();
    let figures = (stats.areas, stats.leaves, stats.table_frames, stats.owned_frames, guest.machine().allocated());
    alloc::format!("{}{figures:?}{:?}", **guest, guest.usage())
}
