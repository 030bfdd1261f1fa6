//! Regions on a board whose CPUs may be deaf: what is let go, and when.

use stage2::{format::Owner, region::RegionError};

use super::*;

fn permission(space: &GuestSpace<Machine>, at: usize) -> Result<Outcome, Error> {
    let fault = Fault { gpa: gpa(at), access: Access::Write, cause: Cause::Permission, origin: Origin::Instruction };
    space.fault(CpuId(0), fault)
}

/// A space that inherits two pages, the first of which it has read, and CPU 3, which is in its guest and deaf.
fn inherited(board: &Board) -> (GuestSpace<Machine>, stage2::SharedRegion) {
    let space = board.space();
    let region = space.region(2 * PAGE).unwrap();
    region.writer().unwrap().write_obj(0, 7_u64).unwrap();
    region.freeze().unwrap();
    space.map(range(0, 2 * PAGE), Mapping::CopyOnWrite { region: region.clone(), offset: 0 }, RW).unwrap();
    assert_eq!(fault(&space, 0, Access::Read), Outcome::Resolved);
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    (space, region)
}

#[test]
fn the_last_one_out_frees_after_the_invalidation() {
    let board = Board::new();
    let space = board.space();
    let region = space.region(PAGE).unwrap();
    space.map(range(0, PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    let at = space.translate(gpa(0)).unwrap().hpa;
    board.events();
    space.unmap(range(0, PAGE)).unwrap();
    let events = board.events();
    let place = |wanted: &dyn Fn(&Event) -> bool| events.iter().position(wanted);
    let invalidated = place(&|event| matches!(event, Event::Invalidated(_))).expect("an invalidation");
    assert!(place(&|event| *event == Event::Freed(at, 1)).expect("the frame is free") > invalidated);
}

/// The areas that went were dropped with the error, and with them the frames that a CPU still reached.
#[test]
fn an_invalidation_that_fails_keeps_the_last_reference() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    let region = space.region(PAGE).unwrap();
    space.map(range(0, PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    let at = space.translate(gpa(0)).unwrap().hpa;
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    board.events();
    assert!(matches!(space.unmap(range(0, PAGE)), Err(Error::Invalidation { .. })));
    assert!(!board.events().contains(&Event::Freed(at, 1)), "a CPU still reaches it");
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    assert!(board.events().contains(&Event::Freed(at, 1)), "no CPU reaches it any more");
}

#[test]
fn leave_to_write_ends_with_the_invalidation() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    let region = space.region(2 * PAGE).unwrap();
    space.map(range(0, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.protect(range(0, 2 * PAGE), READ), Err(Error::Invalidation { .. })));
    assert_eq!(region.freeze(), Err(RegionError::Written { mapped: 2 * PAGE, handles: 0 }));
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    space.map(range(BLOCK, PAGE), LAZY, RW).unwrap();
    assert_eq!(region.freeze(), Ok(()));
}

/// H26: the CPU that broke a page makes it again, also when a CPU cannot be told.
#[test]
fn a_copy_that_a_cpu_cannot_be_told_of_leaves_the_page_as_it_was() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let (space, region) = inherited(&board);
    let (before, allocated) = (space.translate(gpa(0)), board.allocated());
    for _ in 0..2 {
        assert!(matches!(permission(&space, 0), Err(Error::Invalidation { .. })));
        assert!(matches!(space.store(gpa(0), 1_u64), Err(Error::Invalidation { .. })));
        assert_eq!((space.translate(gpa(0)), board.allocated()), (before, allocated));
    }
    // No CPU can have cached an absent entry, so that none need be told.
    assert_eq!(space.store(gpa(PAGE), 2_u64), Ok(()));
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    assert_eq!(permission(&space, 0), Ok(Outcome::Resolved));
    assert_ne!(space.translate(gpa(0)).unwrap().hpa, before.unwrap().hpa);
    assert_eq!((space.load::<u64>(gpa(0)), region.load::<u64>(0)), (Ok(7), Ok(7)));
}

/// Without an invalidation of the page, a CPU that remembers the denial would fault for ever (H3).
#[test]
fn a_page_that_is_taken_is_not_invalidated_but_its_denial_is_forgotten() {
    let board = Board::new();
    let (space, region) = inherited(&board);
    let before = space.translate(gpa(0)).unwrap().hpa;
    drop(region);
    board.events();
    assert_eq!(permission(&space, 0), Ok(Outcome::Resolved));
    let after = space.translate(gpa(0)).unwrap();
    assert_eq!((after.hpa, after.flags), (before, RW));
    let events = board.events();
    assert!(events.contains(&Event::DenialForgotten(gpa(0))));
    assert!(!events.iter().any(|event| matches!(event, Event::Invalidated(_))), "{events:?}");
}

/// A frozen page of a block must not become writable by what splits the block.
#[test]
fn a_frozen_leaf_never_allows_writing() {
    for flags in [RW, RWX, READ] {
        assert!(!Owner::Frozen.limit(flags).contains(MappingFlags::WRITE));
        assert_eq!(Owner::Shared.limit(flags), flags);
    }
    let space = Board::new().space();
    space.map(range(0, LARGE), BLOCKS, RWX).unwrap();
    let snapshot = space.snapshot().unwrap();
    space.protect(range(BLOCK + PAGE, BLOCK), READ).unwrap();
    space.protect(range(0, LARGE), RW).unwrap();
    let mut leaves = 0;
    space
        .walk(range(0, LARGE), |leaf| {
            assert_eq!(leaf.flags, READ, "{leaf:?}");
            leaves += 1;
        })
        .unwrap();
    assert!(leaves > 60, "nothing was split");
    space.store(gpa(5 * PAGE), 1_u8).unwrap();
    assert_eq!(space.translate(gpa(5 * PAGE)).unwrap().flags, RW);
    assert_eq!(snapshot.region().load::<u8>(5 * PAGE), Ok(0));
}

/// The tables say frozen, a CPU may still write: there is no snapshot, and nothing is lost.
#[test]
fn a_snapshot_that_a_cpu_cannot_be_told_of_is_none() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let space = board.space();
    let empty = board.allocated();
    space.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.snapshot(), Err(Error::Invalidation { .. })));
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    let allocated = board.allocated();
    assert_eq!(permission(&space, PAGE), Ok(Outcome::Resolved));
    assert_eq!(board.allocated(), allocated, "the only space that has it takes it");
    let snapshot = space.snapshot().unwrap();
    assert_eq!((snapshot.region().size(), space.stats().owned_frames), (4 * PAGE, 0));
    drop(snapshot);
    space.unmap(range(0, 4 * PAGE)).unwrap();
    assert_eq!(board.allocated(), empty);
}

/// H24: its frames would go with the areas.
#[test]
fn a_space_that_is_dropped_while_a_cpu_is_in_it_keeps_its_regions() {
    let board = Board::new();
    let space = board.space();
    let region = space.region(PAGE).unwrap();
    space.map(range(0, PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    let allocated = board.allocated();
    space.enter(CpuId(1), VcpuId(0)).unwrap();
    drop(space);
    assert_eq!(board.allocated(), allocated);
}
