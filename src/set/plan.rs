//! An edit in two steps: what can fail, and what cannot.

use alloc::vec::Vec;

use memory_addr::AddrRange;

use super::{
    AreaError, Backing, Few, MemoryArea,
    areas::{Areas, Touched},
    few,
};

/// An edit of a range of a [`MemorySet`](super::MemorySet) for which everything is reserved and nothing changed yet.
///
/// Look at the [`pieces`](Self::pieces), do what can fail, then finish with [`carve`](Self::carve),
/// [`replace`](Self::replace) or [`replace_with`](Self::replace_with), none of which allocates or fails. Dropping the
/// plan leaves the set as it was.
///
/// # Example
/// ```
/// use memory_addr::{VirtAddr, va, va_range};
/// use stage2::{MemoryArea, MemorySet, areas::Backing};
///
/// # #[derive(Clone)]
/// # struct Mine;
/// # impl Backing for Mine {
/// #     type Addr = VirtAddr;
/// #     type Flags = u8;
/// # }
/// let mut set = MemorySet::new();
/// set.insert(MemoryArea::new(va!(0x1000), 0x4000, 1, Mine))?;
///
/// let plan = set.plan(va_range!(0x2000..0x3000))?;
/// // Now do with the page table what can fail, part by part.
/// assert_eq!(plan.pieces().map(|(_, part)| part).collect::<Vec<_>>(), [va_range!(0x2000..0x3000)]);
/// // What follows cannot.
/// let gone = plan.carve();
/// assert_eq!((gone.iter().count(), set.len()), (1, 2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a plan changes nothing until it is carried out"]
pub struct Plan<'a, B: Backing> {
    pub(super) areas: &'a mut Areas<B>,
    pub(super) touched: Touched<B::Addr>,
    /// For what goes.
    room: Option<Vec<MemoryArea<B>>>,
}

impl<'a, B: Backing> Plan<'a, B> {
    /// Reserves what any edit of `range` needs.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a plan is 80 bytes, and moving it costs as much as the search")]
    pub(super) fn new(areas: &'a mut Areas<B>, range: AddrRange<B::Addr>) -> Result<Self, AreaError<B::Addr>> {
        if range.is_empty() {
            return Err(AreaError::Empty(range));
        }
        let touched = areas.touched(range);
        let room = few::room_for(touched.count).map_err(|_| AreaError::NoMemory(range))?;
        areas.reserve(touched.place, touched.count, touched.insertions()).map_err(|_| AreaError::NoMemory(range))?;
        Ok(Self { areas, touched, room })
    }

    /// The range that is edited.
    pub fn range(&self) -> AddrRange<B::Addr> {
        self.touched.range
    }

    /// Whether no area overlaps the range.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.touched.count == 0
    }

    /// Each area that overlaps the range, in address order, with the part of it that lies in the range.
    pub fn pieces(&self) -> impl Iterator<Item = (&MemoryArea<B>, AddrRange<B::Addr>)> {
        self.areas.pieces(&self.touched)
    }

    /// Removes the range, cutting the areas at its ends, and gives what was in it, in address order.
    ///
    /// Drop that when nothing can reach the memory any more: it may hold the last reference to what stood behind it.
    pub fn carve(self) -> Few<MemoryArea<B>> {
        let mut gone = Few::in_room(self.room);
        self.areas.carve(&self.touched, None, Some(&mut gone));
        gone
    }

    /// Gives every piece the flags that `flags` answers for its old ones, cutting the areas at the range's ends.
    ///
    /// Holes stay holes, and backends stay: nothing is handed back.
    pub fn replace(self, mut flags: impl FnMut(B::Flags) -> B::Flags) {
        self.areas.change(&self.touched, |area| Some(flags(area.flags())), MemoryArea::set_flags);
    }

    /// Gives all pieces these flags, and cuts no area that has them already.
    pub(crate) fn set_flags(self, flags: B::Flags)
    where
        B::Flags: PartialEq,
    {
        self.areas.set_flags(&self.touched, flags);
    }

    /// Puts another backend behind every piece for which `backend` answers one, cutting the areas at the range's ends, and
    /// gives the old ones, as [`carve`](Self::carve) does.
    pub(crate) fn rebase(self, backend: impl FnMut(&MemoryArea<B>) -> Option<B>) -> Few<MemoryArea<B>> {
        let mut gone = Few::in_room(self.room);
        let apply = |area: &mut MemoryArea<B>, new| {
            let old = core::mem::replace(area.backend_mut(), new);
            gone.push(MemoryArea::over(area.va_range(), area.flags(), old));
        };
        self.areas.change(&self.touched, backend, apply);
        gone
    }

    /// Puts one area over the whole range, and gives what was in it, as [`carve`](Self::carve) does.
    pub fn replace_with(self, flags: B::Flags, backend: B) -> Few<MemoryArea<B>> {
        let area = MemoryArea::over(self.touched.range, flags, backend);
        let mut gone = Few::in_room(self.room);
        self.areas.carve(&self.touched, Some(area), Some(&mut gone));
        gone
    }
}

