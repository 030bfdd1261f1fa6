//! Areas: which range of addresses has which flags, and what stands behind it. Knows no page table and no lock.

mod area;
mod areas;
mod backend;
mod chunk;
#[cfg(test)]
#[path = "tests/damage.rs"]
mod damage;
mod edit;
mod ends;
mod error;
mod few;
mod forecast;
mod gap;
mod mapping;
mod memory_set;
mod plan;
#[cfg(test)]
#[path = "tests/twin.rs"]
mod twin;
mod within;

pub use area::MemoryArea;
pub use backend::{Backing, MappingBackend, MappingChange};
pub use error::{AreaError, MappingError, MappingResult};
pub use few::Few;
pub use memory_set::MemorySet;
pub use plan::Plan;
pub(crate) use within::Within;
