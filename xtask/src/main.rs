//! `cargo xtask`: the project's commands. `demo` boots a guest under the example hypervisor and says whether the
//! guest's own checks passed; `test` runs every check that the project has; `bench` measures what the crate costs.

mod apt;
mod baseline;
mod bench;
mod board;
mod bochs;
mod defects;
mod demo;
mod docs;
mod guest;
mod house;
mod initramfs;
mod pair;
mod pair_verdict;
mod pc;
mod process;
mod qemu;
mod setup;
mod steps;
mod test;
mod text;
mod verdict;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Set up, build, run and check stage2")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure what the crate costs, and write docs/performance.md's tables
    Bench(bench::Options),
    /// Boot a guest under the example hypervisor in an emulator and judge it by its own words
    Demo(demo::Options),
    /// Put defects into the sources, one at a time, and see each caught by a test
    Defects(defects::Options),
    /// Run every check, or those that are named; the last line counts them
    Test(test::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Err(error) = process::end_children_on_interrupt() {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    let verdict = match arguments.command {
        Task::Bench(options) => bench::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Defects(options) => defects::run(&options),
        Task::Test(options) => test::run(&options),
    };
    match verdict {
        Verdict::Good => ExitCode::SUCCESS,
        Verdict::Bad => ExitCode::FAILURE,
    }
}

/// What a command found; it has said so itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad,
}
