//! `cargo xtask bench`: what the crate costs. It runs every bench, and writes the tables of docs/performance.md.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::process::{self, Heard, Job, quietly};
use crate::workspace::{AARCH64, cargo, root};
use crate::{Verdict, baseline, setup, text};

const BUILDING: Duration = Duration::from_secs(900);
const MEASURING: Duration = Duration::from_secs(1800);
const ASKING: Duration = Duration::from_secs(10);

/// What is written.
const DOCUMENT: &str = "docs/performance.md";

#[derive(Args, Debug)]
pub struct Options {
    /// Measure these alone
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// Measure less, and write nothing
    #[arg(long)]
    quick: bool,
    /// Count the instructions, and make them what later changes are compared with
    #[arg(long)]
    update_baseline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Instructions, beside floors and peers
    Counts,
    /// How long the space's lock is held, in instructions
    Held,
    /// The bytes of an empty space
    Bytes,
    /// The code that a small hypervisor links
    Text,
    /// Sizes, areas, spaces, threads, and faults beside a writer
    Scale,
    /// Times, by criterion
    Times,
}

/// Measures, and writes the document.
pub fn run(options: &Options) -> Verdict {
    let done = if options.update_baseline { baseline::update() } else { measure(options) };
    match done {
        Ok(()) => Verdict::Good,
        Err(error) => {
            println!("bench: {error:#}");
            Verdict::Bad
        }
    }
}

fn measure(options: &Options) -> Result<()> {
    let stamp = stamp()?;
    let wanted = |part: &&Part| options.only.is_empty() || options.only.contains(part);
    for part in Part::value_variants().iter().filter(wanted) {
        let output = part.run(options.quick)?;
        let blocks = blocks(&output);
        if blocks.is_empty() {
            bail!("{part:?} printed no table");
        }
        if options.quick {
            continue;
        }
        let document = root().join(DOCUMENT);
        let mut contents = fs::read_to_string(&document).with_context(|| format!("cannot read {DOCUMENT}"))?;
        for (name, block) in blocks {
            contents = replace(&contents, name, &format!("{stamp}\n\n{block}"))?;
        }
        fs::write(&document, contents).with_context(|| format!("cannot write {DOCUMENT}"))?;
    }
    Ok(())
}

impl Part {
    /// Measures it, and hands back what was printed.
    fn run(self, quick: bool) -> Result<String> {
        let quick: &[&str] = if quick { &["--quick"] } else { &[] };
        match self {
            Self::Counts => {
                setup::tools(&[setup::VALGRIND])?;
                program("counts", &[])
            }
            Self::Held => {
                setup::tools(&[setup::VALGRIND])?;
                program("held", &[])
            }
            Self::Bytes => program("memory", &[]),
            Self::Text => {
                setup::rust_targets(&[AARCH64])?;
                let printed = text::measure()?;
                println!("{printed}");
                Ok(printed)
            }
            Self::Scale => program("scale", quick),
            Self::Times => {
                let mut times = cargo(["bench", "--package", "stage2-benches", "--bench", "times", "--"]);
                // What criterion calls so: it draws no conclusions.
                times.args(quick).env("STAGE2_ONLY_TIMES", "1");
                aloud("bench-times", times)
            }
        }
    }
}

/// Builds a program of the benches and runs it.
fn program(name: &str, arguments: &[&str]) -> Result<String> {
    let package = ["--profile", "bench", "--package", "stage2-benches", "--bin", name];
    quietly(&format!("bench-{name}-build"), cargo([&["build"], &package[..]].concat()), BUILDING)?;
    aloud(&format!("bench-{name}"), cargo([&["run", "--quiet"], &package[..], &["--"], arguments].concat()))
}

/// Runs a command whose output is shown as it comes.
fn aloud(name: &str, command: Command) -> Result<String> {
    let mut hear = |line: &str| {
        println!("{line}");
        Heard::Line
    };
    let finished = process::run(Job { name, command, limit: MEASURING, hear: &mut hear })?;
    if !finished.succeeded() {
        bail!("{name}: {}", finished.end);
    }
    Ok(finished.output)
}

/// The machine, the compiler and the day.
fn stamp() -> Result<String> {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&processors, "model name").map_or_else(asked_model, str::to_owned);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut date = Command::new("date");
    date.args(["-u", "+%Y-%m-%d"]);
    let date = quietly("bench-date", date, ASKING)?;
    let rustc = baseline::rustc()?;
    Ok(format!("{model}, {cores} cores; {rustc}; {}.", date.trim()))
}

/// Where the kernel does not name the model itself.
fn asked_model() -> String {
    let listed = quietly("bench-lscpu", Command::new("lscpu"), ASKING).unwrap_or_default();
    field(&listed, "Model name").unwrap_or("a CPU without a name").to_owned()
}

fn field<'a>(lines: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = lines.lines().find(|line| line.starts_with(name))?.split_once(':')?;
    Some(value.trim())
}

/// The marked parts of an output, by their names.
fn blocks(output: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let mut rest = output;
    while let Some((_, after)) = rest.split_once("<!-- begin: ") {
        let Some((name, after)) = after.split_once(" -->\n") else { break };
        let Some((block, after)) = after.split_once(&format!("<!-- end: {name} -->")) else { break };
        found.push((name, block.trim()));
        rest = after;
    }
    found
}

/// The document with another block between the marks of that name.
fn replace(document: &str, name: &str, block: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- begin: {name} -->"), format!("<!-- end: {name} -->"));
    let parts = document.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = parts.with_context(|| format!("{DOCUMENT} has no place for {name}"))?;
    Ok(format!("{before}{begin}\n{block}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marked_parts_of_an_output_are_found_by_their_names() {
        let output = "noise\n<!-- begin: a -->\n| x |\n<!-- end: a -->\n<!-- begin: b -->\ny\n<!-- end: b -->\n";
        assert_eq!(blocks(output), [("a", "| x |"), ("b", "y")]);
    }

    #[test]
    fn a_block_is_replaced_and_the_rest_of_the_document_stays() {
        let document = "one\n<!-- begin: a -->\nold\n<!-- end: a -->\ntwo\n";
        let changed = replace(document, "a", "new").expect("it has the place");
        assert_eq!(changed, "one\n<!-- begin: a -->\nnew\n<!-- end: a -->\ntwo\n");
        assert!(replace(document, "b", "new").is_err());
    }
}
