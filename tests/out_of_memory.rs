//! The nth allocation fails, be it a frame or the heap's, for every n of every operation of a space: an error, and
//! everything as before. Without a guest: the scenarios have that.
#![allow(unsafe_code, reason = "an allocator that fails when it is told to is the only way to run out of memory")]
#![allow(unused_crate_dependencies, reason = "shared by all test programs")]

#[path = "out_of_memory/exchanges.rs"]
mod exchanges;
#[path = "out_of_memory/judge.rs"]
mod judge;
#[path = "out_of_memory/luck.rs"]
mod luck;
#[path = "out_of_memory/machine.rs"]
mod machine;
#[path = "out_of_memory/private.rs"]
mod private;
#[path = "out_of_memory/regions.rs"]
mod regions;
#[path = "out_of_memory/sources.rs"]
mod sources;

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
    Access, Cause, Config, CpuId, Error, Fault, Frames, GuestPhysRange, GuestSpace, LeafPolicy, Limits, Mapping,
    MappingFlags, Origin, Outcome, PhysAddr, Platform, Populate, SharedRegion, Translation, Usage,
    aarch64::{Stage2, Vmid},
    audit::{Meanwhile, audit},
    format::Format,
    frames::Pieces,
    pager::{Offered, Pager, Settled, Source, SourceError, Supply, Ticket, Waiting},
    region::RegionError,
    space::{Area, Populated, Progress, Refill, Resource},
    x86_64::{
        ept::{self, Depth, Ept},
        npt::{self, Asid, Npt},
    },
};
use stage2_model::{Memory, NoGuest, Pool};

use self::{
    judge::{Case, Keeps, compare, limit, picture, starve},
    luck::{Luck, admits, with},
    machine::{Space, amd, arm, intel, space},
    private::cases,
    regions::{block_cases, region_cases},
    sources::source_cases,
};

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

fn range(start: usize, size: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(start.into(), size)
}

/// Every second page of the first ones is an area of its own: the sets of areas are full.
fn crowd<F: Format>(space: &Space<F>) {
    for page in 0..128 {
        space.map(range(page * 2 * PAGE, PAGE), LAZY, RW).expect("room");
    }
}

fn fault<F: Format>(space: &Space<F>, at: usize, access: Access) -> Result<(), Error> {
    let fault = Fault { gpa: at.into(), access, cause: Cause::Translation, origin: Origin::Instruction };
    space.fault(CpuId(0), fault).map(|outcome| assert!(matches!(outcome, Outcome::Resolved | Outcome::Retry)))
}

fn two_blocks<F: Format>(space: &Space<F>) {
    space.map(range(RAM, 2 * BLOCK), BLOCKS, RW).expect("memory");
    space.write_obj(RAM.into(), 0x1234_u64).expect("memory");
}

fn three_pages<F: Format>(space: &Space<F>) {
    space.map(range(RAM, 3 * PAGE), PAGES, RW).expect("memory");
    for page in 0..3 {
        space.write_obj((RAM + page * PAGE).into(), page as u64).expect("memory");
    }
}

