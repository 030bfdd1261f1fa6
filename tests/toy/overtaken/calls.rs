//! Calls that look first, and change the map later.

use super::*;

/// A space with two pages of a region that nothing else shows.
fn sole(board: &Board) -> Arc<Space> {
    let space = space(board);
    let region = space.region(2 * PAGE).unwrap();
    space.map(range(0, 2 * PAGE), shared(&region), RW).unwrap();
    drop(region);
    space.write_obj(gpa(0), 1_u64).unwrap();
    space
}

/// Memory that a handle still shows to others would be freed under them, or be one guest's.
#[test]
fn make_nothing_private_that_others_have_by_then() {
    // The last look at what is missing takes the lock for the first time, and the conversion for the second.
    for number in 1..=2 {
        let board = Board::new();
        let space = sole(&board);
        let region = space.region(2 * PAGE).unwrap();
        let mapping = shared(&region);
        eventful::before_exclusive_number(
            number,
            elsewhere(&space, |space| {
                space.unmap(range(0, 2 * PAGE)).unwrap();
                space.map(range(0, 2 * PAGE), mapping, RW).unwrap();
                space.write_obj(gpa(0), 5_u64).unwrap();
            }),
        );
        let in_use = RegionError::InUse { mappings: 1, handles: 1 };
        let refused = Err(Error::Region { range: range(0, 2 * PAGE), cause: in_use });
        assert_eq!(space.make_private(range(0, 2 * PAGE), Handover::Zero), refused, "{number}");
        assert_eq!((region.read_obj(0), space.usage().frames), (Ok(5_u64), 0), "{number}");
    }
}

/// What is the guest's own by then is not zeroed.
#[test]
fn make_nothing_private_that_is_private_by_then() {
    for number in 1..=2 {
        let board = Board::new();
        let space = sole(&board);
        eventful::before_exclusive_number(
            number,
            elsewhere(&space, |space| {
                space.make_private(range(0, 2 * PAGE), Handover::Keep).unwrap();
            }),
        );
        let refused = space.make_private(range(0, 2 * PAGE), Handover::Zero);
        assert!(matches!(refused, Err(Error::State { .. })), "{number}: {refused:?}");
        assert_eq!((space.load(gpa(0)), space.usage().frames), (Ok(1_u64), 1), "{number}");
    }
}

/// There are no frames for a block, and what is split for its pages' sake has to be the guest's own still.
#[test]
fn split_no_block_to_move_it_that_was_frozen() {
    let board = Board::new();
    let space = space(&board);
    space.map(range(0, BLOCK), BLOCKS, RW).unwrap();
    board.fragment(Some(1));
    let (keep, kept) = std::sync::mpsc::channel();
    board.on_allocation(elsewhere(&space, move |space| keep.send(space.snapshot().unwrap()).unwrap()));
    assert_eq!(space.relocate(range(0, BLOCK)), Ok(0));
    kept.try_recv().expect("a snapshot was taken");
    assert_eq!(space.stats().leaves[..2], [0, 1]);
}

/// The large block is in pieces by then, for each of which there are frames.
#[test]
fn split_no_piece_of_a_block_to_move_it_that_can_be_moved_whole() {
    let board = Board::new();
    let space = space(&board);
    space.map(range(0, LARGE), BLOCKS, RW).unwrap();
    assert_eq!(space.stats().leaves[..3], [0, 0, 1]);
    board.fragment(Some(BLOCK / PAGE));
    board.on_allocation(elsewhere(&space, |space| space.protect(range(LARGE - PAGE, PAGE), READ).unwrap()));
    assert_eq!(space.relocate(range(0, LARGE)), Ok(LARGE / PAGE));
    assert_eq!(space.stats().leaves[..3], [32, 31, 0]);
}

/// A leaf that others see too stays where it is.
#[test]
fn move_no_leaf_that_is_on_loan_by_then() {
    let board = Board::new();
    let (space, borrower) = (space(&board), space(&board));
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    let at = space.translate(gpa(0)).unwrap().hpa;
    let other = Arc::clone(&borrower);
    board.on_allocation(elsewhere(&space, move |space| {
        space.share(range(0, PAGE), &other, gpa(0), RW).unwrap();
    }));
    assert_eq!(space.relocate(range(0, PAGE)), Ok(0));
    assert_eq!([&space, &borrower].map(|space| space.translate(gpa(0)).unwrap().hpa), [at; 2]);
}

/// The table that a mapping was built for went with its last page.
#[test]
fn map_where_the_table_that_was_there_went() {
    let board = Board::new();
    let space = space(&board);
    space.map(range(0, PAGE), PAGES, RW).unwrap();
    board.on_allocation(elsewhere(&space, |space| space.unmap(range(0, PAGE)).unwrap()));
    space.map(range(PAGE, PAGE), PAGES, RW).unwrap();
    assert_eq!((space.load(gpa(PAGE)), space.usage().frames), (Ok(0_u64), 1));
    assert_eq!(board.allocated(), 1 + space.stats().table_frames);
}

