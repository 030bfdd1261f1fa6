//! A region: its pages, where they come from, and what is done for them.
#![allow(unsafe_code, reason = "owns frames")]

use core::{ops::Range, ptr::NonNull};

use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use spin::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{Behind, Book, Cover, Places, RegionError, offer, supply};
use crate::{
    account::Exhausted,
    counted::Counted,
    invalidate::Content,
    pages::{Asker, Frame, Inherited, Keeper, Leaving, Offer, Pages, Pool, Supplies, inherited},
    source::Supplied,
};

/// A region.
///
/// What a space does with a region when it maps, answers a fault and unmaps are methods of the trait, provided ones too:
/// they are linked where a region is made. A hypervisor that makes none has none of their code.
pub(crate) trait Region: Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> usize;

    /// Its lock.
    fn book(&self) -> &RwLock<Book>;

    /// What is behind its lock, for a caller that has it alone.
    fn book_mut(&mut self) -> &mut Book;

    /// At its end: frees frames until `budget`, in frames of 4 KiB, is used up. Whether all are free.
    fn free_some(&mut self, budget: &mut usize) -> bool {
        let pages = &mut self.book_mut().pages;
        pages.free_some(budget);
        pages.is_empty()
    }

    /// Who allocates its pages.
    fn keeper(&self) -> &Counted<dyn Keeper>;

    /// The sources of untouched pages, by their places; without one they are zeros.
    fn supplies(&self) -> Option<&Supplies>;

    /// The places of its pages: where in the tree each is.
    fn places(&self) -> &Places;

    /// Where the hypervisor sees a frame.
    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        self.keeper().pointer(at)
    }

    /// As [`Invalidate::synchronize`](crate::Invalidate::synchronize).
    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content) {
        self.keeper().synchronize(bytes, len, content);
    }

    /// Which allocator its frames are from, as far as that is known.
    fn pool(&self) -> Option<Pool> {
        self.keeper().pool()
    }

    /// The book, to read: what it says stays while the guard is held, and so do the frames that it names.
    fn reading(&self) -> RwLockReadGuard<'_, Book> {
        self.book().read()
    }

    /// The book, to write.
    fn writing(&self) -> RwLockWriteGuard<'_, Book> {
        // `write()` starves while readers come and go.
        self.book().upgradeable_read().upgrade()
    }

    /// A mapping comes, which shows nothing yet.
    fn open_window(&self) {
        self.writing().mappings += 1;
    }

    /// A mapping shows some pages from now on, while there is a handle.
    fn show(&self, pages: Range<usize>) -> Result<(), Exhausted> {
        self.writing().cover.show(pages)
    }

    /// A mapping goes, of which all pages are [hidden](Self::hide).
    fn close_window(&self) {
        self.writing().mappings -= 1;
    }

    /// A mapping shows some pages no more. Where there is no memory to note that, they are free with the region.
    fn hide(&self, pages: Range<usize>) {
        let _ = self.writing().cover.hide(pages);
    }

    /// A handle goes: the pages of which some may be [unreachable](Self::free_unreachable) now. With the last handle, what no
    /// mapping shows is; without a mapping the region goes as a whole.
    fn end_handle(&self) -> Range<usize> {
        let mut book = self.writing();
        book.handles -= 1;
        if book.handles > 0 || book.mappings == 0 { 0..0 } else { 0..self.size() / PAGE_SIZE_4K }
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

    /// The frame of a page.
    fn frame(&self, page: usize) -> Option<PhysAddr> {
        self.reading().pages.frame(self.places().of(page))
    }

    /// As [`Pages::block`].
    fn block(&self, first: usize, pages: usize) -> Option<PhysAddr> {
        let (places, _) = self.places().within(first..first + pages).next()?;
        if places.len() == pages { self.reading().pages.block(places.start, pages) } else { None }
    }

    /// What is behind a page.
    fn behind(&self, page: usize) -> Behind {
        if self.frame(page).is_some() {
            return Behind::Frame;
        }
        match self.supplies().and_then(|supplies| supplies.behind(self.places().of(page))) {
            Some((pager, offset)) => Behind::Source(pager.clone(), offset),
            None => Behind::Nothing,
        }
    }

    /// Frees those of some pages that nobody can reach, until `budget`, in frames of 4 KiB, is used up. What is done goes off
    /// the range.
    fn free_unreachable(&self, pages: &mut Range<usize>, budget: &mut usize) {
        while *budget > 0 && pages.start < pages.end {
            *budget -= 1;
            let mut book = self.writing();
            let free = book.unreachable(pages.clone());
            let Some((mut part, first)) = free.and_then(|free| self.places().within(free).next()) else {
                pages.start = pages.end;
                return;
            };
            let gone = book.pages.take_next(&mut part);
            pages.start = first + (part.start - self.places().of(first));
            drop(book);
            // Without the lock: it is freed, and a source may be told.
            drop(gone);
        }
    }

    /// Makes ready to [lose](Self::lose) some pages: `leaving` gets room for them. Refuses a frozen region, and pages that
    /// are shown more often than `shown` says.
    fn prepare_to_lose(&self, pages: &Range<usize>, shown: &Cover, leaving: &mut Leaving) -> Result<(), RegionError> {
        let (offset, size) = (pages.start * PAGE_SIZE_4K, pages.len() * PAGE_SIZE_4K);
        let mut book = self.writing();
        if book.is_frozen() {
            return Err(RegionError::Frozen);
        }
        if !book.cover.agrees(shown, pages.clone()) {
            return Err(RegionError::ShownElsewhere { offset, size });
        }
        let isolated = book.pages.isolate(pages).and_then(|()| leaving.reserve(book.pages.pieces(pages)));
        isolated.map_err(|_| RegionError::NoMemory { offset, size })
    }

    /// Loses some pages, which no CPU reaches any more.
    fn lose(&self, pages: &Range<usize>, leaving: &mut Leaving) {
        self.writing().pages.cut(pages, None, leaving);
    }

    /// Brings a page that a guest misses. Called without any lock.
    fn bring(&self, page: usize, guest: &dyn Asker) -> Result<Supplied, Exhausted> {
        supply::bring(self.as_dyn(), page, guest)
    }

    /// Offers a page that a guest may miss. Called without any lock.
    fn offer(&self, page: usize, guest: &dyn Asker, content: &[u8]) -> Result<Offer, Exhausted> {
        offer::offer(self.as_dyn(), page, guest, content)
    }

    /// Has some of its pages come to a tree of another's, which is to copy them when they are written.
    fn pass_on(&self, to: &mut Pages, at: usize, pages: Range<usize>) -> Result<(), Exhausted> {
        let mut book = self.writing();
        self.places()
            .within(pages.clone())
            .try_for_each(|(part, first)| to.graft(at + (first - pages.start), &mut book.pages, part.start, part.len()))
    }

    /// The sources of some of its pages, by the numbers that those have elsewhere, from `at` on.
    fn supplies_of(&self, pages: Range<usize>, at: usize) -> Result<Option<Supplies>, Exhausted> {
        let Some(supplies) = self.supplies() else { return Ok(None) };
        let parts = || self.places().within(pages.clone()).map(|(part, first)| (part, at + (first - pages.start)));
        supplies.gathered(parts)
    }

    /// What a space is to have that inherits for the first time; `None` where there is no memory.
    fn heir(&self) -> Option<Counted<dyn Inherited>> {
        inherited()
    }

    /// Itself.
    fn as_dyn(&self) -> &(dyn Region + 'static);
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
        let page = self.region.places().of(page);
        if let Some(at) = book.pages.frame(page) {
            return Ok(Some(at));
        }
        if !admit() {
            return Ok(None);
        }
        book.pages.reserve(page..page + 1, self.region.keeper())?;
        let Some(at) = self.at.take() else { return Ok(None) };
        book.pages.put_all(page, core::iter::once(Frame::page(at)));
        Ok(Some(at))
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if let Some(at) = self.at {
            // SAFETY: the region allocated it, and no page has got it: no CPU but this one knows it.
            unsafe { self.region.keeper().free(at) }
        }
    }
}

