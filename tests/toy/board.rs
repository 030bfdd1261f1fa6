//! A board without hardware: host memory, an allocator, and a log of what was asked in which order.

use std::{
    alloc::Layout,
    collections::BTreeMap,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard},
};

use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use stage2::{
    Config, CpuId, Frames, GuestPhysAddr, GuestPhysRange, Limits, Platform,
    frames::{Contents, Pieces},
    invalidate::{Content, Invalidate, Reach, Scope, Unreachable},
};

use super::{format::Toy, guest::GuestSpace};

/// 64 MiB of memory, from host-physical address 0 on.
const PAGES: usize = 16 * 1024;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Event {
    Allocated(PhysAddr, usize),
    Freed(PhysAddr, usize),
    Invalidated(Scope),
    InvalidatedAll,
    DenialForgotten(GuestPhysAddr),
    Switched,
    Interrupted(CpuId),
}

/// The board: clones are the same one.
#[derive(Clone)]
pub struct Board(Arc<Shared>);

struct Shared {
    memory: NonNull<u8>,
    state: Mutex<State>,
    reach: Reach,
    pieces: Pieces,
    contents: Contents,
}

#[derive(Default)]
struct State {
    events: Vec<Event>,
    synchronized: Vec<(PhysAddr, usize, Content)>,
    published: usize,
    /// The pages that are allocated, and each one's allocation.
    used: BTreeMap<usize, usize>,
    allocations: usize,
    next: usize,
    /// How many more allocations succeed.
    left: Option<usize>,
    /// How many pages are free in one piece at most.
    largest: Option<usize>,
    deaf: Option<CpuId>,
    refusing: Option<CpuId>,
    on_interrupt: Option<Arc<dyn Fn(CpuId) + Send + Sync>>,
    on_allocation: Option<Box<dyn FnOnce() + Send>>,
    on_free: Option<Box<dyn FnOnce() + Send>>,
    on_invalidation: Option<Box<dyn FnOnce() + Send>>,
    on_publication: Option<Box<dyn FnOnce() + Send>>,
    on_synchronization: Option<Box<dyn FnOnce() + Send>>,
}

// SAFETY: the memory is reached through `Frames::pointer` under the crate's rules; everything else is behind the mutex.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

const LAYOUT: Layout = match Layout::from_size_align(PAGES * PAGE_SIZE_4K, 1 << 22) {
    Ok(layout) => layout,
    Err(_) => panic!("a layout"),
};

impl Board {
    pub fn new() -> Self {
        Self::with(Reach::Everywhere, Pieces::Any)
    }

    pub fn with(reach: Reach, pieces: Pieces) -> Self {
        Self::with_contents(reach, pieces, Contents::Unknown)
    }

    /// A board whose frames come zeroed.
    pub fn zeroed() -> Self {
        Self::with_contents(Reach::Everywhere, Pieces::Any, Contents::Zeroed)
    }

    fn with_contents(reach: Reach, pieces: Pieces, contents: Contents) -> Self {
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { std::alloc::alloc(LAYOUT) }).expect("host memory");
        Self(Arc::new(Shared { memory, state: Mutex::default(), reach, pieces, contents }))
    }

    pub fn space(&self) -> GuestSpace<Machine> {
        GuestSpace::new(self.config()).expect("a space")
    }

    pub fn config(&self) -> Config<Machine> {
        Config { format: Toy, frames: self.clone(), invalidate: self.clone(), cpus: 4, limits: Limits::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What happened since the last call.
    pub fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.state().events)
    }

    /// Which memory was brought in step with the caches since the last call, and for what.
    pub fn synchronized(&self) -> Vec<(PhysAddr, usize, Content)> {
        std::mem::take(&mut self.state().synchronized)
    }

    /// How often entries were published since the last call.
    pub fn published(&self) -> usize {
        std::mem::take(&mut self.state().published)
    }

    /// How many pages are allocated.
    pub fn allocated(&self) -> usize {
        self.state().used.len()
    }

    /// How many have it: what allocates from it has a clone.
    pub fn owners(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// Lets `count` more allocations succeed and no other, or all of them.
    pub fn allow(&self, count: Option<usize>) {
        self.state().left = count;
    }

    /// Lets no more than `pages` be free in one piece, or as many as there are.
    pub fn fragment(&self, pages: Option<usize>) {
        self.state().largest = pages;
    }

    /// Makes a CPU not answer interrupts, or none.
    pub fn deafen(&self, cpu: Option<CpuId>) {
        self.state().deaf = cpu;
    }

    /// Makes a CPU unable to forget, or none.
    pub fn refuse(&self, cpu: Option<CpuId>) {
        self.state().refusing = cpu;
    }

    /// What an interrupted CPU does.
    pub fn on_interrupt(&self, handler: Arc<dyn Fn(CpuId) + Send + Sync>) {
        self.state().on_interrupt = Some(handler);
    }

    /// What happens elsewhere during the next allocation.
    pub fn on_allocation(&self, event: impl FnOnce() + Send + 'static) {
        self.state().on_allocation = Some(Box::new(event));
    }

    /// The same during the allocation of that number from now on.
    pub fn at_allocation(&self, number: usize, event: impl FnOnce() + Send + 'static) {
        let again = self.clone();
        self.on_allocation(move || if number <= 1 { event() } else { again.at_allocation(number - 1, event) });
    }

    /// What happens elsewhere while the next frames are freed.
    pub fn on_free(&self, event: impl FnOnce() + Send + 'static) {
        self.state().on_free = Some(Box::new(event));
    }

    /// What happens elsewhere while entries are published the next time.
    pub fn on_publication(&self, event: impl FnOnce() + Send + 'static) {
        self.state().on_publication = Some(Box::new(event));
    }

    /// What happens elsewhere while memory is brought in step with the caches the next time.
    pub fn on_synchronization(&self, event: impl FnOnce() + Send + 'static) {
        self.state().on_synchronization = Some(Box::new(event));
    }

    /// What happens elsewhere during the next invalidation of a range.
    pub fn on_invalidation(&self, event: impl FnOnce() + Send + 'static) {
        self.state().on_invalidation = Some(Box::new(event));
    }

    fn log(&self, event: Event) {
        self.state().events.push(event);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: allocated in `with` by the same layout.
        unsafe { std::alloc::dealloc(self.memory.as_ptr(), LAYOUT) }
    }
}

