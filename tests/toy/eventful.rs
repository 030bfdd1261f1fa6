//! A space's lock around which something happens elsewhere, when a thread has arranged it.

use std::{
    cell::RefCell,
    ops::{Deref, DerefMut},
    thread::LocalKey,
};

use stage2::{
    CpuId,
    lock::{LockFamily, SpaceLock, Spin, Striped},
};

type Action = Box<dyn FnOnce()>;
type Moment = LocalKey<RefCell<Option<Action>>>;

thread_local! {
    /// What happens before this thread takes a space's lock shared the next time.
    static BEFORE_SHARED: RefCell<Option<Action>> = const { RefCell::new(None) };
    /// What happens before this thread takes one exclusively the next time.
    static BEFORE_EXCLUSIVE: RefCell<Option<Action>> = const { RefCell::new(None) };
    /// What happens after the next time that this thread held a space's lock shared.
    static AFTER_SHARED: RefCell<Option<Action>> = const { RefCell::new(None) };
}

/// The locks.
pub struct Eventful;

pub struct Lock<T>(Striped<T>);

pub struct Guard<G>(Option<G>);

/// Has something happen before this thread takes a space's lock shared the next time.
pub fn before_shared(action: impl FnOnce() + 'static) {
    arrange(&BEFORE_SHARED, action);
}

/// Has something happen before this thread takes a space's lock exclusively the next time.
pub fn before_exclusive(action: impl FnOnce() + 'static) {
    arrange(&BEFORE_EXCLUSIVE, action);
}

/// The same before it takes one exclusively for that number of times from now on.
pub fn before_exclusive_number(number: usize, action: impl FnOnce() + 'static) {
    before_exclusive(move || if number <= 1 { action() } else { before_exclusive_number(number - 1, action) });
}

/// Has something happen after the next time that this thread held a space's lock shared.
pub fn after_shared(action: impl FnOnce() + 'static) {
    arrange(&AFTER_SHARED, action);
}

/// The same for that number of times from now on.
pub fn after_shared_number(number: usize, action: impl FnOnce() + 'static) {
    after_shared(move || if number <= 1 { action() } else { after_shared_number(number - 1, action) });
}

fn arrange(moment: &'static Moment, action: impl FnOnce() + 'static) {
    moment.set(Some(Box::new(action)));
}

fn happen(moment: &'static Moment) {
    if let Some(action) = moment.take() {
        action();
    }
}

impl LockFamily for Eventful {
    type Lock<T: Send + Sync> = Lock<T>;
}

impl<T: Send + Sync> SpaceLock<T> for Lock<T> {
    type Shared<'a>
        = Guard<<Striped<T> as SpaceLock<T>>::Shared<'a>>
    where
        T: 'a;
    type Exclusive<'a>
        = <Striped<T> as SpaceLock<T>>::Exclusive<'a>
    where
        T: 'a;

    fn new(value: T, cpus: usize) -> Option<Self> {
        <Spin as LockFamily>::Lock::new(value, cpus).map(Self)
    }

    fn shared(&self, cpu: CpuId) -> Self::Shared<'_> {
        happen(&BEFORE_SHARED);
        Guard(Some(self.0.shared(cpu)))
    }

    fn exclusive(&self) -> Self::Exclusive<'_> {
        happen(&BEFORE_EXCLUSIVE);
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
        happen(&AFTER_SHARED);
    }
}
