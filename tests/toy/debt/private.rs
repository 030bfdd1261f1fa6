//! A region that is to become private while a mapping of it is still to be let go of.

use stage2::region::RegionError;

use super::*;

/// Where the mapping is that stays.
fn stays() -> GuestPhysRange {
    range(12 * LARGE, 4 * PAGE)
}

/// A space that has unmapped much, and at the end of it a mapping of a region, when a CPU could not be told. Another call has
/// finished that since: what is still to be freed counts as a mapping.
fn owing_a_mapping(board: &Board, region: &SharedRegion) -> Space {
    let space = board.space();
    space.map(range(0, 6 * LARGE), PAGES, RW).unwrap();
    space.map(range(6 * LARGE, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    space.write_obj(gpa(6 * LARGE), 7_u64).unwrap();
    unmap_unheard(board, &space, range(0, 7 * LARGE));
    space.map(ELSEWHERE, LAZY, RW).unwrap();
    assert!(space.usage().frames > 2 * MOST, "there is much more to be freed");
    space
}

/// Its own other mapping is in the way: it is let go of for the call.
#[test]
fn of_the_same_space_it_is_let_go_of_first() {
    let board = board();
    let maker = board.space();
    let region = maker.region(4 * PAGE).unwrap();
    let space = owing_a_mapping(&board, &region);
    space.map(stays(), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    drop(region);
    assert!(space.usage().frames > MOST, "it is owed still");
    space.make_private(stays(), Handover::Keep).unwrap();
    assert_eq!(space.read_obj::<u64>(stays().start), Ok(7));
    check(&space);
}

/// Another space pays what it owes in its own time.
#[test]
fn of_another_space_it_is_in_the_way_until_that_has_paid() {
    let board = board();
    let taker = board.space();
    let region = taker.region(4 * PAGE).unwrap();
    let owes = owing_a_mapping(&board, &region);
    taker.map(stays(), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    drop(region);
    let refused = Error::Region { range: stays(), cause: RegionError::InUse { mappings: 2, handles: 0 } };
    let refusal = taker.make_private(stays(), Handover::Keep).unwrap_err();
    assert!(
        matches!((&refusal, &refused), (Error::Region { cause: one, .. }, Error::Region { cause: two, .. }) if one == two)
    );
    assert_eq!(taker.read_obj::<u64>(stays().start), Ok(7));
    owes.unmap(ELSEWHERE).unwrap();
    while owes.usage().frames > 0 {
        owes.map(ELSEWHERE, LAZY, RW).unwrap();
        owes.unmap(ELSEWHERE).unwrap();
    }
    owes.map(ELSEWHERE, LAZY, RW).unwrap();
    taker.make_private(stays(), Handover::Keep).unwrap();
    assert_eq!((taker.read_obj::<u64>(stays().start), taker.usage().frames), (Ok(7), 1));
    check(&owes);
}
