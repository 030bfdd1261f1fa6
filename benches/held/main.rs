//! For how many instructions the space's lock is held exclusively, at most, while one operation runs: by a lock of this
//! file's own, at whose taking callgrind begins to count and at whose release it writes down what it counted.

use std::{
    hint::black_box,
    io,
    ops::{Deref, DerefMut},
    process::ExitCode,
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use stage2::{
    CpuId, GuestSpace, Snapshot,
    lock::{LockFamily, SpaceLock},
};

use stage2_benches::{
    callgrind,
    figures::grouped,
    machine::{
        Arm, Ept, GIB_PAGES, Kind, LAZY, Machine, POPULATED, READ, READ_WRITE, fault, linear, pages_at, space_of,
    },
    ready,
};

/// 64 MiB.
const PAGES: usize = 16_384;
/// How many areas there are where one page is changed.
const AREAS: usize = 2000;
/// What is to be run, once.
type Ready = Box<dyn FnOnce()>;

/// The argument that names an operation.
const ARGUMENT: &str = "--operation";

/// Whether the operation runs.
static RUNS: AtomicBool = AtomicBool::new(false);

/// Callgrind forgets what it counted. What it does differs from [`released`], or the compiler would make them one.
#[inline(never)]
fn taken() {
    black_box(1_u8);
}

/// Callgrind writes down what it counted.
#[inline(never)]
fn released() {
    black_box(2_u16);
}

/// The family of the lock that is watched.
struct Watched;

impl LockFamily for Watched {
    type Lock<T: Send + Sync> = WatchedLock<T>;
}

/// A lock of the host's.
struct WatchedLock<T>(RwLock<T>);

/// It is held exclusively.
struct Exclusive<'a, T>(RwLockWriteGuard<'a, T>);

impl<T: Send + Sync> SpaceLock<T> for WatchedLock<T> {
    type Shared<'a>
        = RwLockReadGuard<'a, T>
    where
        T: 'a;
    type Exclusive<'a>
        = Exclusive<'a, T>
    where
        T: 'a;

    fn new(value: T, _: usize) -> Option<Self> {
        Some(Self(RwLock::new(value)))
    }

    fn shared(&self, _: CpuId) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> Exclusive<'_, T> {
        let guard = self.0.write().unwrap_or_else(PoisonError::into_inner);
        taken();
        Exclusive(guard)
    }

    fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Deref for Exclusive<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Exclusive<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Exclusive<'_, T> {
    fn drop(&mut self) {
        if RUNS.load(Relaxed) {
            released();
        }
    }
}

