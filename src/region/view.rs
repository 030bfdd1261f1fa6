//! What an area knows of the region behind it.

use core::{fmt, ops::Range};

use memory_addr::{PAGE_SIZE_4K, PhysAddr};

use super::{Region, RegionError};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange},
    counted::Counted,
    pages::{Asker, Offer},
    source::Supplied,
};

/// One mapping of a region: all areas that it was cut into share it.
#[derive(Clone)]
struct Window(Counted<Opening>);

struct Opening(Counted<dyn Region>);

impl Window {
    /// A new mapping, made by way of a handle that stays meanwhile.
    fn open(region: &Counted<dyn Region>) -> Option<Self> {
        region.open_window();
        Counted::try_new(Opening(region.clone())).map(Self)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.close_window();
    }
}

/// The part of a region behind an area: never adjusted when the area is cut.
#[derive(Clone)]
pub(crate) struct View {
    window: Window,
    /// From a guest-physical address to an offset; the difference wraps.
    shift: usize,
}

impl View {
    /// The region from `offset` on, at `from`, of which nothing is [shown](Self::show) yet; `None` where there is no memory.
    pub(crate) fn new(region: &Counted<dyn Region>, from: GuestPhysAddr, offset: usize) -> Option<Self> {
        let window = Window::open(region)?;
        Some(Self { window, shift: offset.wrapping_sub(from.as_usize()) })
    }

    /// The mapping shows what is in a range from now on. A handle stays until it does.
    pub(crate) fn show(&self, part: GuestPhysRange) -> Result<(), Exhausted> {
        self.region().show(self.pages(part))
    }

    /// The mapping shows no more what it showed in a range, and no CPU reaches it through it.
    pub(crate) fn hide(&self, part: GuestPhysRange) {
        self.region().hide(self.pages(part));
    }

    /// The region.
    pub(crate) fn region(&self) -> &Counted<dyn Region> {
        &self.window.0.0
    }

    /// Which mapping it is of: a number that no other mapping has.
    pub(crate) fn mapping(&self) -> usize {
        self.window.0.address()
    }

    /// Lets go of it, and of the mapping with its last view: the region, if nothing else has it.
    pub(crate) fn release(self) -> Option<Counted<dyn Region>> {
        let opening = self.window.0.release()?;
        let region = opening.0.clone();
        drop(opening);
        region.release()
    }

    /// The frame of the page at an address.
    pub(crate) fn frame(&self, gpa: GuestPhysAddr) -> Option<PhysAddr> {
        self.region().frame(self.page(gpa))
    }

    /// Where the block is that a range shows in one piece; `None` if it shows anything else.
    pub(crate) fn block(&self, range: GuestPhysRange) -> Option<PhysAddr> {
        self.region().block(self.page(range.start), range.size() / PAGE_SIZE_4K)
    }

    /// Brings the page at an address, which the guest misses. Called without any lock.
    pub(crate) fn bring(&self, gpa: GuestPhysAddr, guest: &dyn Asker) -> Result<Supplied, Exhausted> {
        self.region().bring(self.page(gpa), guest)
    }

    /// Offers the page at an address, which the guest may miss. Called without any lock.
    pub(crate) fn offer(&self, gpa: GuestPhysAddr, guest: &dyn Asker, content: &[u8]) -> Result<Offer, Exhausted> {
        self.region().offer(self.page(gpa), guest, content)
    }

    /// Frees what of some pages nothing else shows, when no CPU reaches them through this mapping any more: see
    /// [`Region::free_unreachable`].
    pub(crate) fn free_unreachable(&self, pages: &mut Range<usize>, budget: &mut usize) {
        self.region().free_unreachable(pages, budget);
    }

    /// The pages in a range of addresses.
    pub(crate) fn pages(&self, part: GuestPhysRange) -> Range<usize> {
        self.page(part.start)..self.page(part.start) + part.size() / PAGE_SIZE_4K
    }

    /// The offset in bytes of an address.
    pub(crate) fn offset(&self, gpa: GuestPhysAddr) -> usize {
        gpa.as_usize().wrapping_add(self.shift)
    }

    /// Where the source behind the region has the page at an address, in bytes, if there is one.
    pub(crate) fn source_offset(&self, gpa: GuestPhysAddr) -> Option<usize> {
        let region = self.region();
        region.supplies()?.behind(region.places().of(self.page(gpa))).map(|(_, offset)| offset)
    }

    /// The number of the page at an address.
    pub(crate) fn page(&self, gpa: GuestPhysAddr) -> usize {
        self.offset(gpa) / PAGE_SIZE_4K
    }
}

/// Two are equal that show the same bytes at the same addresses.
impl PartialEq for View {
    fn eq(&self, other: &Self) -> bool {
        self.shift == other.shift && self.window.0.is(&other.window.0)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("shift", &self.shift).finish_non_exhaustive()
    }
}

/// The permission to write some pages of a region, which therefore cannot be frozen.
pub(crate) struct Lease {
    region: Counted<dyn Region>,
    pages: usize,
}

impl Lease {
    /// Permission for as long as the value lives, or until it is [kept](Self::keep).
    pub(crate) fn grant(region: &Counted<dyn Region>, bytes: usize) -> Result<Self, RegionError> {
        region.grant(bytes / PAGE_SIZE_4K)?;
        Ok(Self::kept(region, bytes))
    }

    /// The permission that an area has had: it ends with the value.
    pub(crate) fn kept(region: &Counted<dyn Region>, bytes: usize) -> Self {
        Self { region: region.clone(), pages: bytes / PAGE_SIZE_4K }
    }

    /// Whose pages they are, and how many.
    pub(crate) fn parts(&self) -> (&Counted<dyn Region>, usize) {
        (&self.region, self.pages)
    }

    /// Ends it: the region, if nothing else has it.
    pub(super) fn end(self) -> Option<Counted<dyn Region>> {
        let region = self.region.clone();
        drop(self);
        region.release()
    }

    /// An area has it from now on.
    pub(crate) fn keep(mut self) {
        self.pages = 0;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.pages > 0 {
            self.region.revoke(self.pages);
        }
    }
}
