//! An edit in two steps: what can fail, and what cannot.

use alloc::vec::Vec;

use memory_addr::AddrRange;

use super::{AreaError, Backing, MemoryArea, areas::Areas};

/// An edit of a range of a [`MemorySet`](super::MemorySet) for which everything is reserved and nothing changed yet.
///
/// Look at the [`pieces`](Self::pieces), do what can fail, then finish with [`carve`](Self::carve),
/// [`replace`](Self::replace) or [`replace_with`](Self::replace_with), none of which allocates or fails. Dropping the
/// plan leaves the set as it was.
#[must_use = "a plan changes nothing until it is carried out"]
pub struct Plan<'a, B: Backing> {
    areas: &'a mut Areas<B>,
    range: AddrRange<B::Addr>,
    gone: Vec<MemoryArea<B>>,
}

impl<'a, B: Backing> Plan<'a, B> {
    /// Reserves what any edit of `range` needs.
    pub(super) fn new(areas: &'a mut Areas<B>, range: AddrRange<B::Addr>) -> Result<Self, AreaError<B::Addr>> {
        if range.is_empty() {
            return Err(AreaError::Empty(range));
        }
        let mut gone = Vec::new();
        gone.try_reserve_exact(areas.overlapping(range).count()).map_err(|_| AreaError::NoMemory(range))?;
        areas.reserve(range).map_err(|_| AreaError::NoMemory(range))?;
        Ok(Self { areas, range, gone })
    }

    /// The range that is edited.
    pub fn range(&self) -> AddrRange<B::Addr> {
        self.range
    }

    /// Each area that overlaps the range, in address order, with the part of it that lies in the range.
    pub fn pieces(&self) -> impl Iterator<Item = (&MemoryArea<B>, AddrRange<B::Addr>)> {
        self.areas.pieces(self.range)
    }

    /// Removes the range, cutting the areas at its ends, and gives what was in it, in address order.
    ///
    /// Drop that when nothing can reach the memory any more: it may hold the last reference to what stood behind it.
    pub fn carve(mut self) -> Vec<MemoryArea<B>> {
        self.areas.carve(self.range, |area| self.gone.push(area));
        self.gone
    }

    /// Gives every piece the flags that `flags` answers for its old ones, cutting the areas at the range's ends.
    ///
    /// Holes stay holes, and backends stay: nothing is handed back.
    pub fn replace(self, mut flags: impl FnMut(B::Flags) -> B::Flags) {
        self.areas.cut(self.range.start);
        self.areas.cut(self.range.end);
        self.areas.change(self.range, |area| area.set_flags(flags(area.flags())));
    }

    /// Puts one area over the whole range, and gives what was in it, as [`carve`](Self::carve) does.
    pub fn replace_with(mut self, flags: B::Flags, backend: B) -> Vec<MemoryArea<B>> {
        let area = MemoryArea::over(self.range, flags, backend);
        self.areas.place(area, |area| self.gone.push(area));
        self.gone
    }
}
