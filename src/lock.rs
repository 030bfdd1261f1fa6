//! The lock of a space: many readers that do not meet, one writer that they cannot starve.
#![allow(unsafe_code, reason = "the lock's cell")]

use core::{
    array,
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};

use spin::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::CpuId;

/// Makes the locks that a space uses.
pub trait LockFamily: 'static {
    /// The lock around a `T`.
    type Lock<T: Send + Sync>: SpaceLock<T>;
}

/// A lock that is held shared by faults and exclusively by changes of the map.
pub trait SpaceLock<T>: Send + Sync {
    /// Held shared.
    type Shared<'a>: Deref<Target = T>
    where
        Self: 'a,
        T: 'a;
    /// Held exclusively.
    type Exclusive<'a>: DerefMut<Target = T>
    where
        Self: 'a,
        T: 'a;

    /// A lock that nobody holds.
    fn new(value: T) -> Self;

    /// Waits until nobody holds it exclusively. `cpu` only spreads the load: any number is sound.
    fn shared(&self, cpu: CpuId) -> Self::Shared<'_>;

    /// Waits until nobody else holds it, in spite of a stream of others who want it shared.
    fn exclusive(&self) -> Self::Exclusive<'_>;

    /// What it protects, when nobody else can hold it.
    fn get_mut(&mut self) -> &mut T;
}

/// Spinning locks with `STRIPES` cache lines, one of which each shared holder writes.
///
/// More stripes let more CPUs fault without meeting; every exclusive access takes each of them.
///
/// # Example
/// ```
/// use stage2::{GuestSpace, Spin};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::Host;
///
/// /// For a machine of two CPUs: each has a cache line of its own, and a change takes two.
/// type Small = GuestSpace<Host, Spin<2>>;
/// ```
pub struct Spin<const STRIPES: usize>;

impl<const STRIPES: usize> LockFamily for Spin<STRIPES> {
    type Lock<T: Send + Sync> = Striped<T, STRIPES>;
}

/// The lock of [`Spin`].
pub struct Striped<T, const STRIPES: usize> {
    stripes: [Stripe; STRIPES],
    value: UnsafeCell<T>,
}

/// One stripe, on cache lines of its own (two, since CPUs fetch them in pairs).
#[repr(align(128))]
struct Stripe(RwLock<()>);

// SAFETY: `Shared` gives `&T` to several threads (`T: Sync`), `Exclusive` gives `&mut T` to any (`T: Send`), and the
// stripes keep the two apart: `exclusive` holds all of them, `shared` one.
unsafe impl<T: Send + Sync, const STRIPES: usize> Sync for Striped<T, STRIPES> {}

/// [`Striped`] held shared.
///
/// It has the cell and no reference to the value: that would promise the compiler that nobody writes until the call is
/// over which the guard is dropped in, and so beyond the release.
pub struct Shared<'a, T> {
    _stripe: RwLockReadGuard<'a, ()>,
    value: &'a UnsafeCell<T>,
}

/// [`Striped`] held exclusively, likewise.
pub struct Exclusive<'a, T, const STRIPES: usize> {
    value: &'a UnsafeCell<T>,
    _stripes: [RwLockWriteGuard<'a, ()>; STRIPES],
}

impl<T: Send + Sync, const STRIPES: usize> SpaceLock<T> for Striped<T, STRIPES> {
    type Shared<'a>
        = Shared<'a, T>
    where
        T: 'a;
    type Exclusive<'a>
        = Exclusive<'a, T, STRIPES>
    where
        T: 'a;

    fn new(value: T) -> Self {
        const { assert!(STRIPES > 0, "a lock has at least one stripe") }
        Self { stripes: array::from_fn(|_| Stripe(RwLock::new(()))), value: UnsafeCell::new(value) }
    }

    fn shared(&self, cpu: CpuId) -> Shared<'_, T> {
        Shared { _stripe: self.stripes[cpu.0 % STRIPES].0.read(), value: &self.value }
    }

    fn exclusive(&self) -> Exclusive<'_, T, STRIPES> {
        // `write()` starves while readers come and go; an upgradeable reader keeps new ones out. All take the
        // stripes in the same order.
        let stripes = array::from_fn(|index| self.stripes[index].0.upgradeable_read().upgrade());
        Exclusive { value: &self.value, _stripes: stripes }
    }

    fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T> Deref for Shared<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: while one stripe is held shared nobody holds all of them, so there is no `&mut T`.
        unsafe { &*self.value.get() }
    }
}

impl<T, const STRIPES: usize> Deref for Exclusive<'_, T, STRIPES> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: with every stripe held exclusively nobody else has a reference, and this one is the guard's.
        unsafe { &*self.value.get() }
    }
}

impl<T, const STRIPES: usize> DerefMut for Exclusive<'_, T, STRIPES> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above; the guard is borrowed mutably for as long.
        unsafe { &mut *self.value.get() }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, vec::Vec};

    use super::*;

    /// A guard that held a reference promised it to the compiler for all of the call that dropped it, and so beyond the
    /// release: undefined behaviour, which Miri sees.
    #[test]
    fn a_guard_promises_nothing_beyond_its_release() {
        let lock = Striped::<usize, 2>::new(0);
        thread::scope(|scope| {
            let rounds = if cfg!(miri) { 40 } else { 1000 };
            let workers: Vec<_> = (0..3)
                .map(|cpu| {
                    let lock = &lock;
                    scope.spawn(move || {
                        for _ in 0..rounds {
                            let mut value = lock.exclusive();
                            *value += 1;
                            drop(value);
                            let seen = lock.shared(CpuId(cpu));
                            assert!(*seen > 0);
                            drop(seen);
                        }
                        rounds
                    })
                })
                .collect();
            let added: usize = workers.into_iter().map(|worker| worker.join().unwrap_or(0)).sum();
            assert_eq!(*lock.shared(CpuId(0)), added);
        });
    }
}
