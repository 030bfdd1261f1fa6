//! All areas of a set: a sorted array of chunks.
//!
//! Finding is a search over the chunks and one within a chunk. An edit searches once, for the areas that it
//! [touches](Areas::touched); it shifts what is small within a chunk or two and, when a chunk overflows or runs empty,
//! two words for each chunk behind it. What an edit needs is reserved by [`Areas::reserve`] before it; nothing after that
//! allocates.

use alloc::{boxed::Box, collections::TryReserveError, vec::Vec};
use core::iter;

use memory_addr::{AddrRange, MemoryAddr};

use super::{
    Backing, Few, MemoryArea,
    chunk::{self, CAPACITY, Chunk},
    ends::{self, Ends},
};

/// How many areas a chunk keeps when areas are appended: with room for some, those are the only ones to be shifted.
const APPENDED: usize = CAPACITY - CAPACITY / 8;

/// A chunk on the heap, so that an outer array holds one word for it: a box that is made without aborting.
type Boxed<B> = Box<[Chunk<B>; 1]>;

/// The areas of a set, sorted and disjoint.
pub(super) struct Areas<B: Backing> {
    /// Where the last area of each chunk ends.
    ends: Ends,
    /// None of them is empty.
    chunks: Vec<Boxed<B>>,
    /// Reserved for chunks that overflow.
    spares: Vec<Boxed<B>>,
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

    /// Whether it is one area, which the range's ends do not cut.
    #[inline]
    pub(super) fn is_whole(&self) -> bool {
        self.count == 1 && !self.cuts_first && !self.cuts_last
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
        Self { ends: Ends::new(), chunks: Vec::new(), spares: Vec::new(), len: 0 }
    }

    /// From the start of the first area to the end of the last.
    pub(super) fn span(&self) -> Option<AddrRange<B::Addr>> {
        let last = self.chunk(self.chunks.len().wrapping_sub(1))?;
        Some(AddrRange { start: self.chunk(0)?.area(0).start(), end: last.area(last.len() - 1).end() })
    }

    /// A chunk, if there are so many.
    #[inline]
    pub(super) fn chunk(&self, chunk: usize) -> Option<&Chunk<B>> {
        self.chunks.get(chunk).map(|boxed| &boxed[0])
    }

    /// A chunk that there is.
    #[inline]
    pub(super) fn chunk_mut(&mut self, chunk: usize) -> &mut Chunk<B> {
        &mut self.chunks[chunk][0]
    }

    /// The chunks from one on.
    pub(super) fn chunks_from(&self, chunk: usize) -> impl Iterator<Item = &Chunk<B>> {
        self.chunks.iter().skip(chunk).map(|boxed| &boxed[0])
    }

    /// The area at a place that has one.
    #[inline]
    pub(super) fn area(&self, Place { chunk, index }: Place) -> &MemoryArea<B> {
        self.chunks[chunk][0].area(index)
    }

    /// The same, of which all but the range may be changed.
    #[inline]
    pub(super) fn area_mut(&mut self, Place { chunk, index }: Place) -> &mut MemoryArea<B> {
        self.chunk_mut(chunk).area_mut(index)
    }

