//! The lock in every interleaving of its loads and stores that the memory model allows.
//!
//! Run by `cargo xtask test --only loom`. Without the fence of `Writers::claim`, or with it, or a reader's [`ARRIVAL`], as
//! acquire–release, a reader and a writer are both inside; with any release or acquire relaxed, one of them does not see
//! what the other did. The model checker calls an execution that waits for ever one of too many branches.

use loom::{
    cell::UnsafeCell,
    model::Builder,
    sync::Arc,
    thread::{JoinHandle, spawn},
};

use super::{Ordering, Shared, SpaceLock, Striped, Word};
use crate::cpu_id::CpuId;

/// A number on which the model sees every access that is not ordered after the last one.
struct Watched(UnsafeCell<usize>);

// SAFETY: only reached under the lock. If the lock errs, the model's cell panics instead of racing.
unsafe impl Sync for Watched {}

type Lock = Arc<Striped<Watched>>;

/// How often the model changes threads where it need not, in one execution. Higher bounds found no further failure.
const PREEMPTIONS: usize = 3;

fn model(story: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(PREEMPTIONS);
    builder.check(story);
}

fn lock(cpus: usize) -> Lock {
    Arc::new(Striped::new(Watched(UnsafeCell::new(0)), cpus).unwrap())
}

fn read(lock: &Lock, cpu: usize) -> usize {
    let held = lock.shared(CpuId(cpu));
    // SAFETY: the pointer is read at once, and the model sees whether that races.
    held.0.with(|value| unsafe { *value })
}

fn add(lock: &Lock) {
    let held = lock.exclusive();
    // SAFETY: the pointer is used at once, and the model sees whether that races.
    held.0.with_mut(|value| unsafe { *value += 1 });
}

fn elsewhere(lock: &Lock, job: impl FnOnce(&Lock) + 'static) -> JoinHandle<()> {
    let lock = lock.clone();
    spawn(move || job(&lock))
}

/// Every CPU is done: the lock is free, and the next writer does not wait.
fn ends(lock: &Lock, others: impl IntoIterator<Item = JoinHandle<()>>, writers: usize) {
    for other in others {
        other.join().unwrap();
    }
    let word = Word(lock.writers.0.load(Ordering::Relaxed));
    assert!(word.is_free(), "the word still says {:#x}", word.0);
    assert!(lock.stripes.iter().all(|stripe| stripe.0.load(Ordering::Relaxed) == 0));
    assert_eq!(read(lock, 0), writers);
}

#[test]
fn a_reader_and_a_writer_are_not_inside_at_once() {
    model(|| {
        let lock = lock(1);
        let reader = elsewhere(&lock, |lock| {
            let before = read(lock, 0);
            assert!(before <= read(lock, 0), "a change was seen and then not");
        });
        add(&lock);
        ends(&lock, [reader], 1);
    });
}

/// A reader that gets in at once or not at all: two that waited could spin for each other in the model for ever, while the
/// third thread, which both wait for, is not let run.
fn try_to_read(lock: &Lock, cpu: usize) {
    let stripe = lock.stripes.of(CpuId(cpu));
    if stripe.enter(&lock.writers) {
        let held = Shared { stripe, value: &lock.value };
        // SAFETY: the pointer is read at once, and the model sees whether that races.
        assert!(held.0.with(|value| unsafe { *value }) <= 1);
    }
}

#[test]
fn readers_of_two_stripes_keep_a_writer_out() {
    model(|| {
        let lock = lock(2);
        let readers = [0, 1].map(|cpu| elsewhere(&lock, move |lock| try_to_read(lock, cpu)));
        add(&lock);
        ends(&lock, readers, 1);
    });
}

#[test]
fn readers_of_one_stripe_keep_a_writer_out() {
    model(|| {
        let lock = lock(1);
        let readers = [0, 1].map(|_| elsewhere(&lock, |lock| try_to_read(lock, 0)));
        add(&lock);
        ends(&lock, readers, 1);
    });
}

#[test]
fn writers_come_one_after_the_other() {
    model(|| {
        let lock = lock(1);
        let twice = |lock: &Lock| {
            add(lock);
            add(lock);
        };
        let writer = elsewhere(&lock, twice);
        twice(&lock);
        ends(&lock, [writer], 4);
    });
}

/// A reader that waits during one writer, is struck out by the next and waits again gets in, and is counted no more.
#[test]
fn a_reader_gets_in_beside_writers_that_follow_each_other() {
    model(|| {
        let lock = lock(1);
        let reader = elsewhere(&lock, |lock| assert!(read(lock, 0) <= 3));
        (0..3).for_each(|_| add(&lock));
        ends(&lock, [reader], 3);
    });
}
