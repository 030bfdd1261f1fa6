//! Host frames: the hypervisor's allocator, and the values that own what came from it.
#![allow(unsafe_code, reason = "reaching a frame's bytes is what this file is for")]

use core::{marker::PhantomData, ptr::NonNull};

use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use page_table_multiarch::PagingHandler;

/// The hypervisor's allocator of host frames, as a value: a zero-sized handler, a `&'static` pool, an `Arc`.
///
/// Called under the space's locks: it must not call back into the space, and must not sleep.
///
/// # Safety
/// - [`allocate`](Frames::allocate) answers memory that has no other use until it is freed, `count` pages of 4 KiB,
///   aligned to `align`, below 2^[`output_bits`](crate::format::Format::output_bits) of the space's format: what an
///   entry does not hold of an address is cut off.
/// - [`pointer`](Frames::pointer) of an address in allocated memory is valid for reads and writes of the rest of
///   its page, and of the pages behind it that were allocated with it, for as long as they are allocated. The same
///   holds for memory that is mapped linearly without [`DEVICE`](crate::MappingFlags::DEVICE), for as long as it is
///   mapped: that is how [`GuestSpace::read`](crate::GuestSpace::read) reaches it.
/// - All clones are the same allocator.
///
/// # Example
/// ```
/// use std::{alloc, ptr::NonNull};
/// use stage2::{Frames, PhysAddr};
///
/// /// The heap of a program, where a physical address is a pointer.
/// #[derive(Clone)]
/// struct Heap;
///
/// // SAFETY: the heap gives memory to one owner at a time, and a physical address is its pointer.
/// unsafe impl Frames for Heap {
///     fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
///         let layout = alloc::Layout::from_size_align(count * 4096, align).ok()?;
///         // SAFETY: the layout is not empty.
///         let memory = NonNull::new(unsafe { alloc::alloc(layout) })?;
///         Some(PhysAddr::from_usize(memory.as_ptr().expose_provenance()))
///     }
///
///     unsafe fn free(&self, at: PhysAddr, count: usize) {
///         // What the crate asks for is aligned to its size.
///         let layout = alloc::Layout::from_size_align(count * 4096, (count * 4096).next_power_of_two());
///         // SAFETY: the caller gives back, whole, what `allocate` gave.
///         unsafe { alloc::dealloc(self.pointer(at).as_ptr(), layout.expect("as it was allocated")) }
///     }
///
///     fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
///         NonNull::new(std::ptr::with_exposed_provenance_mut(at.as_usize())).expect("the heap is not at 0")
///     }
/// }
/// ```
pub unsafe trait Frames: Clone + Send + Sync + 'static {
    /// `count` contiguous pages of 4 KiB, the first at a multiple of `align` bytes (a power of two, at least 4096).
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr>;

    /// Takes pages back.
    ///
    /// # Safety
    /// They came from [`allocate`](Frames::allocate), all of one call or, with [`Pieces::Any`], some of one call;
    /// they are freed once, and nothing uses them any more.
    unsafe fn free(&self, at: PhysAddr, count: usize);

    /// Where the hypervisor sees a physical address.
    fn pointer(&self, at: PhysAddr) -> NonNull<u8>;

    /// A number for the allocator: two values of one type that answer the same one free each other's frames.
    ///
    /// A page of a region that no other guest shares any more is then taken by its last guest, instead of copied. Where
    /// nothing is known of the allocator, the default, every frame goes back where it came from.
    fn pool(&self) -> Option<usize> {
        None
    }

    /// What newly allocated memory contains.
    fn contents(&self) -> Contents {
        Contents::Unknown
    }

    /// Which parts of an allocation may be freed by themselves.
    fn pieces(&self) -> Pieces {
        Pieces::Whole
    }
}

/// What newly allocated memory contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Anything: the crate zeroes it before a guest sees it.
    Unknown,
    /// Zeros, written back as far as the guest's uncached reads need.
    Zeroed,
}

/// Which parts of an allocation may be freed by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// Only all of it: private memory then uses pages only, since a block may have to be unmapped in part.
    Whole,
    /// Any of its pages.
    Any,
}

/// Adapts a [`PagingHandler`] of `page_table_multiarch`.
///
/// That trait frees only what was allocated in one piece. Where the handler can do better, `PIECEWISE` says so.
///
/// # Example
/// ```
/// use std::alloc;
/// use memory_addr::VirtAddr;
/// use page_table_multiarch::PagingHandler;
/// use stage2::{Frames, Handler, PhysAddr};
///
/// struct Kernel;
///
/// impl PagingHandler for Kernel {
///     fn alloc_frames(count: usize, align: usize) -> Option<PhysAddr> {
///         let layout = alloc::Layout::from_size_align(count * 4096, align).ok()?;
///         // SAFETY: the layout is not empty.
///         let memory = unsafe { alloc::alloc(layout) };
///         (!memory.is_null()).then(|| PhysAddr::from_usize(memory.expose_provenance()))
///     }
///
///     fn dealloc_frames(at: PhysAddr, count: usize) {
///         let layout = alloc::Layout::from_size_align(count * 4096, (count * 4096).next_power_of_two()).unwrap();
///         // SAFETY: it was allocated above.
///         unsafe { alloc::dealloc(std::ptr::with_exposed_provenance_mut(at.as_usize()), layout) }
///     }
///
///     fn phys_to_virt(at: PhysAddr) -> VirtAddr {
///         VirtAddr::from_usize(at.as_usize())
///     }
/// }
///
/// // SAFETY: the heap's memory is exclusive, and a physical address is its pointer.
/// let frames = unsafe { Handler::<Kernel>::new() };
/// let frame = frames.allocate(1, 4096).expect("a page");
/// // SAFETY: it was allocated just now, and is not used.
/// unsafe { frames.free(frame, 1) };
/// ```
pub struct Handler<H, const PIECEWISE: bool = false>(PhantomData<fn() -> H>);

