//! What an edit does to the areas that it touches.

use memory_addr::AddrRange;

use super::{
    Backing, Few, MemoryArea,
    areas::{Areas, Place, Touched},
};

impl<B: Backing> Areas<B> {
    /// Removes what is in a range, cutting areas at its ends, and puts `new` over it. `gone` gets what was in it.
    pub(super) fn carve(
        &mut self,
        touched: &Touched<B::Addr>,
        mut new: Option<MemoryArea<B>>,
        mut gone: Option<&mut Few<MemoryArea<B>>>,
    ) {
        let is_inside = touched.is_inside();
        let Touched { range, mut place, mut count, cuts_first, cuts_last } = *touched;
        if cuts_first {
            let area = self.area(place);
            if let Some(gone) = &mut gone {
                gone.push(area.part(area.part_in(range)));
            }
            let behind = is_inside.then(|| area.part_from(range.end));
            self.set_end(place, range.start);
            place.index += 1;
            count -= 1;
            if let Some(behind) = behind {
                place = self.insert(place, behind);
            }
            self.chunk_mut(place.chunk).raise_gap(place.index);
        }
        let cuts_last = cuts_last && !is_inside;
        let whole = count - usize::from(cuts_last);
        if whole > 0 {
            self.remove_whole(place, whole, new.take(), gone.as_deref_mut());
            if cuts_last {
                (place, _) = self.first_behind_of_any(range.end);
            }
        }
        if cuts_last {
            self.at(&mut place);
            let area = self.area(place);
            if let Some(gone) = &mut gone {
                gone.push(area.part(area.part_in(range)));
            }
            self.chunk_mut(place.chunk).set_start(place.index, range.end);
        }
        if let Some(new) = new {
            self.insert(place, new);
        }
    }

    /// Removes areas, one at least, none of which is cut, and puts `new` in the place of the first.
    fn remove_whole(
        &mut self,
        mut place: Place,
        mut count: usize,
        new: Option<MemoryArea<B>>,
        mut gone: Option<&mut Few<MemoryArea<B>>>,
    ) {
        if let Some(new) = new {
            self.at(&mut place);
            let old = self.replace(place, new);
            if let Some(gone) = &mut gone {
                gone.push(old);
            }
            place.index += 1;
            count -= 1;
        }
        if count > 0 {
            self.remove(place, count, gone);
        }
    }

    /// Changes the parts of areas that lie in a range, cutting areas at its ends.
    ///
    /// `ask` is shown each area and answers how it changes; one for which it answers `None` is left alone, and not
    /// cut. `apply` does the change.
    pub(super) fn change<C>(
        &mut self,
        touched: &Touched<B::Addr>,
        mut ask: impl FnMut(&MemoryArea<B>) -> Option<C>,
        mut apply: impl FnMut(&mut MemoryArea<B>, C),
    ) {
        let Touched { range, mut place, count, .. } = *touched;
        for _ in 0..count {
            let Some(area) = self.at(&mut place) else { return };
            let (start, end) = (area.start(), area.end());
            if let Some(change) = ask(area) {
                if start < range.start {
                    place = self.cut(place, range.start);
                }
                if end > range.end {
                    let right = self.cut(place, range.end);
                    place = self.before(right).unwrap_or(right);
                }
                apply(self.area_mut(place), change);
            }
            place.index += 1;
        }
    }

    /// Gives the parts of areas that lie in a range these flags, and cuts no area that has them already.
    #[inline]
    pub(super) fn set_flags(&mut self, touched: &Touched<B::Addr>, flags: B::Flags)
    where
        B::Flags: PartialEq,
    {
        if touched.is_whole() {
            return self.area_mut(touched.place).set_flags(flags);
        }
        let ask = |area: &MemoryArea<B>| (area.flags() != flags).then_some(flags);
        self.change(touched, ask, MemoryArea::set_flags);
    }

    /// Gives a part of one area these flags; it becomes one area with those that it touches and agrees with then.
    #[inline]
    pub(super) fn set_flags_joined(&mut self, touched: &Touched<B::Addr>, flags: B::Flags)
    where
        B: PartialEq,
        B::Flags: PartialEq,
    {
        let Touched { range, place, .. } = *touched;
        if touched.is_whole() {
            let chunk = self.chunk_mut(place.chunk);
            chunk.area_mut(place.index).set_flags(flags);
            if !chunk.may_touch(place.index, place.index + 1, range) {
                return;
            }
        } else {
            self.set_flags(touched, flags);
        }
        self.join_all(range);
    }

