//! Snapshots and forks of guests of any size, on frames that take host memory only once they are touched: those of the
//! tables do, those of the guest do not. So 8 GiB can be had, in pages of 4 KiB, and nobody's caches are in it.
#![allow(unsafe_code, reason = "an allocator of host frames")]

use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use stage2::{
    Config, Contents, CpuId, Frames, GuestSpace, Limits, Outcome, Platform, Snapshot,
    aarch64::{Stage2, Tlb, Vmid},
};

use crate::{
    machine::{Counting, GIB_PAGES, POPULATED, READ_WRITE, capabilities, each, pages_at, store_to},
    suite::Suite,
};

/// What a bench of 8 GiB needs, its tables and those of many forks included.
const MOST_PAGES: usize = 16 * GIB_PAGES;
/// How large guests are, in pages.
const SIZES: [(&str, usize); 3] = [("64 MiB", GIB_PAGES / 16), ("1 GiB", GIB_PAGES), ("8 GiB", 8 * GIB_PAGES)];
/// How many forks of one guest there are.
const FORKS: usize = 100;

/// Frames in the order of their addresses, none of them twice: what is unmapped is not used again.
#[derive(Clone)]
pub struct Untouched(Arc<Reserve>);

struct Reserve {
    memory: NonNull<u8>,
    taken: AtomicUsize,
}

/// No alignment of its own: else the host's allocator would write the zeros, and so touch it all.
const LAYOUT: Layout = match Layout::from_size_align((MOST_PAGES + 512) * PAGE_SIZE_4K, 16) {
    Ok(layout) => layout,
    Err(_) => panic!("a layout"),
};

// SAFETY: the memory is reached through `Frames::pointer` under the crate's rules.
unsafe impl Send for Reserve {}
// SAFETY: as above.
unsafe impl Sync for Reserve {}

impl Untouched {
    fn new() -> Self {
        // SAFETY: the layout is not empty. So much comes from the system, as address space.
        let memory = NonNull::new(unsafe { alloc_zeroed(LAYOUT) }).expect("the host has addresses for the benches");
        Self(Arc::new(Reserve { memory, taken: AtomicUsize::new(0) }))
    }

    fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` by the same layout; nobody has the allocator any more.
        unsafe { dealloc(self.memory.as_ptr(), LAYOUT) }
    }
}

// SAFETY: each page is given out once; addresses are offsets in memory that stays as long as anybody has the allocator.
unsafe impl Frames for Untouched {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        // A root of several pages is aligned to its size.
        let room = count + align / PAGE_SIZE_4K - 1;
        let first = self.0.taken.fetch_add(room, Ordering::Relaxed);
        (first + room <= MOST_PAGES).then(|| PhysAddr::from_usize((first * PAGE_SIZE_4K).next_multiple_of(align)))
    }

    unsafe fn free(&self, _: PhysAddr, _: usize) {}

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        // SAFETY: an address that was given out; the first aligned byte is within the first 512 pages.
        unsafe { self.0.memory.add(self.0.memory.align_offset(512 * PAGE_SIZE_4K) + at.as_usize()) }
    }

    fn contents(&self) -> Contents {
        Contents::Zeroed
    }

    fn pool(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.0).addr())
    }
}

/// The platform that has them.
pub struct Large;

impl Platform for Large {
    type Format = Stage2;
    type Frames = Untouched;
    type Invalidate = Tlb<Counting>;
}

type Space = GuestSpace<Large>;

fn space(frames: &Untouched) -> Space {
    let capabilities = capabilities();
    let config = Config {
        format: Stage2::new(&capabilities, 40, Vmid(1)).expect("the CPU can"),
        frames: frames.clone(),
        invalidate: Tlb::new(capabilities, Counting),
        cpus: 2,
        limits: Limits::default(),
    };
    GuestSpace::new(config).expect("there is memory")
}

/// A guest of so many pages, in so many areas with a page between each two, all of it populated; and its allocator.
pub fn populated(pages: usize, areas: usize) -> (Space, Untouched) {
    let frames = Untouched::new();
    let space = space(&frames);
    let each = pages / areas;
    for area in 0..areas {
        space.map(pages_at(area * (each + 1), each), POPULATED, READ_WRITE).expect("nothing is there");
    }
    (space, frames)
}

pub fn freeze(space: &Space) -> Snapshot {
    space.snapshot().expect("there is memory")
}

fn forked(frames: &Untouched, snapshot: &Snapshot) -> Space {
    let child = space(frames);
    child.restore(snapshot).expect("nothing is there");
    child
}

pub fn bench(suite: &mut Suite) {
    for (size, pages) in SIZES {
        let frozen = |(parent, snapshot): &mut (Space, Option<Snapshot>)| *snapshot = Some(freeze(parent));
        let snapshot = each(|| (populated(pages, 1).0, None), frozen);
        suite.compare(&format!("snapshot of {size}"), 1, vec![("stage2", Box::new(snapshot))]);
        let (parent, frames) = populated(pages, 1);
        let snapshot = freeze(&parent);
        let fork = each(|| None, |child: &mut Option<Space>| *child = Some(forked(&frames, &snapshot)));
        suite.compare(&format!("fork of {size}"), 1, vec![("stage2", Box::new(fork))]);
    }
    for areas in [10, 100, 1000] {
        let (parent, frames) = populated(GIB_PAGES, areas);
        let snapshot = freeze(&parent);
        let fork = each(|| None, |child: &mut Option<Space>| *child = Some(forked(&frames, &snapshot)));
        suite.compare(&format!("fork of 1 GiB in {areas} areas"), areas, vec![("stage2", Box::new(fork))]);
    }
}

/// Says what snapshots and forks take, in frames: none of it depends on the machine.
pub fn report() {
    println!("\n{:10} {:>16} {:>16} {:>16} {:>16}", "guest", "tables", "its own, frozen", "fork: own", "fork: tables");
    for (size, pages) in SIZES {
        let (parent, frames) = populated(pages, 1);
        let tables = parent.usage().table_frames;
        let before = frames.taken();
        let snapshot = freeze(&parent);
        assert_eq!(frames.taken(), before, "a snapshot takes no frame");
        let child = forked(&frames, &snapshot);
        let usage = child.usage();
        println!("{size:10} {tables:16} {:16} {:16} {:16}", parent.usage().frames, usage.frames, usage.table_frames);
    }
    for (size, pages) in &SIZES[..2] {
        let (parent, frames) = populated(*pages, 1);
        let snapshot = freeze(&parent);
        let children: Vec<_> = (0..FORKS).map(|_| forked(&frames, &snapshot)).collect();
        for (spread, stride) in [("everywhere", 100), ("side by side", 1)] {
            let (mut own, mut tables) = (0, 0);
            for child in &children {
                (0..pages / 100).for_each(|turn| write(child, turn * stride));
                own += child.usage().frames;
                tables += child.usage().table_frames;
                child.unmap(pages_at(0, *pages)).expect("it is mapped");
                child.restore(&snapshot).expect("nothing is there");
            }
            println!(
                "{FORKS} forks of {size} that write 1 % each, {spread}: {own} frames of their own, {tables} of tables"
            );
        }
    }
}

/// A guest's first write to a page.
fn write(space: &Space, index: usize) {
    assert_eq!(space.fault(CpuId(0), store_to(index)), Ok(Outcome::Resolved));
}
