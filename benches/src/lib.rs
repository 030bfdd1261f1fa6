//! What the crate costs, beside the least that the same work can cost and beside other crates.
//!
//! The tables are real, the CPU's instructions are not executed, the frames come from the host's memory.
//! `docs/performance.md` says what each bench measures.
#![allow(clippy::missing_panics_doc, reason = "a bench that cannot go on ends")]

pub mod callgrind;
pub mod figures;
pub mod floor;
pub mod machine;
pub mod peers;
pub mod pool;
pub mod ready;
pub mod sets;
pub mod untouched;
