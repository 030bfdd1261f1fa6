//! What is known of a region's pages, behind its lock: their frames, and how many share them. Touches no frame.

use alloc::vec::Vec;

use memory_addr::{PAGE_SIZE_4K, PhysAddr};

use super::{Region, RegionError, View};
use crate::{account::Exhausted, counted::Counted};

/// How many pages share one allocation of records.
const CHUNK: usize = 512;

/// What is known of a region.
#[derive(Default)]
pub(crate) struct Book {
    /// A chunk is empty until one of its pages is populated.
    chunks: Vec<Vec<Record>>,
    /// What other regions stand behind, where a page has no frame of its own; in order.
    bases: Vec<Base>,
    state: State,
    /// Pages that have a frame of its own.
    frames: usize,
    /// Handles: with one the region can be mapped anywhere and at any time.
    pub(super) handles: usize,
    /// Handles to write.
    pub(super) writers: usize,
    /// Pages that guests may write, in all mappings together.
    pub(super) writable: usize,
    /// Mappings that are there.
    live: usize,
    /// Mappings that ever were.
    ever: usize,
    /// At its end: the region that goes after this one.
    pub(super) next: Option<Counted<dyn Region>>,
}

/// Some pages that are another region's until this one has its own.
pub(super) struct Base {
    /// The first page.
    pub first: usize,
    /// How many there are.
    pub count: usize,
    /// The other region, which keeps them: this mapping of it leaves none.
    pub view: View,
    /// The page there of the first page here.
    pub from: usize,
}

/// Whether a region can be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Frozen,
}

/// One page: the address of its frame, bit 0 for its presence, and above that how many mappings have a copy of their
/// own, as far as the rest of the low bits counts.
#[derive(Clone, Copy, Default)]
struct Record(u64);

/// What a mapping that wants a page of its own gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    /// The page itself, since nothing else can ever see it: the region has it no more.
    Take(PhysAddr),
    /// A page to copy. It stays until [`Book::leave`].
    Copy(PhysAddr),
    /// It was never touched.
    Zeros,
    /// Nothing yet: a source is behind it, or has just brought it.
    Missing,
}

/// What is known of a page at one moment.
pub(crate) struct Look {
    /// Its frame.
    pub at: Option<PhysAddr>,
    /// Whether one mapping is all that is left of the region.
    pub is_alone: bool,
}

impl Record {
    const PRESENT: u64 = 1;
    const COPIES_SHIFT: u32 = 1;
    const LOW: u64 = PAGE_SIZE_4K as u64 - 1;
    /// The largest number of copies; it stands for more as well.
    const MOST_COPIES: u64 = Self::LOW >> Self::COPIES_SHIFT;

    fn frame(self) -> Option<PhysAddr> {
        let at = PhysAddr::from_usize((self.0 & !Self::LOW) as usize);
        (self.0 & Self::PRESENT != 0).then_some(at)
    }

    fn set_frame(&mut self, frame: Option<PhysAddr>) {
        let copies = self.0 & Self::LOW & !Self::PRESENT;
        self.0 = copies | frame.map_or(0, |at| at.as_usize() as u64 | Self::PRESENT);
    }

    /// How many mappings copied it; `None` if that cannot be told any more.
    fn copies(self) -> Option<usize> {
        let copies = (self.0 & Self::LOW) >> Self::COPIES_SHIFT;
        (copies < Self::MOST_COPIES).then_some(copies as usize)
    }

    fn add_copy(&mut self) {
        if self.copies().is_some() {
            self.0 += 1 << Self::COPIES_SHIFT;
        }
    }
}

impl Book {
    /// For `pages` pages, none of them populated, with one handle.
    pub(super) fn new(pages: usize) -> Option<Self> {
        let count = pages.div_ceil(CHUNK);
        let mut chunks = Vec::new();
        chunks.try_reserve_exact(count).ok()?;
        chunks.resize_with(count, Vec::new);
        Some(Self { chunks, handles: 1, ..Self::default() })
    }

    /// The frame of a page.
    pub(crate) fn frame(&self, page: usize) -> Option<PhysAddr> {
        let own =
            self.chunks.get(page / CHUNK).and_then(|chunk| chunk.get(page % CHUNK)).and_then(|record| record.frame());
        own.or_else(|| self.inherited(page))
    }

    /// The frame of a page that is another region's.
    fn inherited(&self, page: usize) -> Option<PhysAddr> {
        let (view, page) = self.base(page)?;
        view.region().reading().frame(page)
    }

    /// What stands behind a page, and which page of it.
    pub(super) fn base(&self, page: usize) -> Option<(&View, usize)> {
        let base = self.bases.get(self.bases.partition_point(|base| base.first + base.count <= page))?;
        let index = page.checked_sub(base.first)?;
        Some((&base.view, base.from + index))
    }

    /// Whether one mapping is all that is left.
    pub(super) fn is_alone(&self) -> bool {
        self.handles == 0 && self.live == 1
    }

