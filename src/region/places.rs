//! Where in its tree each page of a region is.

use alloc::vec::Vec;
use core::ops::Range;

/// The places of a region's pages. Those of a snapshot's are the numbers of their guest-physical addresses, so that
/// snapshots of one guest share their trees, and a guest's is shared with those that start from it.
#[derive(Default)]
pub(crate) struct Places(Vec<Place>);

/// Some pages side by side whose places are too.
pub(crate) struct Place {
    /// The first page.
    pub first: usize,
    /// The place of the first, and of one behind the last.
    pub places: Range<usize>,
}

impl Places {
    /// Those of pages in order, without a gap between them.
    pub(crate) fn new(places: Vec<Place>) -> Self {
        Self(places)
    }

    /// The place of a page.
    pub(super) fn of(&self, page: usize) -> usize {
        let place = self.0.get(self.0.partition_point(|place| place.first <= page).wrapping_sub(1));
        place.map_or(page, |place| place.places.start + (page - place.first))
    }

    /// The places of some pages, in parts, each with its first page.
    pub(super) fn within(&self, pages: Range<usize>) -> impl Iterator<Item = (Range<usize>, usize)> {
        let mut first = pages.start;
        core::iter::from_fn(move || {
            if first >= pages.end {
                return None;
            }
            let next = self.0.partition_point(|place| place.first <= first);
            let end = self.0.get(next).map_or(pages.end, |place| place.first.min(pages.end));
            let (part, count) = (first, end - first);
            first = end;
            Some((self.of(part)..self.of(part) + count, part))
        })
    }
}
