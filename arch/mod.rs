//! The architectures: one folder each, the same file names in each.

pub mod aarch64;
mod owner;
mod pte;
pub mod x86_64;

/// The parts of the target that is compiled for.
#[cfg(target_arch = "aarch64")]
pub mod native {
    pub use super::aarch64::{Capabilities, Instructions, Stage2 as Format};

    /// The invalidations, by the CPU's own instructions.
    pub type Invalidate = super::aarch64::Tlb<Instructions>;
}

/// The parts of the target that is compiled for.
#[cfg(target_arch = "x86_64")]
pub mod native {
    pub use super::x86_64::ept::{Capabilities, Ept as Format, Instructions};

    /// The invalidations, by the CPU's own instructions and the hypervisor's way `H` to interrupt other CPUs.
    pub type Invalidate<H> = super::x86_64::ept::Tlb<Instructions, H>;
}

#[cfg(test)]
mod facts;
#[cfg(test)]
mod twin;
