//! Which frames stand behind an area.

use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;

use crate::{
    addr::GuestPhysAddr,
    format::LeafPolicy,
    loan::Loan,
    pages::Supplies,
    region::{SharedRegion, View},
    set::Backing,
    source::Pager,
};

/// What to map.
///
/// # Example
/// ```
/// use stage2::{LeafPolicy, Mapping, MappingFlags, PhysAddr, Populate};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// let space = guest(1)?;
/// let uart = Mapping::Linear { to: PhysAddr::from_usize(0x0900_0000) };
/// space.map(range(0x0900_0000, 0x1000), uart, RW | MappingFlags::DEVICE)?;
/// let ram = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Largest };
/// space.map(range(0x8000_0000, 1 << 30), ram, RW | MappingFlags::EXECUTE)?;
/// let ring = Mapping::Shared { region: space.region(0x4000)?, offset: 0 };
/// space.map(range(0x4000_0000, 0x4000), ring, RW)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// Foreign memory, in one piece: a device's registers, RAM that is passed through. The space never frees it.
    Linear {
        /// The host-physical address of the range's first byte, a multiple of the page size.
        to: PhysAddr,
    },
    /// The space's own memory, which starts as zeros and is freed when it is unmapped.
    ///
    /// [`GuestSpace::map_from`](crate::GuestSpace::map_from) maps such memory with what a source has.
    Private {
        /// When frames are allocated.
        populate: Populate,
        /// How large its leaves may be.
        leaf: LeafPolicy,
    },
    /// Memory that other spaces map too, or the hypervisor uses. It is populated once, on the first touch of each page, or
    /// [ahead of time](SharedRegion::populate): then it may be in blocks, which are mapped as such where address and offset
    /// agree in their last 21 bits.
    Shared {
        /// Whose memory.
        region: SharedRegion,
        /// The offset in the region, in bytes, of the range's first byte; a multiple of the page size.
        offset: usize,
    },
    /// A frozen region's memory until it is written: the first write to a page gives this guest its own copy, and only
    /// then costs memory.
    ///
    /// What is shared takes least where address and offset agree modulo 64 KiB: elsewhere each page of the region that has a
    /// frame, or may come from a source, takes some bytes of heap for itself. Blocks are mapped as blocks where the frames agree
    /// with the addresses, and split one by one when they are written.
    CopyOnWrite {
        /// Whose memory.
        region: SharedRegion,
        /// The offset in the region, in bytes, of the range's first byte; a multiple of the page size.
        offset: usize,
    },
}

/// When private memory gets its frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Populate {
    /// On the first touch of each leaf.
    Lazy,
    /// At once.
    Now,
}

/// What stands behind an area: never adjusted when the area is split.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Backend {
    /// Linear memory.
    Linear(Offset),
    /// Private memory.
    Private(LeafPolicy),
    /// A region's memory.
    Shared(View),
    /// What was inherited, or the space's own copies of it: a leaf says which. What is neither is zeros, or comes from a
    /// source.
    CopyOnWrite(Heritage),
    /// Another space's memory.
    Borrowed(Loan),
}

/// Where inherited memory came from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heritage {
    /// From a guest-physical address to an offset in the region or snapshot that it came from; the difference wraps.
    shift: usize,
    /// The sources behind what has no frame yet.
    supplies: Option<Supplies>,
}

impl Heritage {
    /// What is at `from` came from `offset`; `supplies` go by the numbers of guest-physical pages.
    pub(crate) fn new(from: GuestPhysAddr, offset: usize, supplies: Option<Supplies>) -> Self {
        Self { shift: offset.wrapping_sub(from.as_usize()), supplies }
    }

    /// The offset in bytes of an address.
    pub(crate) fn offset(&self, gpa: GuestPhysAddr) -> usize {
        gpa.as_usize().wrapping_add(self.shift)
    }

    pub(crate) fn supplies(&self) -> Option<&Supplies> {
        self.supplies.as_ref()
    }

    /// The source behind a page, by the number of its guest-physical page, and its offset there in bytes.
    pub(crate) fn source(&self, page: usize) -> Option<(&Pager, usize)> {
        self.supplies.as_ref()?.behind(page)
    }
}

// The space drives its tables itself.
impl Backing for Backend {
    type Addr = GuestPhysAddr;
    type Flags = MappingFlags;
}

/// From a guest-physical to a host-physical address. Either may be the larger one: the difference wraps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offset(usize);

impl Offset {
    /// The offset that takes `from` to `to`.
    pub(crate) const fn new(from: GuestPhysAddr, to: PhysAddr) -> Self {
        Self(to.as_usize().wrapping_sub(from.as_usize()))
    }

    /// Where `gpa` goes.
    pub(crate) const fn apply(self, gpa: GuestPhysAddr) -> PhysAddr {
        PhysAddr::from_usize(gpa.as_usize().wrapping_add(self.0))
    }
}
