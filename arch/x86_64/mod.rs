//! The second stage of translation on `x86_64`.
//!
//! Formats only: the instructions (INVEPT, the shootdown) are not here yet.

pub mod ept;
