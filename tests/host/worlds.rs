//! Random operations on several guests that share, inherit, freeze, copy, lend and give away memory, some of which comes
//! from a source, on the model of the hardware, against a twin that is obviously correct. After every operation all must
//! say the same: areas, translations, contents, accounts; and in the end every frame is back.

#[path = "worlds/access.rs"]
mod access;
#[path = "worlds/compare.rs"]
mod compare;
#[path = "worlds/image.rs"]
mod image;
#[path = "worlds/mapping.rs"]
mod mapping;
#[path = "worlds/regions.rs"]
mod regions;
#[path = "worlds/story.rs"]
mod story;
#[path = "worlds/transfers.rs"]
mod transfers;
#[path = "worlds/twin.rs"]
mod twin;

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
    CpuId, Error, GuestSpace, LeafPolicy, Limits, Mapping, MappingFlags, Outcome, Populate, SharedRegion, Snapshot,
    Usage, VcpuId,
    audit::{Meanwhile, audit},
    loan::{Handover, Loan, LoanKind, PageState},
    pager::Pager,
    region::{RegionError, RegionWriter},
    space::{Area, AreaKind, Progress, Resource},
};
use stage2_scenarios::{Attempt, Machine, Seat, Setting, Step, View};

use self::{
    story::{From, Luck, Op, Pace, Spot, Turn, luck, ops},
    twin::{BLOCK, Behind, Cell, PAGES, Page, Places, Region, Terms, Twin, gpa, pages_of, range},
};

const READ: MappingFlags = MappingFlags::READ;
const RW: MappingFlags = READ.union(MappingFlags::WRITE);
/// How many guests there are at most.
const GUESTS: usize = 3;
/// The words of a page that guests and the hypervisor use.
const OFFSETS: [usize; 3] = [0, 8, 0xff8];
/// How often a guest's step may fault.
const MOST_FAULTS: usize = 8;
/// More tables than one operation in the window makes.
const TABLES: usize = 8;
/// Enough for any guest's story.
const PLENTY: usize = 4 * PAGES;

/// What keeps a region, and lets guests map it.
enum Handle {
    Region(SharedRegion),
    Writer(RegionWriter),
    Snapshot(Snapshot, Places),
}

impl Handle {
    fn region(&self) -> &SharedRegion {
        match self {
            Self::Region(region) => region,
            Self::Writer(writer) => writer.region(),
            Self::Snapshot(snapshot, _) => snapshot.region(),
        }
    }
}

/// Which handle an operation is best done with.
#[derive(Clone, Copy)]
enum Fit {
    Any,
    Frozen,
    Writer,
    Snapshot,
}

/// Guests, handles, and the twin of it all.
struct World<M: Machine> {
    machine: M,
    /// What some of the memory comes from.
    image: Pager,
    spaces: Vec<GuestSpace<M::Platform>>,
    /// With the twin's number of the region.
    handles: Vec<(usize, Handle)>,
    /// With the twin's number of the loan.
    loans: Vec<(usize, Loan)>,
    /// The numbers that guests have for good.
    names: Vec<usize>,
    twin: Twin,
    /// What an empty guest has on its account.
    fresh: Usage,
    luck: Luck,
}

impl<M: Machine> World<M> {
    fn new(machine: M) -> Self {
        let facts = machine.facts();
        let bits = Setting::default().bits.clamp(facts.narrowest, facts.widest);
        let space = machine.space(Setting { bits, ..Setting::default() }).expect("a space");
        let fresh = space.usage();
        let twin = Twin { guests: vec![vec![None; PAGES]], ..Twin::default() };
        let (handles, loans, names) = (Vec::new(), Vec::new(), vec![0]);
        Self { machine, image: image::pager(), spaces: vec![space], handles, loans, names, twin, fresh, luck: None }
    }

