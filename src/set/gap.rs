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
    /// A chunk in which no gap is large enough is passed over as a whole.
    pub(super) fn find_in<B: Backing<Addr = A>>(&self, areas: &Areas<B>, from: A) -> Option<A> {
        let mut at = self.candidate(from)?;
        for (head, chunk) in areas.chunks_from(at) {
            if self.fits(at, head.span.start) {
                return Some(at);
            }
            if head.gap < self.size {
                at = self.candidate(at.max(head.span.end))?;
                continue;
            }
            for area in chunk {
                if self.fits(at, area.start()) {
                    return Some(at);
                }
                at = self.candidate(at.max(area.end()))?;
            }
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
