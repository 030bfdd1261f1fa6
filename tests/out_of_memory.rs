//! The nth allocation fails, be it a frame or the heap's, for every n of every operation of a space: an error, and
//! everything as before. Without a guest: the scenarios have that.
#![allow(unsafe_code, reason = "an allocator that fails when it is told to is the only way to run out of memory")]
#![allow(unused_crate_dependencies, reason = "shared by all test programs")]

#[path = "out_of_memory/exchanges.rs"]
mod exchanges;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fmt::Write,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::Arc,
};

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{
    Access, Area, Cause, Config, Content, CpuId, Error, Fault, Format, Frames, GuestPhysAddr, GuestPhysRange,
    GuestSpace, Invalidate, LeafPolicy, Limits, Mapping, MappingFlags, Origin, Outcome, Pager, PhysAddr, Pieces,
    Platform, Populate, Progress, Reach, RegionError, Resource, Scope, Settled, SharedRegion, Source, SourceError,
    Supply, Ticket, Translation, Unreachable, Usage, Waiting,
    aarch64::{Stage2, Vmid},
    x86_64::{
        ept::{self, Depth, Ept},
        npt::{self, Asid, Npt},
    },
};
use stage2_model::{Memory, Pool};

const RAM: usize = 0x4000_0000;
const BLOCK: usize = 2 << 20;
const READ: MappingFlags = MappingFlags::READ;
const RW: MappingFlags = READ.union(MappingFlags::WRITE);
const LAZY: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
const LAZY_BLOCKS: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Largest };
const PAGES: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };
const BLOCKS: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Largest };
/// More than any operation allocates.
const ENOUGH: usize = 700;

/// Which allocations of this thread fail.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Luck {
    Good,
    /// The one after so many, and all behind it.
    From(usize),
    /// The one after so many.
    Once(usize),
}

thread_local! {
    static LUCK: Cell<Luck> = const { Cell::new(Luck::Good) };
    /// Allocations of this thread.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// Counts an allocation: whether it may succeed.
fn admits() -> bool {
    COUNT.set(COUNT.get() + 1);
    match LUCK.get() {
        Luck::Good => true,
        Luck::From(0) => false,
        Luck::Once(0) => {
            LUCK.set(Luck::Good);
            false
        }
        Luck::From(left) => {
            LUCK.set(Luck::From(left - 1));
            true
        }
        Luck::Once(left) => {
            LUCK.set(Luck::Once(left - 1));
            true
        }
    }
}

/// Runs `work` with some luck: what came of it, and how often it allocated.
fn with<R>(luck: Luck, work: impl FnOnce() -> R) -> (R, usize) {
    let (before, count) = (LUCK.replace(luck), COUNT.replace(0));
    let result = work();
    LUCK.set(before);
    (result, COUNT.replace(count))
}

/// The system's allocator, which fails a thread when it is told to.
struct Failing;

// SAFETY: every call is the system allocator's, or a failure, which an allocator may always answer.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !admits() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of `alloc`, which is this one's.
        unsafe { System.alloc(layout) }
    }

    // The default would touch all of what is zeroed, which is a whole memory here.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !admits() {
            return std::ptr::null_mut();
        }
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from the system allocator, with this layout.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !admits() {
            return std::ptr::null_mut();
        }
        // SAFETY: `at` came from the system allocator, with this layout, and the caller keeps the contract for `size`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Frames that run out with the heap: one count for both. What the pool itself takes from the heap does not count.
#[derive(Clone)]
struct Frail(Pool);

// SAFETY: the pool's, or a failure.
unsafe impl Frames for Frail {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        if admits() { with(Luck::Good, || self.0.allocate(count, align)).0 } else { None }
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        // SAFETY: the caller's promise.
        with(Luck::Good, || unsafe { self.0.free(at, count) });
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        self.0.pointer(at)
    }

    fn pieces(&self) -> Pieces {
        self.0.pieces()
    }

    fn pool(&self) -> Option<usize> {
        self.0.pool()
    }
}

/// No guest runs: there is nothing to invalidate.
#[derive(Clone)]
struct NoGuest;

impl<R> Invalidate<R> for NoGuest {
    fn reach(&self) -> Reach {
        Reach::Everywhere
    }