    /// Does one operation on all, and compares them.
    fn run(&mut self, op: &Op, luck: Luck) {
        let before: Vec<Usage> = self.spaces.iter().map(GuestSpace::usage).collect();
        let guests = self.spaces.len();
        self.luck = luck;
        self.machine.allow(luck);
        self.apply(op.clone());
        self.machine.allow(None);
        self.learn_what_was_taken();
        self.compare();
        if guests == self.spaces.len() {
            self.spaces.iter().zip(before).for_each(|(space, before)| within_limits(space.usage(), before));
        }
    }

    fn apply(&mut self, op: Op) {
        let guests = self.spaces.len();
        match op {
            Op::Begin => self.begin(),
            Op::End(guest) => self.end_guest(guest % guests),
            Op::Map(guest, pages, populate, leaf, flags) => self.map(guest % guests, &pages, (populate, leaf), flags),
            Op::Unmap(guest, pages, pace) => self.unmap(guest % guests, &pages, pace),
            Op::Protect(guest, pages, flags, pace) => self.protect(guest % guests, &pages, flags, pace),
            Op::Relocate(guest, pages) => self.relocate(guest % guests, &pages),
            Op::Load(guest, cpu, (spot, offset)) => {
                self.guest(guest % guests, cpu, (self.page(guest % guests, spot), offset), None);
            }
            Op::Store(guest, cpu, (spot, offset), value) => {
                self.guest(guest % guests, cpu, (self.page(guest % guests, spot), offset), Some(value));
            }
            Op::Read(guest, (spot, offset)) => {
                self.hypervisor(guest % guests, (self.page(guest % guests, spot), offset), None);
            }
            Op::Write(guest, (spot, offset), value) => {
                self.hypervisor(guest % guests, (self.page(guest % guests, spot), offset), Some(value));
            }
            Op::Region(guest, pages) => self.region(guest % guests, pages),
            Op::Bring(guest, pages) => self.region_from(guest % guests, pages),
            Op::MapFrom(guest, pages, flags) => self.map_from(guest % guests, &pages, flags),
            Op::Snapshot(guest, pace) => self.snapshot(guest % guests, pace),
            Op::Limit(guest, frames, tables) => self.limit(guest % guests, frames, tables),
            Op::LendAny(kind, guest, pages, other, at, flags) => {
                let at = at.min(PAGES - pages.len());
                self.lend(kind, guest % guests, &pages, (other % guests, at), flags);
            }
            Op::Lend(kind, guest, (number, count), at, flags) if guests > 1 => {
                let (lender, borrower) = (guest % guests, (guest + 1) % guests);
                let lends = |world: &Self, page| world.lends(kind, lender, page, flags);
                let Some((pages, place)) = self.transfer(lends, (number, count), (borrower, at)) else { return };
                self.lend(kind, lender, &pages, (borrower, place), flags);
            }
            Op::Donate(guest, (number, count), at, flags, handover) if guests > 1 => {
                let (giver, taker) = (guest % guests, (guest + 1) % guests);
                let goes = |world: &Self, page| world.gives(giver, page);
                let Some((pages, place)) = self.transfer(goes, (number, count), (taker, at)) else { return };
                self.donate(giver, &pages, (taker, place), flags, handover);
            }
            Op::MakeShared(guest, pages) => self.make_shared(guest % guests, &pages),
            Op::MakePrivate(guest, number, handover) => self.make_private(guest % guests, number, handover),
            Op::Reclaim(loan, from, handover) if !self.loans.is_empty() => {
                self.reclaim_some(loan % self.loans.len(), from, handover);
            }
            Op::Lose(loan) if !self.loans.is_empty() => drop(self.loans.remove(loan % self.loans.len())),
            of_a_handle => self.apply_to_handle(&of_a_handle),
        }
    }

