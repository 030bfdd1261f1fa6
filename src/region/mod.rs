//! Memory that several guests share: its frames belong to a region, which lives as long as a guest maps it or there is a
//! handle.

mod access;
mod audit;
mod book;
mod cover;
mod memory;
mod offer;
mod places;
mod populate;
mod released;
mod removed;
mod snapshot;
mod supply;
mod view;

use core::fmt;

use memory_addr::PAGE_SIZE_4K;

use self::memory::Memory;
pub use self::snapshot::Snapshot;
pub(crate) use self::{
    audit::Numbers,
    book::Book,
    cover::Cover,
    memory::Region,
    places::{Place, Places},
    released::Released,
    removed::RemovedRegions,
    snapshot::Part,
    supply::Behind,
    view::{Lease, View},
};
pub use crate::error::RegionError;
use crate::{
    counted::Counted,
    pages::{Keeper, Pages, PlatformKeeper, Supplies, Supply},
    platform::Platform,
    source::Pager,
};

/// Memory for any number of guests, at any addresses: a handle, of which there may be many.
///
/// It starts as zeros; a page gets its frame, once for all, when the first guest or writer touches it. What one writes
/// all others see at once. The frames are free when the last mapping and the last handle are gone; a page that one mapping
/// alone shows, with no handle left, is free when that is unmapped there. The last handle frees at once when it is dropped,
/// and in steps when it is [released](Self::release). A guest that maps it copy-on-write has its pages
/// as they are then, and keeps those and not the region. They are on no space's [account](crate::Limits): a region's limit
/// is its size.
///
/// [`freeze`](Self::freeze) makes it read-only for good: only then can it be mapped
/// [copy-on-write](crate::Mapping::CopyOnWrite).
///
/// # Locks
/// A region's lock comes behind the locks of the spaces that map it, and before the allocator's.
///
/// # Example
/// ```
/// use stage2::Mapping;
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// let (one, two) = (guest(1)?, guest(2)?);
/// let ring = one.region(0x4000)?;
/// one.map(range(0x8000_0000, 0x4000), Mapping::Shared { region: ring.clone(), offset: 0 }, RW)?;
/// two.map(range(0x4000_0000, 0x4000), Mapping::Shared { region: ring.clone(), offset: 0 }, RW)?;
/// one.store(0x8000_0010.into(), 42_u32)?;
/// assert_eq!(two.load::<u32>(0x4000_0010.into())?, 42);
/// assert_eq!(ring.frames(), 1, "one page was touched");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct SharedRegion(Counted<dyn Region>);

/// A handle that writes into a region. While there is one, the region cannot be frozen.
///
/// # Example
/// ```
/// use stage2::region::RegionError;
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::guest;
///
/// let image = guest(1)?.region(0x2000)?;
/// let writer = image.writer()?;
/// writer.write(0, b"the kernel")?;
/// assert!(image.freeze().is_err(), "it is still being written");
/// drop(writer);
/// image.freeze()?;
/// assert_eq!(image.read_obj::<[u8; 10]>(0)?, *b"the kernel");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct RegionWriter(SharedRegion);

impl SharedRegion {
    /// A region of `size` bytes whose frames come from `frames`, and are kept in step with the caches by `operations`.
    ///
    /// Every space that maps it must reach its frames by its own [`Frames::pointer`](crate::Frames::pointer).
    ///
    /// # Errors
    /// [`RegionError::BadSize`], [`RegionError::NoMemory`].
    pub fn new<P: Platform>(frames: P::Frames, operations: P::Invalidate, size: usize) -> Result<Self, RegionError> {
        Self::make::<P>(frames, operations, size, None)
    }

    /// The same, but its pages come from a source, from `offset` bytes on there: each is asked for when the first guest or
    /// handle touches it, once for all, and all wait for the same ticket.
    ///
    /// When the last handle and the last mapping are gone, so are the tickets. Freezing it does not bring what is not there
    /// yet, and neither does a [snapshot](crate::GuestSpace::snapshot) of memory that it stands behind.
    ///
    /// # Errors
    /// As for [`new`](Self::new); [`RegionError::Unaligned`] and [`RegionError::Beyond`] for the offset.
    pub fn from_source<P: Platform>(
        frames: P::Frames,
        operations: P::Invalidate,
        size: usize,
        pager: &Pager,
        offset: usize,
    ) -> Result<Self, RegionError> {
        let supplies = Supplies::one(Supply::new(pager, offset, size)?);
        let supplies = supplies.map_err(|_| RegionError::NoMemory { offset: 0, size })?;
        Self::make::<P>(frames, operations, size, Some(supplies))
    }

    fn make<P: Platform>(
        frames: P::Frames,
        operations: P::Invalidate,
        size: usize,
        supplies: Option<Supplies>,
    ) -> Result<Self, RegionError> {
        if size == 0 || !size.is_multiple_of(PAGE_SIZE_4K) {
            return Err(RegionError::BadSize { size });
        }
        let keeper = PlatformKeeper::<P>::make(frames, operations);
        keeper
            .and_then(|keeper| Self::of(size, &keeper, supplies, Places::default()))
            .ok_or(RegionError::NoMemory { offset: 0, size })
    }

    /// A region whose pages `keeper` allocates.
    pub(crate) fn of(
        size: usize,
        keeper: &Counted<dyn Keeper>,
        supplies: Option<Supplies>,
        places: Places,
    ) -> Option<Self> {
        let memory = Memory::new(size, keeper.clone(), supplies, places);
        Counted::<dyn Region>::try_new_as(memory, |inner| inner).map(Self)
    }

    /// Runs `each` on its pages, with its lock held.
    pub(crate) fn fill<R>(&self, each: impl FnOnce(&mut Pages) -> R) -> R {
        each(&mut self.0.writing().pages)
    }

    /// The size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// How many 4 KiB frames it has.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.0.reading().pages.count()
    }

    /// Makes it read-only, for good. Once more changes nothing.
    ///
    /// # Errors
    /// [`RegionError::Written`] while a guest or a [`RegionWriter`] may write it.
    pub fn freeze(&self) -> Result<(), RegionError> {
        self.0.writing().freeze()
    }

    /// A handle that writes.
    ///
    /// # Errors
    /// [`RegionError::Frozen`].
    pub fn writer(&self) -> Result<RegionWriter, RegionError> {
        let mut book = self.0.writing();
        if book.is_frozen() {
            return Err(RegionError::Frozen);
        }
        book.writers += 1;
        drop(book);
        Ok(RegionWriter(self.clone()))
    }

    pub(crate) fn region(&self) -> &Counted<dyn Region> {
        &self.0
    }
}

impl Clone for SharedRegion {
    fn clone(&self) -> Self {
        self.0.writing().handles += 1;
        Self(self.0.clone())
    }
}

impl Drop for SharedRegion {
    /// Frees at once what nothing reaches any more: [`release`](Self::release) does it in steps.
    fn drop(&mut self) {
        let mut pages = self.0.end_handle();
        self.0.free_unreachable(&mut pages, &mut { usize::MAX });
    }
}

impl Drop for RegionWriter {
    fn drop(&mut self) {
        self.0.0.writing().writers -= 1;
    }
}

/// Handles are equal that are of the same region.
impl PartialEq for SharedRegion {
    fn eq(&self, other: &Self) -> bool {
        self.0.is(&other.0)
    }
}

impl Eq for SharedRegion {}

impl fmt::Debug for SharedRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedRegion").field("size", &self.size()).finish_non_exhaustive()
    }
}

impl fmt::Debug for RegionWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RegionWriter").field(&self.0).finish()
    }
}
