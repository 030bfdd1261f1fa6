//! What an area knows of the region behind it.

use core::fmt;

use memory_addr::PAGE_SIZE_4K;

use super::{Region, RegionError, supply::end_all_waits};
use crate::{addr::GuestPhysAddr, counted::Counted};

/// One mapping of a region: all areas that it was cut into share it.
#[derive(Clone)]
pub(crate) struct Window(Counted<Opening>);

struct Opening(Counted<dyn Region>);

impl Window {
    /// A new mapping, made by way of a handle that stays meanwhile.
    pub(crate) fn open(region: &Counted<dyn Region>) -> Option<Self> {
        region.writing().open_window();
        Counted::try_new(Opening(region.clone())).map(Self)
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.writing().close_window();
        end_all_waits(&self.0);
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
    /// The region from `offset` on, at `from`.
    pub(crate) fn new(window: Window, from: GuestPhysAddr, offset: usize) -> Self {
        Self { window, shift: offset.wrapping_sub(from.as_usize()) }
    }

    /// The region.
    pub(crate) fn region(&self) -> &Counted<dyn Region> {
        &self.window.0.0
    }

    /// Lets go of it, and of the mapping with its last view: the region, if nothing else has it.
    pub(crate) fn release(self) -> Option<Counted<dyn Region>> {
        let opening = self.window.0.release()?;
        let region = opening.0.clone();
        drop(opening);
        region.release()
    }

    /// The offset in bytes of an address.
    pub(crate) fn offset(&self, gpa: GuestPhysAddr) -> usize {
        gpa.as_usize().wrapping_add(self.shift)
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
        let mut book = region.writing();
        if book.is_frozen() {
            return Err(RegionError::Frozen);
        }
        book.writable += bytes / PAGE_SIZE_4K;
        drop(book);
        Ok(Self::kept(region, bytes))
    }

    /// The permission that an area has had: it ends with the value.
    pub(crate) fn kept(region: &Counted<dyn Region>, bytes: usize) -> Self {
        Self { region: region.clone(), pages: bytes / PAGE_SIZE_4K }
    }

    /// An area has it from now on.
    pub(crate) fn keep(mut self) {
        self.pages = 0;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.pages > 0 {
            self.region.writing().writable -= self.pages;
        }
    }
}
