//! All areas of a set: a sorted array of chunks.
//!
//! Finding is a search over the chunks and one within a chunk. An edit searches once, for the areas that it
//! [touches](Areas::touched); it shifts areas within a chunk or two and, when a chunk overflows or runs empty, the
//! places of the chunks behind it. What an edit needs is reserved by [`Areas::reserve`] before it; nothing after that
//! allocates.

use alloc::{collections::TryReserveError, vec::Vec};
use core::iter;

use memory_addr::{AddrRange, MemoryAddr};

use super::{
    Backing, Few, MemoryArea,
    chunk::{CAPACITY, Chunk},
    starts::Starts,
};

/// The areas of a set, sorted and disjoint.
pub(super) struct Areas<B: Backing> {
    /// Where the first area of each chunk starts.
    heads: Starts<B::Addr, 64>,
    /// None of them is empty.
    pub(super) chunks: Vec<Chunk<B>>,
    /// Reserved for chunks that overflow.
    spares: Vec<Chunk<B>>,
    pub(super) len: usize,
}

/// The place of the area `index` of a chunk. The place behind the last area of a chunk is also the next chunk's first.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) chunk: usize,
    pub(super) index: usize,
}

/// The areas that overlap a range: `count` of them from `place` on. Without any, one in the range would be put there.
#[derive(Clone, Copy)]
pub(super) struct Touched<A: MemoryAddr> {
    pub(super) range: AddrRange<A>,
    pub(super) place: Place,
    pub(super) count: usize,
    /// Whether the first begins before the range.
    pub(super) cuts_first: bool,
    /// Whether the last ends behind the range.
    pub(super) cuts_last: bool,
}

impl<A: MemoryAddr> Touched<A> {
    /// Whether the range lies within an area, which has a part on either side of it.
    pub(super) fn is_inside(&self) -> bool {
        self.count == 1 && self.cuts_first && self.cuts_last
    }

    /// How many areas the range's ends cut.
    pub(super) fn cuts(&self) -> usize {
        usize::from(self.cuts_first) + usize::from(self.cuts_last)
    }

    /// How many areas are added, at most, when something is put over the range.
    pub(super) fn insertions(&self) -> usize {
        if self.count == 0 { 1 } else { self.cuts() }
    }

    /// The first `count` of the areas, which end before `end`, where the next begins.
    pub(super) fn up_to(&self, count: usize, end: A) -> Self {
        let range = AddrRange { end, ..self.range };
        Self { range, place: self.place, count, cuts_first: self.cuts_first && count > 0, cuts_last: false }
    }
}

impl<B: Backing> Areas<B> {
    pub(super) const fn new() -> Self {
        Self { heads: Starts::new(), chunks: Vec::new(), spares: Vec::new(), len: 0 }
    }

    /// From the start of the first area to the end of the last.
    pub(super) fn span(&self) -> Option<AddrRange<B::Addr>> {
        let (first, last) = (self.chunks.first()?.areas().first()?, self.chunks.last()?.areas().last()?);
        Some(AddrRange { start: first.start(), end: last.end() })
    }

