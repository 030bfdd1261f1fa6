//! Populating what comes from a source: it is asked for all of it, and nothing waits.

use stage2::space::{Populated, Progress};

use super::*;

const ALL: std::ops::Range<usize> = 4..12;

/// Answers a ticket with what the source has.
fn answer(pager: &Pager, ticket: Ticket) {
    pager.complete(ticket, Ok(&page(ticket.offset()))).unwrap();
}

/// The tickets that the source was asked with.
fn tickets(script: &Script) -> Vec<Ticket> {
    script.asked.lock().unwrap().drain(..).collect()
}

#[test]
fn all_pages_are_asked_for_before_one_has_come() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 16);
    space.map(range(8 * PAGE, PAGE), LAZY, RW).unwrap();
    let ram = range(0, 9 * PAGE);
    let Ok(Populated::Asked { pages: 8, first }) = space.populate(ram, Access::Read) else { panic!("nothing came") };
    assert_eq!((first.offset(), space.stats().owned_frames), (4 * PAGE, 1));
    let asked = tickets(&script);
    assert_eq!(asked.iter().map(|ticket| ticket.offset() / PAGE).collect::<Vec<_>>(), ALL.collect::<Vec<_>>());
    // Those who come meanwhile wait for the same, and none is asked for again.
    assert_eq!(waits(&space, 0, Access::Write), first);
    assert_eq!(space.populate(ram, Access::Write), Ok(Populated::Asked { pages: 8, first }));
    asked[1..].iter().for_each(|&ticket| answer(&pager, ticket));
    assert_eq!(space.populate(ram, Access::Write), Ok(Populated::Asked { pages: 1, first }));
    answer(&pager, first);
    assert_eq!((space.populate(ram, Access::Write), script.asked()), (Ok(Populated::Whole), vec![]));
    for at in (0..8).map(|page| page * PAGE) {
        assert_eq!(fault(&space, at, Access::Write), Outcome::Retry);
        assert_eq!(space.load(gpa(at)), Ok(content(4 * PAGE + at)));
    }
    assert_eq!((space.stats().owned_frames, space.usage().frames), (9, 9));
}

#[test]
fn what_a_source_has_at_once_is_there_at_once() {
    let board = Board::new();
    let (space, script, _) = sourced(&board, 1);
    script.answers(Supply::Ready);
    assert_eq!(space.populate(range(PAGE, 6 * PAGE), Access::Read), Ok(Populated::Whole));
    assert_eq!((script.asked(), space.stats().owned_frames), ((5..11).collect(), 6));
    assert_eq!(fault(&space, PAGE, Access::Write), Outcome::Retry);
}

/// No more pages are asked for than may be pending, but for one that is left to faults: populating goes on when one has
/// come.
#[test]
fn where_a_pager_has_no_room_it_ends_and_goes_on_later() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 4);
    let ram = range(0, 8 * PAGE);
    let mut populating = space.populate_in_steps(ram, Access::Write).unwrap();
    assert_eq!((populating.step(2), script.asked()), (Ok(Progress::More), vec![4, 5]));
    let Err(Error::NotYet { range: page, ticket }) = populating.step(usize::MAX) else { panic!("there is no room") };
    assert_eq!((page, ticket.offset(), script.asked()), (range(3 * PAGE, PAGE), 4 * PAGE, vec![6]));
    assert_eq!(
        (populating.rest(), populating.populated()),
        (range(3 * PAGE, 5 * PAGE), Populated::Asked { pages: 3, first: ticket })
    );
    assert_eq!(populating.step(1), Err(Error::NotYet { range: page, ticket }));
    assert_eq!(space.populate(ram, Access::Write), Err(Error::NotYet { range: page, ticket }));
    answer(&pager, ticket);
    let Err(Error::NotYet { range: next, .. }) = populating.step(usize::MAX) else { panic!("there is no room") };
    assert_eq!((next, script.asked()), (range(4 * PAGE, PAGE), vec![7]));
}

/// A guest that misses a page was told to wait for one that it had not touched, while all places were taken in advance.
#[test]
fn a_fault_is_asked_for_at_once_whatever_is_asked_for_ahead() {
    for (room, ahead) in [(2, 1), (3, 2), (4, 3), (8, 6), (9, 7)] {
        let board = Board::new();
        let (script, pager) = pager(room);
        let (one, two) = (board.space(), board.space());
        let region = one.region_from(16 * PAGE, &pager, 100 * PAGE).unwrap();
        one.map_from(range(0, 16 * PAGE), &pager, 0, RW).unwrap();
        two.map(range(0, 16 * PAGE), Mapping::Shared { region, offset: 0 }, RW).unwrap();
        // However often, by whom and for what access.
        let all = range(0, 16 * PAGE);
        for space in [&one, &two, &one] {
            for access in [Access::Read, Access::Write] {
                assert!(matches!(space.populate(all, access), Err(Error::NotYet { .. })));
            }
        }
        let asked = tickets(&script);
        assert_eq!(asked.len(), ahead, "of {room} places");
        let Err(Error::NotYet { ticket, .. }) = two.populate(all, Access::Read) else { panic!("there is no room") };
        assert_eq!(ticket, asked[0], "the one that has waited longest");
        // Both guests' faults have the rest.
        for (place, page) in (ahead..room).zip((0..16).rev()) {
            let space = if place % 2 == 0 { &two } else { &one };
            let offset = if place % 2 == 0 { 100 * PAGE } else { 0 };
            assert_eq!(waits(space, page * PAGE, Access::Write).offset(), offset + page * PAGE, "{place} of {room}");
        }
        // There is none for what is asked for ahead until there is one more than are kept.
        answer(&pager, asked[0]);
        assert!(matches!(two.populate(all, Access::Read), Err(Error::NotYet { .. })));
        assert_eq!(tickets(&script).len(), room - ahead);
    }
}

