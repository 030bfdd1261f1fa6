//! A region that gets its pages from a guest: the frames of its own memory, where they stand.

use alloc::vec::Vec;

use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use page_table_multiarch::MappingFlags;
use spin::rwlock::RwLockWriteGuard;

use super::{
    SharedRegion, View,
    book::{Base, Book},
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange},
};

/// A guest's own memory as it was at one moment: [`GuestSpace::snapshot`](crate::GuestSpace::snapshot) takes it, and
/// [`GuestSpace::restore`](crate::GuestSpace::restore) starts any number of guests from it.
///
/// While it is there every page is shared, and a guest's first write copies; without it, the last guest that shares a
/// page takes it.
///
/// # Example
/// ```
/// use stage2::{LeafPolicy, Mapping, Populate};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// let (parent, child) = (guest(1)?, guest(2)?);
/// parent.map(range(0x8000_0000, 0x4000), Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages }, RW)?;
/// parent.write(0x8000_0000.into(), b"before")?;
/// let snapshot = parent.snapshot()?;
/// child.restore(&snapshot)?;
///
/// parent.write(0x8000_0000.into(), b"AFTER ")?;
/// assert_eq!(child.read_obj::<[u8; 6]>(0x8000_0000.into())?, *b"before");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Snapshot {
    region: SharedRegion,
    parts: Vec<Part>,
}

/// An area, and where in the region its memory is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub range: GuestPhysRange,
    pub flags: MappingFlags,
    pub offset: usize,
}

impl Snapshot {
    pub(crate) fn new(region: SharedRegion, parts: Vec<Part>) -> Self {
        Self { region, parts }
    }

    /// The memory: the areas side by side, in address order.
    #[must_use]
    pub fn region(&self) -> &SharedRegion {
        &self.region
    }

    /// The areas: addresses, what the guest may do, and the offset in [`region`](Self::region) in bytes.
    pub fn areas(&self) -> impl Iterator<Item = (GuestPhysRange, MappingFlags, usize)> {
        self.parts.iter().map(|part| (part.range, part.flags, part.offset))
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

/// Where in a snapshot's region an address of one of its parts is.
pub(crate) fn offset_of(parts: &[Part], gpa: GuestPhysAddr) -> Option<usize> {
    let part = parts.get(parts.partition_point(|part| part.range.end <= gpa))?;
    part.range.contains(gpa).then(|| part.offset + (gpa - part.range.start))
}

/// A region that is being given a guest's frames, with its lock held. No other CPU knows the region yet.
pub(crate) struct Filling<'r>(RwLockWriteGuard<'r, Book>);

impl SharedRegion {
    /// Begins to fill it.
    pub(crate) fn filling(&self) -> Filling<'_> {
        Filling(self.region().writing())
    }

    /// Makes room for so many [bases](Self::inherit).
    pub(crate) fn reserve_bases(&self, count: usize) -> Result<(), Exhausted> {
        self.region().writing().reserve_bases(count)
    }

    /// Has another region stand behind a part of it, as it stood behind the part's area.
    pub(crate) fn inherit(&self, part: &Part, view: View) {
        let (first, count) = (part.offset / PAGE_SIZE_4K, part.range.size() / PAGE_SIZE_4K);
        let from = view.page(part.range.start);
        self.region().writing().push_base(Base { first, count, view, from });
    }
}

impl Filling<'_> {
    /// Makes room for frames of `size` bytes from `offset` on.
    #[inline]
    pub(crate) fn reserve(&mut self, offset: usize, size: usize) -> Result<(), Exhausted> {
        self.0.reserve(pages(offset, size))
    }

    /// Gives it frames of its allocator from `offset` on: pieces, with their sizes in bytes, of whole pages. Their room is
    /// reserved.
    #[inline]
    pub(crate) fn adopt(&mut self, offset: usize, pieces: impl Iterator<Item = (PhysAddr, usize)>) {
        let frames = pieces.flat_map(|(at, size)| (0..size / PAGE_SIZE_4K).map(move |page| at + page * PAGE_SIZE_4K));
        self.0.put_all(offset / PAGE_SIZE_4K, frames);
    }
}

fn pages(offset: usize, size: usize) -> core::ops::Range<usize> {
    offset / PAGE_SIZE_4K..(offset + size) / PAGE_SIZE_4K
}
