//! The set of areas.

use core::fmt;

use memory_addr::AddrRange;

use super::{
    AreaError, Backing, MemoryArea, Plan,
    areas::{Areas, Place},
    gap::Wanted,
    within::Within,
};

/// Disjoint [`MemoryArea`]s in address order.
///
/// It has two faces. With a [`MappingBackend`](super::MappingBackend) it drives a page table: [`map`](Self::map),
/// [`unmap`](Self::unmap), [`protect`](Self::protect), [`clear`](Self::clear). With any [`Backing`] it is the record
/// beside a table that is driven elsewhere: [`plan`](Self::plan), [`insert`](Self::insert).
///
/// Lookups cost two binary searches and never allocate; an edit costs that and the areas that it touches. Nothing
/// aborts when memory runs out: an edit reserves what it needs before it changes anything. An empty range, an inverted
/// one too, overlaps nothing.
///
/// # Example
/// ```
/// use memory_addr::{VirtAddr, va, va_range};
/// use stage2::{MemoryArea, MemorySet, areas::Backing};
///
/// /// What stands behind an area: here only its name.
/// #[derive(Clone, Copy)]
/// struct Named(&'static str);
///
/// impl Backing for Named {
///     type Addr = VirtAddr;
///     type Flags = u8;
/// }
///
/// let mut set = MemorySet::new();
/// set.insert(MemoryArea::new(va!(0x1000), 0x4000, 1, Named("code")))?;
/// set.insert(MemoryArea::new(va!(0x8000), 0x1000, 3, Named("stack")))?;
/// assert_eq!(set.find(va!(0x4fff)).map(|area| area.backend().0), Some("code"));
/// assert_eq!(set.find_free_area(va!(0), 0x2000, va_range!(0..0x10000), 0x1000), Some(va!(0x5000)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct MemorySet<B: Backing> {
    pub(super) areas: Areas<B>,
}

impl<B: Backing> MemorySet<B> {
    /// Makes an empty set, without allocating.
    #[must_use]
    pub const fn new() -> Self {
        Self { areas: Areas::new() }
    }

