//! `AArch64`: stage 2 under a guest's stage 1, with everything that CPUs may cache of it.

mod access;
mod caches;
mod config;
mod cpu;
mod descriptor;
mod execute;
mod fault;
mod fill;
mod machine;
mod operand;
mod registers;
mod scan;
mod speculate;
mod tlb;
mod walker;

pub use access::device_value;
pub use caches::{Coherency, LINE};
pub use config::{Caching, Config, Reset, Speculation};
pub use descriptor::{Descriptor, Leaf, MemoryType, decode};
pub use fault::{Abort, Access, Cause, Fault, Hpfar, Report};
pub use machine::{Machine, Registers};
pub use operand::{Stages, Target, decode as decode_tlbi};
pub use registers::{Features, HCR_E2H, HCR_FWB, HCR_TGE, HCR_VM, Regime, Stage1, VTCR_HA, VTCR_HD, VTCR_VS};