    /// Operations on handles: one that fits, if there is any, or else any that there is.
    fn apply_to_handle(&mut self, op: &Op) {
        let guests = self.spaces.len();
        let (number, fit) = match *op {
            Op::Inherit(_, _, handle, ..) => (handle, Fit::Frozen),
            Op::Put(handle, ..) => (handle, Fit::Writer),
            Op::Restore(_, handle) | Op::Rewind(_, handle) | Op::Fork(handle) => (handle, Fit::Snapshot),
            Op::Share(_, _, handle, ..)
            | Op::Clone(handle)
            | Op::Writer(handle)
            | Op::Drop(handle)
            | Op::Freeze(handle)
            | Op::Get(handle, _) => (handle, Fit::Any),
            _ => return,
        };
        let all: Vec<usize> = (0..self.handles.len()).collect();
        let fitting: Vec<usize> = all.iter().copied().filter(|&handle| self.fits(handle, fit)).collect();
        let some = if fitting.is_empty() { all } else { fitting };
        let Some(&handle) = some.get(number % some.len().max(1)) else { return };
        match *op {
            Op::Share(guest, ref pages, _, from, flags) => {
                let share = |region, offset| Mapping::Shared { region, offset };
                self.map_region(guest % guests, pages, (handle, from), flags, share);
            }
            Op::Inherit(guest, ref pages, _, from, flags) => {
                let inherit = |region, offset| Mapping::CopyOnWrite { region, offset };
                self.map_region(guest % guests, pages, (handle, from), flags, inherit);
            }
            Op::Clone(_) => self.clone_handle(handle),
            Op::Writer(_) => self.writer(handle),
            Op::Drop(_) => drop(self.handles.remove(handle)),
            Op::Freeze(_) => self.freeze(handle),
            Op::Put(_, word, value) => self.put(handle, word, value),
            Op::Get(_, word) => self.get(handle, word),
            Op::Restore(guest, _) => self.restore(guest % guests, handle),
            Op::Rewind(guest, _) => {
                self.unmap(guest % guests, &(0..PAGES), None);
                self.restore(guest % guests, handle);
            }
            Op::Fork(_) if guests < GUESTS => {
                self.begin();
                self.restore(self.spaces.len() - 1, handle);
            }
            _ => {}
        }
    }

    fn fits(&self, handle: usize, fit: Fit) -> bool {
        let (number, handle) = &self.handles[handle];
        match fit {
            Fit::Any => true,
            Fit::Frozen => self.twin.regions[*number].frozen,
            Fit::Writer => matches!(handle, Handle::Writer(_)),
            Fit::Snapshot => matches!(handle, Handle::Snapshot(..)),
        }
    }

    /// The page that is meant.
    fn page(&self, guest: usize, spot: Spot) -> usize {
        let is_there = |page: &usize| near(*page) && self.twin.guests[guest][*page].is_some();
        match spot {
            Spot::Page(page) => page,
            Spot::Mapped(number) => {
                let some: Vec<usize> = (0..PAGES).filter(is_there).collect();
                some.get(number % some.len().max(1)).copied().unwrap_or(number % PAGES)
            }
        }
    }

    fn begin(&mut self) {
        if self.spaces.len() == GUESTS {
            return;
        }
        let facts = self.machine.facts();
        let bits = Setting::default().bits.clamp(facts.narrowest, facts.widest);
        match self.machine.space(Setting { bits, ..Setting::default() }) {
            Ok(space) => {
                self.spaces.push(space);
                self.twin.guests.push(vec![None; PAGES]);
                self.names.push(self.names.iter().max().map_or(0, |name| name + 1 + self.twin.loans.len()));
            }
            Err(stop) => assert!(self.luck.is_some(), "{stop}"),
        }
    }

    fn end_guest(&mut self, guest: usize) {
        if self.spaces.len() > 1 {
            self.machine.park();
            drop(self.spaces.remove(guest));
            self.twin.guests.remove(guest);
            let name = self.names.remove(guest);
            self.twin.loans.iter_mut().filter(|loan| loan.lender == Some(name)).for_each(|loan| loan.lender = None);
        }
    }

