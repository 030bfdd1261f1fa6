//! What areas take on the hypervisor's heap: as `Limits::areas` says, whoever cuts them, and whatever is behind them.
#![allow(unsafe_code, unused_crate_dependencies, reason = "an allocator that counts; shared dependencies")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::Arc,
};

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{
    Config, Error, Frames, GuestPhysRange, GuestSpace, LeafPolicy, Limits, Mapping, MappingFlags, PhysAddr, Platform,
    Populate,
    aarch64::{Capabilities, IdRegisters, Stage2, Vmid},
    loan::Handover,
    pager::{Pager, Settled, Source, Supply, Ticket},
    space::Resource,
};
use stage2_model::NoGuest;

thread_local! {
    /// Bytes that this thread has on the heap.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The most that they were.
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, which counts.
struct Counting;

fn add(bytes: isize) {
    HELD.set(HELD.get() + bytes);
    MOST.set(MOST.get().max(HELD.get()));
}

// SAFETY: every call is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        add(-layout.size().cast_signed());
        // SAFETY: `at` came from the system allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Frames that are not on the heap that is counted.
#[derive(Clone, Copy)]
struct Host;

fn layout(pages: usize, align: usize) -> Layout {
    Layout::from_size_align(pages * PAGE, align).expect("a power of two")
}

// SAFETY: the memory is the system allocator's, and is reached where it is.
unsafe impl Frames for Host {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        // SAFETY: a layout of at least one page is not empty.
        let at = unsafe { System.alloc(layout(count, align.max(PAGE))) };
        (!at.is_null()).then(|| PhysAddr::from_usize(at.expose_provenance()))
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        // SAFETY: it came from `allocate`. The system allocator needs the size and whether the alignment is a large one.
        unsafe { System.dealloc(self.pointer(at).as_ptr(), layout(count, PAGE)) }
    }

    fn pool(&self) -> Option<usize> {
        Some(0)
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(at.as_usize())).expect("not at 0")
    }
}

struct Host64;

impl Platform for Host64 {
    type Format = Stage2;
    type Frames = Host;
    type Invalidate = NoGuest;
}

type Space = GuestSpace<Host64>;

/// A source of zeros.
struct Zeros;

