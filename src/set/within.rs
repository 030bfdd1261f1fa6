//! An edit of a part of one area: a plan without lists.

use memory_addr::AddrRange;

use super::{
    Backing, MemoryArea,
    areas::{Areas, Touched},
};

/// An edit of a range within one area of a [`MemorySet`](super::MemorySet), for which everything is reserved and nothing
/// changed yet: a [`Plan`](super::Plan) that stays in registers.
#[must_use = "it changes nothing until it is carried out"]
pub(crate) struct Within<'a, B: Backing> {
    areas: &'a mut Areas<B>,
    touched: Touched<B::Addr>,
}

impl<'a, B: Backing> Within<'a, B> {
    /// Reserves what an edit of `range` needs, if that lies within one area; `None` without memory, too.
    #[inline]
    pub(super) fn new(areas: &'a mut Areas<B>, range: AddrRange<B::Addr>) -> Option<Self> {
        let (place, area) = areas.first_behind(range.start);
        let area = area.filter(|area| area.start() <= range.start && range.end <= area.end())?;
        let (cuts_first, cuts_last) = (area.start() < range.start, area.end() > range.end);
        let touched = Touched { range, place, count: 1, cuts_first, cuts_last };
        areas.reserve(place, 1, touched.insertions()).ok()?;
        Some(Self { areas, touched })
    }

    /// The area.
    #[inline]
    pub(crate) fn area(&self) -> &MemoryArea<B> {
        self.areas.area(self.touched.place)
    }

    /// Removes the range, cutting the area where it goes on beyond. What was in it is dropped.
    #[inline]
    pub(crate) fn remove(self) {
        if self.touched.is_whole() {
            drop(self.areas.take(self.touched.place));
        } else {
            self.areas.carve(&self.touched, None, None);
        }
    }

    /// Gives the range these flags, cutting the area where it goes on beyond, unless it has them already. It becomes one
    /// area with those that it touches and agrees with then.
    #[inline]
    pub(crate) fn set_flags(self, flags: B::Flags)
    where
        B: PartialEq,
        B::Flags: PartialEq,
    {
        self.areas.set_flags_joined(&self.touched, flags);
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use memory_addr::{AddrRange, VirtAddr};

    use super::super::{Backing, MemoryArea, MemorySet};

    /// Nothing stands behind the areas.
    #[derive(Clone, PartialEq)]
    struct Nothing;

    impl Backing for Nothing {
        type Addr = VirtAddr;
        type Flags = u8;
    }

    fn range(start: usize, end: usize) -> AddrRange<VirtAddr> {
        AddrRange { start: start.into(), end: end.into() }
    }

    /// Areas of 3 addresses, one at every 4th.
    fn areas(count: usize) -> MemorySet<Nothing> {
        let mut set = MemorySet::new();
        for index in 0..count {
            set.insert(MemoryArea::new((4 * index).into(), 3, 1, Nothing)).unwrap();
        }
        set
    }

    fn shown(set: &MemorySet<Nothing>) -> Vec<(usize, usize, u8)> {
        set.areas.check();
        set.iter().map(|area| (area.start().as_usize(), area.end().as_usize(), area.flags())).collect()
    }

    #[test]
    fn only_what_lies_within_one_area_is_edited() {
        let mut set = areas(3);
        for (start, end) in [(3, 4), (2, 4), (3, 5), (4, 8), (2, 9), (11, 12), (20, 21)] {
            assert!(set.within(range(start, end)).is_none(), "{start}..{end}");
        }
        for (start, end) in [(0, 1), (1, 2), (2, 3), (4, 7), (8, 10)] {
            let within = set.within(range(start, end)).unwrap();
            assert_eq!(within.area().start().as_usize(), start / 4 * 4, "{start}..{end}");
        }
        assert_eq!(shown(&set), [(0, 3, 1), (4, 7, 1), (8, 11, 1)]);
    }

    #[test]
    fn the_rest_of_the_area_stays() {
        let expect = [
            ((4, 7), Vec::new()),
            ((4, 5), [(5, 7, 1)].to_vec()),
            ((6, 7), [(4, 6, 1)].to_vec()),
            ((5, 6), [(4, 5, 1), (6, 7, 1)].to_vec()),
        ];
        for ((start, end), left) in expect {
            let mut set = areas(3);
            set.within(range(start, end)).unwrap().remove();
            assert_eq!(shown(&set), [&[(0, 3, 1)], &left[..], &[(8, 11, 1)]].concat(), "{start}..{end}");
            let mut set = areas(3);
            set.within(range(start, end)).unwrap().set_flags(2);
            let mut parts = [&left[..], &[(start, end, 2)]].concat();
            parts.sort_unstable();
            assert_eq!(shown(&set), [&[(0, 3, 1)], &parts[..], &[(8, 11, 1)]].concat(), "{start}..{end}");
        }
    }

    #[test]
    fn flags_that_are_there_already_cut_nothing() {
        let mut set = areas(1);
        set.within(range(1, 2)).unwrap().set_flags(1);
        assert_eq!(shown(&set), [(0, 3, 1)]);
    }

    #[test]
    fn flags_that_its_neighbours_have_make_one_area() {
        let mut set = areas(0);
        for (start, flags) in [(0, 1), (3, 2), (6, 1), (9, 2)] {
            set.insert(MemoryArea::new(start.into(), 3, flags, Nothing)).unwrap();
        }
        set.within(range(5, 6)).unwrap().set_flags(1);
        assert_eq!(shown(&set), [(0, 3, 1), (3, 5, 2), (5, 9, 1), (9, 12, 2)]);
        set.within(range(3, 4)).unwrap().set_flags(1);
        assert_eq!(shown(&set), [(0, 4, 1), (4, 5, 2), (5, 9, 1), (9, 12, 2)]);
        set.within(range(4, 5)).unwrap().set_flags(1);
        assert_eq!(shown(&set), [(0, 9, 1), (9, 12, 2)]);
        set.within(range(9, 12)).unwrap().set_flags(1);
        assert_eq!(shown(&set), [(0, 12, 1)]);
    }

    /// As many as take several chunks, which overflow, run empty and go.
    #[test]
    fn every_area_of_every_chunk_is_found_cut_and_taken() {
        const COUNT: usize = 500;
        let mut set = areas(COUNT);
        // 77 and 500 have no factor in common.
        let order = || (0..COUNT).map(|index| 4 * (index * 77 % COUNT));
        for start in order() {
            set.within(range(start + 1, start + 2)).unwrap().remove();
            set.areas.check();
        }
        assert_eq!(set.len(), 2 * COUNT);
        for start in order() {
            set.within(range(start + 2, start + 3)).unwrap().remove();
            set.within(range(start, start + 1)).unwrap().remove();
            set.areas.check();
        }
        assert!(set.is_empty());
    }
}
