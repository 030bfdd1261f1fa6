//! How many instructions the operations take, by `valgrind --tool=callgrind`: figures that no other load disturbs.
//!
//! The bench runs itself once for each operation, and counts inside [`measured`] alone.

use std::{hint::black_box, num::NonZeroUsize, process::Command, sync::Arc};

use stage2::{Pager, Settled, Snapshot, Source, Supply, Ticket};

use crate::{
    floor, forks,
    machine::{
        LAZY, POPULATED, READ, READ_WRITE, Space, TARGET, fault, linear, mapped, operations, page, pages_at, scattered,
        space,
    },
    peer,
};

/// 64 MiB: 32 tables.
const PAGES: usize = 16_384;
/// Pages that are mapped singly.
const SINGLE: usize = 200;

/// The argument that names an operation.
const ARGUMENT: &str = "--operation";

/// What is to be counted, ready to run.
type Ready = Box<dyn FnMut()>;
/// Its name, how many parts it has, and what makes it ready.
type Operation = (&'static str, usize, fn() -> Ready);

/// Those that begin with "loop" are the floor of what follows them.
const OPERATIONS: [Operation; 26] = [
    ("loop: map linear", PAGES, || {
        let mut tables = floor::Tables::new(PAGES);
        Box::new(move || tables.map(TARGET))
    }),
    ("map linear", PAGES, || {
        let space = space();
        Box::new(move || space.map(pages_at(0, PAGES), linear(0), READ_WRITE).expect("nothing is there"))
    }),
    ("PageTable64: map linear", PAGES, || {
        let mut peer = peer::new();
        Box::new(move || peer::map(&mut peer, PAGES))
    }),
    ("loop: protect", PAGES, || {
        let mut tables = floor::Tables::new(PAGES);
        tables.map(TARGET);
        Box::new(move || tables.protect())
    }),
    ("protect", PAGES, || {
        let space = mapped(linear(0), PAGES);
        Box::new(move || space.protect(pages_at(0, PAGES), READ).expect("it is mapped"))
    }),
    ("loop: unmap linear", PAGES, || {
        let mut tables = floor::Tables::new(PAGES);
        tables.map(TARGET);
        Box::new(move || tables.unmap())
    }),
    ("unmap linear", PAGES, || {
        let space = mapped(linear(0), PAGES);
        Box::new(move || space.unmap(pages_at(0, PAGES)).expect("it is mapped"))
    }),
    ("loop: map populated", PAGES, || {
        let mut tables = floor::Tables::new(PAGES);
        Box::new(move || tables.populate())
    }),
    ("map populated", PAGES, || {
        let space = space();
        Box::new(move || space.map(pages_at(0, PAGES), POPULATED, READ_WRITE).expect("nothing is there"))
    }),
    ("loop: unmap populated", PAGES, || {
        let mut tables = floor::Tables::new(PAGES);
        tables.populate();
        Box::new(move || tables.unmap())
    }),
    ("unmap populated", PAGES, || {
        let space = mapped(POPULATED, PAGES);
        Box::new(move || space.unmap(pages_at(0, PAGES)).expect("it is mapped"))
    }),
    ("loop: translate", PAGES, || {
        let mut tables = floor::Tables::new(PAGES);
        tables.map(TARGET);
        let order = scattered(PAGES, PAGES);
        Box::new(move || order.iter().for_each(|&index| ignore(tables.walk(index))))
    }),
    ("translate", PAGES, || {
        let space = mapped(linear(0), PAGES);
        let order = scattered(PAGES, PAGES);
        Box::new(move || order.iter().for_each(|&index| ignore(space.translate(page(index)))))
    }),
    ("PageTable64: translate", PAGES, || {
        let peer = peer::mapped(PAGES);
        let order = scattered(PAGES, PAGES);
        Box::new(move || order.iter().for_each(|&index| ignore(peer.query(page(index)))))
    }),
    ("loop: fault on a fresh page", PAGES, || {
        let mut tables = floor::Tables::new(PAGES);
        Box::new(move || (0..PAGES).for_each(|index| tables.install(index)))
    }),
    ("fault on a fresh page", PAGES, || {
        let space = mapped(LAZY, PAGES);
        Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&space, 0, index))))
    }),
    ("fault on a present page", PAGES, || {
        let space = mapped(POPULATED, PAGES);
        Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&space, 0, index))))
    }),
    ("fault on a source's page", PAGES, || {
        let space = space();
        let pager = Pager::new(Arc::new(Blank), NonZeroUsize::MIN).expect("memory");
        space.map_from(pages_at(0, PAGES), &pager, 0, READ_WRITE).expect("nothing is there");
        Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&space, 0, index))))
    }),
    ("copy an untouched page", PAGES, || {
        let (child, parent) = fork();
        std::mem::forget(parent);
        Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&child, 0, index))))
    }),
    ("copy a page that was read", PAGES, || {
        let (child, parent) = fork();
        std::mem::forget(parent);
        forks::read_all(&child, PAGES);
        Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&child, 0, index))))
    }),
    ("take a page", PAGES, || {
        let space = mapped(POPULATED, PAGES);
        drop(forks::freeze(&space));
        Box::new(move || (0..PAGES).for_each(|index| ignore(fault(&space, 0, index))))
    }),
    ("snapshot", PAGES, || {
        let space = mapped(POPULATED, PAGES);
        Box::new(move || ignore(std::mem::ManuallyDrop::new(space.snapshot())))
    }),
    ("fork, 64 MiB", 1, || {
        let (_, (parent, snapshot)) = fork();
        std::mem::forget(parent);
        Box::new(move || ignore(std::mem::ManuallyDrop::new(forks::forked(&snapshot))))
    }),
    ("map one page", SINGLE, || {
        let space = mapped(linear(0), 1);
        Box::new(move || {
            (1..=SINGLE).for_each(|index| {
                space.map(pages_at(2 * index, 1), linear(2 * index), READ_WRITE).expect("nothing is there");
            });
        })
    }),
    ("unmap one page", SINGLE, || {
        let space = mapped(linear(0), 1);
        for index in 1..=SINGLE {
            space.map(pages_at(2 * index, 1), linear(2 * index), READ_WRITE).expect("nothing is there");
        }
        Box::new(move || {
            (1..=SINGLE).for_each(|index| space.unmap(pages_at(2 * index, 1)).expect("it is mapped"));
        })
    }),
    ("protect one page", SINGLE, || {
        let space = mapped(linear(0), 1);
        Box::new(move || {
            (0..SINGLE).for_each(|turn| {
                let flags = if turn % 2 == 0 { READ } else { READ_WRITE };
                space.protect(pages_at(0, 1), flags).expect("it is mapped");
            });
        })
    }),
];

