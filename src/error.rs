//! What can go wrong, with the range that it is about.

use page_table_multiarch::MappingFlags;

use crate::{
    account::{Exhausted, Resource},
    addr::{GuestPhysAddr, GuestPhysRange, PhysAddr},
    cpu_id::CpuId,
    format::Inexpressible,
    invalidate::Unreachable,
    ownership::PageState,
    ticket::Ticket,
};

/// Why an operation on a space failed.
///
/// Unless a variant says otherwise, everything is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The range is empty.
    #[error("the range at {0:#x?} is empty")]
    Empty(GuestPhysRange),
    /// The range's ends are not multiples of the page size.
    #[error("{0:#x?} is not aligned to pages")]
    Misaligned(GuestPhysRange),
    /// The start and the size do not fit together in an address.
    #[error("{size:#x} bytes at {start:#x?} overflow the address space")]
    Overflow {
        /// Where the range starts.
        start: GuestPhysAddr,
        /// Its size in bytes.
        size: usize,
    },
    /// The range reaches past the addresses that the tables translate.
    #[error("{range:#x?} reaches past the {bits}-bit guest-physical address space")]
    BeyondInput {
        /// The range that was asked for.
        range: GuestPhysRange,
        /// The width of a guest-physical address.
        bits: u32,
    },
    /// Host addresses are misaligned, overflow, or reach past what an entry holds.
    #[error("{range:#x?} cannot be mapped to {to:#x?}: not a page of a {bits}-bit physical address space")]
    BadTarget {
        /// The guest's range.
        range: GuestPhysRange,
        /// Where it was to be mapped.
        to: PhysAddr,
        /// The width of a host-physical address.
        bits: u32,
    },
    /// An area is there already.
    #[error("{range:#x?} overlaps the area {with:#x?}")]
    Overlap {
        /// The range that was asked for.
        range: GuestPhysRange,
        /// The first area in its way.
        with: GuestPhysRange,
    },
    /// No area covers it.
    #[error("nothing is mapped at {0:#x?}")]
    NotMapped(GuestPhysRange),
    /// The area does not allow it.
    #[error("{range:#x?} allows {flags:?} only")]
    Denied {
        /// What was to be accessed.
        range: GuestPhysRange,
        /// What the area allows.
        flags: MappingFlags,
    },
    /// It is a device's registers or frames of another owner, where only the space's own memory will do.
    #[error("{0:#x?} is not memory of the space's own")]
    NotMemory(GuestPhysRange),
    /// The format cannot express the flags.
    #[error("{range:#x?}: {flags}")]
    Flags {
        /// The range that was asked for.
        range: GuestPhysRange,
        /// Which flags.
        flags: Inexpressible,
    },
    /// The region cannot be mapped there like that.
    #[error("{range:#x?}: {cause}")]
    Region {
        /// The range that was asked for.
        range: GuestPhysRange,
        /// What the region says.
        cause: RegionError,
    },
    /// It is in another state than this can be done in.
    #[error("{range:#x?} is {state}")]
    State {
        /// The first page, or as much of what was asked for as lies in it.
        range: GuestPhysRange,
        /// What it is.
        state: PageState,
    },
    /// Giver and taker are the same space.
    #[error("{0:#x?} is to go where it is")]
    SameSpace(GuestPhysRange),
    /// Frames cannot change hands between allocators.
    #[error("{0:#x?} is of another allocator than the one that would free it")]
    Allocators(GuestPhysRange),
    /// The loan is over, or another space's.
    #[error("no such loan of {0:#x?}")]
    NoLoan(GuestPhysRange),
    /// The loan is not returned yet.
    #[error("{bytes:#x} bytes of {range:#x?} are still borrowed")]
    StillBorrowed {
        /// Where the borrower had the memory.
        range: GuestPhysRange,
        /// How many bytes of it.
        bytes: usize,
    },
    /// An atomic access is not aligned to its size.
    #[error("{0:#x?} is not aligned to its size")]
    Unaligned(GuestPhysRange),
    /// The source behind it has not brought the page yet. The ticket's [pager](crate::pager::Pager) tells when to try
    /// again.
    #[error("{range:#x?} is not there yet: {ticket}")]
    NotYet {
        /// What was not accessed.
        range: GuestPhysRange,
        /// What to wait for.
        ticket: Ticket,
    },
    /// No source is behind it.
    #[error("no source is behind {0:#x?}")]
    NoSource(GuestPhysRange),
    /// The source behind it cannot have the page.
    #[error("{range:#x?} cannot be had: {ticket} failed")]
    SourceFailed {
        /// What was not accessed.
        range: GuestPhysRange,
        /// What failed.
        ticket: Ticket,
    },
    /// The allocator has nothing left.
    #[error("out of memory for {0:#x?}")]
    NoMemory(GuestPhysRange),
    /// The space has all that it may have: frames, tables, or areas. Whatever takes, cuts or parts an area may make one more
    /// than [`Limits::areas`](crate::Limits::areas), and is refused then.
    #[error("{range:#x?} needs more than the {limit} {what} that are the limit")]
    Limit {
        /// What it was for.
        range: GuestPhysRange,
        /// Of what.
        what: Resource,
        /// The limit, in frames of 4 KiB or in areas.
        limit: usize,
    },
    /// A CPU could not be told to forget its translations. What was to be taken away is out of the tables, but not
    /// freed; the next exclusive operation tries again.
    #[error("invalidation of {range:#x?}: {cause}")]
    Invalidation {
        /// What was taken away.
        range: GuestPhysRange,
        /// Which CPU.
        cause: Unreachable,
    },
    /// The CPU's number is not below the number of CPUs that the space was made for.
    #[error("{0} is not one of the space's")]
    NoSuchCpu(CpuId),
    /// A snapshot is being taken of the range, a part at a time: map and memory must not change meanwhile.
    #[error("a snapshot is being taken of {0:#x?}")]
    Snapshotting(GuestPhysRange),
    /// The CPU is in the guest, and must not be.
    #[error("{0} is in the guest")]
    InGuest(CpuId),
}

