//! All areas of a set: a sorted array of chunks.
//!
//! Finding is two binary searches. Editing shifts areas within a chunk or two and, when a chunk overflows or runs
//! empty, the heads of the chunks behind it. What an edit needs is reserved by [`Areas::reserve`] before it; nothing
//! after that allocates.

use alloc::{collections::TryReserveError, vec::Vec};

use memory_addr::AddrRange;

use super::{
    Backing, MemoryArea,
    chunk::{CAPACITY, Chunk, Head},
};

/// The areas of a set, sorted and disjoint.
pub(super) struct Areas<B: Backing> {
    /// One for each chunk, in the same order.
    heads: Vec<Head<B::Addr>>,
    /// None of them is empty.
    pub(super) chunks: Vec<Chunk<B>>,
    /// Reserved for chunks that overflow.
    spares: Vec<Chunk<B>>,
    pub(super) len: usize,
}

/// Between two areas, or at an end: the place before the area `index` of a chunk.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) chunk: usize,
    pub(super) index: usize,
}

impl<B: Backing> Areas<B> {
    pub(super) const fn new() -> Self {
        Self { heads: Vec::new(), chunks: Vec::new(), spares: Vec::new(), len: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// From the start of the first area to the end of the last.
    pub(super) fn span(&self) -> Option<AddrRange<B::Addr>> {
        let (first, last) = (self.heads.first()?, self.heads.last()?);
        Some(AddrRange { start: first.span.start, end: last.span.end })
    }

    /// The areas that end behind `addr`, in order.
    pub(super) fn ending_after(&self, addr: B::Addr) -> impl Iterator<Item = &MemoryArea<B>> {
        let place = self.first_ending_after(addr);
        let (first, rest) = match self.chunks.get(place.chunk..) {
            Some([first, rest @ ..]) => (&first.areas()[place.index..], rest),
            _ => (&[][..], &[][..]),
        };
        first.iter().chain(rest.iter().flat_map(Chunk::areas))
    }

    /// All areas, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &MemoryArea<B>> {
        self.chunks.iter().flat_map(Chunk::areas)
    }

    /// The areas that overlap `range`, in order. An empty range overlaps nothing.
    pub(super) fn overlapping(&self, range: AddrRange<B::Addr>) -> impl Iterator<Item = &MemoryArea<B>> {
        self.ending_after(range.start).take_while(move |area| !range.is_empty() && area.start() < range.end)
    }

    /// Each area that overlaps `range`, and the part of it that lies in the range.
    pub(super) fn pieces(
        &self,
        range: AddrRange<B::Addr>,
    ) -> impl Iterator<Item = (&MemoryArea<B>, AddrRange<B::Addr>)> {
        self.overlapping(range).map(move |area| (area, area.part_in(range)))
    }

    /// The chunks' heads and areas from the first on that ends behind `addr`.
    pub(super) fn chunks_from(&self, addr: B::Addr) -> impl Iterator<Item = (&Head<B::Addr>, &[MemoryArea<B>])> {
        let first = self.heads.partition_point(|head| head.span.end <= addr);
        self.heads[first..].iter().zip(self.chunks[first..].iter().map(Chunk::areas))
    }

    /// Reserves what any one edit of `range` needs: it cuts areas at its two ends, or inserts one where nothing is.
    pub(super) fn reserve(&mut self, range: AddrRange<B::Addr>) -> Result<(), TryReserveError> {
        let is_vacant = self.overlapping(range).next().is_none();
        let ends = [range.start, range.end];
        let cuts = ends.iter().filter(|&&end| self.is_cut_by(end)).count();
        let insertions = if is_vacant { 1 } else { cuts };
        if ends.iter().all(|&end| self.has_room_at(end, insertions)) {
            return Ok(());
        }
        self.reserve_chunks(insertions)
    }

    /// Whether the chunk into which an area at `addr` goes has room for so many insertions.
    fn has_room_at(&self, addr: B::Addr, insertions: usize) -> bool {
        let place = self.first_starting_from(addr);
        self.chunks.get(place.chunk).is_some_and(|chunk| chunk.len() + insertions <= CAPACITY)
    }

    /// Whether an area reaches across `addr`.
    fn is_cut_by(&self, addr: B::Addr) -> bool {
        self.ending_after(addr).next().is_some_and(|area| area.start() < addr)
    }

    /// Reserves chunks, and their places in the outer arrays.
    fn reserve_chunks(&mut self, count: usize) -> Result<(), TryReserveError> {
        self.heads.try_reserve(count)?;
        self.chunks.try_reserve(count)?;
        self.spares.try_reserve(count)?;
        while self.spares.len() < count {
            self.spares.push(Chunk::with_room()?);
        }
        Ok(())
    }

    /// Removes `range`, cutting areas at its ends. `gone` gets what was in it.
    pub(super) fn carve(&mut self, range: AddrRange<B::Addr>, gone: impl FnMut(MemoryArea<B>)) {
        if !range.is_empty() {
            self.cut(range.start);
            self.cut(range.end);
            self.remove(range, gone);
        }
    }

    /// Puts `area` where it is and removes what was there. `gone` gets that.
    pub(super) fn place(&mut self, area: MemoryArea<B>, mut gone: impl FnMut(MemoryArea<B>)) {
        let range = area.va_range();
        if self.overlapping(range).next().is_none() {
            return self.insert(area);
        }
        self.cut(range.start);
        self.cut(range.end);
        // Into the first one's place: an insertion after the removal might need a chunk that was not reserved.
        let place = self.first_ending_after(range.start);
        let first = self.chunks[place.chunk].replace(place.index, area);
        let rest = AddrRange { start: first.end(), end: range.end };
        gone(first);
        self.remove(rest, gone);
    }

    /// Cuts the area in two that `at` lies within, if there is one.
    pub(super) fn cut(&mut self, at: B::Addr) {
        let place = self.first_starting_from(at);
        let Some(index) = place.index.checked_sub(1) else { return };
        if let Some(right) = self.chunks[place.chunk].split_area(index, at) {
            self.refresh(place.chunk);
            self.insert(right);
        }
    }

    /// Shows the areas that overlap `range` to `each`, which may change their flags.
    pub(super) fn change(&mut self, range: AddrRange<B::Addr>, each: impl FnMut(&mut MemoryArea<B>)) {
        let place = self.first_ending_after(range.start);
        let Some([first, rest @ ..]) = self.chunks.get_mut(place.chunk..) else { return };
        let areas = first.areas_mut(place.index).iter_mut();
        areas
            .chain(rest.iter_mut().flat_map(|chunk| chunk.areas_mut(0)))
            .take_while(|area| !range.is_empty() && area.start() < range.end)
            .for_each(each);
    }

    /// The place before the first area that starts at `addr` or behind it, in the chunk of the area before that.
    pub(super) fn first_starting_from(&self, addr: B::Addr) -> Place {
        match self.heads.partition_point(|head| head.span.start < addr).checked_sub(1) {
            Some(chunk) => Place { chunk, index: self.chunks[chunk].starting_before(addr) },
            None => Place { chunk: 0, index: 0 },
        }
    }

    /// The place of the first area that ends behind `addr`, or the end.
    fn first_ending_after(&self, addr: B::Addr) -> Place {
        let place = self.first_starting_from(addr);
        let Some(chunk) = self.chunks.get(place.chunk) else { return place };
        match place.index.checked_sub(1) {
            Some(index) if chunk.areas()[index].end() > addr => Place { index, ..place },
            _ if place.index == chunk.len() => Place { chunk: place.chunk + 1, index: 0 },
            _ => place,
        }
    }

    /// Inserts an area that overlaps no other. Its room is reserved.
    fn insert(&mut self, area: MemoryArea<B>) {
        let mut place = self.first_starting_from(area.start());
        let next = place.chunk + 1;
        if place.index == CAPACITY && self.chunks.get(next).is_some_and(|chunk| chunk.len() < CAPACITY) {
            // Behind a full chunk is before the next one: a chunk between the two might be nearly empty for ever.
            place = Place { chunk: next, index: 0 };
        }
        if self.chunks.get(place.chunk).is_none_or(|chunk| chunk.len() == CAPACITY) {
            place = self.add_chunk(place, area.va_range());
        }
        self.chunks[place.chunk].insert(place.index, area);
        self.len += 1;
        self.refresh(place.chunk);
    }

    /// Adds a chunk behind a full one and shares the areas between them. Gives the place that `place` becomes.
    ///
    /// An area is inserted there next: one of the chunks may be empty until then.
    fn add_chunk(&mut self, place: Place, inserted: AddrRange<B::Addr>) -> Place {
        debug_assert!(!self.spares.is_empty(), "a chunk was reserved");
        let mut added = self.spares.pop().unwrap_or(Chunk::new());
        let index = if let Some(full) = self.chunks.get_mut(place.chunk) {
            // An area at the end is likely to be followed by another: keep the full chunk full.
            let kept = if place.index == CAPACITY { CAPACITY } else { CAPACITY / 2 };
            full.move_to(kept, &mut added);
            self.refresh(place.chunk);
            kept
        } else {
            0
        };
        let next = if self.chunks.is_empty() { 0 } else { place.chunk + 1 };
        self.heads.insert(next, added.head().unwrap_or(Head { span: inserted, gap: 0 }));
        self.chunks.insert(next, added);
        if place.index < index { place } else { Place { chunk: next, index: place.index - index } }
    }

    /// Removes all areas that start in `range`, none of which its ends cut. `gone` gets them in order.
    pub(super) fn remove(&mut self, range: AddrRange<B::Addr>, mut gone: impl FnMut(MemoryArea<B>)) {
        if self.chunks.is_empty() {
            return;
        }
        let (from, to) = (self.first_starting_from(range.start), self.first_starting_from(range.end));
        let mut removed = 0;
        let mut count = |area| {
            removed += 1;
            gone(area);
        };
        if from.chunk == to.chunk {
            self.chunks[from.chunk].drain(from.index..to.index).for_each(count);
        } else {
            let next = from.chunk + 1;
            self.chunks[from.chunk].drain(from.index..).for_each(&mut count);
            self.heads.drain(next..to.chunk);
            self.chunks.drain(next..to.chunk).for_each(|mut chunk| chunk.drain(..).for_each(&mut count));
            self.chunks[next].drain(..to.index).for_each(count);
        }
        self.len -= removed;
        self.tidy(from.chunk);
    }

    /// After a removal from a chunk and the next: drops what is empty, and merges what is small with its neighbours.
    fn tidy(&mut self, chunk: usize) {
        self.refresh(chunk + 1);
        self.refresh(chunk);
        self.merge(chunk + 1);
        self.merge(chunk);
        if let Some(before) = chunk.checked_sub(1) {
            self.merge(before);
        }
    }

    /// Merges a chunk with the next if together they are small enough not to be parted again soon.
    fn merge(&mut self, chunk: usize) {
        if let Some([left, right, ..]) = self.chunks.get_mut(chunk..)
            && left.len() + right.len() <= CAPACITY / 2
        {
            right.move_to(0, left);
            self.refresh(chunk + 1);
            self.refresh(chunk);
        }
    }

    /// Brings a chunk's head up to date; an empty chunk goes.
    pub(super) fn refresh(&mut self, index: usize) {
        match self.chunks.get(index).map(Chunk::head) {
            Some(Some(head)) => self.heads[index] = head,
            Some(None) => {
                self.heads.remove(index);
                self.chunks.remove(index);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod check {
    use super::*;

    impl<B: Backing> Areas<B> {
        /// Panics unless the areas are sorted and disjoint, and everything that is kept about them is true.
        pub(in crate::set) fn check(&self) {
            assert_eq!(self.len, self.iter().count());
            assert_eq!(self.heads.len(), self.chunks.len());
            let mut end = 0;
            for area in self.iter() {
                assert!(area.start().into() >= end && area.start() < area.end(), "areas are sorted and not empty");
                end = area.end().into();
            }
            for (head, chunk) in self.heads.iter().zip(&self.chunks) {
                let actual = chunk.head().expect("no chunk is empty");
                assert!(
                    (head.span.start, head.span.end) == (actual.span.start, actual.span.end) && head.gap == actual.gap
                );
                chunk.check();
            }
            let pairs = self.chunks.windows(2);
            assert!(pairs.map(|pair| pair[0].len() + pair[1].len()).all(|sum| sum > CAPACITY / 2), "no waste");
        }
    }
}
