//! The PC of the suites that run on one, whose CPUs are of either vendor: its memory and its second CPU, its guest, the
//! tables that its CPUs walk, and what only such a machine can be asked. A vendor's suite adds what differs:
//! [`Vendor`], [`Vcpu`] and [`Tables`].

pub mod checks;
pub mod guest;
mod machine;
pub mod shooter;
mod tables;
mod vcpu;

pub use machine::{Pc, Vendor, seat};
pub use tables::{Entry, Tables};
pub use vcpu::Vcpu;
