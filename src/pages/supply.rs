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

    /// Whether another is the same range's next part.
    fn goes_on_in(&self, next: &Self) -> bool {
        let end = self.offset + self.pages.len() * PAGE_SIZE_4K;
        (self.pages.end, end) == (next.pages.start, next.offset) && self.pager == next.pager
    }
}

impl Supplies {
    /// Those of some ranges in order.
    fn new(ranges: Vec<Supply>) -> Result<Self, Exhausted> {
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

    /// Those of some ranges in order, as few as say the same; `None` without any. Each call of `ranges` is to answer the same.
    pub(crate) fn joined<I: Iterator<Item = Supply>>(ranges: impl Fn() -> I) -> Result<Option<Self>, Exhausted> {
        let (count, mut few) = (joined(ranges()).count(), Vec::new());
        if count == 0 {
            return Ok(None);
        }
        few.try_reserve_exact(count).map_err(|_| Exhausted::Memory)?;
        few.extend(joined(ranges()));
        Self::new(few).map(Some)
    }

    /// Those of some parts, by other numbers: each part comes with its first page's. `None` without any.
    pub(crate) fn gathered<I: Iterator<Item = (Range<usize>, usize)>>(
        &self,
        parts: impl Fn() -> I,
    ) -> Result<Option<Self>, Exhausted> {
        if let (Some((part, first)), 1) = (parts().next(), parts().count()) {
            return Ok(Some(self.moved(part.start, first)));
        }
        Self::joined(|| {
            parts().flat_map(|(part, first)| {
                let start = part.start;
                self.within(part).map(move |supply| Supply {
                    pages: supply.pages.start - start + first..supply.pages.end - start + first,
                    ..supply
                })
            })
        })
    }

    /// The parts of a range of pages that sources are behind.
    pub(crate) fn within(&self, pages: Range<usize>) -> impl Iterator<Item = Supply> {
        let (shift, ranges) = (self.shift, self.ranges.all());
        let (start, end) = (pages.start.wrapping_add(shift), pages.end.wrapping_add(shift));
        let rest = &ranges[ranges.partition_point(|supply| supply.pages.end <= start)..];
        rest.iter().take_while(move |supply| supply.pages.start < end).map(move |supply| {
            let (first, end) = (supply.pages.start.max(start), supply.pages.end.min(end));
            Supply {
                pages: first.wrapping_sub(shift)..end.wrapping_sub(shift),
                pager: supply.pager.clone(),
                offset: supply.offset + (first - supply.pages.start) * PAGE_SIZE_4K,
            }
        })
    }
}

/// The same ranges, in order: neighbours that are one range of one source become one. Each area has its own, and areas come
/// and go: a list that was never joined would have one for each page in the end.
fn joined(ranges: impl Iterator<Item = Supply>) -> impl Iterator<Item = Supply> {
    let mut ranges = ranges.peekable();
    core::iter::from_fn(move || {
        let mut supply = ranges.next()?;
        while let Some(next) = ranges.next_if(|next| supply.goes_on_in(next)) {
            supply.pages.end = next.pages.end;
        }
        Some(supply)
    })
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

#[cfg(all(test, not(loom)))]
mod tests {
    use alloc::sync::Arc;
    use core::num::NonZeroUsize;

    use super::*;
    use crate::{
        source::{Settled, Source, Supply as Answer},
        ticket::Ticket,
    };

    struct Silent;

    impl Source for Silent {
        fn ask(&self, _: Ticket, _: &mut [u8]) -> Answer {
            Answer::Later
        }

        fn settled(&self, _: Ticket, _: Settled) {}
    }

    fn pager() -> Pager {
        Pager::new(Arc::new(Silent), NonZeroUsize::MIN).unwrap()
    }

    fn supply(pages: Range<usize>, source: &Pager, first: usize) -> Supply {
        Supply { pages, pager: source.clone(), offset: first * PAGE_SIZE_4K }
    }

    fn len(supplies: &Supplies) -> usize {
        supplies.ranges.all().len()
    }

    #[test]
    fn neighbours_that_are_one_range_of_one_source_are_one() {
        let (one, two) = (pager(), pager());
        let ranges = || {
            // Another page between two, another source, and other places in the source are borders.
            let parts = [(2..4, &one, 7), (4..5, &one, 9), (6..7, &one, 11), (7..8, &two, 12), (8..9, &two, 14)];
            parts.into_iter().map(|(pages, pager, first)| supply(pages, pager, first))
        };
        let supplies = Supplies::joined(ranges).unwrap().unwrap();
        assert_eq!(len(&supplies), 4);
        for page in 0..10 {
            let part = ranges().find(|supply| supply.pages.contains(&page));
            let behind = part.map(|part| (part.pager, part.offset + (page - part.pages.start) * PAGE_SIZE_4K));
            assert_eq!(supplies.behind(page).map(|(pager, offset)| (pager.clone(), offset)), behind, "page {page}");
        }
        assert!(Supplies::joined(core::iter::empty).unwrap().is_none());
    }

    /// Each round leaves the list in three parts, which the next one looked at and cut again.
    #[test]
    fn a_thousand_rounds_leave_them_as_few_as_they_were() {
        let pager = pager();
        let mut all = Supplies::one(supply(0..64, &pager, 5)).unwrap();
        for round in 0..1000 {
            let page = round * 7 % 64;
            let new = Supplies::one(supply(page..page + 1, &pager, 5 + page)).unwrap();
            let parts = || [(0..page, &all), (page..page + 1, &new), (page + 1..64, &all)].into_iter();
            let next = Supplies::joined(|| parts().flat_map(|(pages, supplies)| supplies.within(pages)));
            all = next.unwrap().unwrap();
            assert_eq!(len(&all), 1);
        }
        assert_eq!(all.behind(63), Some((&pager, 68 * PAGE_SIZE_4K)));
        let swapped = all.moved(0, 100).gathered(|| [(100..110, 0), (130..140, 10), (140..164, 20)].into_iter());
        assert_eq!(len(&swapped.unwrap().unwrap()), 2);
    }
}