    /// Whether an operation that needs so many frames failed for want of them, as it may.
    #[track_caller]
    fn excused<T: std::fmt::Debug>(&self, guest: usize, result: &Result<T, Error>, frames: usize) -> bool {
        let usage = self.spaces[guest].usage();
        match *result {
            Err(Error::NoMemory(_)) => assert!(self.luck.is_some(), "there is memory"),
            Err(Error::Limit { what: Resource::Frames, limit, .. }) => {
                assert_eq!(usage.limits.frames, Some(limit));
                assert!(usage.frames + frames > limit, "{usage:?} leaves room for {frames}");
            }
            Err(Error::Limit { what: Resource::TableFrames, limit, .. }) => {
                assert_eq!(usage.limits.table_frames, Some(limit));
                assert!(usage.table_frames + TABLES > limit, "{usage:?} leaves room for tables");
            }
            Err(Error::Limit { what: Resource::Areas, limit, .. }) => {
                assert_eq!(usage.limits.areas, Some(limit));
                // Two ends of a range cut two areas.
                assert!(usage.areas + 2 > limit, "{usage:?} leaves room for areas");
            }
            _ => return false,
        }
        true
    }

    fn limit(&mut self, guest: usize, frames: Option<usize>, tables: Option<usize>) {
        let usage = self.spaces[guest].usage();
        let limits = Limits {
            frames: frames.map(|frames| usage.frames + frames),
            table_frames: tables.map(|tables| usage.table_frames + tables),
            areas: None,
        };
        self.spaces[guest].set_limits(limits);
        assert_eq!(self.spaces[guest].usage(), Usage { limits, ..usage });
    }
}

/// What was added is within the limits.
fn within_limits(now: Usage, before: Usage) {
    let fits = |limit: Option<usize>, now: usize, before: usize| limit.is_none_or(|limit| now <= limit.max(before));
    assert!(fits(now.limits.frames, now.frames, before.frames), "{now:?} after {before:?}");
    assert!(fits(now.limits.table_frames, now.table_frames, before.table_frames), "{now:?} after {before:?}");
    assert!(fits(now.limits.areas, now.areas, before.areas), "{now:?} after {before:?}");
}

/// Whether a page is near a border of blocks, where stories take place.
fn near(page: usize) -> bool {
    (page + 3) % BLOCK < 6
}

/// Runs as many random stories on machines of a kind, the same ones each time.
pub fn hold<M: Machine>(cases: u32, seed: u8, machine: impl Fn() -> M, check: impl Fn(&M)) {
    let story = proptest::collection::vec((ops(), luck()).prop_map(|(op, luck)| Turn(op, luck)), 1..100);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let result = runner.run(&story, |ops| {
        let mut world = World::new(machine());
        for Turn(op, luck) in &ops {
            world.run(op, *luck);
            check(&world.machine);
        }
        world.end(&check);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// What is left to a guest of a snapshot becomes its own where it is to be shared, a page at a time, though the call is
/// refused in the end: the twin took pages for read-only that the guest could write again.
pub fn hold_what_is_left_of_a_snapshot<M: Machine>(machine: M, check: impl Fn(&M)) {
    let pages = BLOCK + 4..BLOCK + 6;
    let load = |page| Op::Load(0, 0, (Spot::Page(page), 0));
    let mut world = World::new(machine);
    for op in [
        Op::MapFrom(0, BLOCK + 2..BLOCK + 10, RW),
        load(pages.start),
        load(pages.start + 1),
        Op::Snapshot(0, None),
        Op::Drop(0),
        Op::Limit(0, Some(1), None),
        Op::MakeShared(0, pages.clone()),
    ] {
        world.run(&op, None);
        check(&world.machine);
    }
    let states = pages.map(|page| world.spaces[0].page_state(gpa(page)));
    assert!(states.eq([PageState::Owned, PageState::Frozen]), "there is room for one of them");
    world.end(&check);
}
