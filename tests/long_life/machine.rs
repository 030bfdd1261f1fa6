//! A host whose frames are counted, and not on the heap that is counted.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    num::NonZeroUsize,
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{
    Config, Frames, GuestPhysAddr, GuestPhysRange, GuestSpace, LeafPolicy, Limits, Mapping, MappingFlags, PhysAddr,
    Platform, Populate,
    aarch64::{Capabilities, IdRegisters, Stage2, Vmid},
    frames::Pieces,
    pager::{Pager, Settled, Source, Supply, Ticket},
};
use stage2_model::NoGuest;

pub const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
pub const RAM: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };

thread_local! {
    /// Bytes that this thread has on the heap.
    pub static HELD: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts.
struct Counting;

// SAFETY: every call is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: `at` came from the system allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

/// A thread that ends may free something after its count is gone.
fn count(bytes: isize) {
    let _ = HELD.try_with(|held| held.set(held.get() + bytes));
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An allocator of frames. Clones are the same one.
#[derive(Clone, Default)]
pub struct Store(Arc<AtomicUsize>);

impl Store {
    /// How many frames are in use.
    pub fn used(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

fn layout(count: usize, align: usize) -> Layout {
    Layout::from_size_align(count * PAGE, align).expect("a power of two")
}

// SAFETY: the memory is the system allocator's, and is reached where it is.
unsafe impl Frames for Store {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        // SAFETY: a layout of at least one page is not empty.
        let at = unsafe { System.alloc(layout(count, align.max(PAGE))) };
        if at.is_null() {
            return None;
        }
        self.0.fetch_add(count, Ordering::Relaxed);
        Some(PhysAddr::from_usize(at.expose_provenance()))
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        self.0.fetch_sub(count, Ordering::Relaxed);
        // SAFETY: it came from `allocate`. The system allocator needs the size, and whether the alignment is large.
        unsafe { System.dealloc(self.pointer(at).as_ptr(), layout(count, PAGE)) }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(at.as_usize())).expect("not at 0")
    }

    fn pieces(&self) -> Pieces {
        Pieces::Whole
    }

    fn pool(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.0).addr())
    }
}

/// The platform.
pub struct Host;

impl Platform for Host {
    type Format = Stage2;
    type Frames = Store;
    type Invalidate = NoGuest;
}

/// A guest with nothing.
pub fn space(store: &Store, limits: Limits) -> GuestSpace<Host> {
    let capabilities = Capabilities::from_registers(IdRegisters { mmfr0: 0x5, ..IdRegisters::default() });
    let format = Stage2::new(&capabilities, 40, Vmid(1)).expect("the CPU can");
    let config = Config { format, frames: store.clone(), invalidate: NoGuest, cpus: 1, limits };
    GuestSpace::new(config).expect("memory")
}

/// Where a guest's page is.
pub fn gpa(page: usize) -> GuestPhysAddr {
    GuestPhysAddr::from_usize(page * PAGE)
}

/// Where some of a guest's pages are.
pub fn pages(pages: Range<usize>) -> GuestPhysRange {
    GuestPhysRange { start: gpa(pages.start), end: gpa(pages.end) }
}

/// Each of its pages starts with its offset, and one.
struct Image;

impl Source for Image {
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
        page[..8].copy_from_slice(&(ticket.offset() as u64 + 1).to_le_bytes());
        Supply::Ready
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

/// A pager for an image that answers at once.
pub fn image() -> Pager {
    Pager::new(Arc::new(Image), NonZeroUsize::MIN).expect("memory")
}
