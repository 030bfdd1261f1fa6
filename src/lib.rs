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
pub mod audit;
mod backend;
mod counted;
mod cpu_id;
mod cpus;
mod error;
mod extents;
mod fault;
pub mod format;
mod frame;
mod geometry;
pub mod invalidate;
pub mod loan;
pub mod lock;
mod metered;
mod ownership;
mod pages;
mod plain;
mod platform;
pub mod region;
mod set;
mod shootdown;
mod source;
pub mod space;
mod stripes;
mod table;
mod ticket;

/// Areas: which ranges are mapped, with which flags, and what stands behind them. [`MemorySet`] keeps them, and can be
/// used without the rest of the crate.
pub mod areas {
    pub use crate::set::{
        AreaError, Backing, Few, MappingBackend, MappingChange, MappingError, MappingResult, MemoryArea, MemorySet,
        Plan,
    };
}

/// Host frames: what a hypervisor's allocator promises, and the adapter for one that is a
/// [`PagingHandler`](page_table_multiarch::PagingHandler).
pub mod frames {
    pub use crate::frame::{Contents, Frames, Handler, Pieces};
}

/// Values that can be read from guest memory and written to it: any that every bit pattern is one of, and words that are
/// accessed atomically.
pub mod guest_memory {
    pub use crate::plain::{Plain, Word};
}

/// Pages that come from somewhere else: an image in memory, a file, another machine. A [`Pager`](pager::Pager) asks a
/// [`Source`](pager::Source) for each page that is missed.
pub mod pager {
    pub use crate::{
        source::{Offered, Pager, Settled, Source, SourceError, SourceFailed, Supply, Waiting},
        ticket::Ticket,
    };
}

pub use account::{Limits, Usage};
pub use addr::{GuestPhysAddr, GuestPhysRange, Level, PhysAddr};
pub use arch::*;
pub use backend::{Mapping, Populate};
pub use cpu_id::{CpuId, VcpuId};
pub use error::Error;
pub use fault::{Cause, Fault, Origin, Outcome};
#[doc(inline)]
pub use format::{Access, LeafPolicy, Translation};
pub use frame::{Frames, Handler};
pub use page_table_multiarch::MappingFlags;
pub use platform::{Platform, Root};
#[doc(inline)]
pub use region::{SharedRegion, Snapshot};
pub use set::{MappingBackend, MappingError, MappingResult, MemoryArea, MemorySet};
#[doc(inline)]
pub use space::{Config, GuestSpace};
