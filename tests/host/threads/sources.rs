//! Memory from a source under many threads: a thread that misses a page sleeps and is woken, and each page is asked for
//! once.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{Condvar, Mutex},
};

use stage2::pager::{Pager, Settled, Source, SourceError, SourceFailed, Supply, Ticket, Waiting};

use super::{regions::another, *};

const COUNT: usize = 64;

/// A source that answers some pages at once, and leaves the others to a thread of its own.
struct Library {
    wanted: Mutex<Vec<Ticket>>,
    /// How often pages were asked for, and how often tickets were over.
    tickets: Mutex<HashMap<Ticket, (usize, usize)>>,
    scheduler: Mutex<()>,
    over: Condvar,
}

impl Source for Library {
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
        self.tickets.lock().expect("the book").entry(ticket).or_default().0 += 1;
        if (ticket.offset() / PAGE).is_multiple_of(5) {
            page.copy_from_slice(&content(ticket));
            return Supply::Ready;
        }
        self.wanted.lock().expect("the list").push(ticket);
        Supply::Later
    }

    fn settled(&self, ticket: Ticket, _: Settled) {
        self.tickets.lock().expect("the book").entry(ticket).or_default().1 += 1;
        let _scheduler = self.scheduler.lock().expect("no thread panics under it");
        self.over.notify_all();
    }
}

impl Library {
    fn sleep(&self, pager: &Pager, ticket: Ticket) {
        let scheduler = self.scheduler.lock().expect("no thread panics under it");
        let not_yet = |(): &mut ()| pager.state(ticket) == Waiting::NotYet;
        let (_awake, waited) = self.over.wait_timeout_while(scheduler, PATIENCE, not_yet).expect("no panic");
        assert!(!waited.timed_out(), "a wake-up is lost: {ticket}");
    }

    /// Answers in whatever order, in a row of `luck`, while `others` run.
    fn work(&self, pager: &Pager, others: &AtomicUsize, fails: bool) {
        let (mut waiting, mut luck) = (Vec::new(), 1_u64);
        until_done(others, |_| {
            waiting.append(&mut self.wanted.lock().expect("the list"));
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (luck >> 33) as usize;
            if waiting.is_empty() || number.is_multiple_of(3) {
                return;
            }
            let ticket: Ticket = waiting.swap_remove(number % waiting.len());
            let failure = fails && number.is_multiple_of(7);
            let page = content(ticket);
            let answer = pager.complete(ticket, if failure { Err(SourceFailed) } else { Ok(&page) });
            assert!(answer.is_ok() || fails && answer == Err(SourceError::NotPending { ticket }), "{answer:?}");
            if number.is_multiple_of(5) {
                let second = pager.complete(ticket, Ok(&[0xff; PAGE]));
                assert_eq!(second, Err(SourceError::NotPending { ticket }), "it was answered");
            }
            if failure && number.is_multiple_of(2) {
                // The pager may have forgotten the failure by now.
                let _ = pager.retry(ticket);
            }
        });
    }

    /// How often a page was asked for. Each ticket was over once, and CPUs that came too late had one without asking.
    fn audit(&self) -> usize {
        let tickets = self.tickets.lock().expect("the book");
        for (ticket, times) in tickets.iter() {
            assert!(matches!(times, (0 | 1, 1)), "{ticket}: asked for and over so often: {times:?}");
        }
        tickets.values().map(|&(asked, _)| asked).sum()
    }
}

/// A page that says where in the source it is.
fn content(ticket: Ticket) -> [u8; PAGE] {
    let word = (ticket.offset() as u64 + 1).to_le_bytes();
    core::array::from_fn(|index| word[index % 8])
}

fn library(room: usize) -> (Arc<Library>, Pager) {
    let library = Library {
        wanted: Mutex::default(),
        tickets: Mutex::default(),
        scheduler: Mutex::default(),
        over: Condvar::new(),
    };
    let library = Arc::new(library);
    let room = NonZeroUsize::new(room).expect("room");
    (library.clone(), Pager::new(library, room).expect("memory"))
}

