//! How many instructions the operations take, by `valgrind --tool=callgrind`: figures that no other load disturbs.
//!
//! ```sh
//! cargo run --profile bench -p stage2-benches --bin counts            # all of them
//! cargo run --profile bench -p stage2-benches --bin counts -- protect # those whose names contain "protect"
//! ```
//!
//! The program runs itself once for each operation, and counts inside [`measured`] alone.

mod floors;
mod ours;
mod peers;
mod rows;
mod sets;
mod table;

use std::{hint::black_box, io, process::ExitCode};

use stage2_benches::callgrind;

/// The argument that names an operation.
const ARGUMENT: &str = "--operation";

/// What is to be counted, ready to run.
type Ready = Box<dyn FnMut()>;

/// One way to do what a row of the table is about.
struct Operation {
    /// The row.
    row: &'static str,
    /// The crate that does it, or the floor.
    by: &'static str,
    /// How many parts it has, each of which is one of what the row names.
    parts: usize,
    /// Makes it ready.
    prepare: fn() -> Ready,
}

impl Operation {
    fn name(&self) -> String {
        format!("{}: {}", self.row, self.by)
    }
}

/// The floor's name among those that do an operation.
const FLOOR: &str = "floor";
/// The crate's, where there is one kind of it.
const OURS: &str = "stage2";

/// All operations.
fn operations() -> Vec<Operation> {
    use stage2_benches::peers::{Aarch64Paging, PageTableGeneric, PageTableMultiarch, X8664};
    let others = [
        floors::operations(),
        peers::operations::<Aarch64Paging>(),
        peers::operations::<PageTableGeneric>(),
        peers::operations::<PageTableMultiarch>(),
        peers::operations::<X8664>(),
    ];
    others.into_iter().flatten().chain(own_operations()).chain(sets::others()).collect()
}

/// The crate's own.
fn own_operations() -> impl Iterator<Item = Operation> {
    use stage2_benches::machine::{Arm, ArmDirty, Ept};
    let own =
        [ours::operations::<Ept>(), ours::operations::<Arm>(), ours::operations::<ArmDirty>(), sets::operations()];
    own.into_iter().flatten()
}

/// Takes a result that no bench needs, so that it is computed.
#[allow(clippy::needless_pass_by_value, reason = "what it is given is used up")]
fn ignore<T>(result: T) {
    let _ = black_box(result);
}

/// The only code whose instructions are counted, and what it calls.
#[inline(never)]
fn measured(operation: &mut dyn FnMut()) {
    begin();
    operation();
    black_box(());
}

/// What was counted until here is forgotten: see [`callgrind`]. No other function does the same, or the compiler would
/// make them one.
#[inline(never)]
fn begin() {
    black_box(3_u32);
}

/// Counts all operations or those whose names contain a word, or runs the one that is named.
///
/// With `--own`, those of this crate alone. With `--plain`, a line for each, with the count of all its parts, instead of
/// a table.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given = |option| arguments.iter().any(|argument| argument == option);
    if let Some(place) = arguments.iter().position(|argument| argument == ARGUMENT) {
        return run(arguments.get(place + 1).map_or("", String::as_str));
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with("--")).map_or("", String::as_str);
    let all: Vec<_> = if given("--own") { own_operations().collect() } else { operations() };
    let chosen: Vec<_> = all.into_iter().filter(|operation| operation.name().contains(filter)).collect();
    let counts = match count(&chosen) {
        Ok(counts) => counts,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if given("--plain") {
        chosen.iter().zip(&counts).for_each(|(operation, count)| println!("{} = {count}", operation.name()));
    } else {
        table::print(&chosen, &counts);
    }
    ExitCode::SUCCESS
}

/// How many instructions each operation takes.
fn count(operations: &[Operation]) -> io::Result<Vec<u64>> {
    let names: Vec<_> = operations.iter().map(Operation::name).collect();
    callgrind::on_all_cores(&names, count_one)
}

/// Runs one operation. What comes before it is forgotten when it begins.
fn count_one(name: &str) -> io::Result<u64> {
    let options = [
        "--zero-before=*counts::begin*",
        "--toggle-collect=*counts::measured*",
        // Within what is counted these stop the counting, elsewhere they start it: hence the zeroing.
        "--toggle-collect=*ready::uncounted_take*",
        "--toggle-collect=*ready::uncounted_give*",
    ];
    Ok(callgrind::run(name, &options, &[ARGUMENT, name])?.end)
}

/// Runs one operation.
fn run(name: &str) -> ExitCode {
    let Some(operation) = operations().into_iter().find(|operation| operation.name() == name) else {
        eprintln!("there is no operation {name:?}");
        return ExitCode::FAILURE;
    };
    let mut ready = (operation.prepare)();
    measured(&mut *ready);
    // What is torn down is not counted, and would take its time.
    std::process::exit(0)
}