    /// The number of areas.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.areas.len
    }

    /// Whether there is no area.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.areas.len == 0
    }

    /// All areas, in address order.
    pub fn iter(&self) -> impl Iterator<Item = &MemoryArea<B>> {
        self.areas.iter()
    }

    /// The areas that overlap `range`, in address order.
    pub fn iter_range(&self, range: AddrRange<B::Addr>) -> impl Iterator<Item = &MemoryArea<B>> {
        self.areas.overlapping(range)
    }

    /// Whether an area overlaps `range`.
    #[must_use]
    pub fn overlaps(&self, range: AddrRange<B::Addr>) -> bool {
        self.overlap(range).is_some()
    }

    /// The first area that overlaps `range`.
    #[must_use]
    #[inline]
    pub fn overlap(&self, range: AddrRange<B::Addr>) -> Option<&MemoryArea<B>> {
        self.areas.area_behind(range.start).filter(|area| !range.is_empty() && area.start() < range.end)
    }

    /// The area that `addr` lies in.
    #[must_use]
    #[inline]
    pub fn find(&self, addr: B::Addr) -> Option<&MemoryArea<B>> {
        self.areas.find(addr)
    }

    /// The lowest free address for an area of `size` bytes, from `hint` on and within `limit`.
    ///
    /// The address is a multiple of `align`, a power of two, and the area ends at `limit.end` at most. `None` if there
    /// is none, and for a size of zero, a size that is not a multiple of `align`, or an `align` that is no power of
    /// two. Below `hint` nothing is looked for.
    ///
    /// Areas between which the gaps are too small for `size` are passed over by chunks of up to 64.
    #[must_use]
    pub fn find_free_area(
        &self,
        hint: B::Addr,
        size: usize,
        limit: AddrRange<B::Addr>,
        align: usize,
    ) -> Option<B::Addr> {
        Wanted::new(size, align, limit.end)?.find_in(&self.areas, hint.max(limit.start))
    }

    /// Reserves what an edit of `range` needs, and changes nothing.
    ///
    /// # Errors
    /// [`AreaError::Empty`], [`AreaError::NoMemory`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a plan is 80 bytes, and moving it costs as much as the search")]
    pub fn plan(&mut self, range: AddrRange<B::Addr>) -> Result<Plan<'_, B>, AreaError<B::Addr>> {
        Plan::new(&mut self.areas, range)
    }

    /// The same for a range within one area; `None` for any other range, and without memory.
    #[inline]
    pub(crate) fn within(&mut self, range: AddrRange<B::Addr>) -> Option<Within<'_, B>> {
        Within::new(&mut self.areas, range)
    }

    /// Reserves what a [removal](Self::remove) of `range`, or of a part of each area in it, needs.
    pub(crate) fn reserve_removal(&mut self, range: AddrRange<B::Addr>) -> Result<(), AreaError<B::Addr>> {
        self.plan(range).map(drop)
    }

    /// Removes what is in `range`, and cuts the areas at its ends. Room for the piece behind it, if it lies inside of one area,
    /// is reserved.
    pub(crate) fn remove(&mut self, range: AddrRange<B::Addr>) {
        self.areas.carve(&self.areas.touched(range), None, None);
    }

    /// Removes the areas in `range`, none of which its ends cut.
    pub(crate) fn remove_whole(&mut self, range: AddrRange<B::Addr>) {
        self.areas.carve(&self.areas.touched(range), None, None);
    }

    /// Makes one area of all those that touch and agree, from one that ends at a range's start to one that starts at its
    /// end.
    pub(crate) fn join_all(&mut self, range: AddrRange<B::Addr>)
    where
        B: PartialEq,
        B::Flags: PartialEq,
    {
        self.areas.join_all(range);
    }

    /// Takes the last area out.
    pub(crate) fn pop(&mut self) -> Option<MemoryArea<B>> {
        self.areas.pop()
    }

    /// Shows every area's backend to `each`, which may replace it.
    pub(crate) fn each_backend(&mut self, mut each: impl FnMut(AddrRange<B::Addr>, &mut B)) {
        if let Some(span) = self.areas.span() {
            let touched = self.areas.touched(span);
            self.areas.change(&touched, |_| Some(()), |area, ()| each(area.va_range(), area.backend_mut()));
        }
    }

    /// Records an area where there is none.
    ///
    /// # Errors
    /// [`AreaError::Empty`], [`AreaError::Overlap`] with the first area in the way, [`AreaError::NoMemory`]: nothing
    /// changed.
    pub fn insert(&mut self, area: MemoryArea<B>) -> Result<(), AreaError<B::Addr>> {
        self.vacancy(area.va_range())?.fill(area);
        Ok(())
    }

    /// The place for an area over `range`, where nothing is.
    ///
    /// # Errors
    /// As for [`insert`](Self::insert).
    #[inline]
    pub(crate) fn vacancy(&mut self, range: AddrRange<B::Addr>) -> Result<Vacancy<'_, B>, AreaError<B::Addr>> {
        if range.is_empty() {
            return Err(AreaError::Empty(range));
        }
        let (place, next) = self.areas.first_behind(range.start);
        if let Some(with) = next.filter(|next| next.start() < range.end) {
            return Err(AreaError::Overlap { range, with: with.va_range() });
        }
        self.areas.reserve(place, 0, 1).map_err(|_| AreaError::NoMemory(range))?;
        Ok(Vacancy { areas: &mut self.areas, place })
    }
}

/// Where an area may be put: its range is free, and there is memory to record it.
pub(crate) struct Vacancy<'s, B: Backing> {
    areas: &'s mut Areas<B>,
    place: Place,
}

impl<B: Backing> Vacancy<'_, B> {
    /// Puts the area there, which has the range that was asked for.
    #[inline]
    pub(crate) fn fill(self, area: MemoryArea<B>) {
        self.areas.insert(self.place, area);
    }

    /// The same, and makes one area of it and those that it touches and agrees with.
    #[inline]
    pub(crate) fn fill_joined(self, area: MemoryArea<B>)
    where
        B: PartialEq,
        B::Flags: PartialEq,
    {
        let Self { areas, place } = self;
        let range = area.va_range();
        let may_touch = areas.chunk(place.chunk).is_none_or(|chunk| chunk.may_touch(place.index, place.index, range));
        areas.insert(place, area);
        if may_touch {
            areas.join_all(range);
        }
    }
}

impl<B: Backing> Default for MemorySet<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backing> fmt::Debug for MemorySet<B>
where
    B::Addr: fmt::Debug,
    B::Flags: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
