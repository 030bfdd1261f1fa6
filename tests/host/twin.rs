//! Random operations on a space, its guest on the model of the hardware, against a twin that is obviously correct: a
//! map from page to what it holds. After every operation both must say the same, and the model must have no complaint.

#[path = "twin/pages.rs"]
mod pages;

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
    Access, Area, AreaKind, Cause, CpuId, Error, Fault, GuestSpace, LeafPolicy, Mapping, MappingFlags, Origin, Outcome,
    PhysAddr, Populate, VcpuId,
};
use stage2_model::Failure;
use stage2_scenarios::{Attempt, Machine, Marks, Seat, Setting, Step, Tag, View};

use self::pages::{BLOCK, Behind, Leaf, PAGES, Page, Seen, Twin};
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

/// One operation.
#[derive(Clone, Debug)]
enum Op {
    Map(Range<usize>, What, MappingFlags),
    Unmap(Range<usize>),
    Protect(Range<usize>, MappingFlags),
    Relocate(Range<usize>),
    /// The guest itself, on a CPU, until it got there or was refused.
    Guest(usize, usize, Does),
    /// Any fault, whether it is justified or not.
    Fault(usize, Access, Cause, Origin),
    /// The hypervisor reads bytes from an address in the window on.
    Read(usize, usize),
    /// The hypervisor writes bytes.
    Write(usize, Vec<u8>),
    /// The hypervisor exchanges a word for another if it is zero.
    Exchange(usize, u64),
}

/// What is mapped.
#[derive(Clone, Copy, Debug)]
enum What {
    /// Foreign memory, so many pages behind where a block would fit.
    Linear(usize),
    Device,
    Private(Populate, LeafPolicy),
}

/// What a guest does with a word.
#[derive(Clone, Copy, Debug)]
enum Does {
    Read,
    Write(u64),
    Execute,
}