/// A source that has zeros, at once.
struct Blank;

impl Source for Blank {
    fn ask(&self, _: Ticket, _: &mut [u8]) -> Supply {
        Supply::Ready
    }

    fn settled(&self, _: Ticket, _: Settled) {}
}

/// A fork, and what it stands on.
fn fork() -> (Space, (Space, Snapshot)) {
    let parent = mapped(POPULATED, PAGES);
    let snapshot = forks::freeze(&parent);
    (forks::forked(&snapshot), (parent, snapshot))
}

/// Takes a result that nobody needs, so that it is computed.
fn ignore<T>(result: T) {
    let _ = black_box(result);
}

/// The only code whose instructions are counted, and what it calls.
#[inline(never)]
fn measured(operation: &mut dyn FnMut()) {
    operation();
    black_box(());
}

/// The operation that this run is about, if it is about one.
pub fn asked_for() -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != ARGUMENT);
    arguments.nth(1)
}

/// Runs one operation, and says what it asked of the CPU.
pub fn run(name: &str) {
    let Some((_, _, prepare)) = OPERATIONS.iter().find(|(known, ..)| *known == name) else {
        eprintln!("there is no operation {name:?}");
        std::process::exit(2);
    };
    let mut operation = prepare();
    let before = operations();
    measured(&mut *operation);
    println!("{}", operations() - before);
}

/// Counts all of them.
pub fn report() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("\ninstructions are not counted: there is no valgrind");
        return;
    }
    println!("\n{:32} {:>8} {:>18} {:>16}", "operation", "parts", "instructions/part", "CPU operations");
    for (name, parts, _) in OPERATIONS {
        match count(name) {
            Some((instructions, asked)) => {
                #[allow(clippy::cast_precision_loss, reason = "for people to read")]
                let each = instructions as f64 / parts as f64;
                println!("{name:32} {parts:8} {each:18.1} {asked:>16}");
            }
            None => println!("{name:32} could not be counted"),
        }
    }
}

/// The instructions of one operation, and what it asked of the CPU: TLB maintenance and barriers.
fn count(name: &str) -> Option<(u64, String)> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*instructions::measured*"])
        .arg(std::env::current_exe().ok()?)
        .args([ARGUMENT, name])
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said.lines().find_map(|line| line.split_once("Collected : "))?;
    let asked = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    Some((collected.1.trim().parse().ok()?, asked))
}
