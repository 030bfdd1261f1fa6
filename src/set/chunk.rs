//! A short sorted run of areas.

use alloc::{collections::TryReserveError, vec::Vec};
use core::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use memory_addr::MemoryAddr;

use super::{Backing, Few, MemoryArea, starts::Starts};

/// How many areas a chunk holds at most: few enough to shift them at every edit, enough to keep the outer array short.
pub(super) const CAPACITY: usize = 32;

/// Up to [`CAPACITY`] areas, sorted and disjoint. The starts stand apart, so that a search reads a few cache lines.
pub(super) struct Chunk<B: Backing> {
    starts: Starts<B::Addr, CAPACITY>,
    areas: Vec<MemoryArea<B>>,
    /// No gap between two of the areas is larger, in bytes.
    ///
    /// Edits only raise it, which needs no look at other areas; a search that finds it too high mends it. Searches on
    /// several CPUs at once write the same value, and no edit runs meanwhile: no order is needed.
    gap: AtomicUsize,
}

impl<B: Backing> Chunk<B> {
    /// An empty chunk with all its room allocated.
    pub(super) fn with_room() -> Result<Self, TryReserveError> {
        let mut areas = Vec::new();
        areas.try_reserve_exact(CAPACITY)?;
        Ok(Self { starts: Starts::one_group()?, areas, gap: AtomicUsize::new(0) })
    }

    /// The areas, in order.
    #[inline]
    pub(super) fn areas(&self) -> &[MemoryArea<B>] {
        &self.areas
    }

    /// The number of areas.
    pub(super) fn len(&self) -> usize {
        self.areas.len()
    }

    /// The index of the last area that starts at `addr` or before it; 0 if there is none.
    #[inline]
    pub(super) fn last_up_to(&self, addr: B::Addr) -> usize {
        self.starts.last_in_group(addr)
    }

    /// An area, of which all but the range may be changed.
    pub(super) fn area_mut(&mut self, index: usize) -> &mut MemoryArea<B> {
        &mut self.areas[index]
    }

    /// Moves the start of an area, which keeps the order.
    pub(super) fn set_start(&mut self, index: usize, start: B::Addr) {
        self.starts.set(index, start);
        self.areas[index].set_start(start);
        self.raise_gap(index);
    }

    /// Moves the end of an area, which keeps the order. The gap behind it is not looked at.
    pub(super) fn set_end(&mut self, index: usize, end: B::Addr) {
        self.areas[index].set_end(end);
    }

    /// Puts an area at `index`, where it keeps the order. The chunk is not full.
    pub(super) fn insert(&mut self, index: usize, area: MemoryArea<B>) {
        self.starts.insert(index, area.start());
        self.areas.insert(index, area);
        self.raise_gap(index);
        if index == 0 {
            // Else the gap behind it is a part of one that there was.
            self.raise_gap(1);
        }
    }

    /// Puts an area in another's place, where it keeps the order.
    pub(super) fn replace(&mut self, index: usize, area: MemoryArea<B>) -> MemoryArea<B> {
        self.starts.set(index, area.start());
        core::mem::replace(&mut self.areas[index], area)
    }

    /// Takes an area out.
    pub(super) fn take(&mut self, index: usize) -> MemoryArea<B> {
        self.starts.take(index);
        let area = self.areas.remove(index);
        self.raise_gap(index);
        area
    }

    /// Takes areas out, in order: `gone` gets them, or they are dropped.
    pub(super) fn take_all(&mut self, range: Range<usize>, gone: Option<&mut Few<MemoryArea<B>>>) {
        self.starts.remove(range.clone());
        let areas = self.areas.drain(range.clone());
        if let Some(gone) = gone {
            areas.for_each(|area| gone.push(area));
        } else {
            drop(areas);
        }
        self.raise_gap(range.start);
    }

    /// Moves the areas from `index` on to the end of `other`, which precedes them and has room.
    pub(super) fn move_to(&mut self, index: usize, other: &mut Self) {
        let seam = other.len();
        self.starts.move_to(index, self.len(), &mut other.starts, seam);
        other.areas.extend(self.areas.drain(index..));
        *other.gap.get_mut() = (*self.gap.get_mut()).max(*other.gap.get_mut());
        other.raise_gap(seam);
    }

    /// Notes the gap before the area at `index`.
    pub(super) fn raise_gap(&mut self, index: usize) {
        if let Some([before, after, ..]) = index.checked_sub(1).and_then(|before| self.areas.get(before..)) {
            let gap = self.gap.get_mut();
            *gap = (*gap).max(after.start().wrapping_sub_addr(before.end()));
        }
    }

    /// A size that no gap between two of the areas exceeds.
    pub(super) fn gap(&self) -> usize {
        self.gap.load(Ordering::Relaxed)
    }

    /// Finds out how large the largest gap is, because [`gap`](Self::gap) was too high.
    pub(super) fn mend_gap(&self) {
        let pairs = self.areas.iter().zip(self.areas.iter().skip(1));
        let gaps = pairs.map(|(before, after)| after.start().wrapping_sub_addr(before.end()));
        self.gap.store(gaps.max().unwrap_or(0), Ordering::Relaxed);
    }
}

#[cfg(test)]
impl<B: Backing> Chunk<B> {
    /// Panics unless what is kept about the areas is true, and all room was reserved at once.
    pub(super) fn check(&self) {
        self.starts.check(self.areas.iter().map(MemoryArea::start));
        assert!((1..=CAPACITY).contains(&self.len()) && self.areas.capacity() == CAPACITY);
        let bound = self.gap();
        self.mend_gap();
        assert!(self.gap() <= bound, "no gap is larger than is noted");
        self.gap.store(bound, Ordering::Relaxed);
    }
}
