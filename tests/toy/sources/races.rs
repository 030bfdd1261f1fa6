//! Something happens elsewhere between two moments at which a fault has the lock, or looks at the region.

use std::{hint, sync::mpsc, thread, time::Instant};

use stage2::{loan::Handover, space::Refill};

use super::{
    super::{
        eventful::{self, Eventful},
        format::on_absent,
    },
    *,
};

type Space = GuestSpace<Machine, Eventful>;

/// How often a fault that asks a source holds the lock shared before it asks.
const LOOKS: usize = 4;

/// A fault that has found page 0 missing; `by` runs after its `look`th look, before it can ask the source.
fn overtaken(
    look: usize,
    by: impl FnOnce(&Space, &Arc<Script>, &Pager) + 'static,
) -> (Outcome, Vec<usize>, Vec<(usize, Settled)>) {
    let board = Board::new();
    let (script, pager) = pager(2);
    let space = Arc::new(GuestSpace::<Machine, Eventful>::new(board.config()).unwrap());
    space.map_from(range(0, 2 * PAGE), &pager, 4 * PAGE, RW).unwrap();
    let elsewhere = (space.clone(), script.clone(), pager.clone());
    let (done, happened) = mpsc::channel();
    eventful::after_shared_number(look, move || {
        by(&elsewhere.0, &elsewhere.1, &elsewhere.2);
        done.send(()).unwrap();
    });
    let outcome = space.fault(CpuId(0), read()).unwrap();
    happened.try_recv().expect("it has happened");
    (outcome, script.asked(), script.settled())
}

fn read() -> Fault {
    Fault { gpa: gpa(0), access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction }
}

/// Reads until the page is there.
fn until_resolved(space: &GuestSpace<Machine>, at: usize) {
    let start = Instant::now();
    while fault(space, at, Access::Read) != Outcome::Resolved {
        assert!(start.elapsed() < PATIENCE, "no page comes");
    }
}

/// Another CPU asks, is answered, and puts it into the tables: then it is in no region any more.
#[test]
fn a_page_that_another_brought_and_took_is_not_asked_for_again() {
    for look in 1..LOOKS {
        let (outcome, asked, settled) = overtaken(look, |space, script, _| {
            script.answers(Supply::Ready);
            assert_eq!(space.fault(CpuId(1), read()), Ok(Outcome::Resolved));
        });
        assert_eq!((outcome, asked), (Outcome::Retry, vec![4]), "look {look}");
        assert_eq!(settled[0], (4, Settled::Ready));
        assert!(settled[1..].iter().all(|settled| *settled == (4, Settled::Cancelled)), "{settled:?}");
    }
}

#[test]
fn a_page_that_was_unmapped_is_not_asked_for() {
    for look in 1..LOOKS {
        let (outcome, asked, settled) = overtaken(look, |space, _, _| space.unmap(range(0, PAGE)).unwrap());
        assert_eq!((outcome, asked), (Outcome::NotMapped, vec![]), "look {look}");
        assert!(settled.iter().all(|settled| *settled == (4, Settled::Cancelled)), "{settled:?}");
    }
}

#[test]
fn a_page_that_now_comes_from_elsewhere_is_not_asked_for_there() {
    for look in 1..LOOKS {
        let (outcome, asked, settled) = overtaken(look, |space, _, pager| {
            space.unmap(range(0, PAGE)).unwrap();
            space.map_from(range(0, PAGE), pager, 9 * PAGE, RW).unwrap();
        });
        assert_eq!((outcome, asked), (Outcome::Retry, vec![]), "look {look}");
        assert!(settled.iter().all(|settled| *settled == (4, Settled::Cancelled)), "{settled:?}");
    }
}

