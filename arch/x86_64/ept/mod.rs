//! Intel's extended page tables (EPT).
//!
//! [`Capabilities`] say what the CPUs can do; [`Ept`] is the format of one space, and [`Tlb`] its invalidations;
//! [`decode`] reads a guest's violation. All of it is pure and built on every host, but for [`Instructions`],
//! which carries the operations out, and [`Capabilities::detect`]: those are there on `x86_64` targets only.
//!
//! # How a hypervisor wires it
//! - **At start**, on each CPU after VMXON: [`forget_everything`], since translations outlive VMXOFF; and
//!   [`Capabilities::detect`], of which all CPUs' [`minimum`](Capabilities::minimum) makes every format and [`Tlb`].
//! - **VMCS**: [`Root::eptp`] is "EPT pointer" (`activate` writes it into the current VMCS); "enable EPT" is set. With
//!   "enable VPID" each virtual CPU has a VPID of its own. "EPT-violation #VE" only [with](Ept::with_exceptions) the
//!   format that says so. "Mode-based execute control for EPT" stays off.
//! - **VM entry**, with interrupts off: `enter`, then VMLAUNCH or VMRESUME. **VM exit**: `leave`, before anything else is
//!   called. An exit that only answers an interrupt may call `flush` and go on without the two.
//! - **Exit reasons 48 and 49**: [`decode`], then `fault`. What it resolves is tried again by entering; where the exit
//!   happened while an event was delivered ("IDT-vectoring information"), the event is injected again.
//! - **Other CPUs** are reached by the [`Interrupt`] hook: an NMI or an IPI that makes the guest exit, whose handler calls
//!   `flush` of the space that its CPU runs. An NMI may come when the CPU is still, or again, in the hypervisor, between
//!   `enter` and `leave`: the handler calls `flush` there too. The hook need not wait: the space does, for CPUs in the
//!   guest alone.
//!
//! ```
//! use stage2::x86_64::ept::{Capabilities, Depth, Ept, Registers, Tlb};
//! use stage2::{CpuId, invalidate::Unreachable};
//! # use stage2::x86_64::ept::{Executor, Op, VmFail};
//! # struct Cpu;
//! # impl Executor for Cpu {
//! #     fn execute(&self, _: Op) -> Result<(), VmFail> { Ok(()) }
//! # }
//!
//! // On hardware: `Capabilities::detect()`, and `Instructions` in the executor's place.
//! let skylake = Registers { ept_vpid_cap: 0xf01_0673_4141, arch_capabilities: 0x40, physical_bits: 46 };
//! let capabilities = Capabilities::from_registers(skylake);
//! let format = Ept::new(&capabilities, Depth::Four)?;
//! let send_nmi = |cpus: &mut dyn Iterator<Item = CpuId>| -> Result<(), Unreachable> {
//!     for _cpu in cpus { /* the local APIC's ICR */ }
//!     Ok(())
//! };
//! let invalidate = Tlb::new(capabilities, Cpu, send_nmi);
//! // `format` and `invalidate` go into a `Config`.
//! # let _ = (format, invalidate);
//! # Ok::<(), stage2::x86_64::ept::ConfigError>(())
//! ```

mod capabilities;
mod config;
mod entry;
mod fault;
mod op;
mod pte;
mod tlb;

#[cfg(any(target_arch = "x86_64", doc))]
mod executor;

pub use super::interrupt::Interrupt;
pub use capabilities::{Capabilities, Errata, Features, Registers};
pub use config::{ConfigError, Depth, Exceptions, LargeLeaves, Root, Tracking};
pub use entry::Ept;
#[cfg(any(target_arch = "x86_64", doc))]
pub use executor::Instructions;
pub use fault::{Decoded, Exit, decode};
pub use op::{Executor, Invept, Op, VmFail};
pub use pte::EptEntry;
pub use tlb::{Tlb, forget_everything};