    fn publish(&self) {}

    fn invalidate(&self, _: R, _: Scope) {}

    fn invalidate_all(&self, _: R) {}

    fn invalidate_denial(&self, _: R, _: GuestPhysAddr) {}

    fn switch_vcpu(&self, _: R) {}

    fn interrupt(&self, _: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        Ok(())
    }

    fn synchronize(&self, _: NonNull<u8>, _: usize, _: Content) {}

    fn activate(&self, _: R) {}
}

struct Parts<F>(std::marker::PhantomData<F>);

impl<F: Format> Platform for Parts<F> {
    type Format = F;
    type Frames = Frail;
    type Invalidate = NoGuest;
}

type Space<F> = GuestSpace<Parts<F>>;

fn space<F: Format>(memory: &Arc<Memory>, format: &F) -> Result<Space<F>, Error> {
    let frames = Frail(Pool::new(memory));
    GuestSpace::new(Config { format: format.clone(), frames, invalidate: NoGuest, cpus: 2, limits: Limits::default() })
}

fn range(start: usize, size: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(start.into(), size)
}

/// What an operation that failed leaves as it was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// Everything, and no frame more or less.
    Everything,
    /// All translations; tables that lead to the page may stay.
    Translations,
    /// What is mapped and what it holds; leaves before the one that failed have moved, or are populated.
    Contents,
    /// What is mapped, and what a read of each page shows; a page may have been taken out of its block.
    Readings,
}

/// An operation, what comes before it, and what its failure leaves.
struct Case<F: Format> {
    name: &'static str,
    prepare: fn(&Space<F>),
    operation: fn(&Space<F>) -> Result<(), Error>,
    keeps: Keeps,
}

/// Everything that can be seen of a space.
#[derive(Debug, PartialEq)]
struct Picture {
    areas: Vec<Area>,
    leaves: Vec<Translation>,
    owned: usize,
    /// The first word of each leaf.
    words: Vec<Option<u64>>,
    allocated: u64,
    usage: Usage,
}

fn picture<F: Format>(space: &Space<F>, memory: &Memory) -> Picture {
    let mut leaves = Vec::new();
    space.walk(range(0, 1 << 32), |leaf| leaves.push(leaf)).expect("a walk");
    Picture {
        areas: space.areas().expect("areas"),
        words: leaves.iter().map(|leaf| memory.read(leaf.hpa.as_usize() as u64)).collect(),
        leaves,
        owned: space.stats().owned_frames,
        allocated: memory.allocated(),
        usage: space.usage(),
    }
}

/// The first word of each page that is mapped, as the hypervisor reads it.
fn readings<F: Format>(space: &Space<F>) -> Vec<u64> {
    let areas = space.areas().expect("areas").into_iter();
    let pages = areas.flat_map(|area| (area.range.start.as_usize()..area.range.end.as_usize()).step_by(PAGE));
    pages.map(|at| space.read_obj(at.into()).expect("memory")).collect()
}

/// Holds a picture after a failure against the one before the operation.
fn compare(name: &str, keeps: Keeps, before: &Picture, after: &Picture) {
    assert_eq!(after.areas, before.areas, "{name}");
    match keeps {
        Keeps::Everything => assert_eq!(after, before, "{name}"),
        Keeps::Translations => {
            assert_eq!((&after.leaves, after.owned), (&before.leaves, before.owned), "{name}");
            assert!(after.allocated <= before.allocated + 4, "{name}: more than the tables of one path");
        }
        Keeps::Contents => {
            for (leaf, word) in before.leaves.iter().zip(&before.words) {
                let now = after.leaves.iter().position(|now| now.leaf_start == leaf.leaf_start).expect(name);
                assert_eq!((after.leaves[now].size, after.words[now]), (leaf.size, *word), "{name}");
            }
        }
        Keeps::Readings => {}
    }
}

