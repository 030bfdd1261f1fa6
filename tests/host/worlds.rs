//! Random operations on several guests that share, inherit, freeze, copy, lend and give away memory, some of which comes
//! from a source, on the model of the hardware, against a twin that is obviously correct. After every operation all must
//! say the same: areas, translations, contents, accounts; and in the end every frame is back.

#[path = "worlds/image.rs"]
mod image;
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
    Area, AreaKind, CpuId, Error, GuestSpace, Handover, LeafPolicy, Limits, Loan, LoanKind, Mapping, MappingFlags,
    Outcome, PageState, Pager, Populate, Progress, RegionError, RegionWriter, Resource, SharedRegion, Snapshot, Usage,
    VcpuId,
};
use stage2_scenarios::{Attempt, Machine, Seat, Setting, Step, View};

use self::twin::{BLOCK, Behind, Cell, PAGES, Page, Places, Region, Terms, Twin, gpa, pages_of, range};

const READ: MappingFlags = MappingFlags::READ;
const RW: MappingFlags = READ.union(MappingFlags::WRITE);
/// How many guests there are at most.
const GUESTS: usize = 3;
/// The words of a page that anybody uses.
const OFFSETS: [usize; 3] = [0, 8, 0xff8];
/// How often a guest's step may fault.
const MOST_FAULTS: usize = 8;
/// More tables than one operation in the window makes.
const TABLES: usize = 8;
/// Enough for any guest's story.
const PLENTY: usize = 4 * PAGES;

/// Where a guest's word is.
#[derive(Clone, Copy, Debug)]
enum Spot {
    /// In this page.
    Page(usize),
    /// In one of the pages that are mapped, if any is, near where others begin or end.
    Mapped(usize),
}

/// One operation. Guests, handles and mapped pages are counted modulo those that there are.
#[derive(Clone, Debug)]
enum Op {
    /// A guest begins.
    Begin,
    /// A guest ends.
    End(usize),
    Map(usize, Range<usize>, Populate, LeafPolicy, MappingFlags),
    /// Maps a region from its page on.
    Share(usize, Range<usize>, usize, usize, MappingFlags),
    /// The same copy-on-write, of a frozen one if there is one.
    Inherit(usize, Range<usize>, usize, usize, MappingFlags),
    Unmap(usize, Range<usize>, Pace),
    Protect(usize, Range<usize>, MappingFlags, Pace),
    Relocate(usize, Range<usize>),
    /// A guest loads a word, on a CPU.
    Load(usize, usize, (Spot, usize)),
    /// A guest stores a word, on a CPU.
    Store(usize, usize, (Spot, usize), u64),
    /// The hypervisor reads a word in a guest's place.
    Read(usize, (Spot, usize)),
    /// The hypervisor writes a word in a guest's place.
    Write(usize, (Spot, usize), u64),
    /// A region of so many pages, of a guest's allocator.
    Region(usize, usize),
    /// The same, of memory that comes from a source.
    Bring(usize, usize),
    /// A guest gets such memory for itself.
    MapFrom(usize, Range<usize>, MappingFlags),
    Clone(usize),
    Writer(usize),
    Drop(usize),
    Freeze(usize),
    /// The hypervisor writes a word of a region.
    Put(usize, (usize, usize), u64),
    /// The hypervisor reads a word of a region.
    Get(usize, (usize, usize)),
    Snapshot(usize, Pace),
    Restore(usize, usize),
    /// A guest shares so many pages with another, or lends them: from one that it may lend, to where there is room.
    Lend(LoanKind, usize, (usize, usize), usize, MappingFlags),
    /// A guest tries that with any pages, and with itself too.
    LendAny(LoanKind, usize, Range<usize>, usize, usize, MappingFlags),
    /// A lender takes a loan back, from its borrower or after that has returned it.
    Reclaim(usize, From, Handover),
    /// A loan's handle is lost.
    Lose(usize),
    /// A guest gives so many pages to another for good: from one that it may give, to where there is room.
    Donate(usize, (usize, usize), usize, MappingFlags, Handover),
    /// A guest's memory becomes a region's.
    MakeShared(usize, Range<usize>),
    /// A region that a guest has a page of loses its handles, and what the guest has of it becomes private.
    MakePrivate(usize, usize, Handover),
    /// A guest loses all it has, and is what a snapshot says.
    Rewind(usize, usize),
    /// A guest begins as a snapshot.
    Fork(usize),
    /// A guest may have so many frames and tables more than it has.
    Limit(usize, Option<usize>, Option<usize>),
}

/// Where a loan is taken from.
#[derive(Clone, Copy, Debug)]
enum From {
    Borrower,
    Nobody,
}

