//! One range of addresses with one set of flags and one backend.

use core::fmt;

use memory_addr::AddrRange;

use super::{Backing, MappingError, MappingResult};

/// A range of addresses with one set of flags and one backend.
///
/// # Example
/// ```
/// use memory_addr::{VirtAddr, va, va_range};
/// use stage2::{MappingError, MemoryArea, areas::Backing};
///
/// # #[derive(Clone, Debug)]
/// # struct Mine;
/// # impl Backing for Mine {
/// #     type Addr = VirtAddr;
/// #     type Flags = u8;
/// # }
/// let area = MemoryArea::new(va!(0x1000), 0x2000, 1, Mine);
/// assert_eq!(area.va_range(), va_range!(0x1000..0x3000));
/// // A size that comes from a guest or a file may overflow.
/// let beyond = MemoryArea::try_new(va!(0x1000), usize::MAX, 1, Mine);
/// assert!(matches!(beyond, Err(MappingError::InvalidParam)));
/// ```
pub struct MemoryArea<B: Backing> {
    va_range: AddrRange<B::Addr>,
    flags: B::Flags,
    backend: B,
}

impl<B: Backing> MemoryArea<B> {
    /// Makes an area of `size` bytes at `start`. It is mapped by [`MemorySet::map`](super::MemorySet::map).
    ///
    /// # Panics
    /// If `start + size` overflows. [`try_new`](Self::try_new) does not panic.
    pub fn new(start: B::Addr, size: usize, flags: B::Flags, backend: B) -> Self {
        Self::over(AddrRange::from_start_size(start, size), flags, backend)
    }

    /// Makes an area of `size` bytes at `start`.
    ///
    /// The end of an area is an address too, so the last byte of the address space belongs to no area.
    ///
    /// # Errors
    /// [`MappingError::InvalidParam`] if `start + size` overflows.
    pub fn try_new(start: B::Addr, size: usize, flags: B::Flags, backend: B) -> MappingResult<Self> {
        let range = AddrRange::try_from_start_size(start, size).ok_or(MappingError::InvalidParam)?;
        Ok(Self::over(range, flags, backend))
    }

    /// An area over a range.
    pub(super) const fn over(va_range: AddrRange<B::Addr>, flags: B::Flags, backend: B) -> Self {
        Self { va_range, flags, backend }
    }

    /// The addresses of the area.
    pub const fn va_range(&self) -> AddrRange<B::Addr> {
        self.va_range
    }

    /// What the area allows.
    pub const fn flags(&self) -> B::Flags {
        self.flags
    }

    /// The first address of the area.
    pub const fn start(&self) -> B::Addr {
        self.va_range.start
    }

    /// The address behind the last of the area.
    pub const fn end(&self) -> B::Addr {
        self.va_range.end
    }

    /// The size of the area in bytes.
    pub fn size(&self) -> usize {
        self.va_range.size()
    }

    /// What stands behind the area.
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// What stands behind the area, which is at its end.
    pub(crate) fn into_backend(self) -> B {
        self.backend
    }

    /// What stands behind the area.
    pub(super) const fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Replaces the flags.
    pub(super) const fn set_flags(&mut self, flags: B::Flags) {
        self.flags = flags;
    }

    /// Puts the end elsewhere.
    pub(super) const fn set_end(&mut self, end: B::Addr) {
        self.va_range.end = end;
    }

    /// Puts the start elsewhere.
    pub(super) const fn set_start(&mut self, start: B::Addr) {
        self.va_range.start = start;
    }

    /// An area over a part of this one.
    pub(super) fn part(&self, part: AddrRange<B::Addr>) -> Self {
        Self::over(part, self.flags, self.backend.clone())
    }

    /// What is right of an address within the area.
    pub(super) fn part_from(&self, start: B::Addr) -> Self {
        debug_assert!(self.start() < start && start < self.end(), "a cut leaves no empty part");
        self.part(AddrRange { start, end: self.end() })
    }

    /// The part of the area within `range`, which overlaps it.
    pub(super) fn part_in(&self, range: AddrRange<B::Addr>) -> AddrRange<B::Addr> {
        AddrRange { start: self.start().max(range.start), end: self.end().min(range.end) }
    }
}

impl<B: Backing> Clone for MemoryArea<B> {
    fn clone(&self) -> Self {
        self.part(self.va_range)
    }
}

impl<B: Backing> fmt::Debug for MemoryArea<B>
where
    B::Addr: fmt::Debug,
    B::Flags: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryArea")
            .field("va_range", &self.va_range)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}
