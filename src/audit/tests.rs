//! What only a fault of the crate's own could bring: each is found, in words. What a word of a table can say wrong is
//! found in `tests/toy/audit.rs`.
#![allow(unsafe_code, reason = "an allocator of host frames, and spaces that are lost where a test fails")]

use core::{mem::ManuallyDrop, ops::Deref, ptr::NonNull};
use std::{
    alloc::{Layout, alloc, dealloc},
    string::ToString,
    vec::Vec,
};

use memory_addr::{PAGE_SIZE_4K as PAGE, PhysAddr};
use page_table_multiarch::MappingFlags;

use super::*;
use crate::{
    account::{Limits, Resource},
    addr::GuestPhysAddr,
    arch::aarch64::{Capabilities, IdRegisters, Stage2, Vmid},
    backend::{Backend, Mapping, Populate},
    cpu_id::CpuId,
    format::{Format, LeafPolicy},
    frame::Frames,
    invalidate::{Content, Invalidate, Reach, Scope, Unreachable},
    loan::Loan,
    region::{Region, SharedRegion},
    set::MemoryArea,
    space::Config,
};

const READ: MappingFlags = MappingFlags::READ;
const RW: MappingFlags = READ.union(MappingFlags::WRITE);
const PAGES: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };

/// The heap, where a physical address is a pointer.
#[derive(Clone)]
struct Heap;

fn layout(count: usize) -> Layout {
    Layout::from_size_align(count * PAGE, (count * PAGE).next_power_of_two()).expect("a size")
}

// SAFETY: the heap gives memory to one owner at a time, and a physical address is its pointer.
unsafe impl Frames for Heap {
    fn allocate(&self, count: usize, _align: usize) -> Option<PhysAddr> {
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc(layout(count)) })?;
        Some(PhysAddr::from_usize(memory.as_ptr().expose_provenance()))
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        // SAFETY: the caller gives back, whole, what `allocate` gave.
        unsafe { dealloc(self.pointer(at).as_ptr(), layout(count)) }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(at.as_usize())).expect("the heap is not at 0")
    }
}

/// CPUs that remember nothing.
#[derive(Clone)]
struct Nothing;

impl<R> Invalidate<R> for Nothing {
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

struct Host;

impl Platform for Host {
    type Format = Stage2;
    type Frames = Heap;
    type Invalidate = Nothing;
}

/// A space that is lost where a test fails: what is damaged may panic once more where it goes, which would end the
/// process.
struct Space(ManuallyDrop<GuestSpace<Host>>);

impl Deref for Space {
    type Target = GuestSpace<Host>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: it is dropped here, once.
            unsafe { ManuallyDrop::drop(&mut self.0) }
        }
    }
}

fn space() -> Space {
    let capabilities = Capabilities::from_registers(IdRegisters { mmfr0: 0x5, ..IdRegisters::default() });
    let format = Stage2::new(&capabilities, 40, Vmid(1)).expect("40 bits");
    let config = Config { format, frames: Heap, invalidate: Nothing, cpus: 1, limits: Limits::default() };
    Space(ManuallyDrop::new(GuestSpace::new(config).expect("memory")))
}

/// Some pages from one on.
fn pages(first: usize, count: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size((first * PAGE).into(), count * PAGE)
}

fn found(spaces: &[&Space], meanwhile: Meanwhile) -> Vec<Finding> {
    audit(spaces.iter().map(|space| &***space), meanwhile).expect("memory").findings().to_vec()
}

fn at_rest(space: &Space) -> Vec<Finding> {
    found(&[space], Meanwhile::Nothing)
}

fn finding(range: GuestPhysRange, what: Disagreement) -> Finding {
    Finding { space: 0, range, what }
}

#[test]
fn areas_that_are_no_ranges_of_pages_are_found() {
    let space = space();
    let past = GuestPhysRange::from_start_size((1 << 40).into(), PAGE);
    let crooked = GuestPhysRange::from_start_size(0x1800.into(), PAGE);
    for range in [crooked, past] {
        let area = MemoryArea::new(range.start, range.size(), RW, Backend::Private(LeafPolicy::Pages));
        space.damage(|areas, _| areas.insert(area)).expect("room");
        assert_eq!(at_rest(&space), [finding(range, Disagreement::BadArea)]);
        space.damage(|areas, _| areas.pop());
    }
    assert_eq!(at_rest(&space), []);
}

