//! Host-physical memory, simulated over real memory, and its allocator.
#![allow(unsafe_code, reason = "simulated physical memory hands out pointers into an arena")]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    collections::BTreeMap,
    ptr::NonNull,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::Failure;

/// Bytes of a frame.
pub const PAGE: u64 = 4096;

/// Set in an owner number of frames that belong to the test, not to the code under test.
const RESERVED: u64 = 1 << 63;

/// What stands at all addresses that are no memory's.
#[repr(align(4096))]
struct Nowhere([AtomicU64; PAGE as usize / 8]);

static NOWHERE: Nowhere = Nowhere([const { AtomicU64::new(0) }; PAGE as usize / 8]);

/// A machine that is told of frames before they are given back.
pub trait Watch: Send + Sync {
    /// `count` pages from `at` on are about to be free.
    fn freed(&self, at: u64, count: u64);
}

/// A piece of host-physical memory, from [`base`](Memory::base) on, allocated page by page.
///
/// Freed and freshly allocated frames are full of junk. Freeing what is not allocated panics.
pub struct Memory {
    base: u64,
    pages: u64,
    storage: NonNull<u8>,
    layout: Layout,
    /// For each page the number of the allocation that holds it; 0 is free.
    owners: Vec<AtomicU64>,
    state: Mutex<State>,
    clock: AtomicU64,
    watchers: Mutex<Vec<Weak<dyn Watch>>>,
}

struct State {
    /// First page and length of each allocation, by its number.
    blocks: BTreeMap<u64, (u64, u64)>,
    free: u64,
    lowest: u64,
    failure: Failure,
}