impl dyn Region {
    /// A frame for a page, which is allocated without any lock: others populate meanwhile, this page too.
    pub(crate) fn fresh(&self) -> Result<Fresh<'_>, Exhausted> {
        let at = self.keeper().allocate(&mut |_| true)?;
        Ok(Fresh { region: self, at })
    }

    /// The frame of a page, a zeroed one if it had none, for a caller with a handle.
    pub(super) fn populate(&self, page: usize) -> Result<PhysAddr, Exhausted> {
        if let Some(at) = self.frame(page) {
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
        let (pool, mut book) = (self.pool(), self.writing());
        for page in first..first + size / PAGE_SIZE_4K {
            let _ = book.pages.take(page, (None, pool), None);
        }
    }
}

/// The region.
pub(super) struct Memory {
    size: usize,
    keeper: Counted<dyn Keeper>,
    supplies: Option<Supplies>,
    places: Places,
    book: RwLock<Book>,
}

impl Memory {
    pub(super) fn new(size: usize, keeper: Counted<dyn Keeper>, supplies: Option<Supplies>, places: Places) -> Self {
        let pages = if supplies.is_some() { Pages::supplied_by(&keeper) } else { Pages::default() };
        Self { size, keeper, supplies, places, book: RwLock::new(Book::new(pages)) }
    }
}

impl Region for Memory {
    fn size(&self) -> usize {
        self.size
    }

    fn book(&self) -> &RwLock<Book> {
        &self.book
    }

    fn book_mut(&mut self) -> &mut Book {
        self.book.get_mut()
    }

    fn keeper(&self) -> &Counted<dyn Keeper> {
        &self.keeper
    }

    fn supplies(&self) -> Option<&Supplies> {
        self.supplies.as_ref()
    }

    fn places(&self) -> &Places {
        &self.places
    }

    fn as_dyn(&self) -> &(dyn Region + 'static) {
        self
    }
}