/// Why something cannot be done with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// A region has one page at least, and whole pages.
    #[error("a region cannot have {size:#x} bytes")]
    BadSize {
        /// The size in bytes that was asked for.
        size: usize,
    },
    /// It is not that large.
    #[error("{size:#x} bytes at offset {offset:#x} reach past the region's {region:#x} bytes")]
    Beyond {
        /// The offset in bytes that was asked for.
        offset: usize,
        /// The size in bytes that was asked for.
        size: usize,
        /// The region's size in bytes.
        region: usize,
    },
    /// The offset is no multiple of what it has to be: a page in a mapping, its own size for a word.
    #[error("offset {offset:#x} is not aligned to {align:#x} bytes")]
    Unaligned {
        /// The offset in bytes.
        offset: usize,
        /// What it should be a multiple of.
        align: usize,
    },
    /// It cannot be written any more.
    #[error("the region is frozen")]
    Frozen,
    /// It can still be written, and what is copied on write must not change.
    #[error("the region is not frozen")]
    NotFrozen,
    /// It cannot be frozen while it can be written.
    #[error("the region is writable: {mapped:#x} bytes of it by guests, and by {handles} handles")]
    Written {
        /// How many bytes guests may write, in all mappings together.
        mapped: usize,
        /// How many [`RegionWriter`](crate::region::RegionWriter)s there are.
        handles: usize,
    },
    /// Another guest or handle can reach it.
    #[error("the region has {mappings} mappings and {handles} handles")]
    InUse {
        /// How many mappings there are, of all spaces and snapshots.
        mappings: usize,
        /// How many [`SharedRegion`](crate::SharedRegion)s there are, and what has one.
        handles: usize,
    },
    /// Another space shows some of it, or shows it once more.
    #[error("{size:#x} bytes at offset {offset:#x} are shown by a space that was not named")]
    ShownElsewhere {
        /// The offset in bytes that was asked for.
        offset: usize,
        /// The size in bytes that was asked for.
        size: usize,
    },
    /// A CPU of a space that shows the region could not be told.
    #[error("the region cannot be taken from a CPU: {cause}")]
    Invalidation {
        /// The CPU.
        cause: Unreachable,
    },
    /// A snapshot is being taken in steps of a space that shows the region.
    #[error("a snapshot is being taken of a space that shows the region")]
    Snapshotting,
    /// The space's pages are not the region's, which have 4 KiB.
    #[error("a region has pages of 4 KiB, the space of {page_size:#x} bytes")]
    PageSize {
        /// The space's page size in bytes.
        page_size: usize,
    },
    /// The region's source has not brought the page yet. The ticket's pager tells when it is time to try again.
    #[error("{size:#x} bytes at offset {offset:#x} are not there yet: {ticket}")]
    NotYet {
        /// The offset in bytes of what is not there.
        offset: usize,
        /// How much was still to be accessed from there on, in bytes.
        size: usize,
        /// What to wait for.
        ticket: Ticket,
    },
    /// No source is behind it.
    #[error("no source is behind {size:#x} bytes at offset {offset:#x}")]
    NoSource {
        /// The offset in bytes.
        offset: usize,
        /// The size in bytes.
        size: usize,
    },
    /// The region's source cannot have the page.
    #[error("{size:#x} bytes at offset {offset:#x} cannot be had: {ticket} failed")]
    SourceFailed {
        /// The offset in bytes of what cannot be had.
        offset: usize,
        /// How much was still to be accessed from there on, in bytes.
        size: usize,
        /// What failed.
        ticket: Ticket,
    },
    /// The allocator has nothing left.
    #[error("out of memory for {size:#x} bytes at offset {offset:#x}")]
    NoMemory {
        /// The offset in bytes of what could not be had.
        offset: usize,
        /// Its size in bytes.
        size: usize,
    },
}

impl Exhausted {
    /// The error that an operation on `range` ends with.
    pub(crate) const fn at(self, range: GuestPhysRange) -> Error {
        match self {
            Self::Memory => Error::NoMemory(range),
            Self::Limit(what, limit) => Error::Limit { range, what, limit },
        }
    }
}
