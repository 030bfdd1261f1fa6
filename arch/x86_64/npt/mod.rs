//! AMD's nested page tables (NPT).
//!
//! [`Capabilities`] say what the CPUs can do; [`Npt`] is the format of one space, and [`Tlb`] its invalidations;
//! [`decode`] reads a guest's nested page fault. All of it is pure and built on every host, but for
//! [`Instructions`], which carries the operations out and leaves those to the hypervisor that are fields of its VMCB
//! ([`NextRun`]), and [`Capabilities::detect`]: those are there on `x86_64` targets only.
//!
//! # How a hypervisor wires it
//! - **At start**, on each CPU: EFER.SVME, EFER.NXE (nested entries forbid execution by it) and `VM_HSAVE_PA`; one
//!   [`Owed`], which is the CPU's for good; the PAT, which is told to every [format](Npt::with_pat); and
//!   [`Capabilities::detect`], of which all CPUs' [`minimum`](Capabilities::minimum) makes every format.
//! - **VMCB**: `NP_ENABLE` is set; nCR3 and the guest's ASID are the [`Root`]'s (`activate` hands it to the hypervisor's
//!   [`NextRun`]). An ASID is one space's, and all its virtual CPUs'. VMRUN itself and VMMCALL, where it is used, exit.
//!   VMCB clean bits, where they are used, are cleared for nested paging and the ASID when the root changes.
//! - **VMRUN**: `enter`; then, behind CLGI, what [`Owed::take`] gives goes into `TLB_CONTROL`, and VMRUN follows, with
//!   nothing in between that could owe more. A hypervisor that gives the guest another CR3 or CR4 itself owes a flush by
//!   [`Owed::add`]. **`#VMEXIT`**: `leave`, before anything else is called.
//! - **Exit code 0x400**: [`decode`], then `fault`. What it resolves is tried again by entering; where the exit happened
//!   while an event was delivered (`EXITINTINFO`), the event is injected again (`EVENTINJ`).
//! - **Other CPUs** are reached by the [`Interrupt`] hook: an NMI that makes the guest exit, and comes to the hypervisor
//!   at the next STGI. Its handler calls `flush` of the space that its CPU runs, also where it met the hypervisor itself
//!   between `enter` and `leave`; the flush is made by the next VMRUN, before the guest's first access.
//!
//! ```
//! use stage2::x86_64::npt::{Asid, Capabilities, Executor, Npt, Op, Owed, Registers, Tlb, TlbControl};
//! use stage2::{CpuId, invalidate::Unreachable};
//!
//! static OWED: Owed = Owed::everything();
//!
//! // On hardware: `Instructions`, with a `NextRun` that finds what is this CPU's.
//! struct Cpu;
//! impl Executor for Cpu {
//!     fn execute(&self, operation: Op) {
//!         if let Op::Flush(asid) = operation {
//!             OWED.add(asid);
//!         }
//!     }
//! }
//!
//! // On hardware: `Capabilities::detect()`.
//! let milan = Registers {
//!     extended_ecx: 0x75c2_37ff,
//!     extended_edx: 0x2fd3_fbff,
//!     address_sizes: 0x3030,
//!     asids: 0x8000,
//!     svm_edx: 0x101b_bcff,
//! };
//! let capabilities = Capabilities::from_registers(milan);
//! let format = Npt::new(&capabilities, Asid(1))?;
//! let send_nmi = |cpus: &mut dyn Iterator<Item = CpuId>| -> Result<(), Unreachable> {
//!     for _cpu in cpus { /* the local APIC's ICR */ }
//!     Ok(())
//! };
//! let invalidate = Tlb::new(Cpu, send_nmi);
//! // `format` and `invalidate` go into a `Config`. Before each VMRUN:
//! let tlb_control = OWED.take(Asid(1), &capabilities);
//! assert_eq!(tlb_control, TlbControl::All, "the CPU's first");
//! # let _ = (format, invalidate);
//! # Ok::<(), stage2::x86_64::npt::ConfigError>(())
//! ```

mod capabilities;
mod config;
mod entry;
mod fault;
mod op;
mod owed;
mod pte;
mod tlb;

#[cfg(any(target_arch = "x86_64", doc))]
mod executor;

pub use super::interrupt::Interrupt;
pub use capabilities::{Capabilities, Features, Registers};
pub use config::{Asid, ConfigError, MemoryType, PAT_AT_RESET, Root};
pub use entry::Npt;
#[cfg(any(target_arch = "x86_64", doc))]
pub use executor::{Instructions, NextRun};
pub use fault::{Decoded, Exit, decode};
pub use op::{Executor, Op};
pub use owed::{Owed, TlbControl};
pub use pte::NptEntry;
pub use tlb::Tlb;
