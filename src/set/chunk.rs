//! A short sorted run of areas.

use alloc::{boxed::Box, collections::TryReserveError, vec::Vec};
use core::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use memory_addr::AddrRange;

use super::{
    Backing, Few, MemoryArea,
    ends::{self, FILLER},
};

/// How many areas a chunk holds at most: few enough to shift their ends at every edit, enough to keep the outer
/// arrays short.
pub(super) const CAPACITY: usize = 64;

/// The last place, which is free unless the chunk is full.
const LAST: usize = CAPACITY - 1;

/// Up to [`CAPACITY`] areas, sorted and disjoint.
///
/// An area stays in its slot as long as it is in the chunk: an edit shifts ends and slot numbers only. A search
/// reads the ends, which lie in a few cache lines.
pub(super) struct Chunk<B: Backing> {
    len: usize,
    /// No gap between two of the areas is larger, in bytes.
    ///
    /// Edits only raise it, which needs no look at other areas; a search that finds it too high mends it. Searches on
    /// several CPUs at once write the same value, and no edit runs meanwhile: no order is needed.
    gap: AtomicUsize,
    /// Where the areas end, in order; [`FILLER`]s behind them.
    ends: [usize; CAPACITY],
    /// The slots of the areas, in order; behind them the free slots.
    slots: [u8; CAPACITY],
    areas: Box<[Option<MemoryArea<B>>; CAPACITY]>,
}

impl<B: Backing> Chunk<B> {
    /// An empty chunk with all its room allocated.
    pub(super) fn with_room() -> Result<Self, TryReserveError> {
        let areas = boxed(|| None)?;
        let mut slots = [0; CAPACITY];
        slots.iter_mut().zip(0..).for_each(|(slot, number)| *slot = number);
        Ok(Self { len: 0, gap: AtomicUsize::new(0), ends: [FILLER; CAPACITY], slots, areas })
    }