/// Lets every allocation of an operation fail in turn, alone and with all behind it.
fn starve<F: Format>(format: &F, case: &Case<F>) {
    let Case { name, prepare, operation, .. } = case;
    let mut failures = 0;
    for kind in [Luck::From, Luck::Once] {
        for left in 0.. {
            assert!(left < ENOUGH, "{name} allocates without end");
            let mut allocations = 0;
            failures += attempt(format, case, |space| {
                let (result, count) = with(kind(left), || operation(space));
                allocations = count;
                assert!(matches!(result, Ok(()) | Err(Error::NoMemory(_))), "{name}: {result:?}");
                result
            });
            if allocations <= left {
                break;
            }
        }
    }
    let allocates = |space: &Space<F>| {
        prepare(space);
        with(Luck::Good, || operation(space)).1 > 0
    };
    let memory = Memory::new(0, 64 << 20);
    assert!(failures > 0 && allocates(&space(&memory, format).expect("memory")), "{name} allocates nothing");
}

/// Lets every charge of an operation be refused in turn: the limits leave so much, and no more. How many were.
fn limit<F: Format>(format: &F, case: &Case<F>) -> usize {
    let Case { name, operation, .. } = case;
    let mut refusals = 0;
    for what in [Resource::Frames, Resource::TableFrames] {
        for left in 0.. {
            assert!(left < ENOUGH, "{name} is charged without end");
            let refused = attempt(format, case, |space| {
                let usage = space.usage();
                let limits = match what {
                    Resource::Frames => Limits { frames: Some(usage.frames + left), table_frames: None },
                    Resource::TableFrames => Limits { frames: None, table_frames: Some(usage.table_frames + left) },
                };
                space.set_limits(limits);
                let result = operation(space);
                let allowed = [limits.frames, limits.table_frames];
                match result {
                    Ok(()) => {}
                    Err(Error::Limit { what: named, limit, range }) => {
                        assert_eq!((named, allowed.contains(&Some(limit))), (what, true), "{name}");
                        assert!(!range.is_empty(), "{name}");
                    }
                    Err(other) => panic!("{name}: {other}"),
                }
                let now = space.usage();
                assert!(limits.frames.is_none_or(|limit| now.frames <= limit), "{name}: {now:?}");
                assert!(limits.table_frames.is_none_or(|limit| now.table_frames <= limit), "{name}: {now:?}");
                space.set_limits(Limits::default());
                result
            });
            refusals += refused;
            if refused == 0 {
                break;
            }
        }
    }
    refusals
}

/// Does an operation that may fail on a space of its own: it changes nothing then, is done when nothing is in its way any
/// more, and loses no frame. How often it failed.
fn attempt<F: Format>(format: &F, case: &Case<F>, operate: impl FnOnce(&Space<F>) -> Result<(), Error>) -> usize {
    let Case { name, prepare, operation, keeps } = case;
    let memory = Memory::new(0, 64 << 20);
    let space = space(&memory, format).expect("memory");
    let (empty, fresh) = (memory.allocated(), space.usage());
    prepare(&space);
    let before = picture(&space, &memory);
    let read = if *keeps == Keeps::Readings { readings(&space) } else { Vec::new() };
    let result = operate(&space);
    if result.is_err() {
        compare(name, *keeps, &before, &picture(&space, &memory));
        if *keeps == Keeps::Readings {
            assert_eq!(readings(&space), read, "{name}");
        }
        assert_eq!(operation(&space), Ok(()), "{name}, when nothing is in its way any more");
    }
    for area in space.areas().expect("areas") {
        space.unmap(area.range).expect("everything can be unmapped");
    }
    assert_eq!((memory.allocated(), space.usage()), (empty, fresh), "{name}: frames are lost");
    drop(space);
    assert_eq!(memory.allocated(), 0, "{name}: frames are lost");
    usize::from(result.is_err())
}

/// Every second page of the first ones is an area of its own: the sets of areas are full.
fn crowd<F: Format>(space: &Space<F>) {
    for page in 0..128 {
        space.map(range(page * 2 * PAGE, PAGE), LAZY, RW).expect("room");
    }
}

fn linear(to: usize) -> Mapping {
    Mapping::Linear { to: PhysAddr::from_usize(to) }
}

fn fault<F: Format>(space: &Space<F>, at: usize, access: Access) -> Result<(), Error> {
    let fault = Fault { gpa: at.into(), access, cause: Cause::Translation, origin: Origin::Instruction };
    space.fault(CpuId(0), fault).map(|outcome| assert!(matches!(outcome, Outcome::Resolved | Outcome::Retry)))
}

