//! A `PagingHandler` of `page_table_multiarch` as a space's allocator.
#![allow(unsafe_code, reason = "an allocator of host frames")]
#![allow(unused_crate_dependencies, reason = "shared by all test programs")]

use std::{
    alloc::{Layout, alloc_zeroed},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use memory_addr::{PAGE_SIZE_4K as PAGE, VirtAddr};
use page_table_multiarch::PagingHandler;
use stage2::{
    Config, Frames, GuestPhysRange, GuestSpace, Handler, LeafPolicy, Limits, Mapping, MappingFlags, PhysAddr, Platform,
    Populate,
    frames::Pieces,
    x86_64::ept::{Capabilities, Depth, Ept, Registers},
};
use stage2_model::NoGuest;

const RAM: usize = 0x4000_0000;
const BLOCK: usize = 2 << 20;
const ARENA: usize = 16 << 20;
const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);
const BLOCKS: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Largest };

/// A handler of a test's own: handlers have no values, so their memory is the program's.
struct Arena<const TEST: usize>;

/// Where the memory of each test's handler starts, how much of it was given out, and how many pages are held.
static ARENAS: [(OnceLock<usize>, AtomicUsize, AtomicUsize); 2] =
    [const { (OnceLock::new(), AtomicUsize::new(0), AtomicUsize::new(0)) }; 2];

impl<const TEST: usize> Arena<TEST> {
    fn held() -> usize {
        ARENAS[TEST].2.load(Ordering::Relaxed)
    }
}

impl<const TEST: usize> PagingHandler for Arena<TEST> {
    fn alloc_frames(count: usize, align: usize) -> Option<PhysAddr> {
        let (start, used, held) = &ARENAS[TEST];
        let start = *start.get_or_init(|| {
            let layout = Layout::from_size_align(ARENA, BLOCK).expect("a layout");
            // SAFETY: the layout is not empty. It stays for as long as the program runs.
            unsafe { alloc_zeroed(layout) }.expose_provenance()
        });
        // What comes back is not given out again.
        let at = used.load(Ordering::Relaxed).next_multiple_of(align);
        used.store(at + count * PAGE, Ordering::Relaxed);
        held.fetch_add(count, Ordering::Relaxed);
        (at + count * PAGE <= ARENA).then(|| PhysAddr::from_usize(start + at))
    }

    fn dealloc_frames(_at: PhysAddr, count: usize) {
        ARENAS[TEST].2.fetch_sub(count, Ordering::Relaxed);
    }

    fn phys_to_virt(at: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(at.as_usize())
    }
}

struct Parts<const TEST: usize, const PIECEWISE: bool>;

impl<const TEST: usize, const PIECEWISE: bool> Platform for Parts<TEST, PIECEWISE> {
    type Format = Ept;
    type Frames = Handler<Arena<TEST>, PIECEWISE>;
    type Invalidate = NoGuest;
}

fn space<const TEST: usize, const PIECEWISE: bool>(
    frames: Handler<Arena<TEST>, PIECEWISE>,
) -> GuestSpace<Parts<TEST, PIECEWISE>> {
    // IA32_VMX_EPT_VPID_CAP of a Skylake-X, on a host whose pointers are its physical addresses.
    let registers = Registers { ept_vpid_cap: 0xf01_0673_4141, arch_capabilities: 0x40, physical_bits: 48 };
    let format = Ept::new(&Capabilities::from_registers(registers), Depth::Four).expect("four levels");
    GuestSpace::new(Config { format, frames, invalidate: NoGuest, cpus: 1, limits: Limits::default() }).expect("memory")
}

fn range(start: usize, size: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(start.into(), size)
}

#[test]
fn memory_of_a_plain_handler_comes_in_pages() {
    // SAFETY: the arena gives each page once, and its pointers stay valid.
    let handler = unsafe { Handler::<Arena<0>>::new() };
    assert_eq!(handler.pieces(), Pieces::Whole);
    let space = space(handler);
    space.map(range(RAM, BLOCK), BLOCKS, RW).expect("memory");
    assert_eq!(space.stats().leaves[..2], [512, 0]);
    space.write_obj((RAM + PAGE - 4).into(), 0x1122_3344_5566_7788_u64).expect("memory");
    assert_eq!(space.read_obj((RAM + PAGE).into()), Ok(0x1122_3344_u32));
    space.unmap(range(RAM + PAGE, PAGE)).expect("it is mapped");
    assert_eq!(Arena::<0>::held(), 511 + space.stats().table_frames);
    drop(space);
    assert_eq!(Arena::<0>::held(), 0);
}

#[test]
fn memory_of_a_piecewise_handler_comes_in_blocks_and_goes_in_pages() {
    // SAFETY: as above, and the arena takes any page back.
    let handler = unsafe { Handler::<Arena<1>, true>::piecewise() };
    assert_eq!(handler.pieces(), Pieces::Any);
    let space = space(handler);
    space.map(range(RAM, BLOCK), BLOCKS, RW).expect("memory");
    assert_eq!(space.stats().leaves[..2], [0, 1]);
    space.write_obj((RAM + PAGE).into(), 7_u64).expect("memory");
    space.unmap(range(RAM, PAGE)).expect("it is mapped");
    assert_eq!(space.read_obj((RAM + PAGE).into()), Ok(7_u64));
    assert_eq!(Arena::<1>::held(), 511 + space.stats().table_frames);
    drop(space);
    assert_eq!(Arena::<1>::held(), 0);
}