    /// Cuts the area at a place in two, and gives the place of the right part.
    fn cut(&mut self, mut place: Place, at: B::Addr) -> Place {
        let right = self.area(place).part_from(at);
        self.set_end(place, at);
        place.index += 1;
        self.insert(place, right)
    }

    /// The place before another.
    pub(super) fn before(&self, Place { chunk, index }: Place) -> Option<Place> {
        if let Some(index) = index.checked_sub(1) {
            return Some(Place { chunk, index });
        }
        let chunk = chunk.checked_sub(1)?;
        Some(Place { chunk, index: self.chunk(chunk)?.len() - 1 })
    }

    /// Makes one area of the one that ends at `at` and the one that starts there, if nothing else tells them apart.
    pub(super) fn join(&mut self, at: B::Addr)
    where
        B: PartialEq,
        B::Flags: PartialEq,
    {
        let (place, Some(right)) = self.first_behind_of_any(at) else { return };
        let Some(before) = self.before(place) else { return };
        let left = self.area(before);
        let touch = left.end() == at && right.start() == at;
        if touch && left.flags() == right.flags() && left.backend() == right.backend() {
            let start = left.start();
            self.chunk_mut(place.chunk).set_start(place.index, start);
            self.take(before);
        }
    }

    /// Makes one area of all those that touch and agree, from one that ends at a range's start to one that starts at its
    /// end.
    #[inline(never)]
    pub(super) fn join_all(&mut self, range: AddrRange<B::Addr>)
    where
        B: PartialEq,
        B::Flags: PartialEq,
    {
        let mut seam = Some(range.start);
        while let Some(at) = seam.filter(|&at| at <= range.end) {
            self.join(at);
            seam = self.area_behind(at).map(MemoryArea::end);
        }
    }

    /// Takes the last area out.
    pub(super) fn pop(&mut self) -> Option<MemoryArea<B>> {
        self.take(self.before(self.end())?)
    }
}
#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use memory_addr::{VirtAddr, va, va_range};

    use super::super::{Backing, MemoryArea, MemorySet};

    /// Which of several things stands behind an area.
    type Thing = u8;

    impl Backing for Thing {
        type Addr = VirtAddr;
        type Flags = u8;
    }

    /// Areas of 10 that touch, over several chunks.
    fn many() -> MemorySet<Thing> {
        let mut set = MemorySet::new();
        for index in 0..200 {
            set.insert(MemoryArea::new(va!(index * 10), 10, 1, 7)).unwrap();
        }
        set
    }

    #[test]
    fn areas_that_touch_and_agree_become_one() {
        let mut set = many();
        // Any order, borders of chunks among them.
        for index in (1..200).step_by(2).chain((2..200).step_by(2)) {
            set.areas.join(va!(index * 10));
            set.areas.check();
        }
        assert_eq!(set.iter().map(MemoryArea::va_range).collect::<Vec<_>>(), [va_range!(0..2000)]);
    }

    #[test]
    fn areas_that_differ_or_do_not_touch_stay_apart() {
        let mut set = many();
        set.plan(va_range!(500..510)).unwrap().replace(|_| 2);
        let _ = set.plan(va_range!(700..710)).unwrap().carve();
        let _ = set.plan(va_range!(900..910)).unwrap().replace_with(1, 8);
        for at in [0, 5, 500, 510, 700, 710, 900, 910, 2000] {
            set.areas.join(va!(at));
        }
        set.areas.check();
        assert_eq!(set.len(), 199);
    }

    #[test]
    fn all_of_a_range_is_joined_and_what_touches_it() {
        let shown = |set: &MemorySet<Thing>| set.iter().map(MemoryArea::va_range).collect::<Vec<_>>();
        let mut set = many();
        set.areas.join_all(va_range!(500..1510));
        assert_eq!(shown(&set)[48..51], [va_range!(480..490), va_range!(490..1520), va_range!(1520..1530)]);
        set.plan(va_range!(700..710)).unwrap().replace(|_| 2);
        set.areas.join_all(va_range!(0..2000));
        set.areas.check();
        assert_eq!(shown(&set), [va_range!(0..700), va_range!(700..710), va_range!(710..2000)]);
        set.areas.join_all(va_range!(3000..4000));
        MemorySet::<Thing>::new().areas.join_all(va_range!(0..10));
    }

    #[test]
    fn the_last_one_comes_first() {
        let mut set = many();
        let popped: Vec<_> = core::iter::from_fn(|| set.pop()).map(|area| area.start().as_usize()).collect();
        assert!(popped.is_sorted_by(|one, two| one > two) && popped.len() == 200 && set.is_empty());
        set.areas.check();
    }
}