fn two_blocks<F: Format>(space: &Space<F>) {
    space.map(range(RAM, 2 * BLOCK), BLOCKS, RW).expect("memory");
    space.write_obj(RAM.into(), 0x1234_u64).expect("memory");
}

fn lazy_pages<F: Format>(space: &Space<F>) {
    space.map(range(RAM, 4 * PAGE), LAZY, RW).expect("memory");
}

fn three_pages<F: Format>(space: &Space<F>) {
    space.map(range(RAM, 3 * PAGE), PAGES, RW).expect("memory");
    for page in 0..3 {
        space.write_obj((RAM + page * PAGE).into(), page as u64).expect("memory");
    }
}

fn region<F: Format>(space: &Space<F>) -> Result<SharedRegion, Error> {
    space.region(4 * PAGE).map_err(|_| Error::NoMemory(range(RAM, 4 * PAGE)))
}

/// Four pages of a region, unless it was mapped by an earlier try that then failed.
fn share<F: Format>(space: &Space<F>) -> Result<(), Error> {
    space.map(range(RAM, 4 * PAGE), Mapping::Shared { region: region(space)?, offset: 0 }, RW)
}

/// One of them.
fn share_at<F: Format>(space: &Space<F>, at: usize) -> Result<(), Error> {
    space.map(range(at, PAGE), Mapping::Shared { region: region(space)?, offset: PAGE }, RW)
}

/// Four pages of a frozen region, the first of which was written.
fn inherit<F: Format>(space: &Space<F>) -> Result<(), Error> {
    let region = region(space)?;
    let writer = region.writer().expect("it is fresh");
    writer.write_obj(0, 5_u64).map_err(|_| Error::NoMemory(range(RAM, PAGE)))?;
    drop(writer);
    region.freeze().expect("nobody writes it");
    space.map(range(RAM, 4 * PAGE), Mapping::CopyOnWrite { region, offset: 0 }, RW)
}

fn snapshot_in_steps<F: Format>(space: &Space<F>) -> Result<(), Error> {
    let mut taking = space.snapshot_in_steps()?;
    while taking.step(1)? == Progress::More {}
    taking.finish().map(drop)
}

/// Two blocks of a snapshot that is gone: the space alone has what is in it.
fn frozen_blocks<F: Format>(space: &Space<F>) {
    two_blocks(space);
    drop(space.snapshot().expect("memory"));
}

fn read<F: Format>(space: &Space<F>, at: usize) -> Result<(), Error> {
    space.read_obj::<u64>(at.into()).map(drop)
}

/// The page comes out of the block, and is the guest's own the next time.
fn write_twice<F: Format>(space: &Space<F>) -> Result<(), Error> {
    fault(space, RAM + PAGE, Access::Write).and_then(|()| fault(space, RAM + PAGE, Access::Write))
}

