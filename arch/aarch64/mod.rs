//! `AArch64` stage 2.
//!
//! [`Capabilities`] say what the CPUs can do; [`Stage2`] is the format of one space, and [`Tlb`] its invalidations;
//! [`decode`] reads a guest's fault. All of it is pure and built on every host, but for [`Instructions`], which carries
//! the operations out, and [`Capabilities::detect`]: those are there on `aarch64` targets only.
//!
//! # How a hypervisor wires it
//! - **At start**, on each CPU at EL2: [`Capabilities::detect`], of which all CPUs' [`minimum`](Capabilities::minimum)
//!   makes every format and [`Tlb`].
//! - **Entering a guest**: `activate` on the CPU that does not have the space's [`Root`] yet (it writes `VTCR_EL2`,
//!   `VTTBR_EL2` and [`HCR_BITS`] of `HCR_EL2`; the other bits are the hypervisor's), `enter` with interrupts off, `ERET`.
//!   `HCR_EL2.FB` is set where virtual CPUs migrate: the guest's own local invalidations must follow them.
//! - **Exceptions to EL2**: `leave`, before anything else is called; then [`decode_distrusting`] on `ESR_EL2`, `FAR_EL2`
//!   and `HPFAR_EL2`, and `fault`. What it [resolves](crate::Outcome) is tried again by `ERET`. `NeedsTranslation` goes
//!   through [`Instructions::resolve`] on the same CPU first.
//! - **Other CPUs** are reached by the hardware's broadcasts: the hypervisor interrupts none.
//!
//! ```
//! use stage2::aarch64::{Capabilities, IdRegisters, Stage2, Vmid};
//!
//! // On hardware: `Capabilities::detect()`.
//! let neoverse_n1 = IdRegisters { mmfr0: 0x0010_1125, mmfr1: 0x1021_2122, mmfr2: 0x1011, ..IdRegisters::default() };
//! let capabilities = Capabilities::from_registers(neoverse_n1);
//! let format = Stage2::new(&capabilities, 40, Vmid(1))?;
//! // `format` and a `Tlb` of the same capabilities go into a `Config`.
//! # let _ = format;
//! # Ok::<(), stage2::aarch64::ConfigError>(())
//! ```

mod bits;
mod capabilities;
mod config;
mod entry;
mod fault;
mod op;
mod operand;
mod pte;
mod tlb;

#[cfg(any(target_arch = "aarch64", doc))]
mod executor;

pub use capabilities::{Capabilities, Errata, Features, IdRegisters};
pub use config::{ConfigError, HCR_BITS, HCR_FWB, HCR_VM, Root, Tracking, Vmid};
pub use entry::Stage2;
#[cfg(any(target_arch = "aarch64", doc))]
pub use executor::Instructions;
pub use fault::{Decoded, Extension, Syndrome, Transfer, Unresolved, Width, decode, decode_distrusting};
pub use op::{Domain, Executor, Kind, Op, Stage1, Tlbi};
pub use pte::Stage2Entry;
pub use tlb::Tlb;

/// What a hypervisor for `aarch64` puts together: `stage2::native` on `aarch64` targets.
#[cfg(any(target_arch = "aarch64", doc))]
pub mod native {
    pub use super::{Capabilities, Instructions, Stage2 as Format};

    /// The invalidations, by the CPU's own instructions.
    pub type Invalidate = super::Tlb<Instructions>;
}
