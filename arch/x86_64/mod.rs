//! The second stage of translation on `x86_64`: Intel's and AMD's.

mod interrupt;
mod lines;

pub mod ept;
pub mod npt;
