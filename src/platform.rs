//! The parts that a hypervisor puts together.

use crate::{format::Format, frame::Frames, invalidate::Invalidate};

/// The parts that a hypervisor puts together.
///
/// # Example
/// ```
/// use stage2::{
///     Platform,
///     aarch64::{Stage2, Tlb},
/// };
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{Heap, Idle};
///
/// // `Heap` is an allocator of host frames, `Idle` a CPU that carries nothing out.
/// struct Board;
///
/// impl Platform for Board {
///     type Format = Stage2;
///     type Frames = Heap;
///     type Invalidate = Tlb<Idle>;
/// }
/// ```
pub trait Platform: Sized + 'static {
    /// The kind of tables.
    type Format: Format;
    /// The allocator of host frames.
    type Frames: Frames;
    /// The CPU's invalidation.
    type Invalidate: Invalidate<Root<Self>>;
}

/// What a platform's CPUs get in their registers for a space.
pub type Root<P> = <<P as Platform>::Format as Format>::Root;
