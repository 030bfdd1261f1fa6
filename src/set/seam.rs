//! Areas that were cut, and may be one again; and the end of all.

use memory_addr::AddrRange;

use super::{Backing, MemoryArea, areas::Areas};

impl<B: Backing> Areas<B> {
    /// Makes one area of the one that ends at `at` and the one that starts there, if nothing else tells them apart.
    pub(super) fn join(&mut self, at: B::Addr)
    where
        B: PartialEq,
        B::Flags: PartialEq,
    {
        let Some(right) = self.ending_after(at).next().filter(|area| area.start() == at) else { return };
        let Some(left) = self.before(at) else { return };
        if left.end() == at && left.flags() == right.flags() && left.backend() == right.backend() {
            let end = right.end();
            self.remove(AddrRange { start: at, end }, drop);
            self.extend(at, end);
        }
    }

    /// The last area that starts before `addr`.
    fn before(&self, addr: B::Addr) -> Option<&MemoryArea<B>> {
        let place = self.first_starting_from(addr);
        self.chunks.get(place.chunk)?.areas().get(place.index.checked_sub(1)?)
    }

    /// Has the last area that starts before `at` reach to `end`, up to where nothing is.
    fn extend(&mut self, at: B::Addr, end: B::Addr) {
        let place = self.first_starting_from(at);
        if let Some(index) = place.index.checked_sub(1)
            && let [left, ..] = self.chunks[place.chunk].areas_mut(index)
        {
            left.set_end(end);
            self.refresh(place.chunk);
        }
    }

    /// Takes the last area out.
    pub(super) fn pop(&mut self) -> Option<MemoryArea<B>> {
        let last = self.chunks.len().checked_sub(1)?;
        let index = self.chunks[last].len() - 1;
        let area = self.chunks[last].drain(index..).next();
        self.len -= usize::from(area.is_some());
        self.refresh(last);
        area
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
            set.join(va!(index * 10));
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
            set.join(va!(at));
        }
        set.areas.check();
        assert_eq!(set.len(), 199);
    }

    #[test]
    fn the_last_one_comes_first() {
        let mut set = many();
        let popped: Vec<_> = core::iter::from_fn(|| set.pop()).map(|area| area.start().as_usize()).collect();
        assert!(popped.is_sorted_by(|one, two| one > two) && popped.len() == 200 && set.is_empty());
        set.areas.check();
    }
}