type Frames = ready::Ready<true>;
type Space<K> = GuestSpace<Machine<K, Frames>, Watched>;
/// What is run once, and what makes it ready.
type Operation = (&'static str, fn() -> Ready);

fn space<K: Kind>(mapping: stage2::Mapping, pages: usize) -> Space<K> {
    ready::stock(3 * PAGES);
    let space = space_of(ready::Ready::<true>, 2);
    space.map(pages_at(0, pages), mapping, READ_WRITE).expect("it is unmapped");
    space
}

/// A space of many areas.
fn many<K: Kind>() -> Space<K> {
    let space = space::<K>(linear(0), 1);
    for area in 1..AREAS {
        space.map(pages_at(4 * area, 1), linear(4 * area), READ_WRITE).expect("it is unmapped");
    }
    space
}

fn frozen<K: Kind>() -> (Space<K>, Snapshot) {
    let space = space::<K>(POPULATED, PAGES);
    let snapshot = space.snapshot().expect("there is memory");
    (space, snapshot)
}

fn operations<K: Kind>() -> Vec<Operation> {
    vec![
        ("map 1 GiB, linear", || {
            let space = space::<K>(linear(GIB_PAGES), 1);
            {
                let everything = pages_at(GIB_PAGES, GIB_PAGES);
                Box::new(move || space.map(everything, linear(0), READ_WRITE).expect("it is unmapped"))
            }
        }),
        ("protect 1 GiB, linear", || {
            let space = space::<K>(linear(0), GIB_PAGES);
            Box::new(move || space.protect(pages_at(0, GIB_PAGES), READ).expect("it is mapped"))
        }),
        ("protect 1 GiB, linear, in steps of 512", || {
            let space = space::<K>(linear(0), GIB_PAGES);
            Box::new(move || {
                let mut protecting = space.protect_in_steps(pages_at(0, GIB_PAGES), READ).expect("it is mapped");
                while protecting.step(512).expect("no CPU is out of reach") != stage2::space::Progress::Done {}
            })
        }),
        ("unmap 1 GiB, linear", || {
            let space = space::<K>(linear(0), GIB_PAGES);
            Box::new(move || space.unmap(pages_at(0, GIB_PAGES)).expect("it is mapped"))
        }),
        ("map 64 MiB, populated", || {
            let space = space::<K>(linear(GIB_PAGES), 1);
            Box::new(move || space.map(pages_at(PAGES, PAGES), POPULATED, READ_WRITE).expect("it is unmapped"))
        }),
        ("unmap 64 MiB, populated", || {
            let space = space::<K>(POPULATED, PAGES);
            Box::new(move || space.unmap(pages_at(0, PAGES)).expect("it is mapped"))
        }),
        ("map one page, 2,000 areas", || {
            let space = many::<K>();
            Box::new(move || space.map(pages_at(402, 1), linear(402), READ_WRITE).expect("it is unmapped"))
        }),
        ("protect one page, 2,000 areas", || {
            let space = many::<K>();
            Box::new(move || space.protect(pages_at(400, 1), READ).expect("it is mapped"))
        }),
        ("unmap one page, 2,000 areas", || {
            let space = many::<K>();
            Box::new(move || space.unmap(pages_at(400, 1)).expect("it is mapped"))
        }),
        ("fault on a fresh page", || {
            let space = space::<K>(LAZY, PAGES);
            Box::new(move || {
                let _ = black_box(fault(&space, 0, 1));
            })
        }),
        ("relocate a page", || {
            let space = space::<K>(POPULATED, PAGES);
            Box::new(move || {
                let _ = black_box(space.relocate(pages_at(1, 1)));
            })
        }),
        ("snapshot of 64 MiB", || {
            let space = space::<K>(POPULATED, PAGES);
            Box::new(move || std::mem::forget(space.snapshot()))
        }),
        ("snapshot of 64 MiB, in steps of 512", || {
            let space = space::<K>(POPULATED, PAGES);
            Box::new(move || {
                let mut taking = space.snapshot_in_steps().expect("there is memory");
                while taking.step(512).expect("no CPU is out of reach") != stage2::space::Progress::Done {}
                std::mem::forget(taking.finish());
            })
        }),
        ("fork of 64 MiB in one area", || {
            let (parent, snapshot) = frozen::<K>();
            std::mem::forget(parent);
            Box::new(move || {
                let child: Space<K> = space_of(ready::Ready::<true>, 2);
                child.restore(&snapshot).expect("it is unmapped");
                std::mem::forget(child);
            })
        }),
    ]
}

/// Measures all of them, or runs the one that is named.
fn main() -> ExitCode {
    let mut arguments = std::env::args().skip_while(|argument| argument != ARGUMENT);
    if let Some(name) = arguments.nth(1) {
        return run(&name);
    }
    if let Err(error) = report() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// The name with the kind of tables.
fn named<K: Kind>() -> Vec<(String, fn() -> Ready)> {
    operations::<K>().into_iter().map(|(name, prepare)| (format!("{name}: {}", K::NAME), prepare)).collect()
}

fn run(name: &str) -> ExitCode {
    let all = [named::<Ept>(), named::<Arm>()];
    let Some((_, prepare)) = all.into_iter().flatten().find(|(known, _)| known == name) else {
        eprintln!("there is no operation {name:?}");
        return ExitCode::FAILURE;
    };
    let operation = prepare();
    RUNS.store(true, Relaxed);
    operation();
    std::process::exit(0)
}

fn report() -> io::Result<()> {
    let names: Vec<String> = [named::<Ept>(), named::<Arm>()].into_iter().flatten().map(|(name, _)| name).collect();
    let options = ["--zero-before=*held::taken*", "--dump-before=*held::released*"];
    let held = |name: &str| {
        let counted = callgrind::run(name, &options, &[ARGUMENT, name])?;
        // None where it was never held.
        Ok(counted.parts.into_iter().max().unwrap_or(0))
    };
    let counts = callgrind::on_all_cores(&names, held)?;
    println!("<!-- begin: held -->");
    println!("| the lock is held exclusively, instructions at most | {} | {} |\n|---|---|---|", Ept::NAME, Arm::NAME);
    let (ept, arm) = counts.split_at(counts.len() / 2);
    for (((name, _), ept), arm) in operations::<Ept>().iter().zip(ept).zip(arm) {
        println!("| {name} | {} | {} |", grouped(*ept), grouped(*arm));
    }
    println!("<!-- end: held -->");
    Ok(())
}
