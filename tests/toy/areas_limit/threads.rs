//! Several threads that map and unmap, and one that sets limits: there are never more areas than the limit was.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize},
    thread,
};

use super::*;

const THREADS: usize = 3;
const ROUNDS: usize = 3000;
const HIGH: usize = 40;
const LOW: usize = 20;

#[test]
fn never_have_more_than_the_limit() {
    let board = Board::new();
    let space = board.space();
    space.set_limits(at_most(HIGH));
    let (refused, goes_on) = (AtomicUsize::new(0), AtomicBool::new(true));
    let change = |thread: usize| {
        let mut mapped = Vec::new();
        for round in 0..ROUNDS {
            let at = pages(thread * 1024 + round * 7 % 64 * 2, 1);
            match space.map(at, LAZY, RW) {
                Ok(()) => {
                    mapped.push(at);
                    assert!(space.usage().areas <= HIGH);
                }
                Err(Error::Limit { range, what: Resource::Areas, limit }) => {
                    assert!(range == at && [LOW, HIGH].contains(&limit));
                    refused.fetch_add(1, Ordering::Relaxed);
                    mapped.drain(..).for_each(|at| space.unmap(at).unwrap());
                }
                Err(Error::Overlap { .. }) => mapped.drain(..).for_each(|at| space.unmap(at).unwrap()),
                Err(other) => panic!("{other}"),
            }
        }
        mapped.drain(..).for_each(|at| space.unmap(at).unwrap());
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || change(thread))).collect();
        scope.spawn(|| {
            while goes_on.load(Ordering::Relaxed) {
                space.set_limits(at_most(LOW));
                // What was there stays, and from now on nothing comes to more than that.
                let there = space.usage().areas.max(LOW);
                for _ in 0..20 {
                    assert!(space.usage().areas <= there);
                    thread::yield_now();
                }
                space.set_limits(at_most(HIGH));
                for _ in 0..20 {
                    assert!(space.usage().areas <= HIGH);
                    thread::yield_now();
                }
            }
        });
        for worker in workers {
            worker.join().unwrap();
        }
        goes_on.store(false, Ordering::Relaxed);
    });
    assert!(refused.into_inner() > 0, "the limit was reached");
    assert_eq!(count(&space), 0);
}
