//! Asking, answering, cancelling and going to sleep, in every interleaving of the locks that they take.
//!
//! Run by `cargo xtask test --only loom`. With [`Source::settled`] called before the desk knows that a ticket is over,
//! a vCPU that is about to sleep sleeps for ever. Without [`ask`]'s second look, or where that looks at the tables first,
//! a page is asked for twice.

use alloc::sync::Arc;
use core::num::NonZeroUsize;

use loom::{
    sync::{
        Arc as Shared, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};
use memory_addr::PAGE_SIZE_4K;

use super::slot::ask;
use crate::{
    account::Exhausted,
    counted::Counted,
    source::{Demand, PageOwner, Pager, Settled, Source, SourceError, SourceFailed, Supplied, Waiting},
    ticket::Ticket,
};

const PAGE: [u8; PAGE_SIZE_4K] = [7; PAGE_SIZE_4K];

/// A hypervisor with virtual CPUs to put to sleep, one page, and what is counted.
struct Host {
    answer: crate::source::Supply,
    asked: AtomicUsize,
    settled: AtomicUsize,
    /// The hypervisor's own lock.
    scheduler: Mutex<()>,
    wake: Condvar,
    /// Whether the page is in the tables.
    table: Mutex<bool>,
    /// Whether it was brought, and is not in the tables yet.
    page: Mutex<bool>,
}

struct World {
    host: Shared<Host>,
    pager: Pager,
    owner: Counted<dyn PageOwner>,
}

struct Script(Shared<Host>);

impl Source for Script {
    fn ask(&self, _: Ticket, _: &mut [u8]) -> crate::source::Supply {
        self.0.asked.fetch_add(1, Relaxed);
        self.0.answer
    }

    fn settled(&self, _: Ticket, _: Settled) {
        self.0.settled.fetch_add(1, Relaxed);
        let _scheduler = self.0.scheduler.lock().unwrap();
        self.0.wake.notify_all();
    }
}

/// A page, whose lock the model sees.
struct OnePage(Shared<Host>);

impl PageOwner for OnePage {
    fn receive(
        &self,
        _: usize,
        write: &mut dyn FnMut(&mut [u8]) -> bool,
        admit: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Exhausted> {
        if !write(&mut [0; PAGE_SIZE_4K]) {
            return Ok(false);
        }
        let mut present = self.0.page.lock().unwrap();
        if !admit() {
            return Ok(false);
        }
        assert!(!*present, "it came twice");
        *present = true;
        Ok(true)
    }
}

impl World {
    fn new(answer: crate::source::Supply) -> Shared<Self> {
        let host = Shared::new(Host {
            answer,
            asked: AtomicUsize::new(0),
            settled: AtomicUsize::new(0),
            scheduler: Mutex::new(()),
            wake: Condvar::new(),
            table: Mutex::new(false),
            page: Mutex::new(false),
        });
        let pager = Pager::new(Arc::new(Script(host.clone())), NonZeroUsize::MIN).unwrap();
        let owner = Counted::<dyn PageOwner>::try_new_as(OnePage(host.clone()), |inner| inner).unwrap();
        Shared::new(Self { host, pager, owner })
    }

    /// As a space does.
    fn supply(&self) -> Supplied {
        let is_still_missing = || {
            let present = *self.host.page.lock().unwrap();
            let mapped = *self.host.table.lock().unwrap();
            !present && !mapped
        };
        ask((&self.pager, 0), &self.owner, Demand::Now, is_still_missing).unwrap()
    }

    /// A ticket of a source that answers later.
    fn ask(&self) -> Ticket {
        match self.supply() {
            Supplied::NotYet(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    /// As a hypervisor does.
    fn sleep(&self, ticket: Ticket) {
        let mut scheduler = self.host.scheduler.lock().unwrap();
        while self.pager.state(ticket) == Waiting::NotYet {
            scheduler = self.host.wake.wait(scheduler).unwrap();
        }
    }

    /// A fault, until the page is in the tables.
    fn fault(&self) {
        loop {
            {
                let mut mapped = self.host.table.lock().unwrap();
                let mut present = self.host.page.lock().unwrap();
                if core::mem::take(&mut *present) {
                    *mapped = true;
                }
                if *mapped {
                    return;
                }
            }
            match self.supply() {
                Supplied::Ready => {}
                Supplied::NotYet(ticket) => self.sleep(ticket),
                Supplied::Failed(ticket) => panic!("{ticket} failed"),
            }
        }
    }

    fn present(&self) -> bool {
        *self.host.page.lock().unwrap()
    }

    /// The last pending page, and with it the world's last reference to itself.
    fn cancel(&self) {
        self.pager.cancel_pages(&self.owner, &(0..1));
    }
}

/// A virtual CPU looks, and sleeps; elsewhere its wait ends.
fn wakes(end: fn(&World, Ticket), then: fn(&World, Ticket)) {
    loom::model(move || {
        let world = World::new(crate::source::Supply::Later);
        let ticket = world.ask();
        let other = thread::spawn({
            let world = world.clone();
            move || end(&world, ticket)
        });
        world.sleep(ticket);
        then(&world, ticket);
        other.join().unwrap();
        assert_eq!(world.host.settled.load(Relaxed), 1);
        world.cancel();
    });
}

#[test]
fn a_page_wakes_the_cpu_that_looked_and_slept() {
    wakes(
        |world, ticket| assert_eq!(world.pager.complete(ticket, Ok(&PAGE)), Ok(())),
        |world, _| assert!(world.present(), "it woke too early"),
    );
}

#[test]
fn a_failure_wakes_the_cpu_that_looked_and_slept() {
    wakes(
        |world, ticket| assert_eq!(world.pager.complete(ticket, Err(SourceFailed)), Ok(())),
        |world, ticket| assert_eq!(world.supply(), Supplied::Failed(ticket)),
    );
}

#[test]
fn a_cancellation_wakes_the_cpu_that_looked_and_slept() {
    wakes(|world, _| world.cancel(), |world, _| assert!(!world.present()));
}

#[test]
fn of_two_answers_and_a_cancellation_one_counts() {
    loom::model(|| {
        let world = World::new(crate::source::Supply::Later);
        let ticket = world.ask();
        let answers: [fn(&World, Ticket) -> Result<(), SourceError>; 2] = [
            |world, ticket| world.pager.complete(ticket, Ok(&PAGE)),
            |world, ticket| {
                world.cancel();
                world.pager.complete(ticket, Err(SourceFailed))
            },
        ];
        let [first, second] = answers.map(|answer| {
            let world = world.clone();
            thread::spawn(move || answer(&world, ticket))
        });
        let came = first.join().unwrap();
        assert_eq!(second.join().unwrap(), Err(SourceError::NotPending { ticket }));
        assert_eq!(came.is_ok(), world.present());
        assert_eq!(world.host.settled.load(Relaxed), 1);
    });
}

#[test]
fn two_who_miss_a_page_ask_once() {
    loom::model(|| {
        let world = World::new(crate::source::Supply::Ready);
        let other = thread::spawn({
            let world = world.clone();
            move || world.fault()
        });
        world.fault();
        other.join().unwrap();
        assert_eq!(world.host.asked.load(Relaxed), 1);
    });
}