// SAFETY: pages are marked as used before they are given out; the pointer is into the board's memory.
unsafe impl Frames for Board {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        let mut state = self.state();
        if state.largest.is_some_and(|largest| count > largest) {
            return None;
        }
        if let Some(left) = &mut state.left {
            *left = left.checked_sub(1)?;
        }
        let step = align / PAGE_SIZE_4K;
        let start = state.next.next_multiple_of(step);
        let starts = (start..PAGES).step_by(step).chain((0..start).step_by(step));
        let free = |state: &State, first: usize| {
            first + count <= PAGES && state.used.range(first..first + count).next().is_none()
        };
        let first = starts.into_iter().find(|&first| free(&state, first))?;
        state.allocations += 1;
        let allocation = state.allocations;
        state.used.extend((first..first + count).map(|page| (page, allocation)));
        state.next = first + count;
        let at = PhysAddr::from_usize(first * PAGE_SIZE_4K);
        state.events.push(Event::Allocated(at, count));
        let elsewhere = state.on_allocation.take();
        drop(state);
        if let Some(event) = elsewhere {
            event();
        }
        // Junk, since a guest must not see it, where the crate is to zero it.
        let content = if self.0.contents == Contents::Zeroed { 0 } else { 0xa5 };
        // SAFETY: the pages are ours until they are given out.
        unsafe { self.pointer(at).write_bytes(content, count * PAGE_SIZE_4K) }
        Some(at)
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        // SAFETY: the caller gives the pages back.
        unsafe { self.pointer(at).write_bytes(0x5a, count * PAGE_SIZE_4K) }
        let mut state = self.state();
        let mut of = None;
        for page in at.as_usize() / PAGE_SIZE_4K..at.as_usize() / PAGE_SIZE_4K + count {
            let allocation = state.used.remove(&page);
            // A second panic would end the process, and with it the other tests' verdicts.
            assert!(allocation.is_some() || std::thread::panicking(), "page {page} is freed, but not allocated");
            let is_one = *of.get_or_insert(allocation) == allocation;
            assert!(is_one || std::thread::panicking(), "page {page} is freed with one of another allocation");
        }
        state.events.push(Event::Freed(at, count));
        let elsewhere = state.on_free.take();
        drop(state);
        if let Some(event) = elsewhere {
            event();
        }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        let is_ours = at.as_usize() < PAGES * PAGE_SIZE_4K;
        // As in `free`.
        assert!(is_ours || std::thread::panicking(), "{at:?} is not on the board");
        // SAFETY: within the allocation.
        unsafe { self.0.memory.add(if is_ours { at.as_usize() } else { 0 }) }
    }

    fn contents(&self) -> Contents {
        self.0.contents
    }

    fn pieces(&self) -> Pieces {
        self.0.pieces
    }

    fn pool(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.0).addr())
    }
}

impl Invalidate<u64> for Board {
    fn reach(&self) -> Reach {
        self.0.reach
    }

    fn publish(&self) {
        let mut state = self.state();
        state.published += 1;
        let elsewhere = state.on_publication.take();
        drop(state);
        if let Some(event) = elsewhere {
            event();
        }
    }

    fn invalidate(&self, _root: u64, scope: Scope) {
        self.log(Event::Invalidated(scope));
        let elsewhere = self.state().on_invalidation.take();
        if let Some(event) = elsewhere {
            event();
        }
    }

    fn invalidate_all(&self, _root: u64) {
        self.log(Event::InvalidatedAll);
        let elsewhere = self.state().on_invalidation.take();
        if let Some(event) = elsewhere {
            event();
        }
    }

    fn flush(&self, root: u64, cpu: CpuId) -> Result<(), Unreachable> {
        if self.state().refusing == Some(cpu) {
            return Err(Unreachable(cpu));
        }
        self.invalidate_all(root);
        Ok(())
    }

    fn invalidate_denial(&self, _root: u64, gpa: GuestPhysAddr) {
        self.log(Event::DenialForgotten(gpa));
    }

    fn switch_vcpu(&self, _root: u64) {
        self.log(Event::Switched);
    }

    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        for cpu in cpus {
            self.log(Event::Interrupted(cpu));
            let (deaf, handler) = {
                let state = self.state();
                (state.deaf, state.on_interrupt.clone())
            };
            if deaf == Some(cpu) {
                return Err(Unreachable(cpu));
            }
            if let Some(handler) = handler {
                handler(cpu);
            }
        }
        Ok(())
    }

    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content) {
        let at = PhysAddr::from_usize(bytes.as_ptr().addr() - self.0.memory.as_ptr().addr());
        let mut state = self.state();
        state.synchronized.push((at, len, content));
        let elsewhere = state.on_synchronization.take();
        drop(state);
        if let Some(event) = elsewhere {
            event();
        }
    }

    fn activate(&self, _root: u64) {}
}

/// The platform that the board is.
pub struct Machine;

impl Platform for Machine {
    type Format = Toy;
    type Frames = Board;
    type Invalidate = Board;
}

/// A range from its start and size.
pub fn range(start: usize, size: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(GuestPhysAddr::from_usize(start), size)
}