    /// The number of areas.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The area at `index`, if there are so many.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<&MemoryArea<B>> {
        self.areas[slot(*self.slots.get(index)?)].as_ref()
    }

    /// The area at `index`.
    #[inline]
    pub(super) fn area(&self, index: usize) -> &MemoryArea<B> {
        self.get(index).expect("an area is at the place of one")
    }

    /// The same, of which all but the range may be changed.
    #[inline]
    pub(super) fn area_mut(&mut self, index: usize) -> &mut MemoryArea<B> {
        self.areas[slot(self.slots[index])].as_mut().expect("an area is at the place of one")
    }

    /// The areas, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &MemoryArea<B>> {
        self.slots[..self.len].iter().filter_map(|&number| self.areas[slot(number)].as_ref())
    }

    /// Where the last area ends. The chunk is not empty.
    #[inline]
    pub(super) fn end(&self) -> usize {
        self.ends[self.len - 1]
    }

    /// The index of the first area that ends behind `addr`, if one does.
    #[inline]
    pub(super) fn first_behind(&self, addr: usize) -> usize {
        ends::up_to(&self.ends, addr)
    }

    /// Whether an area may touch a range, which lies before that at `behind` and has `index` areas before it. Neighbours in
    /// other chunks are not looked at: they may.
    #[inline]
    pub(super) fn may_touch(&self, index: usize, behind: usize, range: AddrRange<B::Addr>) -> bool {
        let before = self.ends.get(index.wrapping_sub(1));
        before.is_none_or(|&end| end == range.start.into())
            || self.get(behind).is_none_or(|area| area.start() == range.end)
    }

    /// Moves the start of an area, which keeps the order.
    pub(super) fn set_start(&mut self, index: usize, start: B::Addr) {
        self.area_mut(index).set_start(start);
        self.raise_gap(index);
    }

    /// Moves the end of an area, which keeps the order. The gap behind it is not looked at.
    pub(super) fn set_end(&mut self, index: usize, end: B::Addr) {
        self.ends[index] = end.into();
        self.area_mut(index).set_end(end);
    }

    /// Puts an area at `index`, where it keeps the order. The chunk is not full.
    #[inline]
    pub(super) fn insert(&mut self, index: usize, area: MemoryArea<B>) {
        let len = self.len;
        self.ends.copy_within(index..LAST, index + 1);
        self.ends[index] = area.end().into();
        let free = self.slots[LAST];
        self.slots.copy_within(index..LAST, index + 1);
        self.slots[index] = free;
        self.areas[slot(free)] = Some(area);
        self.len = len + 1;
        // Between two areas it leaves parts of a gap that there was.
        if index == 0 {
            self.raise_gap(1);
        } else if index == len {
            self.raise_gap(index);
        }
    }

    /// Puts an area in another's place, where it keeps the order.
    pub(super) fn replace(&mut self, index: usize, area: MemoryArea<B>) -> MemoryArea<B> {
        self.ends[index] = area.end().into();
        core::mem::replace(self.area_mut(index), area)
    }

    /// Takes an area out.
    #[inline]
    pub(super) fn take(&mut self, index: usize) -> Option<MemoryArea<B>> {
        self.ends.copy_within(index + 1.., index);
        self.ends[LAST] = FILLER;
        let freed = self.slots[index];
        self.slots.copy_within(index + 1.., index);
        self.slots[LAST] = freed;
        self.len -= 1;
        self.raise_gap(index);
        self.areas[slot(freed)].take()
    }

    /// Takes areas out, in order: `gone` gets them, or they are dropped.
    pub(super) fn take_all(&mut self, range: Range<usize>, mut gone: Option<&mut Few<MemoryArea<B>>>) {
        for &freed in &self.slots[range.clone()] {
            let area = self.areas[slot(freed)].take();
            if let (Some(area), Some(gone)) = (area, &mut gone) {
                gone.push(area);
            }
        }
        let len = self.len;
        self.len -= range.len();
        self.ends.copy_within(range.end..len, range.start);
        self.ends[self.len..len].fill(FILLER);
        self.slots[range.start..len].rotate_left(range.len());
        self.raise_gap(range.start);
    }

    /// Moves the areas from `index` on to the end of `other`, which precedes them and has room.
    pub(super) fn move_to(&mut self, index: usize, other: &mut Self) {
        let (moved, seam) = (index..self.len, other.len);
        for (&from, &to) in self.slots[moved.clone()].iter().zip(&other.slots[seam..]) {
            other.areas[slot(to)] = self.areas[slot(from)].take();
        }
        other.ends[seam..][..moved.len()].copy_from_slice(&self.ends[moved.clone()]);
        self.ends[moved.clone()].fill(FILLER);
        other.len += moved.len();
        self.len = index;
        *other.gap.get_mut() = (*self.gap.get_mut()).max(*other.gap.get_mut());
        other.raise_gap(seam);
    }

    /// Notes the gap before the area at `index`.
    pub(super) fn raise_gap(&mut self, index: usize) {
        if let (Some(before), Some(after)) = (self.ends.get(index.wrapping_sub(1)), self.get(index)) {
            let between = after.start().into().wrapping_sub(*before);
            let gap = self.gap.get_mut();
            *gap = (*gap).max(between);
        }
    }

    /// A size that no gap between two of the areas exceeds.
    pub(super) fn gap(&self) -> usize {
        self.gap.load(Ordering::Relaxed)
    }

    /// Finds out how large the largest gap is, because [`gap`](Self::gap) was too high.
    pub(super) fn mend_gap(&self) {
        let pairs = self.ends.iter().zip(self.iter().skip(1));
        let gaps = pairs.map(|(before, after)| after.start().into().wrapping_sub(*before));
        self.gap.store(gaps.max().unwrap_or(0), Ordering::Relaxed);
    }
}

/// A slot's number as an index, which the remainder never changes: it spares a check of bounds.
#[inline]
fn slot(number: u8) -> usize {
    usize::from(number) % CAPACITY
}

/// An array on the heap.
pub(super) fn boxed<T, const N: usize>(item: impl FnMut() -> T) -> Result<Box<[T; N]>, TryReserveError> {
    let mut items = Vec::new();
    items.try_reserve_exact(N)?;
    items.resize_with(N, item);
    Ok(items.try_into().unwrap_or_else(|_| unreachable!("there are N")))
}

#[cfg(test)]
impl<B: Backing> Chunk<B> {
    /// Panics unless what is kept about the areas is true.
    pub(super) fn check(&self) {
        let fillers = core::iter::repeat_n(FILLER, CAPACITY - self.len);
        assert!(self.iter().map(|area| area.end().into()).chain(fillers).eq(self.ends));
        assert!((1..=CAPACITY).contains(&self.len) && self.iter().count() == self.len);
        assert_eq!(self.areas.iter().flatten().count(), self.len, "what went left its slot");
        let mut slots = self.slots;
        slots.sort_unstable();
        assert!(slots.iter().enumerate().all(|(index, &number)| index == slot(number)), "a slot is someone's once");
        let bound = self.gap();
        self.mend_gap();
        assert!(self.gap() <= bound, "no gap is larger than is noted");
        self.gap.store(bound, Ordering::Relaxed);
    }
}