/// Operations that allocate, on memory of a space's own.
fn cases<F: Format>() -> Vec<Case<F>> {
    let case = |name, prepare, operation, keeps| Case { name, prepare, operation, keeps };
    let nothing: fn(&Space<F>) = |_| {};
    vec![
        case("map linear pages", nothing, |s| s.map(range(RAM - PAGE, 2 * PAGE), linear(0), RW), Keeps::Everything),
        case("map linear blocks", nothing, |s| s.map(range(RAM, 2 * BLOCK), linear(BLOCK), RW), Keeps::Everything),
        case("map pages", nothing, |s| s.map(range(RAM - PAGE, 3 * PAGE), PAGES, RW), Keeps::Everything),
        case("map blocks", nothing, |s| s.map(range(RAM, BLOCK + PAGE), BLOCKS, RW), Keeps::Everything),
        case("map lazily", nothing, |s| s.map(range(RAM, PAGE), LAZY, RW), Keeps::Everything),
        case("map into a crowd", crowd, |s| s.map(range(PAGE, PAGE), PAGES, RW), Keeps::Everything),
        case("unmap a middle", two_blocks, |s| s.unmap(range(RAM + PAGE, BLOCK)), Keeps::Everything),
        case("unmap in a crowd", crowd, |s| s.unmap(range(4 * PAGE, 90 * PAGE)), Keeps::Everything),
        case("protect a middle", two_blocks, |s| s.protect(range(RAM + PAGE, BLOCK), READ), Keeps::Everything),
        case("fault on a page", lazy_pages, |s| fault(s, RAM + PAGE, Access::Write), Keeps::Translations),
        case(
            "fault on a block",
            |s| s.map(range(RAM, BLOCK), LAZY_BLOCKS, RW).expect("memory"),
            |s| fault(s, RAM + PAGE, Access::Read),
            Keeps::Translations,
        ),
        case("read", lazy_pages, |s| s.read((RAM + 8).into(), &mut [0; 2 * PAGE]), Keeps::Contents),
        case("write", lazy_pages, |s| s.write((RAM + 8).into(), &[1; 2 * PAGE]), Keeps::Contents),
        case("read a value", lazy_pages, |s| s.read_obj::<u32>(RAM.into()).map(drop), Keeps::Translations),
        case("write a value", lazy_pages, |s| s.write_obj(RAM.into(), 1_u16), Keeps::Translations),
        case("load", lazy_pages, |s| s.load::<u64>(RAM.into()).map(drop), Keeps::Translations),
        case("store", lazy_pages, |s| s.store(RAM.into(), 1_u8), Keeps::Translations),
        case("exchange", lazy_pages, |s| s.compare_exchange(RAM.into(), 0_u64, 1).map(drop), Keeps::Translations),
        case("relocate a page", three_pages, |s| s.relocate(range(RAM, PAGE)).map(drop), Keeps::Everything),
        case("relocate pages", three_pages, |s| s.relocate(range(RAM, 3 * PAGE)).map(drop), Keeps::Contents),
        case("relocate blocks", two_blocks, |s| s.relocate(range(RAM, 2 * BLOCK)).map(drop), Keeps::Contents),
        case("list areas", crowd, |s| s.areas().map(drop), Keeps::Everything),
    ]
}

/// Those on regions, on what is inherited, and on snapshots.
fn region_cases<F: Format>() -> Vec<Case<F>> {
    let case = |name, prepare, operation, keeps| Case { name, prepare, operation, keeps };
    let nothing: fn(&Space<F>) = |_| {};
    vec![
        case("make a region", nothing, |s| region(s).map(drop), Keeps::Everything),
        case("map a region", nothing, |s| share(s), Keeps::Everything),
        case("map a region into a crowd", crowd, |s| share_at(s, PAGE), Keeps::Everything),
        case("fault on a region", |s| share(s).expect("memory"), |s| fault(s, RAM, Access::Read), Keeps::Contents),
        case("write a region", |s| share(s).expect("memory"), |s| s.write_obj(RAM.into(), 1_u64), Keeps::Contents),
        case(
            "protect a region",
            |s| share(s).expect("memory"),
            |s| s.protect(range(RAM + PAGE, PAGE), READ),
            Keeps::Contents,
        ),
        case("unmap a region", |s| share(s).expect("memory"), |s| s.unmap(range(RAM + PAGE, PAGE)), Keeps::Everything),
        case("map copy-on-write", nothing, |s| inherit(s), Keeps::Everything),
        case(
            "fault on a page to copy",
            |s| inherit(s).and_then(|()| fault(s, RAM, Access::Read)).expect("memory"),
            |s| fault(s, RAM, Access::Write),
            Keeps::Contents,
        ),
        case("copy an untouched page", |s| inherit(s).expect("memory"), |s| s.store(RAM.into(), 1_u8), Keeps::Contents),
        case("snapshot", three_pages, |s| s.snapshot().map(drop), Keeps::Everything),
        case("snapshot blocks", two_blocks, |s| s.snapshot().map(drop), Keeps::Everything),
        case(
            "snapshot of a fork",
            |s| inherit(s).and_then(|()| s.write_obj(RAM.into(), 7_u64)).expect("memory"),
            |s| s.snapshot().map(drop),
            Keeps::Everything,
        ),
        case("snapshot in steps", three_pages, snapshot_in_steps, Keeps::Everything),
        case("snapshot blocks in steps", two_blocks, snapshot_in_steps, Keeps::Everything),
        case(
            "unmap in steps",
            two_blocks,
            |s| {
                let mut unmapping = s.unmap_in_steps(range(RAM + PAGE, BLOCK))?;
                while unmapping.step(7) == Progress::More {}
                Ok(())
            },
            Keeps::Everything,
        ),
        case(
            "protect a region for writing",
            |s| share(s).and_then(|()| s.protect(range(RAM, 4 * PAGE), READ)).expect("memory"),
            |s| s.protect(range(RAM + PAGE, 2 * PAGE), RW),
            Keeps::Everything,
        ),
        case("read a page to copy", |s| inherit(s).expect("memory"), |s| read(s, RAM + PAGE), Keeps::Contents),
        case("copy out of a block", frozen_blocks, |s| s.write_obj((RAM + PAGE).into(), 1_u64), Keeps::Readings),
        case("a guest copies out of a block", frozen_blocks, write_twice, Keeps::Readings),
        case(
            "unmap a middle of frozen blocks",
            frozen_blocks,
            |s| s.unmap(range(RAM + PAGE, BLOCK)),
            Keeps::Everything,
        ),
        case(
            "take a page",
            |s| {
                three_pages(s);
                drop(s.snapshot().expect("memory"));
            },
            |s| fault(s, RAM, Access::Write),
            Keeps::Everything,
        ),
        case(
            "relocate copies",
            |s| inherit(s).and_then(|()| s.write(RAM.into(), &[1; 2 * PAGE])).expect("memory"),
            |s| s.relocate(range(RAM, 4 * PAGE)).map(drop),
            Keeps::Contents,
        ),
    ]
}