/// At once, or in steps of so many frames or entries.
type Pace = Option<usize>;

/// How many allocations succeed during an operation, if not all.
type Luck = Option<usize>;

/// One operation and its luck.
#[derive(Clone)]
struct Turn(Op, Luck);

/// A line: a story that failed is read by people.
impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(op, luck) = self;
        let limited = luck.map_or(String::new(), |count| format!(", with {count} allocations"));
        f.write_str(&format!("{op:?}{limited}"))
    }
}

/// Who keeps a region, and may show it to guests.
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
    /// What a guest has before it has anything.
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
                let lends = |world: &Self, page| world.lends(lender, page, flags);
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
                self.reclaim(loan % self.loans.len(), from, handover);
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
            Op::Share(guest, ref pages, _, from, flags) => self.share(guest % guests, pages, (handle, from), flags),
            Op::Inherit(guest, ref pages, _, from, flags) => {
                self.inherit(guest % guests, pages, (handle, from), flags);
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
            _ => return false,
        }
        true
    }

    /// Whether a mapping is refused for what is there already.
    #[track_caller]
    fn overlaps(&self, guest: usize, pages: &Range<usize>, result: Result<(), Error>) -> bool {
        let Some(first) = self.twin.first_mapped(guest, pages) else { return false };
        let Err(Error::Overlap { with, .. }) = result else { panic!("{result:?}") };
        assert!(pages_of(with).contains(&first), "{with:?} is not the first");
        true
    }

    fn map(
        &mut self,
        guest: usize,
        pages: &Range<usize>,
        (populate, leaf): (Populate, LeafPolicy),
        flags: MappingFlags,
    ) {
        let result = self.spaces[guest].map(range(pages), Mapping::Private { populate, leaf }, flags);
        if self.overlaps(guest, pages, result) || self.excused(guest, &result, pages.len()) {
            return;
        }
        assert_eq!(result, Ok(()));
        for page in pages.clone() {
            let behind = Behind::Own(self.twin.cell());
            self.twin.guests[guest][page] = Some(Page::new(flags, behind));
        }
    }

    fn share(&mut self, guest: usize, pages: &Range<usize>, (handle, from): (usize, usize), flags: MappingFlags) {
        let (number, handle) = &self.handles[handle];
        let mapping = Mapping::Shared { region: handle.region().clone(), offset: from * PAGE };
        let result = self.spaces[guest].map(range(pages), mapping, flags);
        let region = &self.twin.regions[*number];
        if from + pages.len() > region.cells.len() {
            return assert!(matches!(result, Err(Error::Region { cause: RegionError::Beyond { .. }, .. })));
        }
        if region.frozen && flags.contains(MappingFlags::WRITE) {
            return assert_eq!(result, Err(Error::Region { range: range(pages), cause: RegionError::Frozen }));
        }
        if !self.overlaps(guest, pages, result) {
            assert_eq!(result, Ok(()));
            let number = *number;
            self.twin.regions[number].windows += 1;
            for page in pages.clone() {
                let behind = Behind::Shared(number, from + page - pages.start);
                self.twin.guests[guest][page] = Some(Page::new(flags, behind));
            }
        }
    }

    fn inherit(&mut self, guest: usize, pages: &Range<usize>, (handle, from): (usize, usize), flags: MappingFlags) {
        let (number, handle) = &self.handles[handle];
        let mapping = Mapping::CopyOnWrite { region: handle.region().clone(), offset: from * PAGE };
        let result = self.spaces[guest].map(range(pages), mapping, flags);
        let region = &self.twin.regions[*number];
        if !region.frozen {
            return assert_eq!(result, Err(Error::Region { range: range(pages), cause: RegionError::NotFrozen }));
        }
        if from + pages.len() > region.cells.len() {
            return assert!(matches!(result, Err(Error::Region { cause: RegionError::Beyond { .. }, .. })));
        }
        if !self.overlaps(guest, pages, result) {
            assert_eq!(result, Ok(()));
            for page in pages.clone() {
                let behind = Behind::Inherited(*number, from + page - pages.start, None);
                self.twin.guests[guest][page] = Some(Page::new(flags, behind));
            }
        }
    }

    fn unmap(&mut self, guest: usize, pages: &Range<usize>, pace: Pace) {
        let space = &self.spaces[guest];
        let result = match pace {
            None => space.unmap(range(pages)),
            Some(budget) => {
                space.unmap_in_steps(range(pages)).map(|mut rest| while rest.step(budget) == Progress::More {})
            }
        };
        if self.twin.first_mapped(guest, pages).is_none() {
            return assert_eq!(result, Err(Error::NotMapped(range(pages))));
        }
        if self.twin.guests[guest][pages.clone()].iter().flatten().any(|page| page.loan.is_some()) {
            return assert!(matches!(result, Err(Error::State { .. })), "{result:?}");
        }
        if !self.excused(guest, &result, 0) {
            assert_eq!(result, Ok(()));
            self.twin.guests[guest][pages.clone()].fill(None);
        }
    }

    fn protect(&mut self, guest: usize, pages: &Range<usize>, flags: MappingFlags, pace: Pace) {
        let (result, done) = match pace {
            None => (self.spaces[guest].protect(range(pages), flags), pages.start),
            Some(entries) => {
                let mut protecting = self.spaces[guest].protect_in_steps(range(pages), flags).expect("flags");
                let result = loop {
                    match protecting.step(entries) {
                        Ok(Progress::More) => {}
                        Ok(Progress::Done) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                };
                (result, pages_of(protecting.rest()).start)
            }
        };
        let here = || self.twin.guests[guest][pages.clone()].iter().flatten();
        let hole = self.twin.first_hole(guest, pages);
        if hole.is_some() && here().any(|page| page.loan.is_some() || matches!(page.behind, Behind::Borrowed(..))) {
            return assert!(result.is_err(), "a hole, or a loan");
        }
        if let Some(hole) = hole {
            let end = self.twin.first_mapped(guest, &(hole..pages.end)).unwrap_or(pages.end);
            return assert_eq!(result, Err(Error::NotMapped(range(&(hole..end)))));
        }
        if self.twin.in_loans(guest) {
            let on_loan = |page: &Page| page.loan.is_some();
            let too_much = |page: &Page| matches!(page.behind, Behind::Borrowed(loan, _) if !self.twin.loans[loan].flags.contains(flags));
            let some = || self.twin.guests[guest][pages.clone()].iter().flatten();
            match (some().any(on_loan), some().any(too_much)) {
                (true, false) => return assert!(matches!(result, Err(Error::State { .. } | Error::Region { .. }))),
                (false, true) => return assert!(matches!(result, Err(Error::Denied { .. } | Error::Region { .. }))),
                (true, true) => return assert!(result.is_err()),
                (false, false) => {}
            }
        }
        let frozen = |page: &Page| matches!(page.behind, Behind::Shared(region, _) if self.twin.regions[region].frozen);
        let some = self.twin.guests[guest][pages.clone()].iter().flatten();
        if flags.contains(MappingFlags::WRITE) && some.into_iter().any(frozen) {
            return assert!(matches!(result, Err(Error::Region { cause: RegionError::Frozen, .. })), "{result:?}");
        }
        // What was done before it failed is done.
        let changed = if self.excused(guest, &result, 0) { pages.start..done } else { pages.clone() };
        assert!(result.is_ok() || changed.end < pages.end, "{result:?}");
        self.twin.guests[guest][changed].iter_mut().flatten().for_each(|page| page.flags = flags);
    }

    fn relocate(&mut self, guest: usize, pages: &Range<usize>) {
        let result = self.spaces[guest].relocate(range(pages));
        for index in pages.clone() {
            match self.twin.guests[guest][index] {
                None => return assert_eq!(result, Err(Error::NotMapped(range(&(index..pages.end))))),
                Some(Page { behind: Behind::Shared(..), .. }) => {
                    return assert!(matches!(result, Err(Error::NotMemory(area)) if area.contains(gpa(index))));
                }
                Some(Page { behind: Behind::Borrowed(..), .. }) => {
                    return assert!(matches!(result, Err(Error::State { state: PageState::Borrowed, .. })));
                }
                Some(_) => {}
            }
        }
        if self.twin.guests[guest][pages.clone()].iter().flatten().any(|page| page.loan.is_some()) {
            return assert!(matches!(result, Err(Error::State { .. })), "{result:?}");
        }
        // What moves costs nothing.
        assert!(result.is_ok() || matches!(result, Err(Error::NoMemory(_))) && self.luck.is_some(), "{result:?}");
    }

    /// A guest loads a word, or stores one.
    fn guest(&mut self, guest: usize, cpu: usize, (page, offset): (usize, usize), stored: Option<u64>) {
        let at = gpa(page).as_usize() + offset;
        let step = stored.map_or(Step::Read(at), |value| Step::Write(at, value));
        let came = self.try_until(guest, cpu, step);
        let access = if stored.is_some() { MappingFlags::WRITE } else { READ };
        let Some(there) = self.twin.guests[guest][page] else {
            return assert_eq!(came, Ok(Came::Answer(Outcome::NotMapped)));
        };
        if !there.flags.contains(access) {
            return assert_eq!(came, Ok(Came::Answer(Outcome::Denied { flags: there.flags })));
        }
        if there.is_lent() {
            return assert_eq!(came, Ok(Came::Answer(Outcome::Lent)));
        }
        if self.excused(guest, &came, 1 + self.on_the_way(guest)) {
            return;
        }
        match stored {
            None => assert_eq!(came, Ok(Came::Done(self.twin.word(&there, offset))), "page {page}"),
            Some(value) => {
                assert!(matches!(came, Ok(Came::Done(_))), "{came:?}");
                self.twin.store(guest, page, offset, value);
            }
        }
    }

    /// The loop that a hypervisor runs around its guest.
    fn try_until(&self, guest: usize, cpu: usize, step: Step) -> Result<Came, Error> {
        let (space, cpu) = (&self.spaces[guest], CpuId(cpu));
        let seat = Seat { cpu, vcpu: VcpuId(cpu.0), view: View::Physical };
        for _ in 0..MOST_FAULTS {
            let fault = match self.machine.attempt(space, seat, step) {
                Attempt::Done(value) => return Ok(Came::Done(value)),
                Attempt::Fault(fault) => fault,
                Attempt::Again => continue,
                other => panic!("{other:?}"),
            };
            match self.machine.on(cpu, || space.fault(cpu, fault))? {
                Outcome::Resolved | Outcome::Retry => {}
                Outcome::NotYet(ticket) => self.bring(ticket, gpa(0))?,
                answer => return Ok(Came::Answer(answer)),
            }
        }
        panic!("{step:x?} faults for ever")
    }

    /// The hypervisor reads a word in a guest's place, or writes one.
    fn hypervisor(&mut self, guest: usize, (page, offset): (usize, usize), stored: Option<u64>) {
        let (space, at) = (&self.spaces[guest], gpa(page) + offset);
        let result = self.until_there(|| match stored {
            None => space.read_obj::<u64>(at),
            Some(value) => space.write_obj(at, value).map(|()| value),
        });
        let access = if stored.is_some() { MappingFlags::WRITE } else { READ };
        let Some(there) = self.twin.guests[guest][page] else {
            return assert!(matches!(result, Err(Error::NotMapped(_))), "{result:?}");
        };
        if !there.flags.contains(access) {
            return assert!(matches!(result, Err(Error::Denied { .. })), "{result:?}");
        }
        if there.is_lent() {
            return assert!(matches!(result, Err(Error::State { state: PageState::Lent, .. })), "{result:?}");
        }
        if self.excused(guest, &result, 1 + self.on_the_way(guest)) {
            return;
        }
        match stored {
            None => assert_eq!(result, Ok(self.twin.word(&there, offset)), "page {page}"),
            Some(value) => {
                assert_eq!(result, Ok(value));
                self.twin.store(guest, page, offset, value);
            }
        }
    }

    fn region(&mut self, guest: usize, pages: usize) {
        let region = self.spaces[guest].region(pages * PAGE).expect("the heap has memory");
        self.handles.push((self.twin.region(pages), Handle::Region(region)));
    }

    fn clone_handle(&mut self, handle: usize) {
        let (number, handle) = &self.handles[handle];
        let clone = Handle::Region(handle.region().clone());
        self.handles.push((*number, clone));
    }

    fn writer(&mut self, handle: usize) {
        let (number, handle) = &self.handles[handle];
        match handle.region().writer() {
            Ok(writer) => {
                assert!(!self.twin.regions[*number].frozen);
                self.handles.push((*number, Handle::Writer(writer)));
            }
            Err(error) => assert!(error == RegionError::Frozen && self.twin.regions[*number].frozen, "{error}"),
        }
    }

    fn freeze(&mut self, handle: usize) {
        let (number, handle) = &self.handles[handle];
        let result = handle.region().freeze();
        let writers =
            self.handles.iter().filter(|(other, handle)| other == number && matches!(handle, Handle::Writer(_)));
        let (mapped, handles) = (self.twin.writable(*number) * PAGE, writers.count());
        if mapped > 0 || handles > 0 {
            return assert_eq!(result, Err(RegionError::Written { mapped, handles }));
        }
        assert_eq!(result, Ok(()));
        self.twin.regions[*number].frozen = true;
    }

    fn put(&mut self, handle: usize, (page, offset): (usize, usize), value: u64) {
        let (number, Handle::Writer(writer)) = &self.handles[handle] else { return };
        let page = page % self.twin.regions[*number].cells.len();
        match self.until_brought(|| writer.write_obj(page * PAGE + offset, value)) {
            Ok(()) => {
                let cell = self.twin.regions[*number].cells[page];
                self.twin.write(cell, offset, value);
            }
            Err(error) => {
                assert!(matches!(error, RegionError::NoMemory { .. }) && self.luck.is_some(), "{error}");
            }
        }
    }

    fn get(&mut self, handle: usize, (page, offset): (usize, usize)) {
        let (number, handle) = &self.handles[handle];
        let cells = &self.twin.regions[*number].cells;
        let page = page % cells.len();
        let expected = self.twin.cells[cells[page]].get(&offset).copied().unwrap_or(0);
        match self.until_brought(|| handle.region().read_obj::<u64>(page * PAGE + offset)) {
            Ok(value) => assert_eq!(value, expected, "page {page}"),
            Err(error) => assert!(matches!(error, RegionError::NoMemory { .. }) && self.luck.is_some(), "{error}"),
        }
    }

    fn snapshot(&mut self, guest: usize, pace: Pace) {
        let result = match pace {
            None => self.spaces[guest].snapshot(),
            Some(entries) => {
                self.machine.park();
                self.spaces[guest].snapshot_in_steps().and_then(|mut snapshot| {
                    while snapshot.step(entries)? == Progress::More {}
                    snapshot.finish()
                })
            }
        };
        if self.twin.in_loans(guest) {
            return assert!(matches!(result, Err(Error::State { .. })), "{result:?}");
        }
        let Some((number, places)) = self.twin.snapshot(guest) else {
            return assert!(matches!(result, Err(Error::NotMapped(_))), "{result:?}");
        };
        let snapshot = result.expect("a snapshot needs no frame");
        let mut pages = places.iter();
        for (range, flags, offset) in snapshot.areas() {
            for (index, page) in pages_of(range).enumerate() {
                assert_eq!(pages.next(), Some(&(page, flags, offset / PAGE + index)));
            }
        }
        assert_eq!(pages.next(), None);
        self.handles.push((number, Handle::Snapshot(snapshot, places)));
    }

    fn restore(&mut self, guest: usize, handle: usize) {
        let (number, Handle::Snapshot(snapshot, places)) = &self.handles[handle] else { return };
        let result = self.spaces[guest].restore(snapshot);
        if places.iter().any(|&(page, ..)| self.twin.guests[guest][page].is_some()) {
            return assert!(matches!(result, Err(Error::Overlap { .. })), "{result:?}");
        }
        assert_eq!(result, Ok(()));
        for &(page, flags, index) in places {
            let behind = Behind::Inherited(*number, index, None);
            self.twin.guests[guest][page] = Some(Page::new(flags, behind));
        }
    }

    fn limit(&mut self, guest: usize, frames: Option<usize>, tables: Option<usize>) {
        let usage = self.spaces[guest].usage();
        let limits = Limits {
            frames: frames.map(|frames| usage.frames + frames),
            table_frames: tables.map(|tables| usage.table_frames + tables),
        };
        self.spaces[guest].set_limits(limits);
        assert_eq!(self.spaces[guest].usage(), Usage { limits, ..usage });
    }

    /// Holds everything that can be seen against the twin.
    fn compare(&self) {
        let mut cells = BTreeMap::new();
        let mut frames = BTreeMap::new();
        for guest in 0..self.spaces.len() {
            self.compare_areas(guest);
            self.compare_pages(guest, &mut cells, &mut frames);
        }
        for (number, handle) in &self.handles {
            self.compare_region(&self.twin.regions[*number].cells, handle.region());
        }
        self.compare_frames();
    }

    fn compare_areas(&self, guest: usize) {
        let mut pages = self.twin.guests[guest].iter().enumerate().filter_map(|(page, there)| Some((page, (*there)?)));
        for Area { range, flags, kind } in self.spaces[guest].areas().expect("areas") {
            for (index, page) in pages_of(range).enumerate() {
                let Some((number, there)) = pages.next() else { panic!("{range:?} is not mapped") };
                let same = match (kind, there.behind) {
                    (AreaKind::Private, Behind::Own(_)) | (AreaKind::Borrowed, Behind::Borrowed(..)) => true,
                    (AreaKind::Shared(offset), Behind::Shared(_, from))
                    | (AreaKind::CopyOnWrite(offset), Behind::Inherited(_, from, _)) => offset / PAGE + index == from,
                    _ => false,
                };
                assert!(number == page && same && flags == there.flags, "{page}: {kind:?}, not {number}: {there:?}");
            }
        }
        assert_eq!(pages.next(), None, "it has no area");
    }

    /// Each frame shows one cell, and who may write it is told by who has it.
    fn compare_pages(&self, guest: usize, cells: &mut BTreeMap<usize, Cell>, frames: &mut BTreeMap<Cell, usize>) {
        let (space, pages) = (&self.spaces[guest], &self.twin.guests[guest]);
        let (mut own, mut copies) = (0, 0);
        let mut translated = BTreeSet::new();
        let walked = space.walk(range(&(0..PAGES)), |leaf| {
            let span = leaf.leaf_start..leaf.leaf_start + leaf.size;
            for page in pages_of(stage2::GuestPhysRange { start: span.start, end: span.end }) {
                let Some(there) = &pages[page] else { panic!("page {page} is not mapped, but translated") };
                let hpa = leaf.hpa.as_usize()
                    + (page - pages_of(stage2::GuestPhysRange { start: span.start, end: span.end }).start) * PAGE;
                let frozen = matches!(there.behind, Behind::Inherited(_, _, None));
                let flags = if frozen { there.flags - MappingFlags::WRITE } else { there.flags };
                assert_eq!(leaf.flags, flags, "page {page}");
                let cell = self.twin.visible(there.behind);
                assert_eq!(*cells.entry(hpa).or_insert(cell), cell, "page {page} has another's frame");
                let words = &self.twin.cells[cell];
                if !words.is_empty() {
                    assert_eq!(*frames.entry(cell).or_insert(hpa), hpa, "page {page} is in two frames");
                }
                for offset in words.keys().chain(&OFFSETS) {
                    let expected = words.get(offset).copied().unwrap_or(0);
                    assert_eq!(self.machine.peek((hpa + offset).into()), expected, "page {page} at {offset:#x}");
                }
                own += usize::from(matches!(there.behind, Behind::Own(_)));
                copies += usize::from(matches!(there.behind, Behind::Inherited(_, _, Some(_))));
                translated.insert(page);
            }
        });
        walked.expect("a range of the space");
        for (page, there) in pages.iter().enumerate().filter_map(|(page, there)| Some((page, (*there)?))) {
            let must = match there.behind {
                _ if there.is_lent() => false,
                Behind::Borrowed(..) => true,
                Behind::Own(cell) => !self.twin.cells[cell].is_empty(),
                Behind::Inherited(_, _, copy) => copy.is_some(),
                Behind::Shared(..) => false,
            };
            assert!(!must || translated.contains(&page), "page {page} is lost: {there:?}");
        }
        let (stats, usage) = (space.stats(), space.usage());
        let count = |is: &dyn Fn(&Page) -> bool| pages.iter().flatten().filter(|page| is(page)).count();
        let lent = count(&Page::is_lent);
        let borrowed = count(&|page| matches!(page.behind, Behind::Borrowed(..)));
        assert_eq!((stats.owned_frames, stats.lent_frames, stats.borrowed_frames), (own + copies, lent, borrowed));
        let on_loan = count(&|page| page.loan.is_some() && matches!(page.behind, Behind::Inherited(..)));
        let lent_copies = count(&|page| page.is_lent() && matches!(page.behind, Behind::Inherited(..)));
        assert_eq!(stats.copied_frames, copies + lent_copies - on_loan);
        assert_eq!((usage.frames, usage.table_frames), (own + copies + lent, stats.table_frames));
    }

    fn compare_region(&self, cells: &[Cell], region: &SharedRegion) {
        assert_eq!(region.size(), cells.len() * PAGE);
        for (page, cell) in cells.iter().enumerate() {
            for (offset, expected) in &self.twin.cells[*cell] {
                match region.read_obj(page * PAGE + offset) {
                    Err(RegionError::NotYet { .. }) => {}
                    there => assert_eq!(there, Ok(*expected), "page {page} of a region"),
                }
            }
        }
    }

    /// Frames are the guests', by their accounts, and the regions'; those of a region without a handle nobody counts.
    fn compare_frames(&self) {
        let guests = self.spaces.iter().map(GuestSpace::usage).map(|usage| usage.frames + usage.table_frames);
        let rest = self.machine.allocated() - guests.sum::<usize>();
        let held: BTreeMap<usize, usize> =
            self.handles.iter().map(|(number, handle)| (*number, handle.region().frames())).collect();
        // What a lender left behind is its borrower's until it is returned, and the handle is lost.
        let orphans = (0..self.twin.loans.len()).filter(|&loan| {
            let terms = &self.twin.loans[loan];
            let kept = self.loans.iter().any(|(other, _)| *other == loan) || self.twin.borrowed(loan) > 0;
            terms.open && terms.lender.is_none() && kept
        });
        let left: usize = orphans.map(|loan| self.twin.loans[loan].cells.len()).sum();
        let known = held.values().sum::<usize>() + left;
        let unheld = |number: &usize| {
            !held.contains_key(number) && self.twin.lives(*number, &|region| held.contains_key(&region))
        };
        let unknown: usize =
            (0..self.twin.regions.len()).filter(unheld).map(|number| self.twin.regions[number].cells.len()).sum();
        assert!((known..=known + unknown).contains(&rest), "regions have {rest} frames, not {known} to {unknown} more");
    }

    /// Everything is read once more, unmapped, and dropped: every frame comes back.
    fn end(mut self, check: impl Fn(&M)) {
        for guest in 0..self.spaces.len() {
            self.spaces[guest].set_limits(Limits::default());
            for page in 0..PAGES {
                let Some(there) = self.twin.guests[guest][page] else { continue };
                let cell = self.twin.visible(there.behind);
                for (offset, value) in self.twin.cells[cell].iter().filter(|_| !there.is_lent()) {
                    let read = self.until_there(|| self.spaces[guest].read_obj(gpa(page) + *offset));
                    assert_eq!(read, Ok(*value), "page {page}");
                }
            }
        }
        check(&self.machine);
        self.end_loans();
        for (space, pages) in self.spaces.iter().zip(&mut self.twin.guests) {
            match space.unmap(range(&(0..PAGES))) {
                Ok(()) => {}
                Err(error) => assert_eq!(error, Error::NotMapped(range(&(0..PAGES)))),
            }
            pages.fill(None);
            assert_eq!(space.usage(), self.fresh, "nothing is mapped");
        }
        self.compare_frames();
        self.handles.clear();
        self.machine.park();
        self.spaces.clear();
        assert_eq!(self.machine.allocated(), 0, "all frames are returned at the end");
        check(&self.machine);
    }
}

