#![no_std]
// Where the README's links lead in the documentation. The first definition of a link is the one that counts.
#![doc = "[hardware]: crate::hardware"]
#![doc = "[architectures]: crate::architectures"]
#![doc = "[pitfalls]: crate::pitfalls"]
#![doc = "[performance]: crate::performance"]
#![doc = "[architecture]: crate#the-picture"]
#![doc = "[contributing]: crate#stage2"]
#![doc = ""]
#![doc = include_str!("../README.md")]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("stage2 manages 64-bit tables and needs a 64-bit host");

extern crate alloc;

#[cfg(test)]
extern crate std;

#[path = "../arch/mod.rs"]
mod arch;

#[cfg(doc)]
#[doc = include_str!("../docs/hardware.md")]
pub mod hardware {}

#[cfg(doc)]
#[doc = include_str!("../docs/architectures.md")]
pub mod architectures {}

#[cfg(doc)]
#[doc = "[hardware]: crate::hardware"]
#[doc = ""]
#[doc = include_str!("../docs/pitfalls.md")]
pub mod pitfalls {}

#[cfg(doc)]
#[doc = include_str!("../docs/performance.md")]
pub mod performance {}

mod account;
mod addr;
mod backend;
mod counted;
mod cpu_id;
mod cpus;
mod error;
mod extents;
mod fault;
mod format;
mod frame;
mod geometry;
mod invalidate;
mod loan;
mod lock;
mod metered;
mod ownership;
mod plain;
mod platform;
mod region;
mod set;
mod shootdown;
mod source;
mod space;
mod stripes;
mod table;
mod ticket;

pub use account::{Limits, Resource, Usage};
pub use addr::{GuestPhysAddr, GuestPhysRange, Level, PhysAddr};
pub use arch::*;
pub use backend::{Mapping, Populate};
pub use cpu_id::{CpuId, VcpuId};
pub use error::Error;
pub use fault::{Cause, Fault, Origin, Outcome};
pub use format::{
    Access, Change, Denials, Entry, Fields, Format, Inexpressible, Leaf, LeafPolicy, Marked, Owner, Translation, Used,
};
pub use frame::{Contents, Frames, Handler, Pieces};
pub use geometry::Geometry;
pub use invalidate::{Changed, Content, Invalidate, Invalidations, Reach, Scope, Unreachable};
pub use loan::{Handover, Loan, LoanKind, PageState};
pub use lock::{LockFamily, SpaceLock, Spin, Striped};
pub use page_table_multiarch::MappingFlags;
pub use plain::{Plain, Word};
pub use platform::{Platform, Root};
pub use region::{RegionError, RegionWriter, SharedRegion, Snapshot};
pub use set::{
    AreaError, Backing, Few, MappingBackend, MappingChange, MappingError, MappingResult, MemoryArea, MemorySet, Plan,
};
pub use source::{Pager, Settled, Source, SourceError, SourceFailed, Supply, Ticket, Waiting};
pub use space::{
    Area, AreaKind, Config, Dismantling, GuestSpace, Progress, Protecting, Snapshotting, Stats, Unmapping,
};
