//! The parts that a hypervisor puts together.

use crate::{format::Format, frame::Frames, invalidate::Invalidate};

/// The parts that a hypervisor puts together.
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