/// What came of a guest's try.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Came {
    Done(u64),
    Answer(Outcome),
}

/// Nothing is added beyond a limit.
fn within_limits(now: Usage, before: Usage) {
    let fits = |limit: Option<usize>, now: usize, before: usize| limit.is_none_or(|limit| now <= limit.max(before));
    assert!(fits(now.limits.frames, now.frames, before.frames), "{now:?} after {before:?}");
    assert!(fits(now.limits.table_frames, now.table_frames, before.table_frames), "{now:?} after {before:?}");
}

/// Whether a page is near a border of blocks, where stories take place.
fn near(page: usize) -> bool {
    (page + 3) % BLOCK < 6
}

/// A border between pages, near those of blocks.
fn border() -> impl Strategy<Value = usize> {
    (0..=2_usize, 0..=4_usize).prop_map(|(block, near)| (block * BLOCK + near).saturating_sub(2).min(PAGES))
}

fn page() -> impl Strategy<Value = usize> {
    border().prop_map(|border| border.min(PAGES - 1))
}

fn pages() -> impl Strategy<Value = Range<usize>> {
    let long = (border(), border()).prop_map(|(one, other)| one.min(other)..one.max(other).max(one.min(other) + 1));
    prop_oneof![1 => long, 2 => few()].prop_map(|pages| pages.start.min(PAGES - 1)..pages.end.min(PAGES))
}

