//! A region's frames: where they come from, and what is done for them.
#![allow(unsafe_code, reason = "owns frames")]

use core::{any::TypeId, ptr::NonNull};

use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use spin::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{
    Asker, Behind, Book, Given, Look, RegionError, RemovedRegions, View,
    supply::{self, Supply},
};
use crate::{
    account::Exhausted,
    addr::GuestPhysRange,
    counted::Counted,
    frame::{Frames, Owned},
    invalidate::{Content, Invalidate},
    platform::Platform,
    source::{PageOwner, Supplied},
};

/// A region, whatever allocator and caches it was made for.
///
/// What a space does with a region when it maps, answers a fault and unmaps are methods of the trait, provided ones too:
/// they are linked where a region is made. A hypervisor that makes none has none of their code.
pub(crate) trait Region: PageOwner {
    /// Its size in bytes.
    fn size(&self) -> usize;

    /// Its lock.
    fn book(&self) -> &RwLock<Book>;

    /// What is behind its lock, for a caller that has it alone.
    fn book_mut(&mut self) -> &mut Book;

    /// At its end: frees frames until `budget`, in frames of 4 KiB, is used up.
    fn free_some(&mut self, budget: &mut usize);

    /// Allocates a frame for a page: zeroed, and in step with the caches.
    fn allocate(&self) -> Option<PhysAddr>;

    /// The source of untouched pages; without one they are zeros.
    fn supply(&self) -> Option<&Supply>;

    /// Frees a frame that the book gave away.
    ///
    /// # Safety
    /// Nothing reaches it any more.
    unsafe fn free(&self, at: PhysAddr);

    /// Where the hypervisor sees a frame.
    fn pointer(&self, at: PhysAddr) -> NonNull<u8>;

    /// As [`Invalidate::synchronize`].
    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content);

    /// Which allocator its frames are from, as far as that is known.
    fn pool(&self) -> Option<Pool>;

    /// The book, to read: what it says stays while the guard is held, and so do the frames that it names.
    fn reading(&self) -> RwLockReadGuard<'_, Book> {
        self.book().read()
    }

    /// The book, to write.
    fn writing(&self) -> RwLockWriteGuard<'_, Book> {
        // `write()` starves while readers come and go.
        self.book().upgradeable_read().upgrade()
    }

    /// A handle comes.
    fn add_handle(&self) {
        self.writing().handles += 1;
    }

    /// A handle goes; `this` is the region.
    fn drop_handle(&self, this: &Counted<dyn Region>) {
        self.writing().handles -= 1;
        supply::end_all_waits(this);
    }

    /// A mapping comes.
    fn open_window(&self) {
        self.writing().open_window();
    }

    /// A mapping goes; `this` is the region.
    fn close_window(&self, this: &Counted<dyn Region>) {
        self.writing().close_window();
        supply::end_all_waits(this);
    }

    /// So many more pages may be written by guests, unless it is frozen.
    fn grant(&self, pages: usize) -> Result<(), RegionError> {
        let mut book = self.writing();
        if book.is_frozen() {
            return Err(RegionError::Frozen);
        }
        book.writable += pages;
        Ok(())
    }

    /// So many pages are written no more.
    fn revoke(&self, pages: usize) {
        self.writing().writable -= pages;
    }

    /// Whether it can be written no more.
    fn is_frozen(&self) -> bool {
        self.reading().is_frozen()
    }

    /// What is known of a page.
    fn look(&self, page: usize) -> Look {
        let book = self.reading();
        Look { at: book.frame(page), is_alone: book.is_alone() }
    }

    /// A mapping whose frames are freed by `pool` wants a page of its own; `this` is the region.
    fn give(&self, this: &Counted<dyn Region>, page: usize, pool: Option<Pool>) -> Given {
        let given = if pool.is_some() && pool == self.pool() {
            self.writing().give(page)
        } else {
            // A frame goes back where it came from: nothing else may take it.
            self.reading().frame(page).map_or(Given::Zeros, Given::Copy)
        };
        match given {
            Given::Zeros if !matches!(supply::behind(this, page), Behind::Nothing) => Given::Missing,
            given => given,
        }
    }

    /// A mapping has its copy, and no CPU reaches the page through it any more.
    fn leave(&self, page: usize) {
        let unreachable = self.writing().leave(page);
        if let Some(at) = unreachable {
            // SAFETY: every mapping there ever was has a copy, and no other can be made: the book says so.
            unsafe { self.free(at) }
        }
    }

    /// A mapping has lost some pages, which no CPU reaches through it any more: frees those that nothing else shows, until
    /// `budget`, in frames of 4 KiB, is used up. What is done goes off the range.
    fn free_unreachable(&self, pages: &mut core::ops::Range<usize>, budget: &mut usize) {
        while *budget > 0 && pages.start < pages.end {
            *budget -= 1;
            let unreachable = self.writing().take_unreachable(pages);
            if let Some(at) = unreachable {
                // SAFETY: the one mapping that is left does not show it any more, and no other can be made.
                unsafe { self.free(at) }
            }
        }
    }

    /// How many pages it has that are on no account, where it is left to one mapping that takes them one by one.
    fn untaken(&self) -> Option<usize> {
        let book = self.reading();
        (self.supply().is_some() && book.is_frozen() && book.is_alone()).then(|| book.frames())
    }

    /// Brings a page that a guest misses; `this` is the region. Called without any lock.
    fn bring(&self, this: &Counted<dyn Region>, page: usize, guest: &dyn Asker) -> Result<Supplied, Exhausted> {
        supply::bring(this, page, guest)
    }

    /// A mapping has lost a part: the waits for its pages end if there is no other mapping, and no handle.
    fn end_waits(&self, view: &View, part: GuestPhysRange) {
        supply::end_waits(view, part);
    }
}

