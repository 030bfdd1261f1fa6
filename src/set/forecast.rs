//! How many areas an edit will leave, before it changes anything.
//!
//! An edit here is one after which all that touch and agree are one area. It is counted only where a limit is near.

use core::iter;

use memory_addr::AddrRange;

use super::{
    Backing, MemoryArea, MemorySet, Plan,
    areas::{Areas, Touched},
};

/// What stands in a range: its flags, and what is behind it.
struct Piece<'a, B: Backing> {
    range: AddrRange<B::Addr>,
    flags: B::Flags,
    backend: &'a B,
}

impl<'a, B: Backing + PartialEq> Piece<'a, B>
where
    B::Flags: PartialEq,
{
    fn of(area: &'a MemoryArea<B>) -> Self {
        Self { range: area.va_range(), flags: area.flags(), backend: area.backend() }
    }

    /// Whether it ends where another starts, and nothing else tells the two apart.
    fn goes_on_in(&self, next: &Self) -> bool {
        self.range.end == next.range.start && self.flags == next.flags && self.backend == next.backend
    }
}

impl<B: Backing> Areas<B> {
    /// How many there are without a range.
    fn len_without(&self, touched: &Touched<B::Addr>) -> usize {
        self.len + touched.cuts() - touched.count
    }

    /// How many there are with these pieces in a range, in order, in the place of what is there.
    fn len_with<'a>(&'a self, touched: &Touched<B::Addr>, pieces: impl Iterator<Item = Piece<'a, B>>) -> usize
    where
        B: PartialEq,
        B::Flags: PartialEq,
    {
        let Touched { range, place, .. } = *touched;
        // Of an area that an end of the range cuts, the rest touches the range.
        let left = if touched.cuts_first { Some(place) } else { self.before(place) };
        let left = left.map(|place| self.area(place)).filter(|area| area.end() >= range.start);
        let right = self.area_behind(range.end).filter(|area| area.start() <= range.end);
        let rest = |area, part| Piece { range: part, ..Piece::of(area) };
        let mut before = left.map(|area| rest(area, AddrRange { start: area.start(), end: range.start }));
        let mut len = self.len_without(touched);
        for piece in pieces {
            len += usize::from(!before.is_some_and(|before| before.goes_on_in(&piece)));
            before = Some(piece);
        }
        let right = right.map(|area| rest(area, AddrRange { start: range.end, end: area.end() }));
        let is_joined = right.zip(before).is_some_and(|(right, before)| before.goes_on_in(&right));
        len - usize::from(is_joined)
    }
}

impl<B: Backing> Plan<'_, B> {
    /// How many areas there are now.
    pub(crate) fn len(&self) -> usize {
        self.areas.len
    }

    /// How many there are after [`carve`](Self::carve).
    pub(crate) fn len_carved(&self) -> usize {
        self.areas.len_without(&self.touched)
    }
}

impl<B: Backing + PartialEq> Plan<'_, B>
where
    B::Flags: PartialEq,
{
    /// How many there are when each piece has the flags, and the backend behind it, that `becomes` answers.
    pub(crate) fn len_changed<'a>(&'a self, becomes: impl Fn(&'a MemoryArea<B>) -> (B::Flags, &'a B)) -> usize {
        len_changed(self.areas, &self.touched, becomes)
    }

    /// How many there are after [`replace_with`](Self::replace_with).
    pub(crate) fn len_replaced(&self, flags: B::Flags, backend: &B) -> usize {
        let range = self.touched.range;
        self.areas.len_with(&self.touched, iter::once(Piece { range, flags, backend }))
    }
}

impl<B: Backing> MemorySet<B> {
    /// How many there are when `parts`, of which no two are in one area, are taken out.
    pub(crate) fn len_without(&self, parts: impl Iterator<Item = AddrRange<B::Addr>>) -> usize {
        parts.fold(self.len(), |len, part| len + self.areas.len_without(&self.areas.touched(part)) - self.len())
    }
}

impl<B: Backing + PartialEq> MemorySet<B>
where
    B::Flags: PartialEq,
{
    /// How many there are when each piece in a range has the flags, and the backend behind it, that `becomes` answers.
    pub(crate) fn len_changed<'a>(
        &'a self,
        range: AddrRange<B::Addr>,
        becomes: impl Fn(&'a MemoryArea<B>) -> (B::Flags, &'a B),
    ) -> usize {
        len_changed(&self.areas, &self.areas.touched(range), becomes)
    }

    /// How many there are with these as well, which come in order to where nothing is.
    pub(crate) fn len_with(&self, new: impl Iterator<Item = MemoryArea<B>>) -> usize {
        let (mut len, mut before) = (self.len(), None::<MemoryArea<B>>);
        for area in new {
            let with = self.areas.len_with(&self.areas.touched(area.va_range()), iter::once(Piece::of(&area)));
            let goes_on = before.is_some_and(|before| Piece::of(&before).goes_on_in(&Piece::of(&area)));
            len = len + with - self.len() - usize::from(goes_on);
            before = Some(area);
        }
        len
    }
}