    /// Whether neither a mapping nor a handle is left.
    pub(super) fn is_unreachable(&self) -> bool {
        self.handles == 0 && self.live == 0
    }

    /// Makes room for so many bases.
    pub(super) fn reserve_bases(&mut self, count: usize) -> Result<(), Exhausted> {
        self.bases.try_reserve_exact(count).map_err(|_| Exhausted::Memory)
    }

    /// Adds a base behind the others. Its room is reserved.
    pub(super) fn push_base(&mut self, base: Base) {
        debug_assert!(self.bases.len() < self.bases.capacity(), "the room was reserved");
        self.bases.push(base);
    }

    /// At its end: the last base.
    pub(super) fn pop_base(&mut self) -> Option<Base> {
        self.bases.pop()
    }

    /// At its end: whether pages are left, with frames or without.
    pub(super) fn has_chunks(&self) -> bool {
        !self.chunks.is_empty()
    }

    /// At its end: takes one of its last pages' frames out, or some pages that have none. Each is counted as one.
    pub(super) fn take_some(&mut self) -> Option<PhysAddr> {
        let chunk = self.chunks.last_mut()?;
        while let Some(record) = chunk.pop() {
            if let Some(at) = record.frame() {
                return Some(at);
            }
        }
        self.chunks.pop();
        None
    }

    /// How many frames of its own it has.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// Makes room for the records of some pages.
    pub(super) fn reserve(&mut self, pages: core::ops::Range<usize>) -> Result<(), Exhausted> {
        for chunk in pages.start / CHUNK..pages.end.div_ceil(CHUNK) {
            let chunk = self.chunks.get_mut(chunk).ok_or(Exhausted::Memory)?;
            if chunk.is_empty() {
                chunk.try_reserve_exact(CHUNK).map_err(|_| Exhausted::Memory)?;
                chunk.resize(CHUNK, Record::default());
            }
        }
        Ok(())
    }

    /// Gives a page that has none a frame. Its room is reserved.
    pub(super) fn put(&mut self, page: usize, at: PhysAddr) {
        self.put_all(page, core::iter::once(at));
    }

    /// Gives pages from `first` on, which have none, a frame each. Their room is reserved.
    #[inline]
    pub(super) fn put_all(&mut self, first: usize, mut frames: impl Iterator<Item = PhysAddr>) {
        let mut page = first;
        while let Some(records) = self.chunks.get_mut(page / CHUNK).and_then(|chunk| chunk.get_mut(page % CHUNK..)) {
            let before = page;
            // The records come first: a frame that is taken out of the iterator has one.
            for (record, at) in records.iter_mut().zip(&mut frames) {
                record.set_frame(Some(at));
                page += 1;
            }
            self.frames += page - before;
            if page == before || !page.is_multiple_of(CHUNK) {
                break;
            }
        }
        debug_assert!(frames.next().is_none(), "the room was reserved");
    }

    fn record(&mut self, page: usize) -> Option<&mut Record> {
        self.chunks.get_mut(page / CHUNK)?.get_mut(page % CHUNK)
    }

    /// Whether it can be written no more.
    pub(super) fn is_frozen(&self) -> bool {
        self.state == State::Frozen
    }

    /// Freezes it, for good.
    pub(super) fn freeze(&mut self) -> Result<(), RegionError> {
        if self.writable > 0 || self.writers > 0 {
            return Err(RegionError::Written { mapped: self.writable * PAGE_SIZE_4K, handles: self.writers });
        }
        self.state = State::Frozen;
        Ok(())
    }

    /// Refuses unless one mapping alone can reach it, and all pages are its own.
    pub(super) fn check_sole(&self) -> Result<(), RegionError> {
        if self.is_frozen() {
            return Err(RegionError::Frozen);
        }
        match (self.live, self.handles) {
            (1, 0) => Ok(()),
            (mappings, handles) => Err(RegionError::InUse { mappings, handles }),
        }
    }

    /// Forgets the frames of some pages.
    pub(super) fn take(&mut self, pages: core::ops::Range<usize>) {
        for page in pages {
            if let Some(record) = self.record(page).filter(|record| record.frame().is_some()) {
                record.set_frame(None);
                self.frames -= 1;
            }
        }
    }

    /// A mapping has lost some pages: takes the frame of the first one out that has one, if no other mapping and no handle
    /// shows it. What has been looked at goes off the range, at most a chunk of records at a time.
    pub(super) fn take_unreachable(&mut self, pages: &mut core::ops::Range<usize>) -> Option<PhysAddr> {
        if !self.is_alone() || self.frames == 0 {
            pages.start = pages.end;
            return None;
        }
        let records = self.chunks.get_mut(pages.start / CHUNK).map(Vec::as_mut_slice).unwrap_or_default();
        let end = pages.end.min((pages.start / CHUNK + 1) * CHUNK);
        let mut looked_at = pages.start..end;
        pages.start = end;
        let page = looked_at.find(|page| records.get(page % CHUNK).is_some_and(|record| record.frame().is_some()))?;
        pages.start = page + 1;
        let record = &mut records[page % CHUNK];
        let at = record.frame();
        record.set_frame(None);
        self.frames -= 1;
        at
    }

