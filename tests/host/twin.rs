//! Random operations on a space, its guest on the model of the hardware, against a twin that is obviously correct: a
//! map from page to what it holds. After every operation both must say the same, and the model must have no complaint.

#[path = "twin/access.rs"]
mod access;
#[path = "twin/compare.rs"]
mod compare;
#[path = "twin/mapping.rs"]
mod mapping;
#[path = "twin/pages.rs"]
mod pages;
#[path = "twin/story.rs"]
mod story;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use memory_addr::PAGE_SIZE_4K as PAGE;
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use stage2::{
    Access, Cause, CpuId, Error, Fault, GuestSpace, LeafPolicy, Mapping, MappingFlags, Origin, Outcome, PhysAddr,
    Populate, VcpuId,
    audit::{Meanwhile, audit},
    space::{Area, AreaKind},
};
use stage2_model::Failure;
use stage2_scenarios::{Attempt, Machine, Marks, Seat, Setting, Step, Tag, View};

use self::{
    pages::{BLOCK, Behind, Leaf, PAGES, Page, Seen, Twin},
    story::{Does, Luck, Op, What, luck, ops},
};
use crate::machine::{Kind, Model, Parts};

const READ: MappingFlags = MappingFlags::READ;
const RW: MappingFlags = READ.union(MappingFlags::WRITE);
const RWX: MappingFlags = RW.union(MappingFlags::EXECUTE);
/// Flags that areas get.
const FLAGS: [MappingFlags; 6] =
    [RW, RWX, READ, READ.union(MappingFlags::EXECUTE), MappingFlags::EXECUTE, RW.union(MappingFlags::UNCACHED)];
/// Flags that none gets: no access, unknown to stage 2, devices with code in them.
const BAD_FLAGS: [MappingFlags; 3] =
    [MappingFlags::empty(), RW.union(MappingFlags::USER), RWX.union(MappingFlags::DEVICE)];

/// Where linear memory is, in the model's foreign memory: aligned for blocks.
const FOREIGN: usize = 0x1000_0000;
/// Where its devices are.
const DEVICES: usize = 0x9000_0000;
/// The words of a page that guests use.
const OFFSETS: [usize; 4] = [0, 8, 0x7f8, 0xff8];
/// Stories for each kind of CPU.
const CASES: u32 = 250;

/// Where the window is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// Across a border of 1 GiB.
    Middle,
    /// At the end of the guest-physical addresses.
    Top,
}

/// The space, its guest, and the twin.
struct Pair {
    machine: Model,
    space: Option<GuestSpace<Parts>>,
    twin: Twin,
    /// Whether CPUs may remember denials that are none any more.
    raised: bool,
}

impl Pair {
    fn new(kind: Kind, bits: u32, place: Place, marks: Marks) -> Self {
        let machine = Model::new(kind);
        let base = match place {
            Place::Middle => (3 << 30) - BLOCK * PAGE,
            Place::Top => (1 << bits) - PAGES * PAGE,
        };
        let space = machine.space(Setting { bits, tag: Tag::Fresh, marks }).expect("a space");
        Self { machine, space: Some(space), twin: Twin::new(base), raised: false }
    }

    fn space(&self) -> &GuestSpace<Parts> {
        self.space.as_ref().expect("a space until the end")
    }

    /// Does one operation on both, and compares them.
    fn run(&mut self, op: &Op, luck: Luck) {
        self.machine.luck(match luck {
            Luck::Good => Failure::Never,
            Luck::Bad(count) => Failure::From(count),
            Luck::Once(count) => Failure::Once(count),
        });
        let lucky = luck == Luck::Good;
        match op {
            Op::Map(pages, what, flags) => self.map(pages, *what, *flags, lucky),
            Op::Unmap(pages) => self.unmap(pages, lucky),
            Op::Protect(pages, flags) => self.protect(pages, *flags, lucky),
            Op::Relocate(pages) => self.relocate(pages, lucky),
            Op::Guest(cpu, at, does) => self.guest(*cpu, *at, *does, lucky),
            Op::Fault(page, access, cause, origin) => self.fault(*page, (*access, *cause, *origin), lucky),
            Op::Read(at, len) => self.read(*at, *len, lucky),
            Op::Write(at, bytes) => self.write(*at, bytes, lucky),
            Op::Exchange(at, value) => self.exchange(*at, *value, lucky),
        }
        self.machine.luck(Failure::Never);
        self.compare();
    }
}

fn is_device(page: &Page) -> bool {
    page.flags.contains(MappingFlags::DEVICE)
}

/// Whether an operation ran out of memory, which it must not with good luck.
fn out_of_memory<T>(result: &Result<T, Error>, lucky: bool) -> bool {
    let out = matches!(result, Err(Error::NoMemory(_)));
    assert!(!(out && lucky), "there is memory");
    out
}

/// The largest leaf over a page of an area, if the host's memory allows.
fn best_leaf(page: usize, area: &Range<usize>, host: Host) -> Leaf {
    let start = page / BLOCK * BLOCK;
    if host == Host::Aligned && area.start <= start && start + BLOCK <= area.end {
        Leaf { start, pages: BLOCK }
    } else {
        Leaf { start: page, pages: 1 }
    }
}

/// Whether the host's memory is aligned for blocks, as the guest sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    Aligned,
    Misaligned,
}

impl Host {
    fn of(page: usize, hpa: usize) -> Self {
        if (hpa / PAGE).abs_diff(page).is_multiple_of(BLOCK) { Self::Aligned } else { Self::Misaligned }
    }
}

/// Runs as many random stories on a kind of CPU, the same ones each time.
fn hold(kind: Kind, cases: u32) {
    let widest = Model::new(kind).facts().widest;
    let bits = [32, 36, 40, 44, 48].map(|bits: u32| bits.min(widest));
    let marks = match kind {
        Kind::CortexA57 => vec![Marks::Software],
        Kind::NeoverseN1 | Kind::Everything => vec![Marks::Software, Marks::Hardware],
    };
    let places = vec![Place::Middle, Place::Top];
    let story = (
        proptest::sample::select(bits.to_vec()),
        proptest::sample::select(places),
        proptest::sample::select(marks),
        proptest::collection::vec((ops(), luck()), 1..40),
    );
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let seed = [kind as u8 + 1; 32];
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &seed));
    let result = runner.run(&story, |(bits, place, marks, ops)| {
        let mut pair = Pair::new(kind, bits, place, marks);
        for (op, luck) in &ops {
            pair.run(op, *luck);
        }
        pair.end();
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

#[test]
fn a_space_is_what_its_twin_is_without_extensions() {
    hold(Kind::CortexA57, CASES);
}

#[test]
fn a_space_is_what_its_twin_is_where_hardware_notes_writes() {
    hold(Kind::NeoverseN1, CASES);
}

#[test]
fn a_space_is_what_its_twin_is_with_every_extension() {
    hold(Kind::Everything, CASES);
}