/// At a pager with one place there is none to keep, and what the source has at once is there at once.
#[test]
fn a_pager_with_one_place_is_asked_ahead_too() {
    let board = Board::new();
    let (space, script, _) = sourced(&board, 1);
    let Err(Error::NotYet { ticket, range: second }) = space.populate(range(0, 8 * PAGE), Access::Read) else {
        panic!("there is no room for two")
    };
    assert_eq!((second, ticket.offset(), script.asked()), (range(PAGE, PAGE), 4 * PAGE, vec![4]));
}

/// A failure is forgotten for what is asked for ahead, as for what is missed.
#[test]
fn failures_are_no_pages_that_are_pending() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 2);
    for page in [6, 7] {
        pager.complete(waits(&space, page * PAGE, Access::Read), Err(SourceFailed)).unwrap();
    }
    script.asked();
    assert!(matches!(space.populate(range(0, 2 * PAGE), Access::Read), Err(Error::NotYet { .. })));
    assert_eq!(script.asked(), [4]);
}

#[test]
fn a_page_that_the_source_cannot_have_is_named() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 16);
    let ticket = waits(&space, 2 * PAGE, Access::Read);
    pager.complete(ticket, Err(SourceFailed)).unwrap();
    let failed = Err(Error::SourceFailed { range: range(2 * PAGE, PAGE), ticket });
    let mut populating = space.populate_in_steps(range(0, 8 * PAGE), Access::Read).unwrap();
    assert_eq!((populating.step(usize::MAX), populating.step(usize::MAX)), (failed, failed));
    assert_eq!((populating.rest().start, script.asked()), (gpa(2 * PAGE), vec![6, 4, 5]));
    pager.retry(ticket).unwrap();
    assert_eq!((populating.step(usize::MAX), script.asked()), (Ok(Progress::Done), (6..12).collect()));
    assert!(matches!(populating.populated(), Populated::Asked { pages: 8, .. }));
}

#[test]
fn a_region_is_asked_for_whole_by_the_first_that_populates_it() {
    let board = Board::new();
    let (script, pager) = pager(16);
    let spaces = [board.space(), board.space()];
    let region = spaces[0].region_from(4 * PAGE, &pager, 0).unwrap();
    for space in &spaces {
        space.map(range(0, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    }
    let populate = |space: &GuestSpace<Machine>| space.populate(range(0, 4 * PAGE), Access::Write).unwrap();
    let Populated::Asked { pages: 4, first } = populate(&spaces[0]) else { panic!("nothing came") };
    assert_eq!(populate(&spaces[1]), Populated::Asked { pages: 4, first });
    let asked = tickets(&script);
    assert_eq!(asked.len(), 4);
    for ticket in asked {
        answer(&pager, ticket);
    }
    assert_eq!(spaces.each_ref().map(populate), [Populated::Whole; 2]);
    assert_eq!((region.frames(), spaces[1].stats().shared_frames, tickets(&script).len()), (4, 4, 0));
}

/// The account has room for some: others are not asked for.
#[test]
fn at_a_limit_no_more_is_asked_for_than_it_has_room_for() {
    let board = Board::new();
    let (space, script, pager) = sourced(&board, 16);
    space.map(range(8 * PAGE, PAGE), PAGES, RW).unwrap();
    space.set_limits(stage2::Limits { frames: Some(1), ..stage2::Limits::default() });
    let refused = space.populate(range(0, 8 * PAGE), Access::Read);
    assert!(matches!(refused, Err(Error::Limit { range: page, .. }) if page == range(0, PAGE)), "{refused:?}");
    assert_eq!(script.asked(), []);
    space.set_limits(stage2::Limits { frames: Some(3), ..stage2::Limits::default() });
    assert!(matches!(space.populate(range(0, 8 * PAGE), Access::Read), Ok(Populated::Asked { pages: 8, .. })));
    for ticket in tickets(&script) {
        let completed = pager.complete(ticket, Ok(&page(ticket.offset())));
        assert_eq!(completed.is_ok(), ticket.offset() < 6 * PAGE, "{completed:?}");
    }
    assert_eq!(space.usage().frames, 3);
}