/// A source that has every page at once, but the first, which it is told of later.
struct Image;

impl Source for Image {
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
        page[0] = 7;
        if ticket.offset() == 0 { Supply::Later } else { Supply::Ready }
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

/// A pager of its own for each thread: an image that nobody has a handle of does not come back.
fn pager() -> Pager {
    thread_local! {
        static PAGER: Pager = with(Luck::Good, || Pager::new(Arc::new(Image), NonZeroUsize::MIN)).0.expect("memory");
    }
    PAGER.with(Pager::clone)
}

/// Four pages of the image.
fn from_source<F: Format>(space: &Space<F>) -> Result<(), Error> {
    space.map_from(range(RAM, 4 * PAGE), &pager(), PAGE, RW)
}

fn read_source<F: Format>(space: &Space<F>) -> Result<(), Error> {
    let region = space.region_from(4 * PAGE, &pager(), PAGE);
    let read = region.and_then(|region| region.read(8, &mut [0; 2 * PAGE]));
    read.map_err(|_| Error::NoMemory(range(RAM, 4 * PAGE)))
}

/// Operations that allocate, on memory that comes from a source.
fn source_cases<F: Format>() -> Vec<Case<F>> {
    let case = |name, prepare, operation, keeps| Case { name, prepare, operation, keeps };
    let nothing: fn(&Space<F>) = |_| {};
    vec![
        case("map from a source", nothing, |s| from_source(s), Keeps::Everything),
        case(
            "fault on a source's page",
            |s| from_source(s).expect("memory"),
            |s| fault(s, RAM + PAGE, Access::Write),
            Keeps::Translations,
        ),
        case(
            "read a source's pages",
            |s| from_source(s).expect("memory"),
            |s| s.read((RAM + 8).into(), &mut [0; 2 * PAGE]),
            Keeps::Contents,
        ),
        case(
            "unmap a source's page",
            |s| from_source(s).and_then(|()| fault(s, RAM, Access::Read)).expect("memory"),
            |s| s.unmap(range(RAM + PAGE, PAGE)),
            Keeps::Everything,
        ),
        case(
            "snapshot a source's pages",
            |s| from_source(s).and_then(|()| fault(s, RAM, Access::Read)).expect("memory"),
            |s| s.snapshot().map(drop),
            Keeps::Everything,
        ),
        case("read a source's region", nothing, |s| read_source(s), Keeps::Everything),
    ]
}

fn arm() -> Stage2 {
    let capabilities = stage2_model::capabilities(&stage2_model::arm::Config::default());
    Stage2::new(&capabilities, 40, Vmid(1)).expect("40 bits")
}

fn intel() -> Ept {
    // IA32_VMX_EPT_VPID_CAP of a Skylake-X.
    let registers = ept::Registers { ept_vpid_cap: 0xf01_0673_4141, arch_capabilities: 0x40, physical_bits: 46 };
    Ept::new(&ept::Capabilities::from_registers(registers), Depth::Four).expect("four levels")
}

fn amd() -> Npt {
    let capabilities =
        npt::Capabilities { physical_bits: 48, guest_physical_bits: 48, asids: 0x8000, features: npt::Features::all() };
    Npt::new(&capabilities, Asid(1)).expect("a guest's ASID")
}

/// Every operation, with every allocation failing and every charge refused.
fn happens_or_does_not<F: Format>(format: &F) {
    let mut refusals = 0;
    for case in cases().iter().chain(&region_cases()).chain(&source_cases()).chain(&exchanges::conversions()) {
        starve(format, case);
        refusals += limit(format, case);
    }
    assert!(refusals > 50, "{refusals} charges were refused");
    for exchange in &exchanges::exchanges() {
        exchanges::starve_both(format, exchange);
    }
}

#[test]
fn every_operation_on_arms_tables_happens_or_does_not() {
    happens_or_does_not(&arm());
}

#[test]
fn every_operation_on_intels_tables_happens_or_does_not() {
    happens_or_does_not(&intel());
}

#[test]
fn every_operation_on_amds_tables_happens_or_does_not() {
    happens_or_does_not(&amd());
}

/// A snapshot of several areas is mapped whole, whatever is in the way of the last of them.
#[test]
fn a_snapshot_is_restored_whole_or_not_at_all() {
    let memory = Memory::new(0, 64 << 20);
    let parent = space(&memory, &arm()).expect("memory");
    for page in 0..100 {
        parent.map(range(RAM + page * 2 * PAGE, PAGE), LAZY, RW).expect("memory");
    }
    parent.write_obj((RAM + 2 * PAGE).into(), 7_u64).expect("memory");
    let snapshot = parent.snapshot().expect("memory");
    let mut left = 0;
    loop {
        let child = space(&memory, &arm()).expect("memory");
        crowd(&child);
        let before = picture(&child, &memory);
        let (result, allocations) = with(Luck::From(left), || child.restore(&snapshot));
        if result.is_err() {
            assert!(matches!(result, Err(Error::NoMemory(_))), "{result:?}");
            compare("restore", Keeps::Everything, &before, &picture(&child, &memory));
            assert_eq!(child.restore(&snapshot), Ok(()));
        }
        assert_eq!(child.read_obj((RAM + 2 * PAGE).into()), Ok(7_u64));
        if allocations <= left {
            break;
        }
        left += 1;
    }
    assert!(left > 1, "it allocates nothing");
    drop((parent, snapshot));
    assert_eq!(memory.allocated(), 0);
}

/// The hypervisor's own writes into a region, each page of which gets its frame, and room for its record.
#[test]
fn a_region_is_written_up_to_where_memory_ran_out() {
    let memory = Memory::new(0, 64 << 20);
    let maker = space(&memory, &arm()).expect("memory");
    let bytes: Vec<u8> = (0..3 * PAGE).map(|index| (index / 7) as u8).collect();
    let mut left = 0;
    loop {
        let region = maker.region(600 * PAGE).expect("memory");
        let writer = region.writer().expect("it is fresh");
        // The last page of one set of records, and two of the next.
        let at = 511 * PAGE + 8;
        let (result, allocations) = with(Luck::From(left), || writer.write(at, &bytes));
        let mut found = vec![0; bytes.len()];
        region.read(at, &mut found).expect("a part of the region");
        let written = match result {
            Ok(()) => bytes.len(),
            Err(RegionError::NoMemory { offset, size }) => {
                assert_eq!(offset + size, at + bytes.len());
                offset - at
            }
            Err(other) => panic!("{other}"),
        };
        assert_eq!(found[..written], bytes[..written], "after {left} allocations");
        assert!(found[written..].iter().all(|&byte| byte == 0), "after {left} allocations");
        assert_eq!(writer.write(at, &bytes), Ok(()));
        if allocations <= left {
            break;
        }
        left += 1;
    }
    assert!(left >= 6, "four frames, and two sets of records");
    drop(maker);
    assert_eq!(memory.allocated(), 0);
}

#[test]
fn a_space_is_made_whole_or_not_at_all() {
    let memory = Memory::new(0, 1 << 20);
    let (made, allocations) = with(Luck::Good, || space(&memory, &arm()));
    drop(made.expect("memory"));
    assert!(allocations > 1, "a root, and the books of its CPUs");
    for left in 0..allocations {
        let (made, _) = with(Luck::From(left), || space(&memory, &arm()));
        assert!(matches!(made, Err(Error::NoMemory(_))), "after {left} allocations");
        assert_eq!(memory.allocated(), 0);
    }
}

/// The ticket of a page for which there is no memory stays pending.
#[test]
fn a_page_is_supplied_or_is_still_waited_for() {
    let memory = Memory::new(0, 1 << 20);
    let space = space(&memory, &arm()).expect("memory");
    let pager = pager();
    space.map_from(range(RAM, PAGE), &pager, 0, RW).expect("memory");
    let Err(Error::NotYet { ticket, .. }) = space.load::<u8>(RAM.into()) else { panic!("it comes later") };
    let before = memory.allocated();
    for left in 0.. {
        let (completed, allocations) = with(Luck::From(left), || pager.complete(ticket, Ok(&[9; PAGE])));
        if completed.is_ok() {
            assert!(allocations > 1, "a frame, and its record");
            break;
        }
        assert_eq!((completed, memory.allocated()), (Err(SourceError::NoMemory { ticket }), before));
        assert_eq!(pager.state(ticket), Waiting::NotYet);
    }
    assert_eq!(space.load(RAM.into()), Ok(9_u8));
}

#[test]
fn a_pager_is_made_whole_or_not_at_all() {
    let room = NonZeroUsize::MIN;
    let image: Arc<dyn Source> = Arc::new(Image);
    for left in 0.. {
        let source = image.clone();
        let (made, allocations) = with(Luck::From(left), || Pager::new(source, room));
        if made.is_ok() {
            assert!(allocations > 1, "a desk, and its count");
            break;
        }
        assert_eq!((made, Arc::strong_count(&image)), (Err(SourceError::NoRoom { room }), 1));
    }
}

/// Text without memory of its own.
struct Fixed {
    text: [u8; 4096],
    len: usize,
}

impl Write for Fixed {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.text[self.len..self.len + text.len()].copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// The record of areas has room, and no block is split.
#[test]
fn an_area_or_its_middle_is_unmapped_and_protected_without_memory() {
    type Run<R> = fn(&Space<Stage2>) -> R;
    type Unfed = (Run<()>, Run<Result<(), Error>>);
    let inherited: Run<()> = |s| inherit(s).expect("memory");
    let cases: [Unfed; 4] = [
        (two_blocks, |s| s.unmap(range(RAM, 2 * BLOCK))),
        (two_blocks, |s| s.protect(range(RAM, 2 * BLOCK), READ)),
        (inherited, |s| s.unmap(range(RAM + PAGE, PAGE))),
        (inherited, |s| s.protect(range(RAM + PAGE, PAGE), READ)),
    ];
    for (prepare, operation) in cases {
        let memory = Memory::new(0, 64 << 20);
        let space = space(&memory, &arm()).expect("memory");
        prepare(&space);
        assert_eq!(with(Luck::From(0), || operation(&space)), (Ok(()), 0));
    }
}

#[test]
fn looking_needs_no_memory() {
    let memory = Memory::new(0, 64 << 20);
    let space = space(&memory, &arm()).expect("memory");
    three_pages(&space);
    let mut text = Fixed { text: [0; 4096], len: 0 };
    let ((), allocations) = with(Luck::From(0), || {
        assert!(space.translate(RAM.into()).is_some() && space.area(RAM.into()).is_some());
        assert_eq!(space.walk(range(0, 1 << 40), |_| {}), Ok(()));
        assert_eq!((space.stats().areas, space.read_obj(RAM.into())), (1, Ok(0_u64)));
        assert_eq!(fault(&space, RAM, Access::Write), Ok(()));
        assert!(write!(text, "{space}").is_ok());
    });
    assert_eq!(allocations, 0);
    assert_eq!(std::str::from_utf8(&text.text[..text.len]), Ok(space.to_string().as_str()));
}