/// Every operation, with every allocation failing and every charge refused.
fn happens_or_does_not<F: Format>(format: &F) {
    let mut refusals = 0;
    for case in cases()
        .iter()
        .chain(&region_cases())
        .chain(&block_cases())
        .chain(&source_cases())
        .chain(&exchanges::conversions())
    {
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

#[test]
fn a_region_loses_pages_for_all_or_for_none() {
    let memory = Memory::new(0, 64 << 20);
    let (one, two) = (space(&memory, &arm()).expect("memory"), space(&memory, &arm()).expect("memory"));
    let region = one.region(100 * PAGE).expect("memory");
    for space in [&one, &two] {
        let mapping = Mapping::Shared { region: region.clone(), offset: 0 };
        space.map(range(RAM, 100 * PAGE), mapping, RW).expect("memory");
        space.protect(range(RAM + 40 * PAGE, PAGE), READ).expect("memory");
    }
    let mut left = 0;
    loop {
        for page in 0..100 {
            let at = (RAM + page * PAGE).into();
            let wrote = if page == 40 { Ok(()) } else { one.store(at, 7_u64) };
            assert_eq!((wrote, two.load::<u64>(at).is_ok()), (Ok(()), true));
        }
        let before = [picture(&one, &memory), picture(&two, &memory)];
        let (result, allocations) = with(Luck::From(left), || region.discard(9 * PAGE, 80 * PAGE, [&one, &two]));
        if let Err(error) = result {
            assert_eq!(error, RegionError::NoMemory { offset: 9 * PAGE, size: 80 * PAGE });
            let after = [picture(&one, &memory), picture(&two, &memory)];
            before.iter().zip(&after).for_each(|(before, after)| compare("discard", Keeps::Readings, before, after));
            assert_eq!((region.frames(), region.load(50 * PAGE)), (100, Ok(7_u64)));
        } else {
            assert_eq!((region.frames(), region.load(50 * PAGE)), (20, Ok(0_u64)));
        }
        if allocations <= left {
            break;
        }
        left += 1;
    }
    assert!(left > 1, "it allocates nothing");
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
    let inherited: Run<()> = |s| regions::inherit(s).expect("memory");
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

/// There is no memory left to name what waits to be freed: it is freed at once.
#[test]
fn pages_here_and_there_are_unmapped_without_memory() {
    type Unmap = fn(&Space<Stage2>, GuestPhysRange) -> Result<(), Error>;
    let ways: [Unmap; 2] = [Space::unmap, |space, range| {
        let mut unmapping = space.unmap_in_steps(range)?;
        while unmapping.step(1) == Progress::More {}
        Ok(())
    }];
    for unmap in ways {
        let memory = Memory::new(0, 64 << 20);
        let space = space(&memory, &arm()).expect("memory");
        // In a table that stays, and below one area, whose edit needs no memory.
        space.map(range(RAM, BLOCK), LAZY, RW).expect("memory");
        space.write_obj((RAM + BLOCK - PAGE).into(), 5_u64).expect("memory");
        let before = memory.allocated();
        for page in 0..20 {
            space.write_obj((RAM + 3 * page * PAGE).into(), 7_u64).expect("memory");
        }
        let (result, allocations) = with(Luck::From(0), || unmap(&space, range(RAM, 100 * PAGE)));
        assert_eq!((result, memory.allocated()), (Ok(()), before));
        assert!(allocations > 0, "twenty pages are named without memory: there is nothing that falls back");
        assert_eq!((space.stats().owned_frames, space.read_obj((RAM + BLOCK - PAGE).into())), (1, Ok(5_u64)));
        drop(space);
        assert_eq!(memory.allocated(), 0);
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

/// An audit that cannot note what it sees says so, and nothing else.
#[test]
fn an_audit_says_that_it_has_no_memory() {
    let memory = Memory::new(0, 64 << 20);
    let (one, other) = (space(&memory, &arm()).expect("memory"), space(&memory, &arm()).expect("memory"));
    three_pages(&one);
    let snapshot = one.snapshot().expect("memory");
    other.restore(&snapshot).expect("memory");
    let region = one.region(4 * PAGE).expect("memory");
    one.map(range(0, 4 * PAGE), Mapping::Shared { region, offset: 0 }, RW).expect("memory");
    one.write_obj(PAGE.into(), 1_u64).expect("memory");
    other.map(range(0, PAGE), PAGES, RW).expect("memory");
    let loan = other.lend(range(0, PAGE), &one, (3 * RAM).into(), RW).expect("memory");
    let mut left = 0;
    loop {
        let (report, allocations) = with(Luck::From(left), || audit([&one, &other], Meanwhile::Nothing));
        match report {
            Ok(report) => assert!(report.is_clean(), "{report}"),
            Err(error) => assert!(matches!(error, Error::NoMemory(_)), "{error}"),
        }
        if allocations <= left {
            break;
        }
        left += 1;
    }
    assert!(left > 10, "{left} allocations");
    drop(loan);
}
