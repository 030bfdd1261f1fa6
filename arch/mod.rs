//! The architectures: one folder each, the same file names in each.

pub mod aarch64;
pub mod x86_64;

/// The parts of the target that is compiled for.
#[cfg(target_arch = "aarch64")]
pub mod native {
    pub use super::aarch64::{Capabilities, Instructions, Stage2 as Format};

    /// The invalidations, by the CPU's own instructions.
    pub type Invalidate = super::aarch64::Tlb<Instructions>;
}

#[cfg(test)]
mod twin;
