//! A region that gets its pages from a guest: the frames of its own memory, where they stand.

use alloc::vec::Vec;

use page_table_multiarch::MappingFlags;

use super::SharedRegion;
use crate::addr::GuestPhysRange;

/// A guest's own memory as it was at one moment: [`GuestSpace::snapshot`](crate::GuestSpace::snapshot) takes it, and
/// [`GuestSpace::restore`](crate::GuestSpace::restore) starts any number of guests from it.
///
/// While it is there every page is shared, and a guest's first write copies. Without it, the last guest that can reach a page
/// takes it: a snapshot that is dropped is as if it had never been taken. Snapshots share what did not change between them,
/// and none keeps another. Dropped, it frees at once what nothing else reaches; [released](Self::release), in steps.
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

    pub(crate) fn into_region(self) -> SharedRegion {
        self.region
    }

    pub(crate) fn parts(&self) -> &[Part] {
        &self.parts
    }
}
