//! A machine to test stage 2 against, written from the architecture manuals alone.
//!
//! It shares nothing with the crate but the vocabulary of its seams: the [`Frames`](stage2::Frames) that it allocates
//! from, and the operations that it emits. Tables are read as raw words, operands as raw numbers.
//!
//! - [`Memory`] is host-physical memory with an allocator; [`Pool`] is `Frames` over it. Frames come, and go, full of
//!   junk; a wrong free panics; [`Memory::fail`] makes the nth allocation fail; [`Memory::allocated`] shows leaks.
//! - [`arm::Machine`] is some CPUs with stage 2 under a guest's stage 1. They cache whatever the architecture lets
//!   them, for as long as it lets them, and refill speculatively between any two operations.
//! - [`ModelExecutor`] carries the crate's operations out on it; [`Sabotaged`] gets one of them wrong.
//! - [`ept::Machine`] is the smaller counterpart for Intel's EPT and AMD's nested page tables.
//! - [`NoGuest`] stands for the invalidations where no guest runs.
//!
//! A test makes a machine, has the crate build and load a space, lets the guest reach addresses, and ends with
//! [`check`](arm::Machine::check):
//!
//! ```
//! use stage2::aarch64::Op;
//! use stage2_model::{Memory, arm::{Access, Cause, Config, Machine, HCR_VM}};
//!
//! let memory = Memory::new(0x8000_0000, 64 << 20);
//! let machine = Machine::new(&memory, Config::default());
//! // By hand what the crate would do: an empty root for 40 bits (two concatenated tables), VMID 1, flushed.
//! let root = memory.allocate(2, 0x2000).unwrap();
//! (0..1024).for_each(|index| memory.write(root + index * 8, 0));
//! machine.load(0, 1 << 48 | root, 0x8002_3558, HCR_VM);
//! machine.execute(0, Op::Tlbi(stage2::aarch64::Tlbi::Vmalls12e1is, 0));
//! machine.execute(0, Op::Dsb(stage2::aarch64::Domain::InnerShareable, stage2::aarch64::Kind::All));
//!
//! let abort = machine.access(0, 0x4000_1238, Access::Read).unwrap_err().report();
//! assert_eq!(abort.fault.cause, Cause::Translation);
//! assert_eq!(abort.hpfar, 0x4000_1000 >> 8);
//! machine.check();
//! ```
//!
//! What the rules are about:
//! - Code of the hypervisor runs as a CPU inside [`on`](arm::Machine::on), each thread as another.
//! - [`access`](arm::Machine::access) takes what is cached first. Use it only while no operation is in progress;
//!   beside running ones, use [`access_racing`](arm::Machine::access_racing).
//! - [`scan`](arm::Machine::scan) looks for what is cached and unjustified without an access that meets it.
//! - [`operations`](arm::Machine::operations) lists what was executed: for tests of what need not be invalidated.
//! - A CPU with stage 2 on speculates for ever: [`stop`](arm::Machine::stop) it before its space is dropped.
//! - Stores of the hypervisor to stage-2 tables are sure to be seen by walkers after the next barrier only; what is
//!   stored to the guest's own tables is seen at once.
//! - Linear memory that a test gives to a guest comes from [`Memory::reserve`]; beyond the memory are devices, which
//!   answer [`arm::device_value`].

mod adapter;
pub mod arm;
pub mod ept;
mod failure;
mod memory;
mod no_guest;
mod pool;
mod sabotage;
mod story;

pub use adapter::{EptExecutor, ModelExecutor, NptExecutor, capabilities};
pub use failure::Failure;
pub use memory::{Memory, PAGE, Watch};
pub use no_guest::NoGuest;
pub use pool::Pool;
pub use sabotage::{Barrier, Sabotage, Sabotaged};
pub use story::{Rule, Violation};