    /// All areas, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &MemoryArea<B>> {
        self.iter_from(Place { chunk: 0, index: 0 })
    }

    /// The areas from a place on, in order.
    #[inline]
    pub(super) fn iter_from(&self, place: Place) -> impl Iterator<Item = &MemoryArea<B>> {
        let mut chunks = self.chunks.get(place.chunk..).unwrap_or_default().iter();
        let mut areas = chunks.next().map_or(&[][..], |chunk| &chunk.areas()[place.index..]).iter();
        iter::from_fn(move || {
            loop {
                if let Some(area) = areas.next() {
                    return Some(area);
                }
                areas = chunks.next()?.areas().iter();
            }
        })
    }

    /// The areas that overlap `range`, in order. An empty range overlaps nothing.
    pub(super) fn overlapping(&self, range: AddrRange<B::Addr>) -> impl Iterator<Item = &MemoryArea<B>> {
        self.iter_from(self.first_behind(range.start).0)
            .take_while(move |area| !range.is_empty() && area.start() < range.end)
    }

    /// The areas that overlap `range`, all found by one search.
    #[inline]
    pub(super) fn touched(&self, range: AddrRange<B::Addr>) -> Touched<B::Addr> {
        let (place, first) = self.first_behind(range.start);
        let untouched = Touched { range, place, count: 0, cuts_first: false, cuts_last: false };
        let Some(first) = first.filter(|area| !range.is_empty() && area.start() < range.end) else { return untouched };
        let (mut count, mut last) = (1, first);
        if first.end() < range.end {
            let areas = self.iter_from(place).take_while(|area| area.start() < range.end);
            (count, last) = areas.fold((0, first), |(count, _), area| (count + 1, area));
        }
        let (cuts_first, cuts_last) = (first.start() < range.start, last.end() > range.end);
        Touched { count, cuts_first, cuts_last, ..untouched }
    }

    /// Each area of those, and the part of it that lies in the range.
    pub(super) fn pieces(
        &self,
        touched: &Touched<B::Addr>,
    ) -> impl Iterator<Item = (&MemoryArea<B>, AddrRange<B::Addr>)> {
        let range = touched.range;
        self.iter_from(touched.place).take(touched.count).map(move |area| (area, area.part_in(range)))
    }

    /// The chunk that `addr` lies in, or would: the last that starts at it or before it, or the first.
    pub(super) fn chunk_of(&self, addr: B::Addr) -> usize {
        self.heads.last_up_to(addr)
    }

    /// The last area that starts at `addr` or before it, or the first. There is none for the last address of all.
    #[inline]
    fn nearest(&self, addr: B::Addr) -> Option<(Place, &MemoryArea<B>)> {
        let chunk = self.chunk_of(addr);
        let areas = self.chunks.get(chunk)?;
        let index = areas.last_up_to(addr);
        Some((Place { chunk, index }, areas.areas().get(index)?))
    }

    /// The area that `addr` lies in.
    #[inline]
    pub(super) fn find(&self, addr: B::Addr) -> Option<&MemoryArea<B>> {
        self.nearest(addr).map(|(_, area)| area).filter(|area| area.start() <= addr && addr < area.end())
    }

    /// The first area that ends behind `addr`, and its place: where one that ends before it would be put.
    #[inline]
    pub(super) fn first_behind(&self, addr: B::Addr) -> (Place, Option<&MemoryArea<B>>) {
        match self.nearest(addr) {
            Some((place, area)) if area.end() > addr => (place, Some(area)),
            Some((Place { chunk, index }, _)) => self.at(Place { chunk, index: index + 1 }),
            None => self.at(self.end()),
        }
    }

    /// A place and the area there.
    #[inline]
    fn at(&self, place: Place) -> (Place, Option<&MemoryArea<B>>) {
        (place, self.iter_from(place).next())
    }

    /// The place behind the last area.
    pub(super) fn end(&self) -> Place {
        let chunk = self.chunks.len().saturating_sub(1);
        Place { chunk, index: self.chunks.get(chunk).map_or(0, Chunk::len) }
    }

    /// Makes the place behind a chunk that of the next one's first area.
    #[inline]
    pub(super) fn step_over(&self, place: &mut Place) {
        if place.index == self.chunks[place.chunk].len() && place.chunk + 1 < self.chunks.len() {
            *place = Place { chunk: place.chunk + 1, index: 0 };
        }
    }

    /// Reserves what an edit needs that adds so many areas, two at most, within what it touches or beside it.
    #[inline]
    pub(super) fn reserve(&mut self, touched: &Touched<B::Addr>, insertions: usize) -> Result<(), TryReserveError> {
        let Place { chunk, index } = touched.place;
        let has_room = self
            .chunks
            .get(chunk)
            .is_some_and(|chunk| index + touched.count <= chunk.len() && chunk.len() + insertions <= CAPACITY);
        if insertions == 0 || has_room { Ok(()) } else { self.reserve_chunks(insertions) }
    }

    /// Reserves chunks, and their places in the outer arrays.
    #[cold]
    fn reserve_chunks(&mut self, count: usize) -> Result<(), TryReserveError> {
        self.heads.try_reserve()?;
        self.chunks.try_reserve(count)?;
        self.spares.try_reserve(count)?;
        while self.spares.len() < count {
            self.spares.push(Chunk::with_room()?);
        }
        Ok(())
    }

    /// Inserts an area that overlaps no other at its place, and gives the place that it got. Its room is reserved.
    pub(super) fn insert(&mut self, mut place: Place, area: MemoryArea<B>) -> Place {
        if self.chunks.get(place.chunk).is_none_or(|chunk| chunk.len() == CAPACITY) {
            place = self.make_room(place, area.start());
        }
        if place.index == 0 {
            self.heads.set(place.chunk, area.start());
        }
        self.chunks[place.chunk].insert(place.index, area);
        self.len += 1;
        place
    }

    /// Makes room at a place in a full chunk, or in an empty set, and gives the place that it becomes.
    #[cold]
    fn make_room(&mut self, place: Place, start: B::Addr) -> Place {
        let next = place.chunk + 1;
        if place.index == CAPACITY && self.chunks.get(next).is_some_and(|chunk| chunk.len() < CAPACITY) {
            // A chunk between the two might be nearly empty for ever.
            return Place { chunk: next, index: 0 };
        }
        let mut added = self.spares.pop().expect("a chunk was reserved");
        let Some(full) = self.chunks.get_mut(place.chunk) else {
            self.heads.insert(0, start);
            self.chunks.push(added);
            return place;
        };
        // An area at the end is likely to be followed by another: keep the full chunk full.
        let kept = if place.index == CAPACITY { CAPACITY } else { CAPACITY / 2 };
        full.move_to(kept, &mut added);
        self.heads.insert(next, added.areas().first().map_or(start, MemoryArea::start));
        self.chunks.insert(next, added);
        if place.index < kept { place } else { Place { chunk: next, index: place.index - kept } }
    }

    /// Moves the start of an area, which keeps the order.
    pub(super) fn set_start(&mut self, Place { chunk, index }: Place, start: B::Addr) {
        self.chunks[chunk].set_start(index, start);
        if index == 0 {
            self.heads.set(chunk, start);
        }
    }

    /// Puts an area in another's place, where it keeps the order.
    pub(super) fn replace(&mut self, Place { chunk, index }: Place, area: MemoryArea<B>) -> MemoryArea<B> {
        if index == 0 {
            self.heads.set(chunk, area.start());
        }
        self.chunks[chunk].replace(index, area)
    }

    /// Removes `count` areas: `gone` gets them in order, or they are dropped.
    pub(super) fn remove(&mut self, mut place: Place, count: usize, mut gone: Option<&mut Few<MemoryArea<B>>>) {
        self.step_over(&mut place);
        let Place { chunk, index } = place;
        let first = &mut self.chunks[chunk];
        let end = first.len().min(index + count);
        self.len -= count;
        if count == 1 {
            let area = first.take(index);
            if let Some(gone) = gone {
                gone.push(area);
            }
        } else {
            first.take_all(index..end, gone.as_deref_mut());
            if index + count > end {
                self.remove_from_start(chunk + 1, index + count - end, gone);
            }
        }
        self.tidy(chunk);
    }

    /// Removes `count` areas, the first of which is a chunk's first.
    #[cold]
    fn remove_from_start(&mut self, chunk: usize, mut count: usize, mut gone: Option<&mut Few<MemoryArea<B>>>) {
        let mut end = chunk;
        while let Some(whole) = self.chunks.get_mut(end)
            && whole.len() <= count
        {
            count -= whole.len();
            whole.take_all(0..whole.len(), gone.as_deref_mut());
            end += 1;
        }
        self.heads.remove(chunk..end);
        self.chunks.drain(chunk..end);
        if count > 0 {
            self.chunks[chunk].take_all(0..count, gone);
            self.tidy(chunk);
        }
    }

    /// After a removal from a chunk: notes where it starts, and merges it with its neighbours if it is small.
    fn tidy(&mut self, chunk: usize) {
        let areas = self.chunks[chunk].areas();
        if let [first, ..] = areas {
            self.heads.set(chunk, first.start());
        }
        if areas.len() <= CAPACITY / 2 {
            self.merge_around(chunk);
        }
    }

    /// Merges a small chunk with its neighbours; without a neighbour, an empty one goes.
    #[cold]
    fn merge_around(&mut self, chunk: usize) {
        self.merge(chunk);
        if let Some(before) = chunk.checked_sub(1) {
            self.merge(before);
        }
        if self.len == 0 {
            self.heads.remove(0..self.chunks.len());
            self.chunks.clear();
        }
    }

    /// Merges a chunk with the next if together they are small enough not to be parted again soon, or one is empty.
    fn merge(&mut self, chunk: usize) {
        if let Some([left, right, ..]) = self.chunks.get_mut(chunk..)
            && (left.len() + right.len() <= CAPACITY / 2 || left.len() == 0 || right.len() == 0)
        {
            right.move_to(0, left);
            self.heads.set(chunk, self.chunks[chunk].areas()[0].start());
            self.heads.remove(chunk + 1..chunk + 2);
            self.chunks.remove(chunk + 1);
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
            let mut end = 0;
            for area in self.iter() {
                assert!(area.start().into() >= end && area.start() < area.end(), "areas are sorted and not empty");
                end = area.end().into();
            }
            self.chunks.iter().for_each(Chunk::check);
            self.heads.check(self.chunks.iter().map(|chunk| chunk.areas()[0].start()));
            let pairs = self.chunks.windows(2);
            assert!(pairs.map(|pair| pair[0].len() + pair[1].len()).all(|sum| sum > CAPACITY / 2), "no waste");
        }
    }
}
