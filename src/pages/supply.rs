//! Where the pages of a range come from that have no frame yet.

use alloc::vec::Vec;
use core::{fmt, ops::Range};

use memory_addr::PAGE_SIZE_4K;

use crate::{account::Exhausted, counted::Counted, error::RegionError, source::Pager};

/// Sources behind ranges of pages, whoever has them.
#[derive(Clone)]
pub(crate) struct Supplies {
    /// Known by a trait, so that what lets go of sources is linked where there are any.
    ranges: Counted<dyn Ranges>,
    /// From the number of a page to its number in the ranges; the difference wraps.
    shift: usize,
}

/// A source behind a range.
pub(crate) struct Supply {
    pub pages: Range<usize>,
    pub pager: Pager,
    /// The first page's offset in the source, in bytes.
    pub offset: usize,
}

/// Sources in order.
trait Ranges: Send + Sync {
    fn all(&self) -> &[Supply];
}

impl Ranges for Vec<Supply> {
    fn all(&self) -> &[Supply] {
        self
    }
}

impl Supply {
    /// `size` bytes, from the page 0 on, that are at `offset` in the source.
    pub(crate) fn new(pager: &Pager, offset: usize, size: usize) -> Result<Self, RegionError> {
        if !offset.is_multiple_of(PAGE_SIZE_4K) {
            return Err(RegionError::Unaligned { offset, align: PAGE_SIZE_4K });
        }
        if offset.checked_add(size).is_none() {
            return Err(RegionError::Beyond { offset, size, region: usize::MAX });
        }
        Ok(Self { pages: 0..size / PAGE_SIZE_4K, pager: pager.clone(), offset })
    }
}

impl Supplies {
    /// Those of some ranges in order.
    pub(crate) fn new(ranges: Vec<Supply>) -> Result<Self, Exhausted> {
        let ranges = Counted::<dyn Ranges>::try_new_as(ranges, |inner| inner);
        ranges.map(|ranges| Self { ranges, shift: 0 }).ok_or(Exhausted::Memory)
    }

    /// That of one range.
    pub(crate) fn one(supply: Supply) -> Result<Self, Exhausted> {
        let mut ranges = Vec::new();
        ranges.try_reserve_exact(1).map_err(|_| Exhausted::Memory)?;
        ranges.push(supply);
        Self::new(ranges)
    }

    /// The same for other numbers: the page `from` is `to` there.
    pub(crate) fn moved(&self, from: usize, to: usize) -> Self {
        Self { ranges: self.ranges.clone(), shift: self.shift.wrapping_add(from).wrapping_sub(to) }
    }

    /// The source behind a page, and its offset there in bytes.
    pub(crate) fn behind(&self, page: usize) -> Option<(&Pager, usize)> {
        let page = page.wrapping_add(self.shift);
        let ranges = self.ranges.all();
        let supply = ranges.get(ranges.partition_point(|supply| supply.pages.end <= page))?;
        let index = page.checked_sub(supply.pages.start)?;
        Some((&supply.pager, supply.offset + index * PAGE_SIZE_4K))
    }

    /// How many ranges there are at most.
    pub(crate) fn len(&self) -> usize {
        self.ranges.all().len()
    }

    /// Those of some parts, by other numbers: each part comes with its first page's.
    pub(crate) fn gathered<I: Iterator<Item = (Range<usize>, usize)>>(
        &self,
        parts: impl Fn() -> I,
    ) -> Result<Self, Exhausted> {
        if let (Some((part, first)), 1) = (parts().next(), parts().count()) {
            return Ok(self.moved(part.start, first));
        }
        let mut ranges = Vec::new();
        ranges.try_reserve_exact(parts().count() * self.len()).map_err(|_| Exhausted::Memory)?;
        for (part, first) in parts() {
            let start = part.start;
            ranges.extend(self.within(part).map(|supply| Supply {
                pages: supply.pages.start - start + first..supply.pages.end - start + first,
                ..supply
            }));
        }
        Self::new(ranges)
    }

    /// The parts of a range of pages that sources are behind.
    pub(crate) fn within(&self, pages: Range<usize>) -> impl Iterator<Item = Supply> {
        let shift = self.shift;
        self.ranges.all().iter().filter_map(move |supply| {
            // A part that lies elsewhere is a range whose end is not above its start.
            let first = supply.pages.start.max(pages.start.wrapping_add(shift));
            let end = supply.pages.end.min(pages.end.wrapping_add(shift));
            (first < end).then(|| Supply {
                pages: first.wrapping_sub(shift)..end.wrapping_sub(shift),
                pager: supply.pager.clone(),
                offset: supply.offset + (first - supply.pages.start) * PAGE_SIZE_4K,
            })
        })
    }
}

impl fmt::Debug for Supplies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supplies").field("shift", &self.shift).finish_non_exhaustive()
    }
}

/// Two are equal that say the same of every page.
impl PartialEq for Supplies {
    fn eq(&self, other: &Self) -> bool {
        self.shift == other.shift && self.ranges.is(&other.ranges)
    }
}