#[cfg(test)]
mod tests {
    use alloc::{sync::Arc, vec::Vec};

    use memory_addr::{VirtAddr, va, va_range};

    use super::super::{Backing, MemoryArea, MemorySet};

    /// Something that lives as long as an area refers to it.
    type Region = Arc<()>;

    impl Backing for Region {
        type Addr = VirtAddr;
        type Flags = u8;
    }

    /// `1` at 10..20, `2` at 30..40.
    fn two(region: &Region) -> MemorySet<Region> {
        let mut set = MemorySet::new();
        for (start, flags) in [(10, 1), (30, 2)] {
            set.insert(MemoryArea::new(va!(start), 10, flags, region.clone())).unwrap();
        }
        set
    }

    fn shown<'a>(areas: impl IntoIterator<Item = &'a MemoryArea<Region>>) -> Vec<(usize, usize, u8)> {
        let show = |area: &MemoryArea<Region>| (area.start().as_usize(), area.end().as_usize(), area.flags());
        areas.into_iter().map(show).collect()
    }

    #[test]
    fn a_plan_shows_its_pieces_and_changes_nothing() {
        let mut set = two(&Region::default());
        let plan = set.plan(va_range!(15..35)).unwrap();
        let pieces: Vec<_> = plan.pieces().map(|(area, part)| (area.start().as_usize(), part)).collect();
        assert_eq!(pieces, [(10, va_range!(15..20)), (30, va_range!(30..35))]);
        assert_eq!(plan.range(), va_range!(15..35));
        drop(plan);
        assert_eq!(shown(set.iter()), [(10, 20, 1), (30, 40, 2)]);
    }

    #[test]
    fn carving_hands_back_what_went() {
        let mut set = two(&Region::default());
        let gone = set.plan(va_range!(15..35)).unwrap().carve();
        assert_eq!(shown(&gone), [(15, 20, 1), (30, 35, 2)]);
        assert_eq!(shown(set.iter()), [(10, 15, 1), (35, 40, 2)]);
    }

    #[test]
    fn the_last_reference_goes_with_what_was_handed_back_and_not_before() {
        let region = Region::default();
        let mut set = two(&region);
        let gone = set.plan(va_range!(0..100)).unwrap().carve();
        assert!(set.is_empty());
        assert_eq!(Arc::strong_count(&region), 3);
        drop(gone);
        assert_eq!(Arc::strong_count(&region), 1);
    }

    #[test]
    fn new_flags_leave_holes_and_backends_alone() {
        let region = Region::default();
        let mut set = two(&region);
        set.plan(va_range!(15..35)).unwrap().replace(|old| old + 4);
        assert_eq!(shown(set.iter()), [(10, 15, 1), (15, 20, 5), (30, 35, 6), (35, 40, 2)]);
        assert!(set.iter().all(|area| Arc::ptr_eq(area.backend(), &region)));
    }

    #[test]
    fn a_replacement_takes_the_whole_range_with_its_holes() {
        let (old, new) = (Region::default(), Region::default());
        let mut set = two(&old);
        let gone = set.plan(va_range!(5..35)).unwrap().replace_with(9, new.clone());
        assert_eq!(shown(&gone), [(10, 20, 1), (30, 35, 2)]);
        assert_eq!(shown(set.iter()), [(5, 35, 9), (35, 40, 2)]);
        assert!(set.find(va!(20)).is_some_and(|area| Arc::ptr_eq(area.backend(), &new)));
        let none = set.plan(va_range!(50..60)).unwrap().replace_with(9, new);
        assert!(none.is_empty() && set.len() == 3);
    }
}