fn len_changed<'a, B: Backing + PartialEq>(
    areas: &'a Areas<B>,
    touched: &Touched<B::Addr>,
    becomes: impl Fn(&'a MemoryArea<B>) -> (B::Flags, &'a B),
) -> usize
where
    B::Flags: PartialEq,
{
    let pieces = areas.pieces(touched).map(|(area, range)| {
        let (flags, backend) = becomes(area);
        Piece { range, flags, backend }
    });
    areas.len_with(touched, pieces)
}

#[cfg(test)]
mod tests {
    use memory_addr::{AddrRange, VirtAddr};

    use super::*;

    /// Which of several things stands behind an area.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Thing(u8);

    impl Backing for Thing {
        type Addr = VirtAddr;
        type Flags = u8;
    }

    /// Areas of two addresses that touch but at every fourth, over several chunks; some neighbours agree and are one.
    fn set() -> MemorySet<Thing> {
        let mut set = MemorySet::new();
        for index in (0..150_usize).filter(|index| index % 4 != 3) {
            let (flags, thing) = ((index / 5 % 2) as u8, Thing((index / 7 % 2) as u8));
            set.insert(MemoryArea::new((index * 2).into(), 2, flags, thing)).unwrap();
        }
        set.join_all(range(0, 300));
        set
    }

    fn range(start: usize, end: usize) -> AddrRange<VirtAddr> {
        AddrRange { start: start.into(), end: end.into() }
    }

    fn ranges() -> impl Iterator<Item = AddrRange<VirtAddr>> {
        (0..300).flat_map(|start| [1, 2, 3, 5, 17, 120].map(|size| range(start, start + size)))
    }

    #[test]
    fn of_what_is_taken_out_is_what_is_left() {
        for range in ranges() {
            let mut set = set();
            let plan = set.plan(range).unwrap();
            let (now, then) = (plan.len(), plan.len_carved());
            drop(plan.carve());
            assert_eq!((now, then), (self::set().len(), set.len()), "{range:?}");
            assert_eq!(self::set().len_without(iter::once(range)), then, "{range:?}");
        }
        let parts = || [range(1, 2), range(20, 30), range(32, 90), range(200, 201)].into_iter();
        let mut set = set();
        let then = set.len_without(parts());
        parts().for_each(|part| {
            set.reserve_removal(part).unwrap();
            set.remove(part);
        });
        assert_eq!(set.len(), then);
    }

    #[test]
    fn of_other_flags_or_backends_is_what_comes_of_them() {
        for range in ranges() {
            for flags in [0, 1, 2] {
                let mut set = set();
                let then = set.len_changed(range, |area| (flags, area.backend()));
                let plan = set.plan(range).unwrap();
                assert_eq!(plan.len_changed(|area| (flags, area.backend())), then);
                plan.set_flags(flags);
                set.join_all(range);
                assert_eq!(set.len(), then, "{range:?} gets flags {flags}");
            }
            for thing in [0, 1, 2].map(Thing) {
                let mut set = set();
                let then = set.len_changed(range, |area| (area.flags(), &thing));
                drop(set.plan(range).unwrap().rebase(|_| Some(thing)));
                set.join_all(range);
                assert_eq!(set.len(), then, "{range:?} gets {thing:?}");
            }
        }
    }

    #[test]
    fn of_a_replacement_is_what_comes_of_it() {
        for range in ranges() {
            for (flags, thing) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)].map(|(flags, thing)| (flags, Thing(thing))) {
                let mut set = set();
                let plan = set.plan(range).unwrap();
                let then = plan.len_replaced(flags, &thing);
                drop(plan.replace_with(flags, thing));
                set.join_all(range);
                assert_eq!(set.len(), then, "{range:?} becomes {thing:?} with {flags}");
            }
        }
    }

    #[test]
    fn of_several_that_come_is_what_comes_of_them() {
        for (flags, thing) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)].map(|(flags, thing)| (flags, Thing(thing))) {
            // All that is free, in halves.
            let new = || (3..150).step_by(4).flat_map(|index| [2 * index, 2 * index + 1]);
            let new = || new().map(|start| MemoryArea::new(start.into(), 1, flags, thing));
            let mut set = set();
            let then = set.len_with(new());
            new().for_each(|area| set.insert(area).unwrap());
            set.join_all(range(0, 300));
            assert_eq!(set.len(), then, "{thing:?} with {flags}");
        }
    }
}
