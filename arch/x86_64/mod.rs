//! The second stage of translation on `x86_64`: Intel's and AMD's, and whichever of them a hypervisor finds.

mod interrupt;
mod lines;
mod vendor;

pub mod ept;
pub mod npt;

pub use vendor::{Extension, Nested, NestedTlb, Root};
