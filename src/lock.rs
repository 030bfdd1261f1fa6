//! The lock of a space: many readers that do not meet, and writers; neither can starve the other.
//!
//! A reader counts itself in on its CPU's stripe and looks at the writers' word. A writer claims the word and then waits
//! until no stripe counts a reader. Each does its own store before it loads the other's, so that at least one of the two
//! sees the other; a reader that sees a writer counts itself out again and waits for the word.
//!
//! A writer that claimed the word keeps every new reader out: a stream of readers cannot starve it. Writers that follow
//! each other without a pause would leave a waiting reader a few nanoseconds between two of them. So those that wait are
//! counted in the word, and a writer that finds some polls for a bounded time, in which they get in, before it claims the
//! word. It then strikes out all that are still counted: a thread that the scheduler stopped costs one such time and not
//! one for each writer, and counts itself again when it runs. A hand-over in strict order would starve all threads where
//! they outnumber the CPUs: each would wait for one that does not run.
#![allow(unsafe_code, reason = "the lock's cell")]

use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};

#[cfg(not(loom))]
use core::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, Ordering, fence},
};
#[cfg(loom)]
use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use crate::{cpu_id::CpuId, stripes::Stripes};

/// Makes the locks that a space uses.
pub trait LockFamily: 'static {
    /// The lock around a `T`.
    type Lock<T: Send + Sync>: SpaceLock<T>;
}

/// A lock that is held shared by faults and exclusively by changes of the map.
///
/// # Contract
/// - While it is held exclusively, no other CPU holds it. While it is held shared, others may hold it shared, on any CPU.
/// - What an exclusive holder did comes before everything that a later holder does, and what shared holders did comes
///   before everything that a later exclusive holder does. Between shared holders it orders nothing.
/// - A shared holder may rely on this: no area comes, goes or changes, no table is freed, and no frame that an entry names
///   is freed. Entries do change meanwhile, by one compare-exchange each: they become valid, gain permissions, are marked
///   accessed or dirty, or are broken and made again by the one CPU that claimed them.
/// - It is not reentrant: a CPU that holds it must not ask for it, not even shared twice, since a writer that came in
///   between keeps the second request out and waits for the first to end. An interrupt handler must not ask for it at all.
/// - A CPU that is in the guest must not ask for it: its holder may wait for that CPU to leave the guest
///   ([`GuestSpace`](crate::GuestSpace) says the order of all locks). The locks of two spaces are taken by the spaces'
///   addresses, the lower first.
/// - Neither kind may keep the other out for ever, however often others come.
pub trait SpaceLock<T>: Sized + Send + Sync {
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

    /// A lock that is not held, for a machine of `cpus` CPUs; `None` where there is no memory for it.
    fn new(value: T, cpus: usize) -> Option<Self>;

    /// Waits until it is not held exclusively. `cpu` only spreads the load: any number is sound.
    fn shared(&self, cpu: CpuId) -> Self::Shared<'_>;

    /// Waits until it is not held at all, in spite of a stream of CPUs that ask for it shared.
    fn exclusive(&self) -> Self::Exclusive<'_>;

    /// What it protects, when it cannot be held.
    fn get_mut(&mut self) -> &mut T;
}

/// Spinning locks with one cache line a CPU, up to 16, which that CPU alone writes when it takes the lock shared.
pub struct Spin;

impl LockFamily for Spin {
    type Lock<T: Send + Sync> = Striped<T>;
}

/// The lock of [`Spin`].
pub struct Striped<T> {
    stripes: Stripes<Stripe>,
    writers: Writers,
    value: UnsafeCell<T>,
}

/// How many readers came by the CPUs of one stripe and are inside, or about to see that a writer is.
///
/// 64 bits: guards that are leaked (`mem::forget`) cannot make it overflow.
#[repr(align(64))]
struct Stripe(AtomicU64);

/// Whether a writer is inside or about to be, and which readers and writers wait.
struct Writers(AtomicU64);

/// What the writers' word says: [`HELD`], how many readers (15 bits) and writers (16 bits) wait, and the number of the last
/// writer that got in.
///
/// Only [`HELD`] matters for exclusion. An overflow of the rest would cost fairness.
#[derive(Clone, Copy)]
struct Word(u64);

/// The lock is claimed by a writer.
const HELD: u64 = 1;

