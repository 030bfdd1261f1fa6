//! The architectures: one folder each, the same file names in each.
//!
//! `cfg(target_arch)` stands at the instructions and at `native`. Beside it stands `doc`: the documentation that is
//! built on any host has the parts of every target. It looks at signatures alone and compiles no body.

pub mod aarch64;
mod memory;
mod owner;
mod pte;
pub mod x86_64;

#[cfg(target_arch = "aarch64")]
#[doc(inline)]
pub use aarch64::native;
#[cfg(target_arch = "x86_64")]
#[doc(inline)]
pub use x86_64::native;

#[cfg(test)]
mod facts;
#[cfg(test)]
mod twin;
