//! Looking for free addresses.

use memory_addr::MemoryAddr;

use super::{Backing, areas::Areas};

/// A free range that is looked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted<A: MemoryAddr> {
    size: usize,
    align: usize,
    limit: A,
}

impl<A: MemoryAddr> Wanted<A> {
    /// `size` bytes at a multiple of `align` that end at `limit` at most. `None` for what is found nowhere.
    pub(super) fn new(size: usize, align: usize, limit: A) -> Option<Self> {
        let is_sound = align.is_power_of_two() && size > 0 && size.is_multiple_of(align);
        is_sound.then_some(Self { size, align, limit })
    }

    /// The lowest such address from `from` on in `areas`.
    ///
    /// A chunk in which no gap is large enough is passed over as a whole; one that only seemed to have such a gap is
    /// passed over by the next search.
    pub(super) fn find_in<B: Backing<Addr = A>>(&self, areas: &Areas<B>, from: A) -> Option<A> {
        let mut at = self.candidate(from)?;
        for chunk in areas.chunks_from(areas.chunk_behind(at)) {
            if self.fits(at, chunk.area(0).start()) {
                return Some(at);
            }
            if chunk.gap() < self.size {
                at = self.candidate(at.max(chunk.area(chunk.len() - 1).end()))?;
                continue;
            }
            for area in chunk.iter() {
                if self.fits(at, area.start()) {
                    return Some(at);
                }
                at = self.candidate(at.max(area.end()))?;
            }
            chunk.mend_gap();
        }
        Some(at)
    }

    /// The lowest aligned address from `from` on, if what is wanted ends within the limit there.
    fn candidate(&self, from: A) -> Option<A> {
        let at = from.into().checked_next_multiple_of(self.align)?;
        (at.checked_add(self.size)? <= self.limit.into()).then(|| A::from(at))
    }

    /// Whether what is wanted fits between a candidate and the next area.
    fn fits(&self, at: A, next: A) -> bool {
        at.into() + self.size <= next.into()
    }
}

#[cfg(test)]
mod tests {
    use memory_addr::{VirtAddr, va, va_range};

    use super::super::{Backing, MemoryArea, MemorySet};

    /// Stands behind an area.
    #[derive(Clone)]
    struct Thing;

    impl Backing for Thing {
        type Addr = VirtAddr;
        type Flags = u8;
    }

    #[test]
    fn a_gap_that_was_filled_is_found_out_by_the_next_search() {
        let mut set = MemorySet::new();
        for index in 0..8 {
            set.insert(MemoryArea::new(va!(index * 16), 8, 1, Thing)).unwrap();
        }
        assert_eq!(set.areas.chunk(0).unwrap().gap(), 8);
        drop(set.plan(va_range!(32..40)).unwrap().carve());
        assert_eq!(set.areas.chunk(0).unwrap().gap(), 24);
        set.insert(MemoryArea::new(va!(32), 8, 1, Thing)).unwrap();
        assert_eq!(set.areas.chunk(0).unwrap().gap(), 24);
        for _ in 0..2 {
            assert_eq!(set.find_free_area(va!(0), 12, va_range!(0..200), 1), Some(va!(120)));
            assert_eq!(set.areas.chunk(0).unwrap().gap(), 8);
        }
    }

    #[test]
    fn a_cut_and_a_shorter_area_leave_gaps_that_are_found() {
        let mut set = MemorySet::new();
        set.insert(MemoryArea::new(va!(0), 100, 1, Thing)).unwrap();
        set.insert(MemoryArea::new(va!(100), 100, 1, Thing)).unwrap();
        for (gone, size, at) in [(40..50, 10, 40), (85..100, 15, 85), (100..120, 35, 85)] {
            drop(set.plan(va_range!(gone)).unwrap().carve());
            set.areas.check();
            assert_eq!(set.areas.chunk(0).unwrap().gap(), size);
            assert_eq!(set.find_free_area(va!(0), size, va_range!(0..200), 1), Some(va!(at)));
        }
    }
}
