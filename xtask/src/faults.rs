//! `cargo xtask faults`: faults put into the crate, one at a time, each of which a test on the host and, where an
//! emulator can see it, a test at EL2 must catch.
//!
//! A fault is a change of a few lines of a copy of the sources. A test that nobody ever saw fail proves nothing.

mod areas;
mod formats;
mod invalidation;
mod judge;
mod loans;
#[cfg(test)]
mod pitfalls;
mod sharing;
mod sources;
mod space;
mod table;
mod tree;
mod walker;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::Verdict;
use crate::process::{self, Finished, Heard, Job};
use crate::workspace::{AARCH64, cargo, target};
use crate::{qemu, setup, verdict};
use table::{Board, Emulator, Fault, Suite, Test};
use tree::Tree;

const BUILDING: Duration = Duration::from_secs(900);
const TESTING: Duration = Duration::from_secs(150);
const EMULATING: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
pub struct Options {
    /// Put in these faults alone
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Name the faults, what they are faults against, and who must catch them
    #[arg(long)]
    pub list: bool,
    /// Leave the emulator out
    #[arg(long)]
    pub host: bool,
}

/// Puts the faults in, one after the other; the last line counts those that were caught.
pub fn run(options: &Options) -> Verdict {
    match chosen(&options.only) {
        Ok(faults) if options.list => {
            for fault in faults {
                println!("{fault}");
            }
            Verdict::Good
        }
        Ok(faults) => put_in(&faults, options).unwrap_or_else(|error| {
            println!("faults: {error:#}");
            Verdict::Bad
        }),
        Err(error) => {
            println!("faults: {error:#}");
            Verdict::Bad
        }
    }
}

fn chosen(only: &[String]) -> Result<Vec<&'static Fault>> {
    if let Some(unknown) = only.iter().find(|name| table::all().all(|fault| fault.name != **name)) {
        bail!("no fault has the name {unknown}; `--list` names them");
    }
    Ok(table::all().filter(|fault| only.is_empty() || only.iter().any(|name| name == fault.name)).collect())
}

fn put_in(faults: &[&'static Fault], options: &Options) -> Result<Verdict> {
    let tree = Tree::refreshed()?;
    if !options.host {
        setup::tools(&[setup::QEMU_AARCH64])?;
        setup::rust_targets(&[AARCH64])?;
    }
    let runner = Runner { tree, emulator: !options.host };
    runner.without_faults(faults).context("without any fault")?;
    let (mut passed, mut failed) = (0, 0);
    for fault in faults {
        match runner.catch(fault) {
            Ok(story) => {
                passed += 1;
                println!("fault {}: {story}", fault.name);
            }
            Err(error) => {
                failed += 1;
                println!("fault {}: FAILED: {error:#}", fault.name);
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { Verdict::Good } else { Verdict::Bad })
}

struct Runner {
    tree: Tree,
    emulator: bool,
}

impl Runner {
    /// All tests that are to fail pass while nothing is wrong: else a failure would say nothing.
    fn without_faults(&self, faults: &[&'static Fault]) -> Result<()> {
        let tests: BTreeSet<Test> = faults.iter().flat_map(|fault| fault.host).copied().collect();
        let finished = self.run_tests("none", &tests.into_iter().collect::<Vec<_>>())?;
        if !finished.succeeded() {
            bail!("host tests fail ({})\n{}", finished.end, judge::failed_tests(&finished.output).join("\n"));
        }
        let boards: BTreeSet<Board> = faults.iter().filter_map(|fault| fault.board()).collect();
        if self.emulator && !boards.is_empty() {
            let program = self.build_suite("none")?;
            for board in boards {
                let finished = emulate("none", board, &program)?;
                verdict::judge_suite(&finished.output).with_context(|| format!("{board}: {}", finished.end))?;
            }
        }
        Ok(())
    }

    /// Puts a fault in and sees it caught: by whom.
    fn catch(&self, fault: &Fault) -> Result<String> {
        let _put_in = self.tree.put_in(fault)?;
        let finished = self.run_tests(fault.name, fault.host)?;
        let on_host = format!("host caught by {}", judge::host(&finished)?);
        let Emulator::Shows(board, scenarios) = fault.emulator else { return Ok(on_host) };
        if !self.emulator {
            return Ok(format!("{on_host}, {board} left out"));
        }
        let program = self.build_suite(fault.name)?;
        let finished = emulate(fault.name, board, &program)?;
        let story = judge::suite(&finished, scenarios).with_context(|| format!("{on_host}; {board}"))?;
        Ok(format!("{on_host}, {board} caught by {story}"))
    }

    /// Builds and runs host tests. That they do not build is an error: a compiler catches nothing that runs.
    fn run_tests(&self, fault: &str, tests: &[Test]) -> Result<Finished> {
        let suites: BTreeSet<Suite> = tests.iter().map(|test| test.suite).collect();
        let command = |more: &str| {
            let mut command = self.cargo(["test", "--package", "stage2", "--no-fail-fast"]);
            command.args(suites.iter().flat_map(|suite| suite.arguments())).arg(more);
            command
        };
        compile(&format!("fault-{fault}-build"), || command("--no-run"))?;
        let mut test = command("--");
        test.args(tests.iter().map(|test| test.filter));
        let name = format!("fault-{fault}-host");
        let finished = process::run(Job { name: &name, command: test, limit: TESTING, hear: &mut |_| Heard::Line })?;
        if judge::tests_run(&finished.output) == 0 {
            bail!("no host test has a name that was given");
        }
        Ok(finished)
    }

    fn build_suite(&self, fault: &str) -> Result<PathBuf> {
        compile(&format!("fault-{fault}-qemu-build"), || {
            self.cargo(["build", "--release", "--package", "stage2-qemu", "--target", AARCH64])
        })?;
        Ok(builds().join(AARCH64).join("release").join("stage2-qemu"))
    }

    fn cargo<A: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = cargo(arguments);
        command.current_dir(self.tree.folder()).env("CARGO_TARGET_DIR", builds());
        // The same files change again and again; where many fail, nobody reads where from.
        command.env("CARGO_INCREMENTAL", "1").env("RUST_BACKTRACE", "0");
        command
    }
}

/// Builds, and once more from scratch where that fails: an interrupted build may have left half of its own state.
fn compile(name: &str, command: impl Fn() -> Command) -> Result<()> {
    let run = || process::run(Job { name, command: command(), limit: BUILDING, hear: &mut |_| Heard::Line });
    if run()?.succeeded() {
        return Ok(());
    }
    for folder in [builds().join("debug"), builds().join(AARCH64).join("release")] {
        // It need not be there.
        let _ = fs::remove_dir_all(folder.join("incremental"));
    }
    let finished = run()?;
    if !finished.succeeded() {
        bail!("it does not build ({}): {}", finished.end, finished.log.display());
    }
    Ok(())
}

fn builds() -> PathBuf {
    target().join("faults").join("build")
}

fn emulate(fault: &str, board: Board, program: &std::path::Path) -> Result<Finished> {
    let command = qemu::suite(board.model, board.cpus, program);
    let mut hear = |line: &str| match verdict::closing_line(line) {
        Some(_) => Heard::LastWord,
        None => Heard::Line,
    };
    process::run(Job { name: &format!("fault-{fault}-{board}"), command, limit: EMULATING, hear: &mut hear })
}