/// An allocator: frames may be freed by any that is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pool(TypeId, usize);

impl Pool {
    /// Which allocator that is.
    pub(crate) fn of<M: Frames>(frames: &M) -> Option<Self> {
        frames.pool().map(|number| Self(TypeId::of::<M>(), number))
    }
}

/// A frame that a region is to get. Dropped before the region has it, it goes back to the allocator.
pub(crate) struct Fresh<'r> {
    region: &'r (dyn Region + 'static),
    /// `None` once the region has it.
    at: Option<PhysAddr>,
}

impl Fresh<'_> {
    /// Gives it to a page that has none, if `admit` allows that under the region's lock: the page's frame then, this one or
    /// the one it had.
    pub(crate) fn put(&mut self, page: usize, admit: impl FnOnce() -> bool) -> Result<Option<PhysAddr>, Exhausted> {
        let mut book = self.region.writing();
        if let Some(at) = book.frame(page) {
            return Ok(Some(at));
        }
        if !admit() {
            return Ok(None);
        }
        book.reserve(page..page + 1)?;
        let Some(at) = self.at.take() else { return Ok(None) };
        book.put(page, at);
        Ok(Some(at))
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            // SAFETY: the region allocated it, and no page has got it: no CPU but this one knows it.
            unsafe { self.region.free(at) }
        }
    }
}

impl dyn Region {
    /// A frame for a page, which is allocated without any lock: others populate meanwhile, this page too.
    pub(crate) fn fresh(&self) -> Result<Fresh<'_>, Exhausted> {
        self.allocate().map(|at| Fresh { region: self, at: Some(at) }).ok_or(Exhausted::Memory)
    }

    /// The frame of a page, a zeroed one if it had none, for a caller with a handle: while there is one, no mapping takes
    /// pages out of the region.
    pub(super) fn populate(&self, page: usize) -> Result<PhysAddr, Exhausted> {
        if let Some(at) = self.reading().frame(page) {
            return Ok(at);
        }
        self.fresh()?.put(page, || true)?.ok_or(Exhausted::Memory)
    }
}

/// For the last mapping, which takes the memory of its region back.
impl dyn Region {
    /// Refuses a region that anything but one mapping can reach. None can come meanwhile: a new mapping takes a handle.
    pub(crate) fn check_sole(&self) -> Result<(), RegionError> {
        self.reading().check_sole()
    }