    /// A mapping comes.
    pub(super) fn open_window(&mut self) {
        self.live += 1;
        self.ever += 1;
    }

    /// A mapping is gone.
    pub(super) fn close_window(&mut self) {
        self.live -= 1;
    }

    /// A mapping wants a page of its own.
    ///
    /// It may take the page where no handle could show it any more, and either no other mapping is left or
    /// every other one has its own copy. A mapping that went without a copy is not among those, which costs a copy too
    /// many and never one too few.
    pub(super) fn give(&mut self, page: usize) -> Given {
        let alone = self.is_alone();
        let (handles, ever) = (self.handles, self.ever);
        let inherited = self.inherited(page);
        let record = self.record(page).filter(|record| record.frame().is_some());
        let Some(record) = record else { return inherited.map_or(Given::Zeros, Given::Copy) };
        let Some(at) = record.frame() else { return Given::Zeros };
        let last = handles == 0 && record.copies().is_some_and(|copies| copies + 1 == ever);
        if alone || last {
            record.set_frame(None);
            self.frames -= 1;
            Given::Take(at)
        } else {
            Given::Copy(at)
        }
    }

    /// A mapping has its copy and reaches the page no more: the frame, if none does.
    pub(super) fn leave(&mut self, page: usize) -> Option<PhysAddr> {
        let (handles, ever) = (self.handles, self.ever);
        let record = self.record(page)?;
        record.add_copy();
        let at = record.frame()?;
        let unreachable = handles == 0 && record.copies() == Some(ever);
        if !unreachable {
            return None;
        }
        record.set_frame(None);
        self.frames -= 1;
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: PhysAddr = PhysAddr::from_usize(0x7000);

    /// Page 3 populated, and some mappings.
    fn book(windows: usize) -> Book {
        let mut book = Book::new(1000).unwrap();
        book.reserve(3..4).unwrap();
        book.put(3, FRAME);
        (0..windows).for_each(|_| book.open_window());
        book
    }

    #[test]
    fn a_handle_keeps_every_page_shared() {
        let mut book = book(1);
        assert_eq!(book.give(3), Given::Copy(FRAME));
        book.handles = 0;
        assert_eq!(book.give(3), Given::Take(FRAME));
        assert_eq!(book.give(3), Given::Zeros);
    }

    #[test]
    fn the_last_of_several_mappings_takes_the_page() {
        let mut book = book(3);
        book.handles = 0;
        for _ in 0..2 {
            assert_eq!(book.give(3), Given::Copy(FRAME));
            assert_eq!(book.leave(3), None);
        }
        assert_eq!(book.give(3), Given::Take(FRAME));
    }

    /// A mapping that copied and went must not make another one look like the last.
    #[test]
    fn a_mapping_that_went_is_not_counted_twice() {
        let mut book = book(3);
        book.handles = 0;
        assert_eq!((book.give(3), book.leave(3)), (Given::Copy(FRAME), None));
        book.close_window();
        assert_eq!(book.give(3), Given::Copy(FRAME));
        book.close_window();
        assert_eq!(book.give(3), Given::Take(FRAME));
    }

    #[test]
    fn a_page_that_all_copied_at_once_is_unreachable() {
        let mut book = book(2);
        book.handles = 0;
        assert_eq!((book.give(3), book.give(3)), (Given::Copy(FRAME), Given::Copy(FRAME)));
        assert_eq!((book.leave(3), book.leave(3)), (None, Some(FRAME)));
        assert_eq!(book.frames(), 0);
    }

    #[test]
    fn pages_that_the_last_mapping_lost_are_unreachable() {
        let taken = |book: &mut Book, pages: core::ops::Range<usize>| {
            let mut pages = pages;
            let mut taken = Vec::new();
            while !pages.is_empty() {
                taken.extend(book.take_unreachable(&mut pages));
            }
            taken
        };
        let mut book = book(2);
        assert_eq!(taken(&mut book, 0..1000), [], "a handle shows it");
        book.handles = 0;
        assert_eq!(taken(&mut book, 0..1000), [], "another mapping shows it");
        book.close_window();
        book.reserve(900..901).unwrap();
        book.put(900, FRAME + PAGE_SIZE_4K);
        assert_eq!(taken(&mut book, 4..900), []);
        assert_eq!((taken(&mut book, 0..1000), book.frames()), ([FRAME, FRAME + PAGE_SIZE_4K].to_vec(), 0));
        assert_eq!(taken(&mut book, 0..1000), []);
    }

    #[test]
    fn more_copies_than_can_be_counted_make_none_the_last() {
        let mut book = book(2050);
        book.handles = 0;
        (0..2049).for_each(|_| assert_eq!(book.leave(3), None));
        assert_eq!(book.give(3), Given::Copy(FRAME));
        assert_eq!(book.frame(3), Some(FRAME));
    }
}
