//! A short sorted run of areas.

use alloc::{collections::TryReserveError, vec::Vec};
use core::ops::RangeBounds;

use memory_addr::{AddrRange, MemoryAddr};

use super::{Backing, MemoryArea};

/// How many areas a chunk holds at most: few enough to shift them at every edit, enough to keep the outer array short.
pub(super) const CAPACITY: usize = 64;

/// Up to [`CAPACITY`] areas, sorted and disjoint. The starts stand apart, so that a search reads a few cache lines.
pub(super) struct Chunk<B: Backing> {
    starts: Vec<B::Addr>,
    areas: Vec<MemoryArea<B>>,
}

/// What a search over all chunks needs to know of one that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head<A: MemoryAddr> {
    /// From the first area's start to the last one's end.
    pub(super) span: AddrRange<A>,
    /// The largest gap between two of its areas, in bytes.
    pub(super) gap: usize,
}

impl<B: Backing> Chunk<B> {
    /// An empty chunk that allocates on its first insertion.
    pub(super) const fn new() -> Self {
        Self { starts: Vec::new(), areas: Vec::new() }
    }

    /// An empty chunk with all its room allocated.
    pub(super) fn with_room() -> Result<Self, TryReserveError> {
        let mut chunk = Self::new();
        chunk.starts.try_reserve_exact(CAPACITY)?;
        chunk.areas.try_reserve_exact(CAPACITY)?;
        Ok(chunk)
    }

    /// The areas, in order.
    pub(super) fn areas(&self) -> &[MemoryArea<B>] {
        &self.areas
    }

    /// The number of areas.
    pub(super) fn len(&self) -> usize {
        self.areas.len()
    }

    /// How many of the areas start before `addr`.
    pub(super) fn starting_before(&self, addr: B::Addr) -> usize {
        self.starts.partition_point(|&start| start < addr)
    }

    /// Puts an area at `index`, where it keeps the order. The chunk is not full.
    pub(super) fn insert(&mut self, index: usize, area: MemoryArea<B>) {
        self.starts.insert(index, area.start());
        self.areas.insert(index, area);
    }

    /// Puts an area in another's place, where it keeps the order of the starts.
    pub(super) fn replace(&mut self, index: usize, area: MemoryArea<B>) -> MemoryArea<B> {
        self.starts[index] = area.start();
        core::mem::replace(&mut self.areas[index], area)
    }

    /// Cuts the area at `index` if `at` lies within it, and gives the right part.
    pub(super) fn split_area(&mut self, index: usize, at: B::Addr) -> Option<MemoryArea<B>> {
        let area = self.areas.get_mut(index)?;
        (area.start() < at && at < area.end()).then(|| area.split_off(at))
    }

    /// The areas from `index` on, to change their flags.
    pub(super) fn areas_mut(&mut self, index: usize) -> &mut [MemoryArea<B>] {
        &mut self.areas[index..]
    }

    /// Takes areas out, in order.
    pub(super) fn drain(&mut self, range: impl RangeBounds<usize> + Clone) -> impl Iterator<Item = MemoryArea<B>> {
        self.starts.drain(range.clone());
        self.areas.drain(range)
    }

    /// Moves the areas from `index` on to the end of `other`, which precedes them and has room.
    pub(super) fn move_to(&mut self, index: usize, other: &mut Self) {
        other.starts.extend(self.starts.drain(index..));
        other.areas.extend(self.areas.drain(index..));
    }

    /// The chunk's head; `None` if it is empty.
    pub(super) fn head(&self) -> Option<Head<B::Addr>> {
        let (first, last) = (self.areas.first()?, self.areas.last()?);
        let gaps = self.areas.iter().zip(&self.starts[1..]).map(|(area, &next)| next.wrapping_sub_addr(area.end()));
        Some(Head { span: AddrRange { start: first.start(), end: last.end() }, gap: gaps.max().unwrap_or(0) })
    }
}

#[cfg(test)]
impl<B: Backing> Chunk<B> {
    /// Panics unless the starts are those of the areas, and all room was reserved at once.
    pub(super) fn check(&self) {
        assert!(self.areas.iter().map(MemoryArea::start).eq(self.starts.iter().copied()));
        assert!(self.len() <= CAPACITY && self.areas.capacity() == CAPACITY && self.starts.capacity() == CAPACITY);
    }
}
