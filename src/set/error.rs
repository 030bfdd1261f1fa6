//! Why an edit of a set was refused.

use memory_addr::{AddrRange, MemoryAddr};

/// Why a mapping operation of a [`MemorySet`](super::MemorySet) failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// The range is empty where it must not be, or overflows the address space.
    #[error("the range is empty or overflows the address space")]
    InvalidParam,
    /// An area lies in the range already.
    #[error("an area lies in the range already")]
    AlreadyExists,
    /// A backend refused or failed, or there is no memory to record the change.
    #[error("the backend failed, or there is no memory to record the change")]
    BadState,
}

/// The result of a mapping operation.
pub type MappingResult<T = ()> = Result<T, MappingError>;

/// Why an edit was not planned, or an area not inserted. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AreaError<A: MemoryAddr> {
    /// The range is empty.
    #[error("the range {0:#x?} is empty")]
    Empty(AddrRange<A>),
    /// Something is there already.
    #[error("{range:#x?} overlaps the area {with:#x?}")]
    Overlap {
        /// The range that was asked for.
        range: AddrRange<A>,
        /// The first area in its way, whole.
        with: AddrRange<A>,
    },
    /// There is no memory to record the change.
    #[error("no memory to record {0:#x?}")]
    NoMemory(AddrRange<A>),
}
