//! Regions that come from a source.

use stage2::loan::Handover;

use super::{
    super::eventful::{self, Eventful},
    *,
};

/// A region of eight pages from the source's first on.
fn region(board: &Board, room: usize) -> (SharedRegion, Arc<Script>, Pager) {
    let (script, pager) = pager(room);
    let region = board.space().region_from(8 * PAGE, &pager, 0).unwrap();
    (region, script, pager)
}

#[test]
fn are_asked_for_once_by_all_guests() {
    let board = Board::new();
    let (region, script, pager) = region(&board, 4);
    let (one, two) = (board.space(), board.space());
    one.map(range(0, 8 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    two.map(range(BLOCK, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: PAGE }, READ).unwrap();
    let ticket = waits(&one, 2 * PAGE, Access::Write);
    assert_eq!(waits(&two, BLOCK + PAGE, Access::Read), ticket);
    let not_yet = RegionError::NotYet { offset: 2 * PAGE, size: 4, ticket };
    assert_eq!(region.load::<u32>(2 * PAGE), Err(not_yet));
    let writer = region.writer().unwrap();
    assert_eq!(writer.store(2 * PAGE, 1_u32), Err(not_yet));
    // Others may still want it.
    one.unmap(range(0, 8 * PAGE)).unwrap();
    assert_eq!((pager.state(ticket), script.asked()), (Waiting::NotYet, vec![2]));
    pager.complete(ticket, Ok(&page(2 * PAGE))).unwrap();
    assert_eq!(fault(&two, BLOCK + PAGE, Access::Read), Outcome::Resolved);
    writer.store(2 * PAGE + 8, 5_u64).unwrap();
    assert_eq!(two.read_obj(gpa(BLOCK + PAGE)), Ok([content(2 * PAGE), 5_u64]));
    assert_eq!((region.frames(), two.stats().shared_frames), (1, 1));
}

#[test]
fn the_last_one_out_cancels() {
    let board = Board::new();
    let (region, script, _) = region(&board, 4);
    let (one, two) = (board.space(), board.space());
    for space in [&one, &two] {
        space.map(range(0, 8 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    }
    waits(&one, 0, Access::Read);
    waits(&two, PAGE, Access::Read);
    drop(region);
    one.unmap(range(0, 8 * PAGE)).unwrap();
    assert_eq!(script.settled(), []);
    // The one that is left has only this part.
    two.unmap(range(0, PAGE)).unwrap();
    assert_eq!(script.settled(), [(0, Settled::Cancelled)]);
    two.unmap(range(2 * PAGE, PAGE)).unwrap();
    assert_eq!(script.settled(), []);
    drop(two);
    assert_eq!(script.settled(), [(1, Settled::Cancelled)]);
    assert_eq!(one.stats().table_frames, board.allocated());
}

#[test]
fn what_becomes_private_must_have_come() {
    let board = Board::new();
    let (region, script, pager) = region(&board, 4);
    let space = board.space();
    space.map(range(0, 4 * PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
    let rest = waits(&space, 3 * PAGE, Access::Read);
    for at in [0, PAGE] {
        let private = space.make_private(range(0, 2 * PAGE), Handover::Keep);
        let Err(Error::NotYet { range: missing, ticket }) = private else { panic!("{private:?}") };
        assert_eq!((missing, ticket.offset()), (range(at, PAGE), at));
        pager.complete(ticket, Ok(&page(at))).unwrap();
    }
    assert_eq!(space.make_private(range(0, 2 * PAGE), Handover::Keep), Ok(()));
    assert_eq!((space.load(gpa(0)), space.load(gpa(PAGE))), (Ok(content(0)), Ok(content(PAGE))));
    assert_eq!((space.stats().owned_frames, pager.state(rest)), (2, Waiting::NotYet));
    script.settled();
    space.unmap(range(0, 4 * PAGE)).unwrap();
    assert_eq!((script.settled(), board.allocated()), (vec![(3, Settled::Cancelled)], space.usage().table_frames));
}

/// Pages that the limit refuses as a whole were brought first.
#[test]
fn what_may_not_become_private_is_not_asked_for() {
    let board = Board::new();
    let (region, script, _) = region(&board, 4);
    script.answers(Supply::Ready);
    let space = board.space();
    space.map(range(0, 4 * PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
    space.map(range(4 * PAGE, PAGE), LAZY, RW).unwrap();
    drop(space.make_shared(range(4 * PAGE, PAGE)).unwrap());
    space.write_obj(gpa(4 * PAGE), 1_u64).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    let before = (space.to_string(), space.stats(), board.allocated());
    script.asked();
    space.set_limits(stage2::Limits { frames: Some(4), ..stage2::Limits::default() });
    let refused = space.make_private(range(0, 5 * PAGE), Handover::Keep);
    assert!(matches!(refused, Err(Error::Limit { limit: 4, .. })), "{refused:?}");
    assert_eq!((script.asked(), (space.to_string(), space.stats(), board.allocated())), (vec![], before));
    space.set_limits(stage2::Limits { frames: Some(5), ..stage2::Limits::default() });
    space.make_private(range(0, 5 * PAGE), Handover::Keep).unwrap();
    assert_eq!((script.asked(), space.usage().frames), (vec![1, 2, 3], 5));
}

/// What a CPU was not told of holds the neighbours' table: a page that comes there is never seen, and was waited for without
/// an end.
#[test]
fn what_is_left_over_is_finished_before_a_page_is_asked_for() {
    let board = Board::with(Reach::ThisCpu, Pieces::Any);
    let (script, pager) = pager(2);
    let space = GuestSpace::<Machine, Eventful>::new(board.config()).unwrap();
    let region = space.region_from(2 * PAGE, &pager, 0).unwrap();
    space.map(range(0, 2 * PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
    script.answers(Supply::Ready);
    assert_eq!(space.load(gpa(0)), Ok(content(0)));
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.unmap(range(0, PAGE)), Err(Error::Invalidation { .. })));
    script.asked();
    // Once is enough: it would look again and again.
    eventful::after_shared_number(1000, || panic!("there is no end of it"));
    let left_over = space.make_private(range(PAGE, PAGE), Handover::Keep);
    assert!(matches!(left_over, Err(Error::Invalidation { .. })), "{left_over:?}");
    assert_eq!(script.asked(), []);
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
    space.make_private(range(PAGE, PAGE), Handover::Keep).unwrap();
    assert_eq!((script.asked(), space.load(gpa(PAGE))), (vec![1], Ok(content(PAGE))));
    assert_eq!(space.usage().frames, 1);
}

#[test]
fn a_frozen_one_is_asked_and_then_copied() {
    let board = Board::new();
    let (region, script, pager) = region(&board, 4);
    region.freeze().unwrap();
    let space = board.space();
    space.map(range(0, 8 * PAGE), Mapping::CopyOnWrite { region: region.clone(), offset: 0 }, RW).unwrap();
    let ticket = waits(&space, 0, Access::Write);
    assert_eq!(space.store(gpa(0), 2_u8), Err(Error::NotYet { range: range(0, 1), ticket }));
    pager.complete(ticket, Ok(&page(0))).unwrap();
    assert_eq!(fault(&space, 0, Access::Write), Outcome::Resolved);
    space.store(gpa(8), 2_u64).unwrap();
    assert_eq!(space.read_obj(gpa(0)), Ok([content(0), 2_u64]));
    assert_eq!(region.read_obj(0), Ok([content(0), 0_u64]));
    script.answers(Supply::Ready);
    assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Resolved);
    assert_eq!(fault(&space, 2 * PAGE, Access::Read), Outcome::Resolved);
    // While there is a handle, a read shares.
    assert_eq!([PAGE, 2 * PAGE].map(|at| space.translate(gpa(at)).unwrap().flags), [RW, READ]);
    assert_eq!((region.frames(), script.asked()), (3, vec![0, 1, 2]));
}

#[test]
fn a_failure_is_an_error_with_what_is_left() {
    let board = Board::new();
    let (region, script, _) = region(&board, 4);
    script.answers(Supply::Ready);
    let mut bytes = [0; 2 * PAGE];
    region.read(0, &mut bytes[..1]).unwrap();
    script.answers(Supply::Failed);
    let Err(RegionError::SourceFailed { offset, size, ticket }) = region.read(8, &mut bytes) else { panic!() };
    assert_eq!((offset, size, ticket.offset()), (PAGE, PAGE + 8, PAGE));
}
