//! The board's CPUs: the first runs the scenarios, the second does what it is given.
#![allow(unsafe_code, reason = "work is handed over by its address")]

use core::{
    hint,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
};

use hypervisor::{cpu, vcpu};

/// How many CPUs scenarios can use at most.
pub const MOST: usize = 2;

/// What the second CPU is to do.
struct Mailbox {
    /// The address of a `Task`, or null when there is none.
    task: AtomicPtr<()>,
    /// How to run it: a `fn(*mut ())`.
    run: AtomicUsize,
}

static MAILBOX: Mailbox = Mailbox { task: AtomicPtr::new(core::ptr::null_mut()), run: AtomicUsize::new(0) };

/// The number of the CPU that asks.
#[must_use]
pub fn here() -> usize {
    (cpu::affinity() & 0xff) as usize
}

/// Starts the second CPU, if there is one, which does `prepare` first: how many there are.
pub fn start(prepare: fn()) -> usize {
    if cpu::start(1, wait_for_work, prepare as usize as u64).is_ok() { 2 } else { 1 }
}

extern "C" fn wait_for_work(prepare: u64) -> ! {
    // SAFETY: `start` passes a `fn()`.
    let prepare: fn() = unsafe { core::mem::transmute(prepare) };
    vcpu::prepare();
    prepare();
    loop {
        let task = MAILBOX.task.load(Ordering::Acquire);
        if task.is_null() {
            cpu::wait_for_store(&MAILBOX, || MAILBOX.task.load(Ordering::Acquire).is_null());
            continue;
        }
        let run = MAILBOX.run.load(Ordering::Relaxed);
        // SAFETY: `post` stored a `fn(*mut ())` before the task.
        let run: fn(*mut ()) = unsafe { core::mem::transmute(run) };
        run(task);
        MAILBOX.task.store(core::ptr::null_mut(), Ordering::Release);
    }
}

/// Work, and then its result.
struct Task<F, R> {
    work: Option<F>,
    result: Option<R>,
}

impl<R, F: FnOnce() -> R> Task<F, R> {
    fn run(task: *mut ()) {
        // SAFETY: the poster keeps the task alive, and does not touch it, until the mailbox is empty again.
        let task = unsafe { &mut *task.cast::<Self>() };
        task.result = task.work.take().map(|work| work());
    }
}

/// Runs `there` on the second CPU while this one runs `here`: both results.
///
/// # Panics
/// The second CPU did not do it.
pub fn together<A, B: Send>(here: impl FnOnce() -> A, there: impl FnOnce() -> B + Send) -> (A, B) {
    let mut task = Task { work: Some(there), result: None };
    post(&mut task);
    let result = here();
    while !MAILBOX.task.load(Ordering::Acquire).is_null() {
        hint::spin_loop();
    }
    match task.result {
        Some(other) => (result, other),
        None => panic!("the other CPU did not do its work"),
    }
}

fn post<R, F: FnOnce() -> R>(task: &mut Task<F, R>) {
    let run: fn(*mut ()) = Task::<F, R>::run;
    MAILBOX.run.store(run as usize, Ordering::Relaxed);
    MAILBOX.task.store((&raw mut *task).cast(), Ordering::Release);
}