/// So few that a region has them.
fn few() -> impl Strategy<Value = Range<usize>> {
    (page(), 1..5_usize).prop_map(|(start, pages)| start..(start + pages).min(PAGES))
}

/// A guest's page, and where in it a word is.
fn spot() -> impl Strategy<Value = (Spot, usize)> {
    let page = prop_oneof![1 => page().prop_map(Spot::Page), 6 => (0..24_usize).prop_map(Spot::Mapped)];
    (page, proptest::sample::select(&OFFSETS[..]))
}

/// A page, and where in it a word is.
fn word() -> impl Strategy<Value = (usize, usize)> {
    (page(), proptest::sample::select(&OFFSETS[..]))
}

fn pace() -> impl Strategy<Value = Pace> {
    prop_oneof![2 => Just(None), 1 => (1..600_usize).prop_map(Some), 1 => (1..4_usize).prop_map(Some)]
}

fn flags() -> impl Strategy<Value = MappingFlags> {
    prop_oneof![3 => Just(RW), 1 => Just(READ)]
}

fn ops() -> impl Strategy<Value = Op> {
    let (guest, handle, cpu) = (0..GUESTS, 0..12_usize, 0..2_usize);
    let populate = prop_oneof![2 => Just(Populate::Lazy), 1 => Just(Populate::Now)];
    let leaf = prop_oneof![Just(LeafPolicy::Pages), Just(LeafPolicy::Largest)];
    let view = || (0..GUESTS, few(), 0..12_usize, 0..6_usize, flags());
    let room = || prop_oneof![2 => Just(None), 2 => (0..4_usize).prop_map(Some), 1 => Just(Some(PLENTY))];
    let kind = prop_oneof![Just(LoanKind::Shared), Just(LoanKind::Lent)];
    let any = (kind.clone(), guest.clone(), few(), guest.clone(), page(), flags())
        .prop_map(|(a, b, c, d, e, f)| Op::LendAny(a, b, c, d, e, f));
    let lend = (kind, guest.clone(), (0..24_usize, 1..4_usize), page(), flags())
        .prop_map(|(a, b, c, d, e)| Op::Lend(a, b, c, d, e));
    let from = prop_oneof![2 => Just(From::Borrower), 1 => Just(From::Nobody)];
    let handover = prop_oneof![Just(Handover::Keep), Just(Handover::Zero)];
    let donate = (guest.clone(), (0..24_usize, 1..4_usize), page(), flags(), handover.clone())
        .prop_map(|(a, b, c, d, e)| Op::Donate(a, b, c, d, e));
    let memory = prop_oneof![
        5 => (guest.clone(), pages(), populate, leaf, flags()).prop_map(|(a, b, c, d, e)| Op::Map(a, b, c, d, e)),
        4 => view().prop_map(|(a, b, c, d, e)| Op::Share(a, b, c, d, e)),
        3 => view().prop_map(|(a, b, c, d, e)| Op::Inherit(a, b, c, d, e)),
        3 => (guest.clone(), pages(), pace()).prop_map(|(a, b, c)| Op::Unmap(a, b, c)),
        2 => (guest.clone(), pages(), flags(), pace()).prop_map(|(a, b, c, d)| Op::Protect(a, b, c, d)),
        1 => (guest.clone(), pages()).prop_map(|(a, b)| Op::Relocate(a, b)),
        4 => (guest.clone(), pace()).prop_map(|(a, b)| Op::Snapshot(a, b)),
        2 => (guest.clone(), handle.clone()).prop_map(|(a, b)| Op::Restore(a, b)),
        2 => (guest.clone(), handle.clone()).prop_map(|(a, b)| Op::Rewind(a, b)),
        3 => handle.clone().prop_map(Op::Fork),
        6 => lend,
        1 => any,
        2 => (0..4_usize, from, handover.clone()).prop_map(|(a, b, c)| Op::Reclaim(a, b, c)),
        1 => (0..4_usize).prop_map(Op::Lose),
        4 => donate,
        3 => (guest.clone(), few()).prop_map(|(a, b)| Op::MakeShared(a, b)),
        3 => (guest.clone(), 0..8_usize, handover).prop_map(|(a, b, c)| Op::MakePrivate(a, b, c)),
        1 => (guest.clone(), room(), room()).prop_map(|(a, b, c)| Op::Limit(a, b, c)),
        3 => Just(Op::Begin),
        2 => guest.clone().prop_map(Op::End),
    ];
    let access = prop_oneof![
        2 => (guest.clone(), cpu.clone(), spot()).prop_map(|(a, b, c)| Op::Load(a, b, c)),
        5 => (guest.clone(), cpu, spot(), 0..9_u64).prop_map(|(a, b, c, d)| Op::Store(a, b, c, d)),
        1 => (guest.clone(), spot()).prop_map(|(a, b)| Op::Read(a, b)),
        1 => (guest.clone(), spot(), 0..9_u64).prop_map(|(a, b, c)| Op::Write(a, b, c)),
    ];
    let regions = prop_oneof![
        2 => (guest.clone(), 1..8_usize).prop_map(|(a, b)| Op::Region(a, b)),
        2 => (guest.clone(), 1..8_usize).prop_map(|(a, b)| Op::Bring(a, b)),
        2 => (guest, few(), flags()).prop_map(|(a, b, c)| Op::MapFrom(a, b, c)),
        1 => handle.clone().prop_map(Op::Clone),
        2 => handle.clone().prop_map(Op::Writer),
        5 => handle.clone().prop_map(Op::Drop),
        3 => handle.clone().prop_map(Op::Freeze),
        3 => (handle.clone(), word(), 1..9_u64).prop_map(|(a, b, c)| Op::Put(a, b, c)),
        1 => (handle, word()).prop_map(|(a, b)| Op::Get(a, b)),
    ];
    prop_oneof![5 => memory, 8 => access, 4 => regions]
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![5 => Just(None), 1 => (0..5_usize).prop_map(Some)]
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