    /// Forgets the frames of `size` bytes from a page on: the mapping, which is the only one, has them.
    pub(crate) fn take(&self, first: usize, size: usize) {
        self.writing().take(first..first + size / PAGE_SIZE_4K);
    }
}

/// A region of a platform.
pub(super) struct Memory<P: Platform> {
    frames: P::Frames,
    operations: P::Invalidate,
    size: usize,
    supply: Option<Supply>,
    book: RwLock<Book>,
}

impl<P: Platform> Memory<P> {
    pub(super) fn new(
        frames: P::Frames,
        operations: P::Invalidate,
        size: usize,
        supply: Option<Supply>,
    ) -> Option<Self> {
        let book = RwLock::new(Book::new(size / PAGE_SIZE_4K)?);
        Some(Self { frames, operations, size, supply, book })
    }

    /// Takes back what guests reached: what they left in the caches, or wrote past them, must not meet the next owner.
    fn retire(&self, at: PhysAddr) {
        self.operations.synchronize(self.frames.pointer(at), PAGE_SIZE_4K, Content::Data);
    }
}

impl<P: Platform> Region for Memory<P> {
    fn size(&self) -> usize {
        self.size
    }

    fn book(&self) -> &RwLock<Book> {
        &self.book
    }

    fn book_mut(&mut self) -> &mut Book {
        self.book.get_mut()
    }

    fn free_some(&mut self, budget: &mut usize) {
        while *budget > 0 && self.book.get_mut().has_chunks() {
            *budget -= 1;
            if let Some(at) = self.book.get_mut().take_some() {
                // SAFETY: the last mapping and the last handle are gone, and mappings go after their invalidations.
                unsafe { Region::free(self, at) }
            }
        }
    }

    fn allocate(&self) -> Option<PhysAddr> {
        let fresh = Owned::allocate(&self.frames, 1)?.zeroed();
        self.operations.synchronize(self.frames.pointer(fresh.at()), PAGE_SIZE_4K, Content::Data);
        Some(fresh.into_raw())
    }

    fn supply(&self) -> Option<&Supply> {
        self.supply.as_ref()
    }

    unsafe fn free(&self, at: PhysAddr) {
        self.retire(at);
        // SAFETY: the caller's promise; the frame was one that `allocate` gave, or a piece of what a space did,
        // which has blocks only where any piece may be freed.
        unsafe { self.frames.free(at, 1) }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        self.frames.pointer(at)
    }

    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content) {
        self.operations.synchronize(bytes, len, content);
    }

    fn pool(&self) -> Option<Pool> {
        Pool::of(&self.frames)
    }
}

impl<P: Platform> PageOwner for Memory<P> {
    fn receive(
        &self,
        page: usize,
        write: &mut dyn FnMut(&mut [u8]) -> bool,
        admit: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Exhausted> {
        let fresh = Owned::allocate(&self.frames, 1).ok_or(Exhausted::Memory)?.zeroed();
        let bytes = self.frames.pointer(fresh.at());
        // SAFETY: `fresh` owns the page, which nothing else has seen, and it is initialized.
        if !write(unsafe { core::slice::from_raw_parts_mut(bytes.as_ptr(), PAGE_SIZE_4K) }) {
            return Ok(false);
        }
        self.operations.synchronize(bytes, PAGE_SIZE_4K, Content::Data);
        let mut book = self.book.upgradeable_read().upgrade();
        book.reserve(page..page + 1)?;
        if !admit() {
            return Ok(false);
        }
        book.put(page, fresh.into_raw());
        Ok(true)
    }
}

impl<P: Platform> Drop for Memory<P> {
    fn drop(&mut self) {
        self.free_some(&mut { usize::MAX });
        // What stands behind it may go too, and what stands behind that: without recursion.
        let mut removed = RemovedRegions::default();
        while let Some(base) = self.book.get_mut().pop_base() {
            removed.add(base.view);
        }
    }
}
