//! Where areas start: a sorted list that is searched without branches.

use alloc::{collections::TryReserveError, vec::Vec};
use core::{hint::select_unpredictable, ops::Range};

use memory_addr::MemoryAddr;

/// Sorted addresses, filled up with the last address of all to whole groups of `N`, a power of two.
///
/// The search within a group has a fixed number of steps. No area starts at the last address.
pub(super) struct Starts<A, const N: usize>(Vec<A>);

impl<A: MemoryAddr, const N: usize> Starts<A, N> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    /// An empty list with all the room of one group.
    pub(super) fn one_group() -> Result<Self, TryReserveError> {
        let mut starts = Self::new();
        starts.0.try_reserve_exact(N)?;
        starts.0.resize(N, Self::filler());
        Ok(starts)
    }

    /// Reserves room for one group more.
    pub(super) fn try_reserve(&mut self) -> Result<(), TryReserveError> {
        self.0.try_reserve(N)
    }

    /// The index of the last address that is `addr` or below it; 0 if there is none.
    ///
    /// For the last address of all it may be behind the list.
    #[inline]
    pub(super) fn last_up_to(&self, addr: A) -> usize {
        match self.0.as_chunks().0 {
            [] => 0,
            [group] => last_of::<A, N>(group, addr),
            groups => last_of_groups(groups, addr),
        }
    }

    /// The same for a list of one group.
    #[inline]
    pub(super) fn last_in_group(&self, addr: A) -> usize {
        self.0.first_chunk().map_or(0, |group| last_of::<A, N>(group, addr))
    }

    /// Inserts an address, for which there is room, before the one at `index`.
    pub(super) fn insert(&mut self, index: usize, addr: A) {
        if self.0.last().is_none_or(|&last| last != Self::filler()) {
            self.0.resize(self.0.len() + N, Self::filler());
        }
        let last = self.0.len() - 1;
        self.0.copy_within(index..last, index + 1);
        self.0[index] = addr;
    }

    /// Replaces an address.
    pub(super) fn set(&mut self, index: usize, addr: A) {
        self.0[index] = addr;
    }

    /// Removes an address.
    pub(super) fn take(&mut self, index: usize) {
        self.0.copy_within(index + 1.., index);
        if let Some(last) = self.0.last_mut() {
            *last = Self::filler();
        }
    }

    /// Removes some addresses.
    pub(super) fn remove(&mut self, range: Range<usize>) {
        let kept = self.0.len() - range.len();
        self.0.copy_within(range.end.., range.start);
        self.0[kept..].fill(Self::filler());
    }

    /// Moves the addresses from `index` on, of `len`, behind the `other_len` of another list, which has room.
    pub(super) fn move_to(&mut self, index: usize, len: usize, other: &mut Self, other_len: usize) {
        other.0[other_len..][..len - index].copy_from_slice(&self.0[index..len]);
        self.0[index..len].fill(Self::filler());
    }

    /// What no area starts at.
    fn filler() -> A {
        A::from(usize::MAX)
    }
}

/// The index of the last of sorted addresses that is `addr` or below it; 0 if there is none.
#[inline]
fn last_of<A: MemoryAddr, const N: usize>(starts: &[A; N], addr: A) -> usize {
    let mut index = 0;
    let mut step = N / 2;
    while step > 0 {
        index = select_unpredictable(starts[index | step] <= addr, index | step, index);
        step /= 2;
    }
    index
}

/// The same for several groups.
#[inline(never)]
fn last_of_groups<A: MemoryAddr, const N: usize>(groups: &[[A; N]], addr: A) -> usize {
    let group = groups.partition_point(|group| group[0] <= addr).saturating_sub(1);
    group * N + last_of(&groups[group], addr)
}

#[cfg(test)]
impl<A: MemoryAddr, const N: usize> Starts<A, N> {
    /// Panics unless these are the addresses, and the rest of their groups is filled up.
    pub(super) fn check(&self, starts: impl Iterator<Item = A>) {
        let fillers = core::iter::repeat(usize::MAX);
        assert!(self.0.len().is_multiple_of(N));
        assert!(starts.map(Into::into).chain(fillers).zip(&self.0).all(|(expected, &start)| expected == start.into()));
    }
}
