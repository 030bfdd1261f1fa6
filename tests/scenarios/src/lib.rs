//! What must hold of a guest's memory, told once, for every machine that can run a guest.
//!
//! A scenario is a function over [`Machine`]: it maps memory, lets the guest read, write and execute, and says what
//! came of it. [`for_each_scenario!`] is the list of them all; [`scenarios`] is the same as a value.
#![no_std]

extern crate alloc;

#[macro_use]
mod check;

mod guest;
mod list;
mod machine;
mod prelude;
mod stale;

pub mod addresses;
pub mod blocks;
pub mod copying;
pub mod discarding;
pub mod faults;
pub mod guest_memory;
pub mod lending;
pub mod lifetime;
pub mod limits;
pub mod mapping;
pub mod out_of_memory;
pub mod protecting;
pub mod refusals;
pub mod relocating;
pub mod replacing;
pub mod shared;
pub mod snapshots;
pub mod sources;
pub mod steps;
pub mod two_cpus;
pub mod unmapping;

pub use check::{Stop, Verdict};
pub use guest::{Came, Guest, Run, gpa, range};
pub use list::{Scenario, scenarios};
pub use machine::{Attempt, Device, Facts, FrameZero, Machine, Marks, Seat, Setting, Step, Tag, View, reserved};
pub use stale::{Column, Seen, probe};
