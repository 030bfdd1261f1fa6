//! Where areas end: sorted numbers that are searched without branches.

use alloc::{collections::TryReserveError, vec::Vec};
use core::{hint::select_unpredictable, ops::Range};

/// Fills up what is searched, so that a search has a fixed number of steps. It is behind every address in an area.
pub(super) const FILLER: usize = usize::MAX;

/// How many ends are searched together, a power of two.
const GROUP: usize = 64;

/// Sorted ends, filled up to whole groups, with one [`FILLER`] at least.
pub(super) struct Ends(Vec<[usize; GROUP]>);

impl Ends {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Reserves room for one group more.
    pub(super) fn try_reserve(&mut self) -> Result<(), TryReserveError> {
        self.0.try_reserve(1)
    }

    /// The only group, for which [`up_to`] answers faster than [`Ends::up_to`].
    #[inline]
    pub(super) fn only_group(&self) -> Option<&[usize; GROUP]> {
        if let [group] = &*self.0 { Some(group) } else { None }
    }

    /// How many ends are `addr` or below it: the index of the first that is behind it.
    pub(super) fn up_to(&self, addr: usize) -> usize {
        let group = self.0.partition_point(|group| group[GROUP - 1] <= addr);
        group * GROUP + self.0.get(group).map_or(0, |group| up_to(group, addr))
    }

    /// Inserts an end, for which there is room, before the one at `index` of `len`.
    pub(super) fn insert(&mut self, index: usize, end: usize, len: usize) {
        if len + 1 >= self.0.len() * GROUP {
            self.0.push([FILLER; GROUP]);
        }
        let ends = self.0.as_flattened_mut();
        ends.copy_within(index..ends.len() - 1, index + 1);
        ends[index] = end;
    }

    /// Replaces an end.
    #[inline]
    pub(super) fn set(&mut self, index: usize, end: usize) {
        self.0.as_flattened_mut()[index] = end;
    }

    /// Removes some of `len`.
    pub(super) fn remove(&mut self, range: Range<usize>, len: usize) {
        let ends = self.0.as_flattened_mut();
        let kept = len - range.len();
        ends.copy_within(range.end..len, range.start);
        ends[kept..len].fill(FILLER);
        self.0.truncate(kept / GROUP + 1);
    }
}

/// How many of sorted ends are `addr` or below it, if the last is not.
#[inline]
pub(super) fn up_to(ends: &[usize; GROUP], addr: usize) -> usize {
    let mut index = 0;
    let mut step = GROUP / 2;
    while step > 1 {
        let next = index | step;
        index = select_unpredictable(ends[next - 1] <= addr, next, index);
        step /= 2;
    }
    index + usize::from(ends[index] <= addr)
}

#[cfg(test)]
impl Ends {
    /// Panics unless these are the `len` ends, and the rest of their groups is filled up.
    pub(super) fn check(&self, ends: impl Iterator<Item = usize>, len: usize) {
        let kept = self.0.as_flattened();
        assert!(kept.len() == (len / GROUP + 1) * GROUP || kept.is_empty());
        assert!(kept.iter().copied().eq(ends.chain(core::iter::repeat(FILLER)).take(kept.len())));
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::Ends;

    #[test]
    fn many_groups_are_searched_as_one_is() {
        let (mut ends, mut twin) = (Ends::new(), Vec::new());
        // Any order.
        for step in 0..300 {
            let end = step * 77 % 300 * 2;
            let index = twin.partition_point(|&other| other <= end);
            ends.try_reserve().unwrap();
            ends.insert(index, end, twin.len());
            twin.insert(index, end);
        }
        for removed in [250..251, 100..200, 0..190] {
            for addr in 0..600 {
                assert_eq!(ends.up_to(addr), twin.partition_point(|&end| end <= addr));
            }
            assert!(ends.only_group().is_none() && ends.up_to(usize::MAX) >= twin.len());
            ends.remove(removed.clone(), twin.len());
            twin.drain(removed);
            ends.check(twin.iter().copied(), twin.len());
        }
        assert!(ends.only_group().is_some());
    }
}