/// One reader that waits.
const READER: u64 = 1 << 1;

/// One writer that waits.
const WRITER: u64 = 1 << 16;

/// One writer that got in.
const TURN: u64 = 1 << 32;

/// How often a writer looks whether the readers and writers that waited before it got in.
const CHANCE: u32 = if cfg!(loom) { 1 } else { 64 };

/// How a reader's count is ordered before its look at the writers' word.
const ARRIVAL: Ordering = Ordering::SeqCst;

// SAFETY: `Shared` gives `&T` to several threads (`T: Sync`), `Exclusive` gives `&mut T` to any (`T: Send`), and the
// protocol keeps the two apart: a reader that was counted in found no writer, and a writer found no reader counted.
unsafe impl<T: Send + Sync> Sync for Striped<T> {}

/// [`Striped`] held shared.
///
/// It has the cell and no reference to the value: that would promise the compiler that nothing writes until the call is
/// over which the guard is dropped in, and so beyond the release.
pub struct Shared<'a, T> {
    stripe: &'a Stripe,
    value: &'a UnsafeCell<T>,
}

/// [`Striped`] held exclusively, likewise.
pub struct Exclusive<'a, T> {
    writers: &'a Writers,
    value: &'a UnsafeCell<T>,
}

impl<T: Send + Sync> SpaceLock<T> for Striped<T> {
    type Shared<'a>
        = Shared<'a, T>
    where
        T: 'a;
    type Exclusive<'a>
        = Exclusive<'a, T>
    where
        T: 'a;

    fn new(value: T, cpus: usize) -> Option<Self> {
        let stripes = Stripes::new(cpus)?;
        Some(Self { stripes, writers: Writers(AtomicU64::new(0)), value: UnsafeCell::new(value) })
    }

    #[inline]
    fn shared(&self, cpu: CpuId) -> Shared<'_, T> {
        let stripe = self.stripes.of(cpu);
        if !stripe.enter(&self.writers) {
            self.writers.let_in(stripe);
        }
        Shared { stripe, value: &self.value }
    }

    #[inline]
    fn exclusive(&self) -> Exclusive<'_, T> {
        self.writers.claim();
        for stripe in self.stripes.iter() {
            stripe.await_empty();
        }
        Exclusive { writers: &self.writers, value: &self.value }
    }

    fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl Default for Stripe {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Stripe {
    /// Counts a reader in, unless there is a writer.
    #[inline]
    fn enter(&self, writers: &Writers) -> bool {
        // Sequentially consistent: orders the count before the load of the word. With less both this reader could miss
        // a writer's claim and that writer this reader's count.
        self.0.fetch_add(1, ARRIVAL);
        // The model takes sequentially consistent accesses for acquire-release ones, and only fences for what they are.
        #[cfg(loom)]
        fence(ARRIVAL);
        // As an acquire load: what the last writer did comes before what this reader does.
        if Word(writers.0.load(ARRIVAL)).is_held() {
            self.leave();
            return false;
        }
        true
    }

    /// Counts a reader out. Release: what it did comes before what the writer does that finds the stripe empty.
    #[inline]
    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }

    /// Waits until no reader is counted.
    #[inline]
    fn await_empty(&self) {
        // Acquire: the other half of `leave`.
        while self.0.load(Ordering::Acquire) != 0 {
            spin_loop();
        }
    }
}

impl Writers {
    /// Waits for the word and takes it: from then on no reader gets in.
    #[inline]
    fn claim(&self) {
        let word = Word(self.0.load(Ordering::Relaxed));
        if !word.is_free() || !self.take(word) {
            self.claim_in_turn();
        }
        // Orders the claim before the loads of the stripes: the other half of a reader's arrival. It is the acquire of the
        // claim, too: what the last writer did comes before what this one does.
        fence(Ordering::SeqCst);
    }

    /// Takes the word, if it is still `word`, and strikes out those that waited.
    #[inline]
    fn take(&self, word: Word) -> bool {
        // Relaxed: the fence in `claim` is the acquire for what the last writer did.
        self.replace(word, word.claimed())
    }