#[test]
fn neighbours_that_should_be_one_area_are_found() {
    let space = space();
    for first in [0, 2] {
        let range = pages(first, 2);
        let area = MemoryArea::new(range.start, range.size(), RW, Backend::Private(LeafPolicy::Pages));
        space.damage(|areas, _| areas.insert(area)).expect("room");
    }
    let split = finding(pages(2, 2), Disagreement::AreaSplit);
    assert_eq!(at_rest(&space), [split]);
    let words = "space 0, GPA:0x2000..GPA:0x4000: the area and its neighbour before it agree in all and are not one";
    assert_eq!(split.to_string(), words);
}

#[test]
fn areas_out_of_order_and_areas_that_no_search_finds_are_found() {
    let space = space();
    space.map(pages(0, 4), PAGES, RW).expect("memory");
    space.map(pages(8, 4), PAGES, READ).expect("memory");
    let before = space.damage(|areas, _| areas.displace(1, pages(3, 9)));
    let found = at_rest(&space);
    assert!(found.contains(&finding(pages(3, 9), Disagreement::AreaOrder)), "{found:?}");
    // What is behind the end that the search knows.
    space.damage(|areas, _| areas.displace(1, pages(8, 6)));
    let found = at_rest(&space);
    assert_eq!(found, [finding(pages(8, 6), Disagreement::AreaLost)]);
    space.damage(|areas, _| areas.displace(1, before));
    assert_eq!(at_rest(&space), []);
}

#[test]
fn frames_and_tables_on_the_wrong_account_are_found() {
    let space = space();
    space.map(pages(0, 4), PAGES, RW).expect("memory");
    for (what, counted) in [(Resource::Frames, 4), (Resource::TableFrames, space.usage().table_frames)] {
        space.hold_to_audit().account(what).give_back(1);
        let everything = space.hold_to_audit().context().everything();
        let less = finding(everything, Disagreement::Account { what, counted: counted - 1, found: counted });
        assert_eq!(found(&[&space], Meanwhile::Anything), [less]);
        space.hold_to_audit().account(what).charge(2).expect("no limit").keep();
        let more = finding(everything, Disagreement::Account { what, counted: counted + 1, found: counted });
        assert_eq!(at_rest(&space), [more]);
        assert_eq!(found(&[&space], Meanwhile::Anything), [], "it may wait to be freed");
        space.hold_to_audit().account(what).give_back(1);
    }
    assert_eq!(at_rest(&space), []);
}

#[test]
fn areas_that_are_not_counted_are_found() {
    let space = space();
    space.map(pages(0, 4), PAGES, RW).expect("memory");
    let everything = space.hold_to_audit().context().everything();
    for counted in [0, 2] {
        space.miscount_areas(counted);
        let found = finding(everything, Disagreement::Account { what: Resource::Areas, counted, found: 1 });
        assert_eq!(at_rest(&space), [found]);
        // What gave the lock up has counted them.
        assert_eq!((space.usage().areas, at_rest(&space)), (1, Vec::new()));
        space.miscount_areas(counted);
        assert_eq!(self::found(&[&space], Meanwhile::Anything), [found], "no area comes without the lock");
    }
}

/// A region of four pages, of which a space shows the middle two from page 8 on.
fn shared() -> (Space, SharedRegion) {
    let space = space();
    let region = space.region(4 * PAGE).expect("memory");
    space.map(pages(8, 2), Mapping::Shared { region: region.clone(), offset: PAGE }, RW).expect("memory");
    (space, region)
}

fn inner(region: &SharedRegion) -> &dyn Region {
    &**region.region()
}

#[test]
fn a_regions_count_of_its_mappings_is_held_against_them() {
    let (space, region) = shared();
    inner(&region).close_window();
    assert_eq!(at_rest(&space), [finding(pages(8, 2), Disagreement::Mappings { counted: 0, found: 1 })]);
    inner(&region).open_window();
    // Another space's, which is not looked at.
    inner(&region).open_window();
    assert_eq!(at_rest(&space), []);
    inner(&region).close_window();
}

#[test]
fn a_regions_count_of_who_shows_a_page_is_held_against_them() {
    let (space, region) = shared();
    let shown = |page, counted, found| finding(pages(8, 2), Disagreement::Shown { page, counted, found });
    inner(&region).hide(2..3);
    assert_eq!(found(&[&space], Meanwhile::Anything), [shown(2, 0, 1)]);
    inner(&region).show(2..4).expect("memory");
    assert_eq!(at_rest(&space), [shown(3, 1, 0)], "no other mapping is left that could");
    assert_eq!(found(&[&space], Meanwhile::Anything), []);
    inner(&region).hide(3..4);
    assert_eq!(at_rest(&space), []);
    // Two mappings, one of which overlaps the other.
    let other = self::space();
    other.map(pages(0, 3), Mapping::Shared { region: region.clone(), offset: 0 }, READ).expect("memory");
    assert_eq!(found(&[&other, &space], Meanwhile::Nothing), []);
    inner(&region).hide(1..2);
    let shown = Disagreement::Shown { page: 1, counted: 1, found: 2 };
    assert_eq!(found(&[&other, &space], Meanwhile::Nothing), [finding(pages(0, 3), shown)]);
    inner(&region).show(1..2).expect("memory");
}