/// How it goes with allocations during an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Luck {
    Good,
    /// So many succeed, and no more.
    Bad(usize),
    /// One fails after so many.
    Once(usize),
}

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

    fn map(&mut self, pages: &Range<usize>, what: What, flags: MappingFlags, lucky: bool) {
        let range = self.twin.range(pages);
        let flags = if matches!(what, What::Device) { flags | MappingFlags::DEVICE } else { flags };
        let (mapping, behind) = match what {
            What::Linear(skew) => linear(FOREIGN + (pages.start + skew) * PAGE),
            What::Device => linear(DEVICES + pages.start * PAGE),
            What::Private(populate, leaf) => (Mapping::Private { populate, leaf }, Behind::Private(leaf)),
        };
        let private = matches!(what, What::Private(..));
        let result = self.space().map(range, mapping, flags);
        if !expressible(flags) || private && flags.contains(MappingFlags::DEVICE) {
            return assert!(matches!(result, Err(Error::Flags { range: named, .. }) if named == range), "{result:?}");
        }
        if let Some(first) = self.twin.first_mapped(pages) {
            let Err(Error::Overlap { range: named, with }) = result else { panic!("{result:?}") };
            let with = self.twin.pages_of(with);
            return assert!(named == range && with.start <= first && with.contains(&first), "{with:?}, not {first}");
        }
        if out_of_memory(&result, lucky) {
            return assert_eq!(result, Err(Error::NoMemory(range)));
        }
        assert_eq!(result, Ok(()));
        let seen = self.seen();
        let taken = self.twin.own_frames();
        for page in pages.clone() {
            let behind = match behind {
                Behind::Linear(to) => Behind::Linear(to + (page - pages.start) * PAGE),
                private @ Behind::Private(_) => private,
            };
            self.twin.pages[page] = Some(Page { flags, behind, present: None, words: BTreeMap::new() });
            match (behind, seen[page]) {
                (Behind::Linear(hpa), Some(seen)) => {
                    let leaf = best_leaf(page, pages, Host::of(page, hpa - FOREIGN));
                    assert_eq!((seen.hpa, seen.leaf), (hpa, leaf), "page {page}");
                    self.twin.adopt(page, seen);
                }
                (Behind::Private(policy), Some(seen)) if matches!(what, What::Private(Populate::Now, _)) => {
                    let blocks = if policy == LeafPolicy::Largest { Host::Aligned } else { Host::Misaligned };
                    let leaf = best_leaf(page, pages, blocks);
                    assert!(seen.leaf == leaf || (!lucky && seen.leaf.pages < leaf.pages), "page {page}: {seen:?}");
                    assert!(!taken.contains(&seen.hpa), "page {page} has the frame of another");
                    self.twin.adopt(page, seen);
                }
                (_, seen) => assert!(seen.is_none() && matches!(what, What::Private(Populate::Lazy, _))),
            }
        }
    }

    fn unmap(&mut self, pages: &Range<usize>, lucky: bool) {
        let range = self.twin.range(pages);
        let result = self.space().unmap(range);
        if self.twin.first_mapped(pages).is_none() {
            return assert_eq!(result, Err(Error::NotMapped(range)));
        }
        if out_of_memory(&result, lucky) {
            // Areas come from the heap, so only the tables that split blocks can be missing.
            return assert!(self.twin.cuts(pages, |_| true), "it needs no memory");
        }
        assert_eq!(result, Ok(()));
        self.twin.pages[pages.clone()].fill(None);
    }

    fn protect(&mut self, pages: &Range<usize>, flags: MappingFlags, lucky: bool) {
        let range = self.twin.range(pages);
        // Nobody makes a device into memory: the hypervisor would reach it through a pointer.
        let flags = if self.twin.any(pages, is_device) { flags | MappingFlags::DEVICE } else { flags };
        let result = self.space().protect(range, flags);
        let hole = self.twin.first_hole(pages);
        let before = pages.start..hole.unwrap_or(pages.end);
        let private = |page: &Page| matches!(page.behind, Behind::Private(_));
        if !expressible(flags) || flags.contains(MappingFlags::DEVICE) && self.twin.any(&before, private) {
            return assert!(matches!(result, Err(Error::Flags { range: named, .. }) if named == range), "{result:?}");
        }
        if let Some(hole) = hole {
            let end = self.twin.first_mapped(&(hole..pages.end)).unwrap_or(pages.end);
            return assert_eq!(result, Err(Error::NotMapped(self.twin.range(&(hole..end)))));
        }
        if out_of_memory(&result, lucky) {
            return assert!(self.twin.cuts(pages, |page| page.flags != flags), "it needs no memory");
        }
        assert_eq!(result, Ok(()));
        for page in self.twin.pages[pages.clone()].iter_mut().flatten() {
            self.raised |= !page.flags.contains(flags);
            page.flags = flags;
        }
    }

    fn relocate(&mut self, pages: &Range<usize>, lucky: bool) {
        let range = self.twin.range(pages);
        let result = self.space().relocate(range);
        let linear = |page: usize| self.twin.page(page).is_some_and(|page| matches!(page.behind, Behind::Linear(_)));
        let stop = pages.clone().find(|&page| self.twin.page(page).is_none() || linear(page));
        if let Some(stop) = stop {
            if linear(stop) {
                return assert!(matches!(result, Err(Error::NotMemory(area)) if area.contains(self.twin.gpa(stop))));
            }
            return assert_eq!(result, Err(Error::NotMapped(self.twin.range(&(stop..pages.end)))));
        }
        let leaves = self.twin.leaves(pages);
        let moved: Vec<_> = match result {
            Ok(count) => {
                assert_eq!(count, leaves.iter().map(|leaf| leaf.pages).sum::<usize>());
                leaves
            }
            Err(Error::NoMemory(rest)) if !lucky => {
                let end = self.twin.pages_of(rest).start;
                leaves.into_iter().filter(|leaf| leaf.range().end <= end).collect()
            }
            other => panic!("{other:?}"),
        };
        let seen = self.seen();
        for leaf in moved {
            for page in leaf.range() {
                let now = seen[page].expect("what moved is there");
                // It may have the frame that another page left just before.
                let before = self.twin.page(page).and_then(|page| page.present);
                assert!(before != Some((now.hpa, now.leaf)), "page {page} did not move: {now:x?}");
                assert_eq!(now.leaf, leaf, "a leaf moves whole");
                self.twin.adopt(page, now);
            }
        }
    }

    fn guest(&mut self, cpu: usize, at: usize, does: Does, lucky: bool) {
        let (page, offset) = (at / PAGE, at % PAGE);
        let address = self.twin.base + at;
        let (step, access) = match does {
            Does::Read => (Step::Read(address), Access::Read),
            Does::Write(value) => (Step::Write(address, value), Access::Write),
            Does::Execute => (Step::Execute(address), Access::Execute),
        };
        let came = self.try_until(cpu, step);
        let touched = self.touched(page);
        let Some(expected) = self.twin.page(page).map(|page| page.flags) else {
            return assert_eq!(came, Ok(Attempted::Answer(Outcome::NotMapped)));
        };
        if !expected.contains(access.flag()) {
            return assert_eq!(came, Ok(Attempted::Answer(Outcome::Denied { flags: expected })));
        }
        if out_of_memory(&came, lucky) {
            return assert!(!touched && self.twin.page(page).is_some_and(|page| page.present.is_none()));
        }
        match does {
            Does::Read => assert_eq!(came, Ok(Attempted::Done(self.word(page, offset)))),
            Does::Execute => assert_eq!(came, Ok(Attempted::Done(self.word(page, offset) >> 5 & 0xffff))),
            Does::Write(value) => {
                assert!(matches!(came, Ok(Attempted::Done(_))), "{came:?}");
                self.store(page, offset, value);
            }
        }
    }

    /// The loop that a hypervisor runs around its guest.
    fn try_until(&self, cpu: usize, step: Step) -> Result<Attempted, Error> {
        let seat = Seat { cpu: CpuId(cpu), vcpu: VcpuId(cpu), view: View::Physical };
        for _ in 0..4 {
            let fault = match self.machine.attempt(self.space(), seat, step) {
                Attempt::Done(value) => return Ok(Attempted::Done(value)),
                Attempt::Fault(fault) => fault,
                other => panic!("{other:?}"),
            };
            match self.machine.on(seat.cpu, || self.space().fault(seat.cpu, fault))? {
                Outcome::Resolved | Outcome::Retry => {}
                answer => return Ok(Attempted::Answer(answer)),
            }
        }
        panic!("{step:x?} faults for ever")
    }

    fn fault(&mut self, page: usize, (access, cause, origin): (Access, Cause, Origin), lucky: bool) {
        let fault = Fault { gpa: self.twin.gpa(page) + 0x123, access, cause, origin };
        self.machine.switch(self.space(), 0, View::Physical);
        let result = self.space().fault(CpuId(0), fault);
        let populated = self.touched(page);
        // A walk that updates its table has read it.
        let needs = access.flag() | if origin == Origin::GuestWalk { READ } else { MappingFlags::empty() };
        let expected = match self.twin.page(page) {
            None if origin == Origin::GuestWalk => Outcome::Inject,
            None => Outcome::NotMapped,
            Some(there) if origin == Origin::GuestWalk && is_device(there) => Outcome::Inject,
            Some(there) if !there.flags.contains(needs) => Outcome::Denied { flags: there.flags },
            Some(_) if populated || cause == Cause::AccessFlag => Outcome::Resolved,
            Some(there) if there.present.is_some() => Outcome::Retry,
            Some(_) => {
                assert!(out_of_memory(&result, lucky), "{result:?}");
                let named = self.twin.range(&(page..page + 1));
                return assert_eq!(result, Err(Error::NoMemory(named)));
            }
        };
        if self.twin.page(page).is_some_and(|page| page.present.is_none()) && out_of_memory(&result, lucky) {
            return;
        }
        assert_eq!(result, Ok(expected));
    }

    fn read(&mut self, at: usize, len: usize, lucky: bool) {
        let mut bytes = vec![0xee; len];
        let result = self.space().read(self.twin.gpa(0) + at, &mut bytes);
        let end = self.accessed(at, len, &result, READ, lucky);
        for index in at..end {
            let word = self.word(index / PAGE, (index % PAGE) & !7);
            assert_eq!(bytes[index - at], word.to_le_bytes()[index % 8], "byte {index:#x}");
        }
        assert!(bytes[end - at..].iter().all(|byte| *byte == 0xee), "what was not read is as it was");
    }

    fn write(&mut self, at: usize, bytes: &[u8], lucky: bool) {
        self.note_foreign(at, bytes.len());
        let result = self.space().write(self.twin.gpa(0) + at, bytes);
        let end = self.accessed(at, bytes.len(), &result, MappingFlags::WRITE, lucky);
        for index in at..end {
            let (page, offset) = (index / PAGE, (index % PAGE) & !7);
            let mut word = self.word(page, offset).to_le_bytes();
            word[index % 8] = bytes[index - at];
            self.store(page, offset, u64::from_le_bytes(word));
        }
    }

    fn exchange(&mut self, at: usize, value: u64, lucky: bool) {
        self.note_foreign(at, 8);
        let result = self.space().compare_exchange(self.twin.gpa(0) + at, 0, value);
        let end = self.accessed(at, 8, &result.map(drop), MappingFlags::WRITE, lucky);
        if end > at {
            let was = self.word(at / PAGE, at % PAGE);
            assert_eq!(result, Ok(if was == 0 { Ok(0) } else { Err(was) }));
            if was == 0 {
                self.store(at / PAGE, at % PAGE, value);
            }
        }
    }

    /// Notes what is in foreign memory before it may change.
    fn note_foreign(&mut self, at: usize, len: usize) {
        for at in (at / 8 * 8..at + len).step_by(8) {
            let Some(Page { behind: Behind::Linear(hpa), .. }) = self.twin.page(at / PAGE) else { continue };
            let word = hpa + at % PAGE;
            if word < DEVICES {
                let machine = &self.machine;
                self.twin.foreign.entry(word).or_insert_with(|| machine.peek(PhysAddr::from_usize(word)));
            }
        }
    }

    /// Judges an access of the hypervisor's, page by page: where it ended.
    fn accessed(
        &mut self,
        at: usize,
        len: usize,
        result: &Result<(), Error>,
        need: MappingFlags,
        lucky: bool,
    ) -> usize {
        let mut done = at;
        while done < at + len {
            let page = done / PAGE;
            let gpa = self.twin.gpa(0);
            let rest = stage2::GuestPhysRange { start: gpa + done, end: gpa + at + len };
            self.touched(page);
            let expected = match self.twin.page(page) {
                None => Error::NotMapped(rest),
                Some(page) if page.flags.contains(MappingFlags::DEVICE) => Error::NotMemory(rest),
                Some(page) if !page.flags.contains(need) => Error::Denied { range: rest, flags: page.flags },
                Some(page) if page.present.is_none() && !lucky => match result {
                    Err(Error::NoMemory(named)) if *named == rest => return done,
                    other => panic!("{other:?}"),
                },
                Some(_) => {
                    done = at + len.min((page + 1) * PAGE - at);
                    continue;
                }
            };
            assert_eq!(*result, Err(expected));
            return done;
        }
        assert_eq!(*result, Ok(()));
        done
    }

    /// Takes over the leaf that a touch of a page brought, if it brought one: whether it did.
    fn touched(&mut self, page: usize) -> bool {
        let seen = self.seen();
        let Some(Page { flags, behind: Behind::Private(policy), present: None, .. }) = self.twin.page(page).cloned()
        else {
            return false;
        };
        let Some(new) = seen[page] else { return false };
        let most = if policy == LeafPolicy::Pages { 1 } else { BLOCK };
        assert!(new.leaf.pages <= most, "{new:?}");
        let taken = self.twin.own_frames();
        for number in new.leaf.range() {
            let there = self.twin.page(number).expect("a leaf lies in its area");
            assert_eq!((there.flags, there.behind, there.present), (flags, Behind::Private(policy), None));
            let now = seen[number].expect("a leaf is all there");
            assert!(!taken.contains(&now.hpa), "page {number} has the frame of another");
            self.twin.adopt(number, now);
        }
        true
    }

    /// What the twin says of a word.
    fn word(&self, page: usize, offset: usize) -> u64 {
        match self.twin.page(page) {
            Some(Page { behind: Behind::Linear(hpa), .. }) if *hpa >= DEVICES => {
                stage2_model::arm::device_value((hpa + offset) as u64)
            }
            Some(Page { behind: Behind::Linear(hpa), .. }) => match self.twin.foreign.get(&(hpa + offset)) {
                Some(stored) => *stored,
                None => self.machine.peek(PhysAddr::from_usize(hpa + offset)),
            },
            Some(Page { words, .. }) => words.get(&offset).copied().unwrap_or(0),
            None => panic!("page {page} holds nothing"),
        }
    }

    fn store(&mut self, page: usize, offset: usize, value: u64) {
        let page = self.twin.pages[page].as_mut().expect("a page to store to");
        match page.behind {
            Behind::Linear(hpa) if hpa >= DEVICES => {}
            Behind::Linear(hpa) => drop(self.twin.foreign.insert(hpa + offset, value)),
            Behind::Private(_) => drop(page.words.insert(offset, value)),
        }
    }

    /// What the tables show of the window, page by page.
    fn seen(&self) -> Vec<Option<Seen>> {
        let mut seen = vec![None; PAGES];
        let window = 0..PAGES;
        let walked = self.space().walk(self.twin.range(&window), |found| {
            let start = (found.leaf_start.as_usize() - self.twin.base) / PAGE;
            let leaf = Leaf { start, pages: found.size / PAGE };
            let hpa = found.hpa.as_usize();
            assert!(hpa.is_multiple_of(found.size) && found.leaf_start.as_usize().is_multiple_of(found.size));
            for page in leaf.range() {
                let hpa = hpa + (page - start) * PAGE;
                let before = seen[page].replace(Seen { hpa, flags: found.flags, leaf });
                assert_eq!(before, None, "page {page} is translated twice");
            }
        });
        assert_eq!(walked, Ok(()));
        seen
    }

    /// Everything must be the same on both sides, and nothing lost.
    fn compare(&mut self) {
        let shown = self.seen();
        self.twin.compare(&shown);
        for (number, seen) in shown.iter().enumerate() {
            let before = number.checked_sub(1).is_some_and(|before| shown[before].is_some());
            if number % 16 != 0 && before == seen.is_some() {
                continue;
            }
            let one = self.space().translate(self.twin.gpa(number) + 0xabc);
            assert_eq!(one.map(|one| one.hpa.as_usize()), seen.map(|seen| seen.hpa + 0xabc), "page {number}");
        }
        self.compare_areas();
        self.compare_contents();
        let (stats, own) = (self.space().stats(), self.twin.own_frames().len());
        assert_eq!(own, self.twin.own_pages(), "no two pages have one frame");
        assert_eq!(stats.owned_frames, own, "frames of the space's own");
        assert_eq!(self.machine.allocated(), own + stats.table_frames, "nothing is lost");
        if !self.raised {
            self.machine.scan();
        }
        self.machine.check();
    }

    fn compare_areas(&self) {
        let mut end = 0;
        let mut covered = BTreeSet::new();
        for Area { range, flags, kind } in self.space().areas().expect("areas") {
            let pages = self.twin.pages_of(range);
            assert!(pages.start >= end && !pages.is_empty(), "areas are in order");
            end = pages.end;
            for page in pages.clone() {
                let there = self.twin.page(page).expect("an area of mapped pages");
                let same = match (kind, there.behind) {
                    (AreaKind::Linear(to), Behind::Linear(hpa)) => to.as_usize() + (page - pages.start) * PAGE == hpa,
                    (AreaKind::Private, Behind::Private(_)) => true,
                    _ => false,
                };
                assert!(same && flags == there.flags, "page {page}: {kind:?} {flags:?}, not {there:?}");
                covered.insert(page);
            }
            assert_eq!(self.space().area(range.start), Some(Area { range, flags, kind }));
        }
        assert_eq!(covered.len(), self.twin.pages.iter().flatten().count(), "areas cover what is mapped");
    }

    fn compare_contents(&self) {
        for (number, page) in self.twin.pages.iter().enumerate() {
            let Some(Page { behind: Behind::Private(_), present: Some((hpa, _)), words, .. }) = page else { continue };
            for &offset in words.keys().chain(&OFFSETS) {
                let expected = words.get(&offset).copied().unwrap_or(0);
                let found = self.machine.peek(PhysAddr::from_usize(hpa + offset));
                assert_eq!(found, expected, "page {number} at {offset:#x}");
            }
        }
        for (hpa, stored) in &self.twin.foreign {
            assert_eq!(self.machine.peek(PhysAddr::from_usize(*hpa)), *stored, "foreign memory at {hpa:#x}");
        }
    }

    /// The space goes, and everything comes back.
    fn end(mut self) {
        self.machine.park();
        drop(self.space.take());
        assert_eq!(self.machine.allocated(), 0, "all frames are returned at the end");
        self.machine.check();
    }
}

