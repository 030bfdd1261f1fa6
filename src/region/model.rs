//! Asking, answering, cancelling and going to sleep, in every interleaving of the locks that they take.
//!
//! Run by `cargo xtask test --only loom`. With [`Source::settled`] called before the desk knows that a ticket is over,
//! a vCPU that is about to sleep sleeps for ever. Without [`supply`]'s second look, or where that looks at the tables first,
//! a page is asked for twice.

use alloc::sync::Arc;
use core::{num::NonZeroUsize, ptr::NonNull};

use loom::{
    sync::{
        Arc as Shared, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};
use memory_addr::{PAGE_SIZE_4K, PhysAddr};
use spin::rwlock::RwLock;

use super::{
    Book, Pool, Region,
    supply::{Supply, owner, supply},
};
use crate::{
    account::Exhausted,
    counted::Counted,
    invalidate::Content,
    source::{PageOwner, Pager, Settled, Source, SourceError, SourceFailed, Supplied, Waiting},
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
    /// Whether it is in the region.
    region: Mutex<bool>,
}

struct World {
    host: Shared<Host>,
    pager: Pager,
    region: Counted<dyn Region>,
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

/// A region of one page, whose lock the model sees.
struct OnePage {
    host: Shared<Host>,
    supply: Supply,
    book: RwLock<Book>,
}

impl Region for OnePage {
    fn size(&self) -> usize {
        PAGE_SIZE_4K
    }

    fn book(&self) -> &RwLock<Book> {
        &self.book
    }

    fn book_mut(&mut self) -> &mut Book {
        self.book.get_mut()
    }

    fn free_some(&mut self, _: &mut usize) {}

    fn allocate(&self) -> Option<PhysAddr> {
        None
    }

    fn supply(&self) -> Option<&Supply> {
        Some(&self.supply)
    }

    #[allow(unsafe_code, reason = "the trait's")]
    unsafe fn free(&self, _: PhysAddr) {}

    fn pointer(&self, _: PhysAddr) -> NonNull<u8> {
        NonNull::dangling()
    }

    fn synchronize(&self, _: NonNull<u8>, _: usize, _: Content) {}

    fn pool(&self) -> Option<Pool> {
        None
    }
}

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
        let mut present = self.host.region.lock().unwrap();
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
            region: Mutex::new(false),
        });
        let pager = Pager::new(Arc::new(Script(host.clone())), NonZeroUsize::MIN).unwrap();
        let supply = Supply::new(&pager, 0, PAGE_SIZE_4K).unwrap();
        let book = RwLock::new(Book::new(1).unwrap());
        let page = OnePage { host: host.clone(), supply, book };
        let region = Counted::<dyn Region>::try_new_as(page, |inner| inner).unwrap();
        Shared::new(Self { host, pager, region })
    }

    /// As a space does.
    fn supply(&self) -> Supplied {
        let is_still_missing = || {
            let present = *self.host.region.lock().unwrap();
            let mapped = *self.host.table.lock().unwrap();
            !present && !mapped
        };
        supply(&self.region, 0, is_still_missing).unwrap()
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
                let mut present = self.host.region.lock().unwrap();
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
        *self.host.region.lock().unwrap()
    }

    /// The last pending page, and with it the world's last reference to itself.
    fn cancel(&self) {
        self.pager.cancel_pages(&owner(&self.region), &(0..1));
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