/// The page of the memory that is there now, whose ticket would be for what was there before, is missed by another CPU.
#[test]
fn a_page_that_now_comes_from_elsewhere_is_brought_from_there() {
    let board = Board::new();
    let (_, pager) = pager(2);
    let space = Arc::new(Space::new(board.config()).unwrap());
    space.map_from(range(0, PAGE), &pager, 4 * PAGE, RW).unwrap();
    let (elsewhere, answers) = (space.clone(), pager.clone());
    // Before the page to ask for is looked up, and when its place at the desk is taken.
    eventful::after_shared_number(2, move || {
        elsewhere.unmap(range(0, PAGE)).unwrap();
        elsewhere.map_from(range(0, PAGE), &answers, 9 * PAGE, RW).unwrap();
        eventful::after_shared(move || {
            eventful::before_shared(move || {
                let Ok(Outcome::NotYet(ticket)) = elsewhere.fault(CpuId(1), read()) else { panic!("it is missing") };
                answers.complete(ticket, Ok(&page(ticket.offset()))).unwrap();
            });
        });
    });
    let _ = space.fault(CpuId(0), read()).unwrap();
    assert_eq!(space.load(gpa(0)), Ok(content(9 * PAGE)));
}

/// What is discarded is still missing when it is asked for, but in the place of the page that was found there is another:
/// no CPU waits for the one that went.
#[test]
fn a_page_that_was_discarded_is_not_waited_for() {
    let is_over = |(outcome, asked, settled): (Outcome, Vec<usize>, Vec<(usize, Settled)>)| {
        assert!(matches!(outcome, Outcome::NotYet(_)), "{outcome:?}");
        assert_eq!((asked, settled), (vec![4], vec![(4, Settled::Cancelled)]));
    };
    is_over(overtaken(LOOKS - 1, |space, _, _| space.discard(range(0, PAGE), Refill::Source).unwrap()));

    let board = Board::new();
    let (script, pager) = pager(2);
    let space = Arc::new(GuestSpace::<Machine, Eventful>::new(board.config()).unwrap());
    let region = space.region_from(2 * PAGE, &pager, 4 * PAGE).unwrap();
    space.map(range(0, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    let elsewhere = space.clone();
    // A region's page is looked up without the space's lock: before the last look at whether it is missing.
    eventful::after_shared(move || {
        eventful::before_shared(move || region.discard(0, PAGE, [&**elsewhere]).unwrap());
    });
    let outcome = space.fault(CpuId(0), read()).unwrap();
    is_over((outcome, script.asked(), script.settled()));
}

/// A CPU that waits with it has the ticket answered, before the CPU whose ticket it is has asked.
#[test]
fn a_page_that_is_answered_before_it_was_asked_for_is_charged_once() {
    let board = Board::new();
    let (script, pager) = pager(2);
    let space = Arc::new(GuestSpace::<Machine, Eventful>::new(board.config()).unwrap());
    space.map_from(range(0, 2 * PAGE), &pager, 4 * PAGE, RW).unwrap();
    let (elsewhere, answers) = (space.clone(), pager.clone());
    eventful::after_shared_number(LOOKS, move || {
        let Ok(Outcome::NotYet(ticket)) = elsewhere.fault(CpuId(1), read()) else { panic!("it was not asked for yet") };
        answers.complete(ticket, Ok(&page(ticket.offset()))).unwrap();
    });
    let _ = space.fault(CpuId(0), read()).unwrap();
    assert_eq!(space.load(gpa(0)), Ok(content(4 * PAGE)));
    assert_eq!((space.stats().owned_frames, space.usage().frames, script.settled()), (1, 1, vec![(4, Settled::Ready)]));
    space.unmap(range(0, 2 * PAGE)).unwrap();
    assert_eq!(space.usage().frames, 0);
}

/// The page comes while the CPU that is to ask for it looks for the last time: noted as asked for, it would be on the
/// account without a charge.
#[test]
fn a_page_that_is_answered_while_its_asker_looks_is_charged_once() {
    // A fault reads the entry so often at most.
    for number in 1..=8 {
        let board = Board::new();
        let (_, pager) = pager(2);
        let space = Arc::new(Space::new(board.config()).unwrap());
        space.map_from(range(0, 2 * PAGE), &pager, 4 * PAGE, RW).unwrap();
        let (elsewhere, answers) = (Arc::clone(&space), pager.clone());
        on_absent(number, move || {
            if let Ok(Outcome::NotYet(ticket)) = elsewhere.fault(CpuId(1), read()) {
                answers.complete(ticket, Ok(&page(ticket.offset()))).unwrap();
            }
        });
        let _ = space.fault(CpuId(0), read()).unwrap();
        on_absent(1, || ());
        if let Ok(Outcome::NotYet(ticket)) = space.fault(CpuId(0), read()) {
            pager.complete(ticket, Ok(&page(ticket.offset()))).unwrap();
        }
        assert_eq!((space.load(gpa(0)), space.usage().frames), (Ok(content(4 * PAGE)), 1), "{number}");
        space.unmap(range(0, 2 * PAGE)).unwrap();
        assert_eq!(space.usage().frames, 0, "{number}");
    }
}

/// Waits for the other thread, which comes to the same page.
fn arrive(arrived: &AtomicU64, index: usize) {
    let start = Instant::now();
    arrived.fetch_add(1, Ordering::AcqRel);
    while arrived.load(Ordering::Acquire) < 2 * (index as u64 + 1) {
        assert!(start.elapsed() < PATIENCE, "the other thread is at its end");
        hint::spin_loop();
    }
}

/// A guest that found no page, and then that no CPU has asked for it, looks at the region again: another guest may have
/// brought the page in between, and it is in no table of this guest's.
#[test]
fn a_page_that_another_guest_brought_is_not_asked_for_again() {
    const PAGES: usize = 4000;
    let board = Board::new();
    let (script, pager) = pager(2);
    script.answers(Supply::Ready);
    let spaces = [board.space(), board.space()];
    let region = spaces[0].region_from(PAGES * PAGE, &pager, 0).unwrap();
    for space in &spaces {
        space.map(range(0, PAGES * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    }
    let arrived = AtomicU64::new(0);
    thread::scope(|scope| {
        for space in &spaces {
            scope.spawn(|| {
                for index in 0..PAGES {
                    arrive(&arrived, index);
                    until_resolved(space, index * PAGE);
                }
            });
        }
    });
    assert_eq!((script.asked(), region.frames()), ((0..PAGES).collect(), PAGES));
    let tables: usize = spaces.iter().map(|space| space.stats().table_frames).sum();
    assert_eq!(board.allocated(), tables + PAGES, "a page came twice");
}

/// The same for a handle: what the guest has written to the page would be lost.
#[test]
fn a_page_that_a_guest_brought_is_not_asked_for_again_by_a_handle() {
    const PAGES: usize = 4000;
    let board = Board::new();
    let (script, pager) = pager(2);
    script.answers(Supply::Ready);
    let space = board.space();
    let region = space.region_from(PAGES * PAGE, &pager, 0).unwrap();
    space.map(range(0, PAGES * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
    let arrived = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            for index in 0..PAGES {
                arrive(&arrived, index);
                until_resolved(&space, index * PAGE);
            }
        });
        for index in 0..PAGES {
            arrive(&arrived, index);
            let start = Instant::now();
            while matches!(region.load::<u64>(index * PAGE), Err(RegionError::NotYet { .. })) {
                assert!(start.elapsed() < PATIENCE, "no page comes");
            }
        }
    });
    assert_eq!((script.asked(), region.frames()), ((0..PAGES).collect(), PAGES));
}

/// What is there when a region becomes private is another one, whose source has pages that were not asked for: they
/// would be zeros.
#[test]
fn what_becomes_private_by_then_must_have_come() {
    let board = Board::new();
    let (script, pager) = pager(2);
    let space = Arc::new(Space::new(board.config()).unwrap());
    let shared = |region| Mapping::Shared { region, offset: 0 };
    space.map(range(0, PAGE), shared(space.region(PAGE).unwrap()), RW).unwrap();
    let (elsewhere, source) = (Arc::clone(&space), pager.clone());
    // The last look at what is missing takes the lock for the first time, and the conversion for the second.
    eventful::before_exclusive_number(2, move || {
        elsewhere.unmap(range(0, PAGE)).unwrap();
        let region = elsewhere.region_from(PAGE, &source, 4 * PAGE).unwrap();
        elsewhere.map(range(0, PAGE), shared(region), RW).unwrap();
    });
    let private = space.make_private(range(0, PAGE), Handover::Keep);
    let Err(Error::NotYet { ticket, .. }) = private else { panic!("{private:?}") };
    pager.complete(ticket, Ok(&page(4 * PAGE))).unwrap();
    space.make_private(range(0, PAGE), Handover::Keep).unwrap();
    assert_eq!((space.load(gpa(0)), script.asked()), (Ok(content(4 * PAGE)), vec![4]));
}

/// A page that comes brings its charge, also where one for a copy was on the account already.
#[test]
fn a_page_that_comes_while_a_copy_is_charged_is_charged_once() {
    let board = Board::new();
    let (_, pager) = pager(2);
    let space = Arc::new(Space::new(board.config()).unwrap());
    space.map(range(0, PAGE), LAZY, RW).unwrap();
    space.write_obj(gpa(0), 1_u64).unwrap();
    let _snapshot = space.snapshot().unwrap();
    let (elsewhere, answers, memory) = (Arc::clone(&space), pager.clone(), board.clone());
    // The copy has its frame. What it was to copy is unmapped, and another page asked for; that comes when the tables are
    // made that lead to it.
    board.on_allocation(move || {
        elsewhere.unmap(range(0, PAGE)).unwrap();
        elsewhere.map_from(range(0, PAGE), &answers, 4 * PAGE, RW).unwrap();
        let Ok(Outcome::NotYet(ticket)) = elsewhere.fault(CpuId(1), read()) else { panic!("it was not asked for") };
        memory.on_allocation(move || answers.complete(ticket, Ok(&page(4 * PAGE))).unwrap());
    });
    assert_eq!(space.fault(CpuId(0), Fault { access: Access::Write, ..read() }), Ok(Outcome::Resolved));
    assert_eq!((space.load(gpa(0)), space.usage().frames), (Ok(content(4 * PAGE)), 1));
    space.unmap(range(0, PAGE)).unwrap();
    assert_eq!(space.usage().frames, 0);
}

/// A page may come at any moment of a fault that looks for it. Where one look found nothing and the next one the page, it
/// was mapped as the region's, on no account, and not taken.
#[test]
fn a_page_that_comes_while_a_fault_looks_for_it_is_taken() {
    const PAGES: usize = 8000;
    let board = Board::new();
    let (space, (_, pager)) = (board.space(), pager(1));
    space.map_from(range(0, PAGES * PAGE), &pager, 0, RW).unwrap();
    let (tickets, asked) = mpsc::channel::<Ticket>();
    thread::scope(|scope| {
        scope.spawn(|| {
            for ticket in asked {
                pager.complete(ticket, Ok(&page(ticket.offset()))).unwrap();
            }
        });
        let tickets = tickets;
        for index in 0..PAGES {
            tickets.send(waits(&space, index * PAGE, Access::Read)).unwrap();
            until_resolved(&space, index * PAGE);
            let leaf = space.translate(gpa(index * PAGE)).unwrap();
            assert_eq!((leaf.flags, space.usage().frames), (RW, index + 1), "page {index}");
        }
    });
}

/// Two CPUs miss the same pages at once: each page is charged once.
#[test]
fn what_two_cpus_miss_is_charged_once() {
    const PAGES: usize = 4000;
    let board = Board::new();
    let (space, (script, pager)) = (board.space(), pager(4));
    script.answers(Supply::Ready);
    space.map_from(range(0, PAGES * PAGE), &pager, 0, RW).unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..PAGES).for_each(|page| until_there(&space, page * PAGE)));
        }
    });
    assert_eq!((space.stats().owned_frames, space.usage().frames), (PAGES, PAGES));
    assert_eq!(script.asked().len(), PAGES);
}

/// Reads until no fault is left.
fn until_there(space: &GuestSpace<Machine>, at: usize) {
    while space.translate(gpa(at)).is_none() {
        assert!(!matches!(fault(space, at, Access::Read), Outcome::NotMapped | Outcome::Denied { .. }));
    }
}