/// What came of a guest's try.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Attempted {
    Done(u64),
    Answer(Outcome),
}

fn linear(to: usize) -> (Mapping, Behind) {
    (Mapping::Linear { to: PhysAddr::from_usize(to) }, Behind::Linear(to))
}

fn is_device(page: &Page) -> bool {
    page.flags.contains(MappingFlags::DEVICE)
}

/// Whether stage 2 has these flags.
fn expressible(flags: MappingFlags) -> bool {
    flags.intersects(RWX)
        && !flags.contains(MappingFlags::USER)
        && !flags.contains(MappingFlags::DEVICE | MappingFlags::EXECUTE)
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

/// A border between pages: most of them near those of blocks.
fn border() -> impl Strategy<Value = usize> {
    let near = (0..=3_usize, 0..=6_usize).prop_map(|(block, near)| (block * BLOCK + near).saturating_sub(3).min(PAGES));
    prop_oneof![4 => near, 1 => 0..=PAGES]
}

fn page() -> impl Strategy<Value = usize> {
    border().prop_map(|border| border.min(PAGES - 1))
}

fn pages() -> impl Strategy<Value = Range<usize>> {
    let long = (border(), border()).prop_map(|(one, other)| one.min(other)..one.max(other).max(one.min(other) + 1));
    let short = (page(), 1..5_usize).prop_map(|(start, pages)| start..start + pages);
    prop_oneof![1 => long, 1 => short].prop_map(|pages| pages.start.min(PAGES - 1)..pages.end.min(PAGES))
}

/// The address of a word, from the window's start on.
fn word() -> impl Strategy<Value = usize> {
    (page(), proptest::sample::select(&OFFSETS[..])).prop_map(|(page, offset)| page * PAGE + offset)
}

/// Bytes that reach into a second page at most: where, from the window's start on, and how many.
fn bytes() -> impl Strategy<Value = (usize, usize)> {
    (page(), 0..PAGE, 1..PAGE).prop_map(|(page, offset, len)| {
        let at = page * PAGE + offset;
        (at, len.min(PAGES * PAGE - at))
    })
}

fn flags() -> impl Strategy<Value = MappingFlags> {
    prop_oneof![12 => proptest::sample::select(&FLAGS[..]), 1 => proptest::sample::select(&BAD_FLAGS[..])]
}

fn kinds() -> impl Strategy<Value = What> {
    let populate = prop_oneof![2 => Just(Populate::Lazy), 1 => Just(Populate::Now)];
    let leaf = prop_oneof![Just(LeafPolicy::Pages), Just(LeafPolicy::Largest)];
    prop_oneof![
        2 => prop_oneof![Just(0), Just(BLOCK), Just(1_usize)].prop_map(What::Linear),
        1 => Just(What::Device),
        5 => (populate, leaf).prop_map(|(populate, leaf)| What::Private(populate, leaf)),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let does = prop_oneof![Just(Does::Read), any::<u64>().prop_map(Does::Write), Just(Does::Execute)];
    let access = prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Execute)];
    let cause = prop_oneof![Just(Cause::Translation), Just(Cause::Permission), Just(Cause::AccessFlag)];
    let origin = prop_oneof![3 => Just(Origin::Instruction), 1 => Just(Origin::GuestWalk)];
    let written = (bytes(), any::<u64>()).prop_map(|((at, len), seed)| {
        let byte = |index: usize| (seed.rotate_left(index as u32 % 64) as u8).wrapping_add(index as u8);
        (at, (0..len).map(byte).collect())
    });
    prop_oneof![
        5 => (pages(), kinds(), flags()).prop_map(|(pages, kind, flags)| Op::Map(pages, kind, flags)),
        2 => pages().prop_map(Op::Unmap),
        3 => (pages(), flags()).prop_map(|(pages, flags)| Op::Protect(pages, flags)),
        2 => pages().prop_map(Op::Relocate),
        8 => (0..2_usize, word(), does).prop_map(|(cpu, at, does)| Op::Guest(cpu, at, does)),
        2 => (page(), access, cause, origin).prop_map(|(page, access, cause, origin)| {
            Op::Fault(page, access, cause, origin)
        }),
        1 => bytes().prop_map(|(at, len)| Op::Read(at, len)),
        1 => written.prop_map(|(at, bytes)| Op::Write(at, bytes)),
        1 => (word(), any::<u64>()).prop_map(|(at, value)| Op::Exchange(at, value)),
    ]
}

fn luck() -> impl Strategy<Value = Luck> {
    prop_oneof![
        5 => Just(Luck::Good),
        1 => (0..6_usize).prop_map(Luck::Bad),
        1 => (0..6_usize).prop_map(Luck::Once),
    ]
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
