//! The second stage of translation on `x86_64`: Intel's and AMD's, and whichever of them a hypervisor finds.
//!
//! One that is built for either asks [`Extension::detect`](Extension) when it starts, and has [`Nested`] and [`NestedTlb`]
//! for its [`Platform`](crate::Platform): the format and the invalidations that belong together.

mod interrupt;
mod lines;
mod vendor;

pub mod ept;
pub mod npt;

pub use vendor::{Extension, Nested, NestedTlb, Root};
