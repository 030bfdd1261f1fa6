//! A fault that brings a page to a region, and what another CPU does before the page is there.

use std::sync::mpsc;

use stage2::{CpuId, GuestPhysRange, SharedRegion, loan::Handover};

use super::{
    eventful::{self, Eventful},
    *,
};

type Space = GuestSpace<Machine, Eventful>;

const FIRST: GuestPhysRange =
    GuestPhysRange { start: GuestPhysAddr::from_usize(0), end: GuestPhysAddr::from_usize(PAGE) };

fn space(board: &Board) -> Arc<Space> {
    Arc::new(GuestSpace::new(board.config()).unwrap())
}

fn touch(space: &Space, at: usize, access: Access) -> Outcome {
    let fault = Fault { gpa: gpa(at), access, cause: Cause::Translation, origin: Origin::Instruction };
    space.fault(CpuId(1), fault).expect("memory")
}

/// A space with two pages of a region that nothing else shows, the second of which is populated: no handle is left.
fn sole(board: &Board, mapping: fn(SharedRegion) -> Mapping) -> Arc<Space> {
    let space = space(board);
    let region = space.region(2 * PAGE).unwrap();
    region.writer().unwrap().write_obj(PAGE, 5_u64).unwrap();
    space.map(range(0, 2 * PAGE), mapping(region), RW).unwrap();
    assert_eq!(touch(&space, PAGE, Access::Read), Outcome::Resolved);
    space
}

fn shared(region: SharedRegion) -> Mapping {
    Mapping::Shared { region, offset: 0 }
}

fn inherited(region: SharedRegion) -> Mapping {
    region.freeze().unwrap();
    Mapping::CopyOnWrite { region, offset: 0 }
}

/// A read of page 0; `by` runs on another CPU while the page's frame is allocated.
fn overtaken(board: &Board, space: &Arc<Space>, by: impl FnOnce(&Space) + Send + 'static) -> Outcome {
    let elsewhere = space.clone();
    board.on_allocation(move || by(&elsewhere));
    touch(space, 0, Access::Read)
}

/// The frame would be the region's for as long as the rest of it is mapped, and no guest could reach it.
#[test]
fn a_page_that_became_private_is_not_brought_to_its_region() {
    let board = Board::new();
    let space = sole(&board, shared);
    let before = board.allocated();
    let outcome = overtaken(&board, &space, |space| space.make_private(FIRST, Handover::Keep).unwrap());
    assert_eq!((outcome, board.allocated()), (Outcome::Retry, before));
    assert_eq!(touch(&space, 0, Access::Read), Outcome::Resolved);
    assert_eq!((space.usage().frames, space.load::<u64>(gpa(PAGE))), (1, Ok(5)));
    space.unmap(range(0, 2 * PAGE)).unwrap();
    assert_eq!((board.allocated(), space.usage().frames), (space.stats().table_frames, 0));
}

#[test]
fn a_page_that_was_unmapped_is_not_brought_to_its_region() {
    for mapping in [shared, inherited] {
        let board = Board::new();
        let space = sole(&board, mapping);
        let before = board.allocated();
        let outcome = overtaken(&board, &space, |space| space.unmap(FIRST).unwrap());
        assert!(matches!(outcome, Outcome::NotMapped | Outcome::Retry), "{outcome:?}");
        assert_eq!(board.allocated(), before);
    }
}

/// Another CPU gives the guest a page of its own.
#[test]
fn a_page_that_the_guest_has_already_is_not_brought_again() {
    let board = Board::new();
    let space = sole(&board, inherited);
    let before = board.allocated();
    let outcome = overtaken(&board, &space, |space| {
        assert_eq!(touch(space, 0, Access::Read), Outcome::Resolved);
    });
    assert_eq!((outcome, board.allocated()), (Outcome::Retry, before + 1));
    assert_eq!((space.usage().frames, space.stats().shared_frames), (1, 1));
}

/// The snapshot was taken before the page came: it is the guest's own.
#[test]
fn a_page_that_comes_after_a_snapshot_is_the_guests_own() {
    let board = Board::new();
    let space = sole(&board, inherited);
    let before = board.allocated();
    let outcome = overtaken(&board, &space, |space| drop(space.snapshot().unwrap()));
    assert_eq!((outcome, board.allocated(), space.usage().frames), (Outcome::Resolved, before + 1, 1));
}

/// What `make_private` takes is what it has found: a page that came in between would be lost.
#[test]
fn no_page_comes_between_the_look_and_the_take() {
    let board = Board::new();
    let space = space(&board);
    let all = range(0, 2 * BLOCK);
    let region = space.region(2 * BLOCK).unwrap();
    // Not in the tables: that `make_private` maps it takes a table, after page 0 was looked at.
    region.writer().unwrap().write_obj(BLOCK, 5_u64).unwrap();
    space.map(all, Mapping::Shared { region, offset: 0 }, RW).unwrap();
    let (go, allocating) = mpsc::channel();
    let (come, looked) = mpsc::channel();
    let (arrive, at_the_lock) = mpsc::channel();
    board.on_allocation(move || {
        go.send(()).unwrap();
        looked.recv().unwrap();
        eventful::before_shared(move || arrive.send(()).unwrap());
    });
    std::thread::scope(|scope| {
        let fault = scope.spawn(|| touch(&space, 0, Access::Read));
        allocating.recv().unwrap();
        board.on_allocation(move || {
            come.send(()).unwrap();
            at_the_lock.recv().unwrap();
        });
        space.make_private(all, Handover::Keep).unwrap();
        assert_eq!(fault.join().unwrap(), Outcome::Retry);
    });
    assert_eq!((space.usage().frames, space.load::<u64>(gpa(BLOCK))), (1, Ok(5)));
    assert_eq!(board.allocated(), space.stats().table_frames + 1);
    space.unmap(all).unwrap();
    assert_eq!((board.allocated(), space.usage().frames), (space.stats().table_frames, 0));
}