impl Source for Zeros {
    fn ask(&self, _: Ticket, _: &mut [u8]) -> Supply {
        Supply::Ready
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
const LAZY: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
const NOW: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };
/// Where the guest's memory begins, and how many pages it has.
const RAM: usize = 0x4000_0000;
const PAGES: usize = 8 * 1024;
/// How many areas it may have.
const AREAS: usize = 3000;

/// What `Limits::areas` promises: so many bytes an area, and so many besides. Sixty-four areas take a chunk of 4.7 KiB, and two
/// chunks side by side have 33 at least; what is behind an area takes up to 64 bytes, and so does an area that goes.
const AN_AREA: usize = 512;
/// The same where each is a region of its own.
const A_REGION: usize = 1536;
const BESIDES: usize = 24 * 1024;

fn pages(first: usize, count: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size((RAM + first * PAGE).into(), count * PAGE)
}

/// A space that may have so many areas.
fn guest() -> Space {
    let capabilities = Capabilities::from_registers(IdRegisters { mmfr0: 0x5, ..IdRegisters::default() });
    let config = Config {
        format: Stage2::new(&capabilities, 40, Vmid(1)).expect("the CPU can"),
        frames: Host,
        invalidate: NoGuest,
        cpus: 1,
        limits: Limits { areas: Some(AREAS), ..Limits::default() },
    };
    GuestSpace::new(config).expect("there is memory")
}

/// Sees that a guest whose pages are mapped by `map`, and which has `each` done to one page after the other, has never more on
/// the heap than so much an area.
fn hold(name: &str, an_area: usize, map: impl Fn(&Space), each: impl Fn(&Space, usize) -> Result<(), Error>) {
    let space = guest();
    map(&space);
    let before = HELD.get();
    MOST.set(before);
    let mut refused = 0;
    for page in 0..PAGES {
        match each(&space, page) {
            Ok(()) => {}
            Err(Error::Limit { what: Resource::Areas, .. }) => refused += 1,
            Err(other) => panic!("{name}: {other}"),
        }
    }
    let areas = space.usage().areas;
    let held = MOST.get() - before;
    // What goes is in a list while it goes.
    space.unmap(pages(0, PAGES)).expect("it leaves nothing");
    let most: usize = (MOST.get() - before).try_into().expect("it takes some");
    println!(
        "{name}: {areas} areas, {most} bytes at most, {} an area, {held} before it went; {refused} refused",
        most / areas
    );
    assert!(refused > 0 && areas + 2 >= AREAS, "{name}: {areas} areas");
    assert!(most <= AREAS * an_area + BESIDES, "{name}: {most} bytes for {areas} areas");
}

fn all(space: &Space) {
    space.map(pages(0, PAGES), NOW, RW).expect("room");
}

#[test]
fn that_a_guest_cuts_by_unmapping() {
    hold("unmapped", AN_AREA, all, |space, page| if page % 2 == 1 { space.unmap(pages(page, 1)) } else { Ok(()) });
}

#[test]
fn that_a_guest_cuts_by_other_flags() {
    hold("protected", AN_AREA, all, |space, page| {
        if page % 2 == 1 { space.protect(pages(page, 1), MappingFlags::READ) } else { Ok(()) }
    });
}

#[test]
fn that_are_few_in_each_chunk() {
    // From the back to the front, so that each chunk is cut in halves; then three of four go.
    let thin = |space: &Space| {
        for page in (0..AREAS).rev() {
            space.map(pages(page * 2, 1), LAZY, RW).expect("room");
        }
        for page in (0..AREAS).filter(|page| page % 4 != 0) {
            space.unmap(pages(page * 2, 1)).expect("it cuts nothing");
        }
    };
    let before = HELD.get();
    let space = guest();
    let own = HELD.get() - before;
    thin(&space);
    let (areas, held) = (space.usage().areas, (HELD.get() - before - own).cast_unsigned());
    assert!(held <= areas * AN_AREA + BESIDES, "{held} bytes for {areas} areas");
    drop(space);
    assert_eq!(HELD.get(), before);
    println!("thinned: {areas} areas, {held} bytes, {} an area", held / areas);
}

#[test]
fn of_one_mapping_of_a_region() {
    let region = |space: &Space| {
        let region = space.region(PAGES * PAGE).expect("memory");
        space.map(pages(0, PAGES), Mapping::Shared { region, offset: 0 }, RW).expect("room");
    };
    hold("shared", AN_AREA, region, |space, page| if page % 2 == 1 { space.unmap(pages(page, 1)) } else { Ok(()) });
}

#[test]
fn that_are_regions_of_their_own() {
    hold("made shared", A_REGION, all, |space, page| {
        if page % 2 == 1 { space.make_shared(pages(page, 1)).map(drop) } else { Ok(()) }
    });
}

#[test]
fn that_are_mapped_from_sources() {
    let pager = Pager::new(Arc::new(Zeros), NonZeroUsize::new(4).unwrap()).unwrap();
    hold(
        "from sources",
        AN_AREA,
        |_| (),
        |space, page| {
            if page % 2 == 1 { space.map_from(pages(page, 1), &pager, 0, RW) } else { Ok(()) }
        },
    );
}

/// What comes and goes for long leaves nothing.
#[test]
fn that_come_and_go_for_long() {
    let space = guest();
    all(&space);
    let mut held = Vec::with_capacity(6);
    for _ in 0..6 {
        for page in (1..AREAS).step_by(2) {
            let page = pages(page, 1);
            drop(space.make_shared(page).expect("room"));
            space.make_private(page, Handover::Keep).expect("it is its own");
            space.protect(page, MappingFlags::READ).expect("room");
            space.protect(page, RW).expect("it is there");
            space.unmap(page).expect("room");
            space.map(page, NOW, RW).expect("room");
        }
        assert_eq!(space.usage().areas, 1);
        held.push(HELD.get());
    }
    assert!(held[2..].iter().all(|&now| now == held[1]), "{held:?}");
}

/// The list of the sources behind a guest got a range more in each round, up to one for each page, and each snapshot copied it.
#[test]
fn that_come_from_a_source_again_and_again() {
    const SOURCED: usize = 512;
    let pager = Pager::new(Arc::new(Zeros), NonZeroUsize::new(4).unwrap()).unwrap();
    let space = guest();
    space.map_from(pages(0, SOURCED), &pager, 0, RW).expect("room");
    let mut held = Vec::with_capacity(1000);
    for round in 0..1000 {
        let page = round * 7 % SOURCED;
        space.unmap(pages(page, 1)).expect("room");
        space.map_from(pages(page, 1), &pager, page * PAGE, RW).expect("room");
        drop(space.snapshot().expect("memory"));
        assert_eq!(space.usage().areas, 1);
        held.push(HELD.get());
    }
    let more = held[999] - held[1];
    println!("from a source again and again: {more} bytes more after {} rounds", held.len());
    assert!(more <= 256, "{held:?}");
}
