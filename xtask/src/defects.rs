//! `cargo xtask defects`: defects put into the crate, one at a time, each of which a test on the host and, where an
//! emulator can see it, a test at EL2 must catch.
//!
//! A defect is a change of a few lines of a copy of the sources. A test that was never seen to fail proves nothing.

mod ahead;
mod areas;
mod audit;
mod blocks;
mod debt;
mod discards;
mod formats;
mod invalidation;
mod judge;
mod limits;
mod loans;
mod overtaken;
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
use table::{Board, Defect, Emulator, Suite, Test};
use tree::Tree;

const BUILDING: Duration = Duration::from_secs(900);
const TESTING: Duration = Duration::from_secs(150);
const EMULATING: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
pub struct Options {
    /// Put in these defects alone
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Name the defects, what they are defects against, and who must catch them
    #[arg(long)]
    pub list: bool,
    /// Leave the emulator out
    #[arg(long)]
    pub host: bool,
}

/// Puts the defects in, one after the other; the last line counts those that were caught.
pub fn run(options: &Options) -> Verdict {
    match chosen(&options.only) {
        Ok(defects) if options.list => {
            for defect in defects {
                println!("{defect}");
            }
            Verdict::Good
        }
        Ok(defects) => put_in(&defects, options).unwrap_or_else(|error| {
            println!("defects: {error:#}");
            Verdict::Bad
        }),
        Err(error) => {
            println!("defects: {error:#}");
            Verdict::Bad
        }
    }
}

fn chosen(only: &[String]) -> Result<Vec<&'static Defect>> {
    if let Some(unknown) = only.iter().find(|name| table::all().all(|defect| defect.name != **name)) {
        bail!("no defect has the name {unknown}; `--list` names them");
    }
    Ok(table::all().filter(|defect| only.is_empty() || only.iter().any(|name| name == defect.name)).collect())
}

fn put_in(defects: &[&'static Defect], options: &Options) -> Result<Verdict> {
    let tree = Tree::refreshed()?;
    if !options.host {
        setup::tools(&[setup::QEMU_AARCH64])?;
        setup::rust_targets(&[AARCH64])?;
    }
    let runner = Runner { tree, emulator: !options.host };
    runner.without_defects(defects).context("without any defect")?;
    let (mut passed, mut failed) = (0, 0);
    for defect in defects {
        match runner.catch(defect) {
            Ok(story) => {
                passed += 1;
                println!("defect {}: {story}", defect.name);
            }
            Err(error) => {
                failed += 1;
                println!("defect {}: FAILED: {error:#}", defect.name);
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
    fn without_defects(&self, defects: &[&'static Defect]) -> Result<()> {
        let tests: BTreeSet<Test> = defects.iter().flat_map(|defect| defect.host).copied().collect();
        let finished = self.run_tests("none", &tests.into_iter().collect::<Vec<_>>())?;
        if !finished.succeeded() {
            bail!("host tests fail ({})\n{}", finished.end, judge::failed_tests(&finished.output).join("\n"));
        }
        let boards: BTreeSet<Board> = defects.iter().filter_map(|defect| defect.board()).collect();
        if self.emulator && !boards.is_empty() {
            let program = self.build_suite("none")?;
            for board in boards {
                let finished = emulate("none", board, &program)?;
                verdict::judge_suite(&finished.output).with_context(|| format!("{board}: {}", finished.end))?;
            }
        }
        Ok(())
    }

    /// Puts a defect in and sees it caught: by whom.
    fn catch(&self, defect: &Defect) -> Result<String> {
        let _put_in = self.tree.put_in(defect)?;
        let finished = self.run_tests(defect.name, defect.host)?;
        let on_host = format!("host caught by {}", judge::host(&finished)?);
        let Emulator::Shows(board, scenarios) = defect.emulator else { return Ok(on_host) };
        if !self.emulator {
            return Ok(format!("{on_host}, {board} left out"));
        }
        let program = self.build_suite(defect.name)?;
        let finished = emulate(defect.name, board, &program)?;
        let story = judge::suite(&finished, scenarios).with_context(|| format!("{on_host}; {board}"))?;
        Ok(format!("{on_host}, {board} caught by {story}"))
    }

    /// Builds and runs host tests. That they do not build is an error: a compiler catches nothing that runs.
    fn run_tests(&self, defect: &str, tests: &[Test]) -> Result<Finished> {
        let suites: BTreeSet<Suite> = tests.iter().map(|test| test.suite).collect();
        let command = |more: &str| {
            let mut command = self.cargo(["test", "--package", "stage2", "--no-fail-fast"]);
            command.args(suites.iter().flat_map(|suite| suite.arguments())).arg(more);
            command
        };
        compile(&format!("defect-{defect}-build"), || command("--no-run"))?;
        let mut test = command("--");
        test.args(tests.iter().map(|test| test.filter));
        let name = format!("defect-{defect}-host");
        let finished = process::run(Job { name: &name, command: test, limit: TESTING, hear: &mut |_| Heard::Line })?;
        if judge::tests_run(&finished.output) == 0 {
            bail!("no host test has a name that was given");
        }
        Ok(finished)
    }

    fn build_suite(&self, defect: &str) -> Result<PathBuf> {
        compile(&format!("defect-{defect}-qemu-build"), || {
            self.cargo(["build", "--release", "--package", "stage2-qemu", "--target", AARCH64])
        })?;
        Ok(builds().join(AARCH64).join("release").join("stage2-qemu"))
    }

    fn cargo<A: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = cargo(arguments);
        command.current_dir(self.tree.folder()).env("CARGO_TARGET_DIR", builds());
        // The same files change again and again; where many fail, the paths would bury the names.
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
    target().join("defects").join("build")
}

fn emulate(defect: &str, board: Board, program: &std::path::Path) -> Result<Finished> {
    let command = qemu::suite(board.model, board.cpus, program);
    let mut hear = |line: &str| match verdict::closing_line(line) {
        Some(_) => Heard::LastWord,
        None => Heard::Line,
    };
    process::run(Job { name: &format!("defect-{defect}-{board}"), command, limit: EMULATING, hear: &mut hear })
}