impl<H: PagingHandler> Handler<H, false> {
    /// A handler as its trait describes it.
    ///
    /// # Safety
    /// `H` keeps what [`Frames`] asks: exclusive memory, valid pointers.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(PhantomData)
    }
}

impl<H: PagingHandler> Handler<H, true> {
    /// A handler that takes back any page of an allocation.
    ///
    /// # Safety
    /// As for [`new`](Handler::new), and `H::dealloc_frames` accepts any part of what one call allocated.
    #[must_use]
    pub const unsafe fn piecewise() -> Self {
        Self(PhantomData)
    }
}

impl<H, const PIECEWISE: bool> Clone for Handler<H, PIECEWISE> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

// SAFETY: the maker of the value promised what the trait asks of `H`; the adapter only passes on.
unsafe impl<H: PagingHandler + 'static, const PIECEWISE: bool> Frames for Handler<H, PIECEWISE> {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        let at = H::alloc_frames(count, align)?;
        // No pointer reaches what the hypervisor sees at address 0. It stays allocated, so that it comes only once.
        if H::phys_to_virt(at).as_usize() == 0 { H::alloc_frames(count, align) } else { Some(at) }
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        H::dealloc_frames(at, count);
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        let address = H::phys_to_virt(at).as_usize();
        NonNull::new(core::ptr::with_exposed_provenance_mut(address)).unwrap_or(NonNull::dangling())
    }

    fn pieces(&self) -> Pieces {
        if PIECEWISE { Pieces::Any } else { Pieces::Whole }
    }

    fn pool(&self) -> Option<usize> {
        // Handlers have no state: all of one type are the same allocator.
        Some(0)
    }
}

/// Frames that the value owns: dropping frees them, [`into_raw`](Owned::into_raw) hands them to an entry.
///
/// It borrows the allocator: a clone for every fault would be a counter that all CPUs write.
#[must_use]
pub(crate) struct Owned<'f, F: Frames> {
    frames: &'f F,
    at: PhysAddr,
    pages: usize,
}

impl<'f, F: Frames> Owned<'f, F> {
    /// Allocates `pages`, aligned to their own size rounded up to a power of two, with unknown contents.
    pub(crate) fn allocate(frames: &'f F, pages: usize) -> Option<Self> {
        let align = (pages * PAGE_SIZE_4K).next_power_of_two();
        let at = frames.allocate(pages, align)?;
        Some(Self { frames, at, pages })
    }

    /// Fills them with zeros, unless the allocator did.
    pub(crate) fn zeroed(self) -> Self {
        if self.frames.contents() == Contents::Unknown {
            zero(self.frames, self.at, self.pages);
        }
        self
    }

    /// Takes over what an entry owned.
    ///
    /// # Safety
    /// As for [`Frames::free`]: nothing else frees these pages, and nothing reaches them any more.
    pub(crate) unsafe fn from_raw(frames: &'f F, at: PhysAddr, pages: usize) -> Self {
        Self { frames, at, pages }
    }

    /// The first frame's address.
    pub(crate) const fn at(&self) -> PhysAddr {
        self.at
    }

    /// The number of 4 KiB pages.
    pub(crate) const fn pages(&self) -> usize {
        self.pages
    }

    /// Gives the frames to what now holds their address.
    pub(crate) fn into_raw(self) -> PhysAddr {
        let at = self.at;
        core::mem::forget(self);
        at
    }

    /// Gives the frames to what now holds their address, and owns as many others instead.
    ///
    /// # Safety
    /// As for [`from_raw`](Self::from_raw).
    pub(crate) unsafe fn exchange(&mut self, at: PhysAddr) -> PhysAddr {
        core::mem::replace(&mut self.at, at)
    }
}

impl<F: Frames> Drop for Owned<'_, F> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the value owns the pages (allocated by `allocate`, or promised to `from_raw`) and goes now.
        unsafe { self.frames.free(self.at, self.pages) }
    }
}

/// Fills allocated pages with zeros.
pub(crate) fn zero(frames: &impl Frames, at: PhysAddr, pages: usize) {
    for page in 0..pages {
        let pointer = frames.pointer(at + page * PAGE_SIZE_4K);
        // SAFETY: the caller owns the pages and nothing else has seen them; each page is valid from its pointer on.
        unsafe { pointer.write_bytes(0, PAGE_SIZE_4K) }
    }
}