/// Four CPUs miss the same pages in their own orders, with less room than there are CPUs.
#[test]
fn a_page_is_asked_for_once_however_many_miss_it() {
    for room in [1, 3, 16].repeat(8) {
        let board = Board::<Spin>::new();
        let (library, pager) = library(room);
        board.space.map_from(range(RAM, COUNT * PAGE), &pager, 0, RW).expect("an area");
        let left = AtomicUsize::new(3);
        let run = |cpu: usize| {
            let _running = Running(&left);
            for round in 0..COUNT {
                let page = round * (2 * cpu + 1) % COUNT;
                let access = if (round + cpu).is_multiple_of(2) { Access::Read } else { Access::Write };
                loop {
                    match board.space.fault(CpuId(cpu), fault(RAM + page * PAGE, access, Cause::Translation)) {
                        Ok(Outcome::NotYet(ticket)) => library.sleep(&pager, ticket),
                        Ok(Outcome::Resolved) => break,
                        Ok(Outcome::Retry) if board.space.translate(gpa(RAM + page * PAGE)).is_some() => break,
                        Ok(Outcome::Retry) => {}
                        other => panic!("{other:?}"),
                    }
                }
                let word = board.space.load::<u64>(gpa(RAM + page * PAGE + 8 * cpu));
                assert_eq!(word, Ok((page * PAGE) as u64 + 1));
            }
        };
        let source = |_| library.work(&pager, &left, false);
        race(&[&run, &run, &run, &source]);
        assert_eq!((library.audit(), board.space.stats().owned_frames), (COUNT, COUNT));
        board.end();
    }
}

/// The map changes, guests are forked, the source fails and answers twice, while CPUs miss pages and are woken: what they
/// see is the source's data or unmapped, and every wait ends once.
#[test]
fn everything_goes_on_while_pages_come() {
    let board = Board::<Spin>::new();
    let (library, pager) = library(3);
    board.space.map_from(range(RAM, COUNT * PAGE), &pager, 0, RW).expect("an area");
    let left = AtomicUsize::new(3);
    let looks = |space: &GuestSpace<Parts, Spin>, page: usize| {
        loop {
            match space.load::<u64>(gpa(RAM + page * PAGE)) {
                Ok(word) => return assert_eq!(word, (page * PAGE) as u64 + 1),
                Err(Error::NotYet { ticket, .. }) => library.sleep(&pager, ticket),
                Err(Error::SourceFailed { ticket, .. }) => drop(pager.retry(ticket)),
                Err(Error::NotMapped(_)) => return,
                Err(other) => panic!("{other}"),
            }
        }
    };
    let run = |cpu: usize| {
        let _running = Running(&left);
        for round in 0..4000 {
            let page = (round * 7 + cpu * 3) % COUNT;
            let access = if round % 3 == 0 { Access::Write } else { Access::Read };
            match board.space.fault(CpuId(cpu), fault(RAM + page * PAGE, access, Cause::Translation)) {
                Ok(Outcome::Resolved | Outcome::Retry | Outcome::NotMapped) => {}
                Ok(Outcome::Denied { flags }) => assert_eq!(flags, READ),
                Ok(Outcome::NotYet(ticket)) => library.sleep(&pager, ticket),
                Ok(Outcome::SourceFailed(ticket)) => drop(pager.retry(ticket)),
                other => panic!("{other:?}"),
            }
            looks(&board.space, page);
        }
    };
    let change = |_| {
        let _running = Running(&left);
        for round in 0..1000 {
            let (first, count) = (round * 11 % COUNT, 1 + round % 9);
            let part = range(RAM + first * PAGE, count.min(COUNT - first) * PAGE);
            match round % 10 {
                8 => drop(board.space.protect(part, if round % 4 == 0 { READ } else { RW })),
                9 => {
                    let fork = another(&board, 2 + round as u16);
                    fork.restore(&board.space.snapshot().expect("memory")).expect("room");
                    looks(&fork, first);
                }
                _ => {
                    board.space.unmap(part).expect("it is mapped");
                    board.space.map_from(part, &pager, first * PAGE, RW).expect("it is free");
                }
            }
        }
    };
    let source = |_| library.work(&pager, &left, true);
    race(&[&run, &run, &change, &source]);
    for area in board.space.areas().expect("areas") {
        board.space.unmap(area.range).expect("what is mapped can be unmapped");
    }
    assert!(library.audit() >= COUNT);
    assert_eq!(board.memory.allocated(), board.empty, "frames are lost");
}
