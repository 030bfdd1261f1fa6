//! The second stage of translation on `x86_64`.

pub mod ept;