// SAFETY: the storage is only reached through atomics, or by the code that allocated the frame.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// `bytes` of memory from `base` on, whole pages. Only what is touched takes room on the host.
    ///
    /// # Panics
    /// If they are not whole pages.
    #[must_use]
    pub fn new(base: u64, bytes: u64) -> Arc<Self> {
        assert!(base.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE) && bytes > 0, "whole pages");
        // A page more than needed, so that the arena can be aligned by hand: zeroed memory of an alignment beyond
        // the ordinary would be touched at once.
        let layout = Layout::from_size_align((bytes + PAGE) as usize, 8).expect("an arena that fits");
        // SAFETY: the size is not zero.
        let storage = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        let pages = bytes / PAGE;
        let state = State { blocks: BTreeMap::new(), free: pages, lowest: 0, failure: Failure::Never };
        Arc::new(Self {
            base,
            pages,
            storage,
            layout,
            owners: (0..pages).map(|_| AtomicU64::new(0)).collect(),
            state: Mutex::new(state),
            clock: AtomicU64::new(1),
            watchers: Mutex::new(Vec::new()),
        })
    }

    /// The lowest address.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.base
    }

    /// The first address behind it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.base + self.pages * PAGE
    }

    /// Whether there is memory at an address.
    #[must_use]
    pub const fn contains(&self, at: u64) -> bool {
        at >= self.base && at < self.end()
    }

    /// The number of the allocation that holds a frame; later allocations have higher ones.
    ///
    /// `None` where there is no memory, or it is free.
    #[must_use]
    pub fn owner(&self, at: u64) -> Option<u64> {
        let owner = self.owners.get(self.index(at)?)?.load(Ordering::Acquire);
        (owner != 0).then_some(owner & !RESERVED)
    }

    /// Whether a frame was taken by [`reserve`](Memory::reserve).
    #[must_use]
    pub fn is_reserved(&self, at: u64) -> bool {
        self.index(at).is_some_and(|page| self.owners[page].load(Ordering::Acquire) & RESERVED != 0)
    }

    /// The time, in events. It orders allocations and cache maintenance.
    pub(crate) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// How many pages the code under test holds.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.state()
            .blocks
            .iter()
            .filter(|(number, _)| *number & RESERVED == 0)
            .map(|(number, block)| self.held(*number, *block))
            .sum()
    }

    /// How many pages are free.
    #[must_use]
    pub fn free_pages(&self) -> u64 {
        self.state().free
    }

    /// Makes allocations fail.
    pub fn fail(&self, failure: Failure) {
        self.state().failure = failure;
    }

    /// Whether a failure ordered with [`fail`](Memory::fail) is still to come.
    #[must_use]
    pub fn failure_pending(&self) -> bool {
        matches!(self.state().failure, Failure::Once(_))
    }

    /// Takes frames for the test itself (linear memory, a device's), which no failure hits and no leak check counts.
    ///
    /// # Panics
    /// If there are none left.
    pub fn reserve(&self, count: u64, align: u64) -> u64 {
        self.take(count, align, RESERVED).expect("room for the test's own frames")
    }

    /// Allocates `count` pages, the first at a multiple of `align` bytes, or fails as [`fail`](Memory::fail) says.
    ///
    /// # Panics
    /// If no page is asked for, or the alignment is no power of two of at least a page.
    pub fn allocate(&self, count: u64, align: u64) -> Option<u64> {
        if self.state().failure.strikes() { None } else { self.take(count, align, 0) }
    }

    fn take(&self, count: u64, align: u64, mark: u64) -> Option<u64> {
        assert!(count > 0 && align.is_power_of_two() && align >= PAGE, "an allocation of {count} pages at {align:#x}");
        let mut state = self.state();
        let first = self.search(&state, count, align)?;
        let number = self.tick() | mark;
        for page in first..first + count {
            self.owners[page as usize].store(number, Ordering::Release);
        }
        state.blocks.insert(number, (first, count));
        state.free -= count;
        if first == state.lowest {
            state.lowest = first + count;
        }
        drop(state);
        let at = self.base + first * PAGE;
        self.spoil(at, count, 0xa5a5_0000_dead_0003);
        Some(at)
    }

    /// The lowest run of free pages: what was freed last is soon used again, so that early frees show.
    fn search(&self, state: &State, count: u64, align: u64) -> Option<u64> {
        let aligned = |page: u64| ((self.base + page * PAGE).next_multiple_of(align) - self.base) / PAGE;
        let mut first = aligned(state.lowest);
        while first.checked_add(count)? <= self.pages {
            let taken = |page: &u64| self.owners[*page as usize].load(Ordering::Relaxed) != 0;
            match (first..first + count).rfind(taken) {
                None => return Some(first),
                Some(page) => first = aligned(page + 1),
            }
        }
        None
    }

    /// Gives pages of one allocation back; all of them if `whole`.
    ///
    /// # Panics
    /// If they are not allocated, not of one allocation, or not all of it where that is asked.
    pub fn release(&self, at: u64, count: u64, pieces: stage2::frames::Pieces) {
        if std::thread::panicking() {
            // What unwinds has failed already, and a second failure would end the process: sabotage damages tables.
            return;
        }
        for watcher in self.watchers().iter().filter_map(Weak::upgrade) {
            watcher.freed(at, count);
        }
        let first = self.index(at).unwrap_or_else(|| panic!("free of {at:#x}, which is no memory")) as u64;
        let mut state = self.state();
        let number = self.owners[first as usize].load(Ordering::Acquire);
        assert!(number != 0, "free of {at:#x}, which is free");
        let block = state.blocks[&number];
        assert!(
            first + count <= block.0 + block.1,
            "free of {count} pages at {at:#x}, of which only {} were allocated together",
            block.0 + block.1 - first
        );
        assert!(
            pieces == stage2::frames::Pieces::Any || (first, count) == block,
            "free of {count} pages at {at:#x}, a part of what was allocated in one piece: {} pages",
            block.1
        );
        self.spoil(at, count, 0x5a5a_0000_f4ee_0003);
        for page in first..first + count {
            let before = self.owners[page as usize].swap(0, Ordering::AcqRel);
            assert_eq!(before, number, "page {page} of the free of {count} at {at:#x} is another's, or free");
        }
        state.free += count;
        state.lowest = state.lowest.min(first);
        if self.held(number, block) == 0 {
            state.blocks.remove(&number);
        }
    }

    /// Has `watcher` told of frees.
    pub(crate) fn watch(&self, watcher: Weak<dyn Watch>) {
        self.watchers().push(watcher);
    }

    /// The aligned word at an address.
    #[must_use]
    pub fn read(&self, at: u64) -> Option<u64> {
        self.word(at).map(|word| word.load(Ordering::Acquire))
    }

    /// Stores the aligned word at an address.
    ///
    /// # Panics
    /// If there is no memory.
    pub fn write(&self, at: u64, value: u64) {
        self.word(at).unwrap_or_else(|| panic!("no memory at {at:#x}")).store(value, Ordering::Release);
    }

    /// What the hardware's own updates of entries do.
    pub(crate) fn compare_exchange(&self, at: u64, before: u64, after: u64) -> bool {
        self.word(at)
            .is_some_and(|word| word.compare_exchange(before, after, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    /// Where the host sees a physical address; beyond the memory, a page that all memories have in common, zero until written:
    /// a walk of tables that a defect has damaged ends there.
    #[must_use]
    pub fn pointer(&self, at: u64) -> NonNull<u8> {
        let Some(offset) = at.checked_sub(self.base).filter(|offset| *offset < self.pages * PAGE) else {
            return NonNull::from(&NOWHERE.0).cast();
        };
        // SAFETY: the storage has a page more than `pages`, and the arena starts within its first page.
        unsafe { self.arena().add(offset as usize) }
    }

    /// The physical address that the host sees at a pointer's address.
    #[must_use]
    pub fn physical(&self, pointer: u64) -> Option<u64> {
        let offset = pointer.checked_sub(self.arena().addr().get() as u64)?;
        (offset < self.pages * PAGE).then(|| self.base + offset)
    }

    #[allow(clippy::cast_ptr_alignment, reason = "the arena is aligned to pages, the address to words")]
    fn word(&self, at: u64) -> Option<&AtomicU64> {
        if !self.contains(at) || !at.is_multiple_of(8) {
            return None;
        }
        // SAFETY: within the arena, aligned, and words are only touched as atomics by all that share them.
        Some(unsafe { AtomicU64::from_ptr(self.pointer(at).as_ptr().cast::<u64>()) })
    }

    fn arena(&self) -> NonNull<u8> {
        let skip = self.storage.addr().get().next_multiple_of(PAGE as usize) - self.storage.addr().get();
        // SAFETY: less than a page, which the layout has spare.
        unsafe { self.storage.add(skip) }
    }

    /// Fills frames with words that look like valid entries and are not; of large blocks only the first pages.
    fn spoil(&self, at: u64, count: u64, junk: u64) {
        for offset in (0..count.min(512) * PAGE).step_by(8) {
            if let Some(word) = self.word(at + offset) {
                word.store(junk ^ (offset << 12), Ordering::Relaxed);
            }
        }
    }

    fn index(&self, at: u64) -> Option<usize> {
        self.contains(at).then(|| ((at - self.base) / PAGE) as usize)
    }

    /// How many pages an allocation still has: those that it gave back may be another's by now.
    fn held(&self, number: u64, (first, count): (u64, u64)) -> u64 {
        let held = |page: &u64| self.owners[*page as usize].load(Ordering::Relaxed) == number;
        (first..first + count).filter(held).count() as u64
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Weak<dyn Watch>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout by `new`, freed once.
        unsafe { dealloc(self.storage.as_ptr(), self.layout) }
    }
}
