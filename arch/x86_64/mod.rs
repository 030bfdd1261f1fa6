//! The second stage of translation on `x86_64`: Intel's and AMD's, and whichever of them a hypervisor finds.
//!
//! A hypervisor that is built for either asks [`Extension::detect`] when it starts, and has [`Nested`] and
//! [`NestedTlb`] for its [`Platform`](crate::Platform): the format and the invalidations that belong together.

mod interrupt;
mod lines;
mod vendor;

pub mod ept;
pub mod npt;

pub use vendor::{Extension, Nested, NestedTlb, Root};

/// What a hypervisor for Intel's CPUs puts together: `stage2::native` on `x86_64` targets.
///
/// A hypervisor for AMD's CPUs, or for either, takes the parts of [`npt`], or [`Nested`] and [`NestedTlb`].
#[cfg(any(target_arch = "x86_64", doc))]
pub mod native {
    pub use super::ept::{Capabilities, Ept as Format, Instructions};

    /// The invalidations, by the CPU's own instructions and the hypervisor's way `H` to interrupt other CPUs.
    pub type Invalidate<H> = super::ept::Tlb<Instructions, H>;
}
