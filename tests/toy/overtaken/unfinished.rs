//! What an operation could not finish, since a CPU could not be told, is finished by the next one. While that frees what
//! was removed it has no lock, and others may come in between.

use super::*;

/// A board with a CPU that can be deaf.
fn board() -> Board {
    Board::with(Reach::ThisCpu, Pieces::Any)
}

/// A page of a region, and three of the guest's own behind it.
fn guest(board: &Board) -> Arc<Space> {
    let space = space(board);
    let region = space.region(PAGE).unwrap();
    space.map(range(0, PAGE), shared(&region), RW).unwrap();
    space.map(range(PAGE, 3 * PAGE), PAGES, RW).unwrap();
    space.write_obj(gpa(0), 1_u64).unwrap();
    space
}

/// Unmaps a page while a CPU in the guest cannot be told.
fn unmap_unheard(board: &Board, space: &Space, at: usize) {
    space.enter(CpuId(3), VcpuId(3)).unwrap();
    board.deafen(Some(CpuId(3)));
    assert!(matches!(space.unmap(range(at, PAGE)), Err(Error::Invalidation { .. })));
}

fn hear(board: &Board, space: &Space) {
    space.leave(CpuId(3)).unwrap();
    board.deafen(None);
}

/// The region's page was removed, and no CPU could be told; now all can. While its frame is freed, something happens to
/// another space or to this one.
fn left_over(board: &Board, space: &Arc<Space>, meanwhile: impl FnOnce() + Send + 'static) {
    unmap_unheard(board, space, 0);
    hear(board, space);
    board.on_free(meanwhile);
}

/// Marks never nest: what the second operation left is finished too, before anything else is removed.
#[test]
fn by_another_operation_is_finished_too() {
    let board = board();
    let space = guest(&board);
    let unheard = board.clone();
    left_over(&board, &space, elsewhere(&space, move |space| unmap_unheard(&unheard, space, PAGE)));
    let refused = space.unmap(range(PAGE, 2 * PAGE));
    assert!(matches!(refused, Err(Error::Invalidation { .. })), "{refused:?}");
    assert_eq!(space.area(gpa(2 * PAGE)).unwrap().range, range(2 * PAGE, 2 * PAGE));
    hear(&board, &space);
    space.unmap(range(2 * PAGE, PAGE)).unwrap();
    assert_eq!((space.usage().frames, board.allocated()), (1, 1 + space.stats().table_frames));
}

/// What is frozen must not change.
#[test]
fn is_finished_and_nothing_more_in_a_space_that_was_put_to_rest() {
    let board = board();
    let space = guest(&board);
    left_over(&board, &space, elsewhere(&space, put_to_rest));
    assert_eq!(space.unmap(range(PAGE, PAGE)), Err(Error::Snapshotting(range(PAGE, 3 * PAGE))));
    assert_eq!(space.usage().frames, 3);
}

/// Gives two pages of the first space's own to the second.
fn donate(giver: &Space, taker: &Space) -> Result<(), Error> {
    giver.donate(range(2 * PAGE, 2 * PAGE), taker, gpa(LARGE), RW, Handover::Keep)
}

#[test]
fn by_either_side_is_finished_before_anything_is_given() {
    for unfinished in [0, 1] {
        let board = board();
        let spaces = [guest(&board), guest(&board)];
        let [giver, taker] = &spaces;
        unmap_unheard(&board, &spaces[unfinished], PAGE);
        let refused = donate(giver, taker);
        assert!(matches!(refused, Err(Error::Invalidation { .. })), "{refused:?}");
        hear(&board, &spaces[unfinished]);
        donate(giver, taker).unwrap();
        let tables = giver.stats().table_frames + taker.stats().table_frames;
        assert_eq!(giver.usage().frames + taker.usage().frames, 5);
        assert_eq!(board.allocated(), 2 + 5 + tables, "{unfinished}");
    }
}

/// While what one side has left is finished, the other side comes to have something left.
#[test]
fn by_the_other_side_meanwhile_is_finished_too() {
    for first in [0, 1] {
        let board = board();
        let spaces = [guest(&board), guest(&board)];
        let [giver, taker] = &spaces;
        let unheard = board.clone();
        left_over(
            &board,
            &spaces[first],
            elsewhere(&spaces[1 - first], move |other| {
                unmap_unheard(&unheard, other, PAGE);
            }),
        );
        let refused = donate(giver, taker);
        assert!(matches!(refused, Err(Error::Invalidation { .. })), "{refused:?}");
        assert_eq!(taker.area(gpa(LARGE)), None);
        hear(&board, &spaces[1 - first]);
        donate(giver, taker).unwrap();
        assert_eq!(giver.usage().frames + taker.usage().frames, 5, "{first}");
    }
}

#[test]
fn nothing_is_given_to_a_space_that_was_put_to_rest_meanwhile() {
    for first in [0, 1] {
        let board = board();
        let spaces = [guest(&board), guest(&board)];
        let [giver, taker] = &spaces;
        left_over(&board, &spaces[first], elsewhere(&spaces[1 - first], put_to_rest));
        assert_eq!(donate(giver, taker), Err(Error::Snapshotting(range(PAGE, 3 * PAGE))), "{first}");
        assert_eq!((taker.area(gpa(LARGE)), giver.usage().frames), (None, 3), "{first}");
    }
}
