//! Snapshots of memory that has not come yet.

use super::*;

#[test]
fn have_the_source_behind_them() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 4);
    script.answers(Supply::Ready);
    space.store(gpa(0), 1_u64).unwrap();
    script.answers(Supply::Later);
    let pending = waits(&space, PAGE, Access::Write);
    script.asked();
    let snapshot = space.snapshot().unwrap();
    // A pending page stays pending, and comes to the region that has the memory now.
    assert_eq!((pager.state(pending), waits(&space, PAGE, Access::Read)), (Waiting::NotYet, pending));
    let fork = board.space();
    fork.restore(&snapshot).unwrap();
    assert_eq!(waits(&fork, PAGE, Access::Write), pending);
    assert!(script.asked().is_empty());
    pager.complete(pending, Ok(&page(5 * PAGE))).unwrap();
    for space in [&space, &fork] {
        assert_eq!((space.load(gpa(0)), space.load(gpa(PAGE))), (Ok(1_u64), Ok(content(5 * PAGE))));
        space.store(gpa(PAGE), 3_u64).unwrap();
    }
    // A page that was not touched is asked for once, for both guests, and is never zeros.
    let ticket = waits(&fork, 2 * PAGE, Access::Write);
    assert_eq!(waits(&space, 2 * PAGE, Access::Read), ticket);
    let region = snapshot.region();
    let not_yet = RegionError::NotYet { offset: 2 * PAGE, size: 8, ticket };
    assert_eq!(region.load::<u64>(2 * PAGE), Err(not_yet));
    pager.complete(ticket, Ok(&page(6 * PAGE))).unwrap();
    assert_eq!(fault(&fork, 2 * PAGE, Access::Write), Outcome::Resolved);
    fork.store(gpa(2 * PAGE), 2_u64).unwrap();
    assert_eq!((space.load(gpa(2 * PAGE)), region.load(2 * PAGE)), (Ok(content(6 * PAGE)), Ok(content(6 * PAGE))));
    assert_eq!(region.load(PAGE), Ok(content(5 * PAGE)));
    assert_eq!(script.asked(), [6]);
    let last = waits(&fork, 7 * PAGE, Access::Read);
    drop((space, snapshot));
    assert_eq!(pager.state(last), Waiting::NotYet);
    script.settled();
    drop(fork);
    assert_eq!((script.settled(), board.allocated()), (vec![(11, Settled::Cancelled)], 0));
}