    /// Takes the word after others have had it, or a chance to.
    #[cold]
    fn claim_in_turn(&self) {
        let mut waiter = Waiter::new(WRITER);
        let mut patience = CHANCE;
        loop {
            let word = Word(self.0.load(Ordering::Relaxed));
            if word.is_held() {
                waiter.register(self, word);
                // Long enough for readers that wait to get in, and shorter than the polling of a writer that just came.
                patience = CHANCE / 2;
            } else if patience > 0 && if waiter.has_waited() { word.has_readers() } else { !word.is_free() } {
                patience -= 1;
            } else if self.take(word) {
                return;
            }
            spin_loop();
        }
    }

    /// Waits until no writer is there, and counts a reader in.
    #[cold]
    fn let_in(&self, stripe: &Stripe) {
        let mut waiter = Waiter::new(READER);
        loop {
            let word = Word(self.0.load(Ordering::Relaxed));
            if word.is_held() {
                waiter.register(self, word);
            } else if stripe.enter(self) {
                return waiter.withdraw(self);
            }
            spin_loop();
        }
    }

    /// Ends the claim. Release: what the writer did comes before what the next holder does.
    #[inline]
    fn release(&self) {
        self.0.fetch_sub(HELD, Ordering::Release);
    }

    /// Puts `by` in the place of `word`, unless it is another by now. Relaxed: a reader that acquires by the changed word
    /// still acquires what the last writer released.
    #[inline]
    fn replace(&self, word: Word, by: Word) -> bool {
        self.0.compare_exchange(word.0, by.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Word {
    const fn is_held(self) -> bool {
        self.0 & HELD != 0
    }

    /// Whether no writer is there and none waits, nor a reader.
    const fn is_free(self) -> bool {
        self.0 & (TURN - 1) == 0
    }

    /// Whether readers wait.
    const fn has_readers(self) -> bool {
        self.0 & (WRITER - READER) != 0
    }

    /// The number of the writer that is or was inside last.
    const fn turn(self) -> u64 {
        self.0 / TURN
    }

    /// Claimed by the next writer; no waiter is counted yet.
    const fn claimed(self) -> Self {
        Self((self.0 & !(TURN - 1)).wrapping_add(TURN) | HELD)
    }
}

/// A reader or writer that waits, and what the writers' word knows of it.
struct Waiter {
    /// What it counts for in the word.
    weight: u64,
    /// The number of the writer during which it was counted. The next writer strikes it out.
    turn: Option<u64>,
}

impl Waiter {
    const fn new(weight: u64) -> Self {
        Self { weight, turn: None }
    }

    const fn has_waited(&self) -> bool {
        self.turn.is_some()
    }

    fn is_counted(&self, word: Word) -> bool {
        self.turn == Some(word.turn())
    }

    /// Counts it, unless it is counted. If the word changes meanwhile, the caller looks again anyway.
    fn register(&mut self, writers: &Writers, word: Word) {
        if !self.is_counted(word) && writers.replace(word, Word(word.0.wrapping_add(self.weight))) {
            self.turn = Some(word.turn());
        }
    }

    /// Takes it out of the count, if it is still in it.
    fn withdraw(self, writers: &Writers) {
        let mut word = Word(writers.0.load(Ordering::Relaxed));
        while self.is_counted(word) && !writers.replace(word, Word(word.0.wrapping_sub(self.weight))) {
            word = Word(writers.0.load(Ordering::Relaxed));
        }
    }
}

impl<T> Deref for Shared<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: while a stripe counts this reader, which found no writer, no writer gets in: there is no `&mut T`.
        unsafe { &*self.value.get() }
    }
}

impl<T> Drop for Shared<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.stripe.leave();
    }
}

impl<T> Deref for Exclusive<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: this writer has the word and found no reader: there is no other reference, and this one is the guard's.
        unsafe { &*self.value.get() }
    }
}

impl<T> DerefMut for Exclusive<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above; the guard is borrowed mutably for as long.
        unsafe { &mut *self.value.get() }
    }
}

impl<T> Drop for Exclusive<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.writers.release();
    }
}

#[cfg(all(test, loom))]
mod model;

#[cfg(test)]
mod tests {
    use std::{thread, vec::Vec};

    use super::*;

    /// A guard that held a reference promised it to the compiler for all of the call that dropped it, and so beyond the
    /// release: undefined behaviour, which Miri sees.
    #[test]
    fn a_guard_promises_nothing_beyond_its_release() {
        let lock = Striped::new(0_usize, 2).unwrap();
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