#[test]
fn map_nothing_over_an_area_that_came() {
    for there in [PAGE, 3 * BLOCK] {
        let board = Board::new();
        let space = space(&board);
        space.map(range(there, PAGE), PAGES, RW).unwrap();
        let before = board.allocated();
        let log = board.clone();
        board.on_allocation(elsewhere(&space, move |space| {
            // The table for the mapping goes, or stays; another area is in its way.
            space.unmap(range(there, PAGE)).unwrap();
            space.map(range(2 * PAGE, PAGE), LAZY, RW).unwrap();
            log.events();
        }));
        let overlap = Error::Overlap { range: range(2 * PAGE, 2 * PAGE), with: range(2 * PAGE, PAGE) };
        assert_eq!(space.map(range(2 * PAGE, 2 * PAGE), PAGES, RW), Err(overlap), "{there:#x}");
        assert!(board.allocated() < before && space.usage().frames == 0, "{there:#x}");
        // The other of the two pages, and tables that lead to them; nothing is built a second time.
        let frames = board.events().iter().filter(|event| matches!(event, Event::Allocated(..))).count();
        assert!(frames <= 4, "{there:#x}: {frames}");
    }
}

mod between_two_steps {
    use stage2::space::Progress;

    use super::*;

    /// What is on loan changes for both, or for the borrower alone.
    #[test]
    fn protect_nothing_that_was_given_on_loan() {
        let board = Board::new();
        let (space, borrower) = (space(&board), space(&board));
        space.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
        let mut protecting = space.protect_in_steps(range(0, 4 * PAGE), READ).unwrap();
        assert_eq!(protecting.step(1), Ok(Progress::More));
        let loan = space.share(range(2 * PAGE, PAGE), &borrower, gpa(0), RW).unwrap();
        assert!(matches!(protecting.step(1), Err(Error::State { .. })));
        assert_eq!(space.translate(gpa(2 * PAGE)).unwrap().flags, RW);
        space.reclaim(&loan, &borrower, Handover::Keep).unwrap();
        assert_eq!(protecting.step(4), Ok(Progress::Done));
    }

    /// A frozen region is written no more, by no guest.
    #[test]
    fn allow_no_write_to_a_frozen_region_that_came() {
        let board = Board::new();
        // Were it allowed, the region would not know of it, and the end of the space would be a second failure.
        let space = std::mem::ManuallyDrop::new(space(&board));
        space.map(range(0, 4 * PAGE), PAGES, READ).unwrap();
        let mut protecting = space.protect_in_steps(range(0, 4 * PAGE), RW).unwrap();
        assert_eq!(protecting.step(1), Ok(Progress::More));
        let region = space.region(PAGE).unwrap();
        region.freeze().unwrap();
        let place = range(3 * PAGE, PAGE);
        space.unmap(place).unwrap();
        space.map(place, shared(&region), READ).unwrap();
        assert_eq!(protecting.step(4), Err(Error::Region { range: place, cause: RegionError::Frozen }));
        assert_eq!(space.area(place.start).unwrap().flags, READ);
    }
}

mod of_regions {
    use super::*;

    /// A page that a handle has populated meanwhile would lose what was written, and its frame.
    #[test]
    fn keep_the_frame_that_a_handle_has_brought() {
        let board = Board::new();
        let space = space(&board);
        let region = space.region(PAGE).unwrap();
        space.map(range(0, PAGE), shared(&region), RW).unwrap();
        let writer = region.writer().unwrap();
        board.on_allocation(move || writer.write_obj(0, 5_u64).unwrap());
        assert_eq!(touch(&space, 0, Access::Write), Ok(Outcome::Resolved));
        assert_eq!((space.load(gpa(0)), region.frames()), (Ok(5_u64), 1));
        assert_eq!(board.allocated(), 1 + space.stats().table_frames);
    }

    /// The same the other way round: the guest reads what the handle writes, and not a page of its own.
    #[test]
    fn keep_the_frame_that_a_guest_has_brought() {
        let board = Board::new();
        let space = space(&board);
        let region = space.region(PAGE).unwrap();
        space.map(range(0, PAGE), shared(&region), RW).unwrap();
        board.on_allocation(elsewhere(&space, |space| space.write_obj(gpa(8), 5_u64).unwrap()));
        region.writer().unwrap().write_obj(0, 7_u64).unwrap();
        assert_eq!((space.read_obj(gpa(0)), region.frames()), (Ok([7_u64, 5]), 1));
        assert_eq!(board.allocated(), 1 + space.stats().table_frames);
    }
}
