//! What an operation needs of the stack does not grow with the checkpoints that were before it: a hypervisor's stack is
//! small.
//!
//! A stack that overflows ends the process. So each test runs itself once more in a process of its own, and looks at
//! how that ended.

use std::{
    env,
    process::Command,
    thread::{self, Builder},
};

use stage2::{Access, Cause, CpuId, Fault, Origin, Outcome};

use super::{
    machine::{image, space},
    *,
};

/// Bytes of stack that a thread has, with what the standard library needs of it for itself. Half of it is enough for a
/// few checkpoints.
const STACK: usize = 32 << 10;
/// More checkpoints than fit into it, if each took a hundred bytes.
const MANY: usize = 500;
/// The variable that says which test is to be done here and now.
const HERE: &str = "STAGE2_SMALL_STACK";

/// What becomes of the checkpoints before the stack gets small.
#[derive(Clone, Copy, PartialEq)]
enum Checkpoints {
    Dropped,
    Living,
}

/// Runs the test of this name in a process of its own.
#[track_caller]
fn alone(name: &str, test: impl FnOnce()) {
    if env::var(HERE).is_ok_and(|here| here == name) {
        return test();
    }
    let path = format!("{}::{name}", module_path!().split_once("::").expect("a crate's name").1);
    let this = env::current_exe().expect("this program");
    let ended = Command::new(this).args(["--exact", &path, "--nocapture"]).env(HERE, name).output().expect("it runs");
    let (said, why) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{}\n{said}\n{why}", ended.status);
    assert!(said.contains("1 passed"), "there is no test {path}\n{said}");
}

fn on_small_stack(act: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let small = Builder::new().stack_size(STACK);
        small.spawn_scoped(scope, act).expect("a thread").join().expect("it went well");
    });
}

/// A guest with so many checkpoints, each with a page that differs; the page 0 is older than all, the page 1 untouched.
fn guest(store: &Store, sourced: bool, count: usize, checkpoints: Checkpoints) -> (Space, Vec<Snapshot>) {
    let guest = space(store, Limits::default());
    if sourced {
        guest.map_from(pages(0..PAGES), &image(), 0, RW).unwrap();
    } else {
        guest.map(pages(0..PAGES), RAM, RW).unwrap();
    }
    guest.store(gpa(0), 7_u64).unwrap();
    let mut all = Vec::new();
    for number in 0..count {
        let snapshot = guest.snapshot().unwrap();
        if checkpoints == Checkpoints::Living {
            all.push(snapshot);
        }
        guest.store(gpa(4 + number % 8), number as u64).unwrap();
    }
    (guest, all)
}

fn fault(guest: &Space, page: usize, access: Access, cause: Cause) {
    let fault = Fault { gpa: gpa(page), access, cause, origin: Origin::Instruction };
    assert_eq!(guest.fault(CpuId(0), fault), Ok(Outcome::Resolved), "page {page}");
}

/// Faults, accesses, unmapping, a fork, and the end of all: on a small stack.
fn all_goes_on_a_small_stack(count: usize, checkpoints: Checkpoints) {
    for sourced in [false, true] {
        let store = Store::default();
        let (guest, all) = guest(&store, sourced, count, checkpoints);
        let untouched = |page: usize| if sourced { (page * PAGE) as u64 + 1 } else { 0 };
        on_small_stack(|| {
            fault(&guest, 0, Access::Write, Cause::Permission);
            assert_eq!(guest.load(gpa(0)), Ok(7_u64));
            fault(&guest, 1, Access::Read, Cause::Translation);
            assert_eq!(guest.load(gpa(1)), Ok(untouched(1)));
            guest.store(gpa(2), 2_u64).unwrap();
            assert_eq!(guest.load(gpa(3)), Ok(untouched(3)));
        });
        on_small_stack(|| {
            let last = guest.snapshot().unwrap();
            assert_eq!(last.region().load(0), Ok(7_u64));
            assert_eq!(last.region().load(15 * PAGE), Ok(untouched(15)));
            let fork = space(&store, Limits::default());
            fork.restore(&last).unwrap();
            fork.store(gpa(0), 8_u64).unwrap();
            assert_eq!(fork.load(gpa(16)), Ok(untouched(16)));
            fork.unmap(pages(0..4)).unwrap();
            guest.unmap(pages(2..6)).unwrap();
            drop(last);
            guest.unmap(pages(0..2)).unwrap();
        });
        on_small_stack(|| {
            for snapshot in &all {
                assert_eq!(snapshot.region().load(0), Ok(7_u64));
            }
            let (some, others) = (all.len() / 2, guest);
            let mut all = all;
            all.drain(..some).for_each(drop);
            drop(others);
            all.into_iter().rev().for_each(drop);
        });
        assert_eq!(store.used(), 0);
    }
}

/// The stack is large enough for what has not been checkpointed often.
#[test]
fn a_small_stack_is_enough_for_a_few_checkpoints() {
    alone("a_small_stack_is_enough_for_a_few_checkpoints", || {
        for checkpoints in [Checkpoints::Dropped, Checkpoints::Living] {
            all_goes_on_a_small_stack(3, checkpoints);
        }
    });
}

#[test]
fn a_small_stack_is_enough_after_many_checkpoints_that_were_dropped() {
    alone("a_small_stack_is_enough_after_many_checkpoints_that_were_dropped", || {
        all_goes_on_a_small_stack(MANY, Checkpoints::Dropped);
    });
}

#[test]
fn a_small_stack_is_enough_after_many_checkpoints_that_live() {
    alone("a_small_stack_is_enough_after_many_checkpoints_that_live", || {
        all_goes_on_a_small_stack(MANY, Checkpoints::Living);
    });
}

/// A chain whose guest is gone before its checkpoints, of which only the newest is left: all behind it goes at once.
#[test]
fn a_small_stack_is_enough_for_the_end_of_the_last_of_many() {
    alone("a_small_stack_is_enough_for_the_end_of_the_last_of_many", || {
        for sourced in [false, true] {
            let store = Store::default();
            let (guest, _) = guest(&store, sourced, MANY, Checkpoints::Dropped);
            let last = guest.snapshot().unwrap();
            on_small_stack(move || {
                drop(guest);
                drop(last);
            });
            assert_eq!(store.used(), 0);
        }
    });
}
