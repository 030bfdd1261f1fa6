//! A lock after whose release something happens elsewhere.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
};

use stage2::{LockFamily, SpaceLock, Spin, Striped};

use super::*;

type Event = Box<dyn FnOnce()>;

thread_local! {
    /// What happens after the next time that this thread held a space's lock shared.
    static AFTER: RefCell<Option<Event>> = const { RefCell::new(None) };
}

struct Eventful;

struct Lock<T>(Striped<T, 1>);

struct Guard<G>(Option<G>);

impl LockFamily for Eventful {
    type Lock<T: Send + Sync> = Lock<T>;
}

impl<T: Send + Sync> SpaceLock<T> for Lock<T> {
    type Shared<'a>
        = Guard<<Striped<T, 1> as SpaceLock<T>>::Shared<'a>>
    where
        T: 'a;
    type Exclusive<'a>
        = <Striped<T, 1> as SpaceLock<T>>::Exclusive<'a>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Self(<<Spin<1> as LockFamily>::Lock<T>>::new(value))
    }

    fn shared(&self, cpu: CpuId) -> Self::Shared<'_> {
        Guard(Some(self.0.shared(cpu)))
    }

    fn exclusive(&self) -> Self::Exclusive<'_> {
        self.0.exclusive()
    }

    fn get_mut(&mut self) -> &mut T {
        self.0.get_mut()
    }
}

impl<G: Deref> Deref for Guard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        self.0.as_ref().unwrap()
    }
}

impl<G: DerefMut> DerefMut for Guard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        self.0.as_mut().unwrap()
    }
}

impl<G> Drop for Guard<G> {
    fn drop(&mut self) {
        self.0.take();
        let event = AFTER.with_borrow_mut(Option::take);
        if let Some(event) = event {
            event();
        }
    }
}

type Space = GuestSpace<Machine, Eventful>;

/// A fault that has found page 0 missing, and before it can ask something else happens.
fn overtaken(by: impl FnOnce(&Space, &Arc<Script>, &Pager) + 'static) -> (Outcome, Vec<usize>, Vec<(usize, Settled)>) {
    let board = Board::new();
    let (script, pager) = pager(2);
    let space = Arc::new(GuestSpace::<Machine, Eventful>::new(board.config()).unwrap());
    space.map_from(range(0, 2 * PAGE), &pager, 4 * PAGE, RW).unwrap();
    let elsewhere = (space.clone(), script.clone(), pager.clone());
    let event: Event = Box::new(move || by(&elsewhere.0, &elsewhere.1, &elsewhere.2));
    AFTER.set(Some(event));
    let outcome = space.fault(CpuId(0), read()).unwrap();
    assert!(AFTER.with_borrow(Option::is_none));
    (outcome, script.asked(), script.settled())
}

fn read() -> Fault {
    Fault { gpa: gpa(0), access: Access::Read, cause: Cause::Translation, origin: Origin::Instruction }
}

/// Another CPU asks, is answered, and puts it into the tables: then it is in no region any more.
#[test]
fn a_page_that_another_brought_and_took_is_not_asked_for_again() {
    let (outcome, asked, settled) = overtaken(|space, script, _| {
        script.answers(Supply::Ready);
        assert_eq!(space.fault(CpuId(1), read()), Ok(Outcome::Resolved));
    });
    assert_eq!((outcome, asked), (Outcome::Retry, vec![4]));
    assert_eq!(settled, [(4, Settled::Ready), (4, Settled::Cancelled)]);
}

#[test]
fn a_page_that_was_unmapped_is_not_asked_for() {
    let (outcome, asked, settled) = overtaken(|space, _, _| space.unmap(range(0, PAGE)).unwrap());
    assert_eq!((outcome, asked, settled), (Outcome::NotMapped, vec![], vec![(4, Settled::Cancelled)]));
}

#[test]
fn a_page_that_now_comes_from_elsewhere_is_not_asked_for_there() {
    let (outcome, asked, settled) = overtaken(|space, _, pager| {
        space.unmap(range(0, PAGE)).unwrap();
        space.map_from(range(0, PAGE), pager, 9 * PAGE, RW).unwrap();
    });
    assert_eq!((outcome, asked, settled), (Outcome::Retry, vec![], vec![(4, Settled::Cancelled)]));
}
