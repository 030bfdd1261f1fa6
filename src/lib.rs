#![no_std]
#![doc = include_str!("../README.md")]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("stage2 manages 64-bit tables and needs a 64-bit host");

extern crate alloc;

#[cfg(test)]
extern crate std;

#[path = "../arch/mod.rs"]
mod arch;

mod account;
mod addr;
mod backend;
mod counted;
mod cpus;
mod error;
mod fault;
mod format;
mod frame;
mod geometry;
mod invalidate;
mod loan;
mod lock;
mod metered;
mod plain;
mod region;
mod set;
mod shootdown;
mod source;
mod space;
mod table;

pub use account::{Limits, Resource, Usage};
pub use addr::{GuestPhysAddr, GuestPhysRange, Level, PhysAddr};
pub use arch::*;
pub use backend::{LeafPolicy, Mapping, Populate};
pub use cpus::{CpuId, VcpuId};
pub use error::Error;
pub use fault::{Cause, Fault, Origin, Outcome};
pub use format::{Access, Change, Denials, Entry, Format, Inexpressible, Leaf, Marked, Owner, Translation, Used};
pub use frame::{Contents, Frames, Handler, Pieces};
pub use geometry::Geometry;
pub use invalidate::{Changed, Content, Invalidate, Reach, Scope, Unreachable};
pub use loan::{Handover, Loan, LoanKind, PageState};
pub use lock::{LockFamily, SpaceLock, Spin, Striped};
pub use page_table_multiarch::MappingFlags;
pub use plain::{Plain, Word};
pub use region::{RegionError, RegionWriter, SharedRegion, Snapshot};
pub use set::{
    AreaError, Backing, Few, MappingBackend, MappingChange, MappingError, MappingResult, MemoryArea, MemorySet, Plan,
};
pub use shootdown::Invalidations;
pub use source::{Pager, Settled, Source, SourceError, SourceFailed, Supply, Ticket, Waiting};
pub use space::{
    Area, AreaKind, Config, Dismantling, GuestSpace, Platform, Progress, Protecting, Root, Snapshotting, Stats,
    Unmapping,
};