    /// All areas, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &MemoryArea<B>> {
        self.iter_from(Place { chunk: 0, index: 0 })
    }

    /// The areas from a place on, in order.
    #[inline]
    fn iter_from(&self, mut place: Place) -> impl Iterator<Item = &MemoryArea<B>> {
        iter::from_fn(move || {
            let area = self.at(&mut place)?;
            place.index += 1;
            Some(area)
        })
    }

    /// The areas that overlap `range`, in order. An empty range overlaps nothing.
    pub(super) fn overlapping(&self, range: AddrRange<B::Addr>) -> impl Iterator<Item = &MemoryArea<B>> {
        self.iter_from(self.first_behind_of_any(range.start).0)
            .take_while(move |area| !range.is_empty() && area.start() < range.end)
    }

    /// The areas that overlap `range`, all found by one search.
    #[inline]
    pub(super) fn touched(&self, range: AddrRange<B::Addr>) -> Touched<B::Addr> {
        let (place, first) = self.first_behind_of_any(range.start);
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

    /// The first chunk with an area that ends behind `addr`.
    pub(super) fn chunk_behind(&self, addr: B::Addr) -> usize {
        self.ends.up_to(addr.into())
    }

    /// The area that `addr` lies in.
    #[inline]
    pub(super) fn find(&self, addr: B::Addr) -> Option<&MemoryArea<B>> {
        self.first_behind(addr).1.filter(|area| area.start() <= addr)
    }

    /// The first area that ends behind `addr`.
    pub(super) fn area_behind(&self, addr: B::Addr) -> Option<&MemoryArea<B>> {
        self.first_behind_of_any(addr).1
    }

    /// The first area that ends behind `addr`, and its place: where one that ends before it would be put.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its result in memory cost a fifth of the search")]
    pub(super) fn first_behind(&self, addr: B::Addr) -> (Place, Option<&MemoryArea<B>>) {
        // A full one has no filler, at which a search ends that goes beyond it.
        if let [only] = &*self.chunks
            && only[0].len() < CAPACITY
        {
            let index = only[0].first_behind(addr.into());
            return (Place { chunk: 0, index }, only[0].get(index));
        }
        match self.ends.only_group() {
            Some(group) => self.first_in(ends::up_to(group, addr.into()), addr),
            None => self.first_behind_of_any(addr),
        }
    }

    /// The same in a set of any size, by a call: for what takes much longer than a search.
    #[inline(never)]
    pub(super) fn first_behind_of_any(&self, addr: B::Addr) -> (Place, Option<&MemoryArea<B>>) {
        self.first_in(self.chunk_behind(addr), addr)
    }

    /// The same if the chunk is known.
    #[inline]
    fn first_in(&self, chunk: usize, addr: B::Addr) -> (Place, Option<&MemoryArea<B>>) {
        let Some(areas) = self.chunk(chunk) else { return (self.end(), None) };
        let index = areas.first_behind(addr.into());
        (Place { chunk, index }, areas.get(index))
    }

    /// The area at a place. The place behind a chunk becomes that of the next one's first area.
    pub(super) fn at(&self, place: &mut Place) -> Option<&MemoryArea<B>> {
        let area = self.chunk(place.chunk)?.get(place.index);
        if area.is_some() {
            return area;
        }
        let next = self.chunk(place.chunk + 1)?;
        *place = Place { chunk: place.chunk + 1, index: 0 };
        next.get(0)
    }

    /// The place behind the last area.
    pub(super) fn end(&self) -> Place {
        let chunk = self.chunks.len().saturating_sub(1);
        Place { chunk, index: self.chunk(chunk).map_or(0, Chunk::len) }
    }

    /// Reserves what an edit of `count` areas from a place on needs that adds so many, two at most, among or beside them.
    #[inline]
    pub(super) fn reserve(
        &mut self,
        Place { chunk, index }: Place,
        count: usize,
        insertions: usize,
    ) -> Result<(), TryReserveError> {
        let has_room = |chunk: &Chunk<B>| index + count <= chunk.len() && chunk.len() + insertions <= CAPACITY;
        if insertions == 0 || self.chunk(chunk).is_some_and(has_room) {
            Ok(())
        } else {
            self.reserve_chunks(insertions)
        }
    }

    /// Reserves chunks, and their places in the outer arrays.
    #[cold]
    fn reserve_chunks(&mut self, count: usize) -> Result<(), TryReserveError> {
        self.ends.try_reserve()?;
        self.chunks.try_reserve(count)?;
        self.spares.try_reserve(count)?;
        while self.spares.len() < count {
            let mut chunk = Some(Chunk::with_room()?);
            self.spares.push(chunk::boxed(|| chunk.take().expect("it is boxed once"))?);
        }
        Ok(())
    }

    /// Inserts an area that overlaps no other at its place, and gives the place that it got. Its room is reserved.
    #[inline]
    pub(super) fn insert(&mut self, mut place: Place, area: MemoryArea<B>) -> Place {
        if self.chunk(place.chunk).is_none_or(|chunk| chunk.len() == CAPACITY) {
            place = self.make_room(place, area.end().into());
        }
        let end = area.end();
        let chunk = self.chunk_mut(place.chunk);
        chunk.insert(place.index, area);
        if place.index + 1 == chunk.len() {
            self.ends.set(place.chunk, end.into());
        }
        self.len += 1;
        place
    }

    /// Makes room at a place in a full chunk, or in an empty set, and gives the place that it becomes.
    #[cold]
    fn make_room(&mut self, place: Place, end: usize) -> Place {
        let next = place.chunk + 1;
        if place.index == CAPACITY && self.chunk(next).is_some_and(|chunk| chunk.len() < CAPACITY) {
            // A chunk between the two might be nearly empty for ever.
            return Place { chunk: next, index: 0 };
        }
        let mut added = self.spares.pop().expect("a chunk was reserved");
        if self.chunks.is_empty() {
            self.ends.insert(0, end, 0);
            self.chunks.push(added);
            return place;
        }
        // An area at the end is likely to be followed by another: the full chunk keeps most.
        let kept = if place.index == CAPACITY { APPENDED } else { CAPACITY / 2 };
        let full = self.chunk_mut(place.chunk);
        full.move_to(kept, &mut added[0]);
        let end = full.end();
        self.ends.insert(place.chunk, end, self.chunks.len());
        self.chunks.insert(next, added);
        if place.index < kept { place } else { Place { chunk: next, index: place.index - kept } }
    }

    /// Moves the end of an area, which keeps the order. The gap behind it is not looked at.
    pub(super) fn set_end(&mut self, Place { chunk, index }: Place, end: B::Addr) {
        let areas = self.chunk_mut(chunk);
        areas.set_end(index, end);
        let end = areas.end();
        self.ends.set(chunk, end);
    }

    /// Puts an area in another's place, where it keeps the order.
    pub(super) fn replace(&mut self, Place { chunk, index }: Place, area: MemoryArea<B>) -> MemoryArea<B> {
        let areas = self.chunk_mut(chunk);
        let old = areas.replace(index, area);
        let end = areas.end();
        self.ends.set(chunk, end);
        old
    }

    /// Takes the area at a place out.
    #[inline]
    pub(super) fn take(&mut self, Place { chunk, index }: Place) -> Option<MemoryArea<B>> {
        let area = self.chunk_mut(chunk).take(index);
        self.len -= 1;
        self.tidy(chunk);
        area
    }

    /// Removes `count` areas from a place on: `gone` gets them in order, or they are dropped.
    pub(super) fn remove(&mut self, mut place: Place, count: usize, mut gone: Option<&mut Few<MemoryArea<B>>>) {
        self.at(&mut place);
        if count == 1 {
            if let (Some(area), Some(gone)) = (self.take(place), gone) {
                gone.push(area);
            }
            return;
        }
        let Place { chunk, index } = place;
        let first = self.chunk_mut(chunk);
        let here = count.min(first.len() - index);
        first.take_all(index..index + here, gone.as_deref_mut());
        self.len -= count;
        if count > here {
            self.remove_from_start(chunk + 1, count - here, gone);
        }
        self.tidy(chunk);
    }

    /// Removes `count` areas, the first of which is a chunk's first.
    #[cold]
    fn remove_from_start(&mut self, chunk: usize, mut count: usize, mut gone: Option<&mut Few<MemoryArea<B>>>) {
        let mut end = chunk;
        while let Some([whole]) = self.chunks.get_mut(end).map(|boxed| &mut **boxed)
            && whole.len() <= count
        {
            count -= whole.len();
            whole.take_all(0..whole.len(), gone.as_deref_mut());
            end += 1;
        }
        self.ends.remove(chunk..end, self.chunks.len());
        self.chunks.drain(chunk..end);
        if count > 0 {
            self.chunk_mut(chunk).take_all(0..count, gone);
            self.tidy(chunk);
        }
    }

    /// After a removal from a chunk: notes where it ends, and merges it with its neighbours if it is small.
    #[inline]
    fn tidy(&mut self, chunk: usize) {
        let areas = &self.chunks[chunk][0];
        let len = areas.len();
        if len > 0 {
            self.ends.set(chunk, areas.end());
        }
        if len <= CAPACITY / 2 {
            self.merge_around(chunk);
        }
    }

    /// Merges a small chunk with its neighbours; without a neighbour, an empty one goes.
    #[inline(never)]
    fn merge_around(&mut self, chunk: usize) {
        self.merge(chunk);
        if let Some(before) = chunk.checked_sub(1) {
            self.merge(before);
        }
        if self.len == 0 {
            self.ends.remove(0..self.chunks.len(), self.chunks.len());
            self.chunks.clear();
        }
    }

    /// Merges a chunk with the next if together they are small enough not to be parted again soon, or one is empty.
    fn merge(&mut self, chunk: usize) {
        if let Some([left, right, ..]) = self.chunks.get_mut(chunk..)
            && let ([left], [right]) = (&mut **left, &mut **right)
            && (left.len() + right.len() <= CAPACITY / 2 || left.len() == 0 || right.len() == 0)
        {
            right.move_to(0, left);
            // What ends the two is noted for the right one, unless that was empty.
            let end = left.end();
            self.ends.remove(chunk..chunk + 1, self.chunks.len());
            self.ends.set(chunk, end);
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
            self.chunks_from(0).for_each(Chunk::check);
            self.ends.check(self.chunks_from(0).map(Chunk::end), self.chunks.len());
            let pairs = self.chunks_from(0).zip(self.chunks_from(1));
            assert!(pairs.map(|(left, right)| left.len() + right.len()).all(|sum| sum > CAPACITY / 2), "no waste");
        }
    }
}
