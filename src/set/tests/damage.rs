//! What only a fault of the set could do, for those who are to find it.

use memory_addr::AddrRange;

use super::{Backing, MemorySet, areas::Place};

impl<B: Backing> MemorySet<B> {
    /// Puts one of the first areas elsewhere, without a word to the search: where it was.
    pub(crate) fn displace(&mut self, index: usize, range: AddrRange<B::Addr>) -> AddrRange<B::Addr> {
        let area = self.areas.area_mut(Place { chunk: 0, index });
        let before = area.va_range();
        area.set_start(range.start);
        area.set_end(range.end);
        before
    }
}