#[test]
fn a_regions_count_of_writable_pages_is_held_against_them() {
    let (space, region) = shared();
    let writable = |counted| finding(pages(8, 2), Disagreement::Writable { counted, found: 2 });
    inner(&region).revoke(1);
    assert_eq!(found(&[&space], Meanwhile::Anything), [writable(1)]);
    inner(&region).grant(2).expect("it is open");
    assert_eq!(at_rest(&space), [writable(3)]);
    inner(&region).revoke(3);
    region.freeze().expect("nothing writes it, by its count");
    let frozen = finding(pages(8, 2), Disagreement::FrozenWritable { pages: 2 });
    assert_eq!(at_rest(&space), [writable(0), frozen]);
    core::mem::forget((space, region));
}

/// Two pages of the first space, from page 0 on, that the second has from page 16 on.
fn lent() -> (Space, Space, Loan) {
    let (lender, borrower) = (space(), space());
    lender.map(pages(0, 4), PAGES, RW).expect("memory");
    let loan = lender.share(pages(0, 2), &borrower, (16 * PAGE).into(), RW).expect("memory");
    (lender, borrower, loan)
}

#[test]
fn a_loans_count_of_what_is_borrowed_is_held_against_the_borrower() {
    let (lender, borrower, loan) = lent();
    assert_eq!(found(&[&borrower, &lender], Meanwhile::Nothing), []);
    loan.terms().give_back(pages(16, 1));
    let less = finding(pages(16, 2), Disagreement::Borrowed { counted: PAGE, found: 2 * PAGE });
    assert_eq!(found(&[&borrower, &lender], Meanwhile::Nothing), [less]);
    assert_eq!(at_rest(&lender), [], "the borrower is not looked at");
    // Who has the page is counted wrong for good.
    core::mem::forget((lender, borrower, loan));
}

#[test]
fn loans_that_are_noted_twice_or_shown_elsewhere_are_found() {
    let (lender, borrower, loan) = lent();
    lender.damage(|_, loans| {
        loans.reserve().expect("memory");
        loans.add(loan.clone());
    });
    assert!(at_rest(&lender).contains(&finding(pages(0, 2), Disagreement::LoanOrder)));
    lender.damage(|_, loans| {
        let _ = loans.take(&loan, pages(0, 2));
    });
    let range = pages(18, 1);
    let area = MemoryArea::new(range.start, range.size(), READ, Backend::Borrowed(loan.clone()));
    borrower.damage(|areas, _| areas.insert(area)).expect("room");
    assert!(at_rest(&borrower).contains(&finding(range, Disagreement::BeyondLoan)));
    borrower.damage(|areas, _| areas.pop());
    assert_eq!(found(&[&lender, &borrower], Meanwhile::Nothing), []);
}

#[test]
fn pages_that_are_inherited_where_no_area_inherits_are_found() {
    let space = space();
    space.map(pages(0, 2), PAGES, RW).expect("memory");
    let snapshot = space.snapshot().expect("memory");
    let area = space.damage(|areas, _| areas.pop()).expect("an area");
    let found = at_rest(&space);
    let at = |finding: &Finding| matches!(finding.what, Disagreement::InheritedWithoutArea(_)).then_some(finding.range);
    assert_eq!(found.iter().filter_map(at).collect::<Vec<_>>(), [pages(0, 1), pages(1, 1)]);
    space.damage(|areas, _| areas.insert(area)).expect("room");
    assert_eq!(at_rest(&space), []);
    drop(snapshot);
}

/// The format is a real one, whose entries decode whatever their words are.
#[test]
fn the_tables_of_a_real_format_are_read() {
    let space = space();
    space.map(pages(0, 1024), PAGES, RW).expect("memory");
    space.map(pages(1 << 18, 1 << 18), Mapping::Linear { to: PhysAddr::from_usize(0) }, RW).expect("memory");
    assert!(space.hold_to_audit().context().format.maps(crate::addr::Level(1)));
    assert_eq!(at_rest(&space), []);
}
