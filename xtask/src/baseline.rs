//! How many instructions each operation took when it was last decided how many it may take.

use std::collections::BTreeMap;
use std::env::consts::ARCH;
use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::quietly;
use crate::setup;
use crate::steps::Outcome;
use crate::workspace::{cargo, root};

const BUILDING: Duration = Duration::from_secs(900);
const COUNTING: Duration = Duration::from_secs(900);
const ASKING: Duration = Duration::from_secs(60);

/// Where it stands.
const FILE: &str = "benches/baseline.toml";
/// The command that writes it.
const UPDATE: &str = "cargo xtask bench --update-baseline";
/// By how much of a hundred a count may differ without a word.
const TOLERANCE: u64 = 3;

/// Counts by the operations' names.
type Counts = BTreeMap<String, u64>;

/// The counts of one architecture's hosts, and the compiler that they were made with.
#[derive(Debug, Default, PartialEq, Eq)]
struct Baseline {
    rustc: String,
    counts: Counts,
}

/// The step of `cargo xtask test`.
///
/// # Errors
/// An operation costs more than the baseline says, or is in one of the two alone.
pub fn check() -> Result<Outcome> {
    let written = fs::read_to_string(root().join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    let Some(baseline) = parse(&written).remove(ARCH) else {
        return Ok(Outcome::Skipped(format!("{FILE} has no counts of an {ARCH} host; `{UPDATE}` adds them")));
    };
    let rustc = rustc()?;
    if baseline.rustc != rustc {
        println!(
            "counts: the baseline was made with {}, this is {rustc}: the compiler alone may differ",
            baseline.rustc
        );
    }
    let report = compare(&baseline.counts, &count()?);
    for better in &report.better {
        println!("counts: {better}");
    }
    if !report.better.is_empty() {
        println!("counts: `{UPDATE}` makes that what later changes are held to");
    }
    if !report.worse.is_empty() {
        bail!("{}\nif it must be so, `{UPDATE}`, and say why in the commit", report.worse.join("\n"));
    }
    Ok(Outcome::Passed(format!("{} operations", baseline.counts.len())))
}

/// Counts, and writes what was counted.
///
/// # Errors
/// Counting fails, or the file cannot be written.
pub fn update() -> Result<()> {
    let file = root().join(FILE);
    let mut all = fs::read_to_string(&file).map(|written| parse(&written)).unwrap_or_default();
    let counts = count()?;
    let before = all.get(ARCH).map(|baseline| baseline.counts.clone()).unwrap_or_default();
    let report = compare(&before, &counts);
    report.better.iter().chain(&report.worse).for_each(|line| println!("bench: {line}"));
    all.insert(ARCH.to_owned(), Baseline { rustc: rustc()?, counts });
    fs::write(&file, print(&all)).with_context(|| format!("cannot write {FILE}"))
}

/// The compiler, as it names itself.
pub fn rustc() -> Result<String> {
    let mut command = Command::new("rustc");
    command.arg("--version").current_dir(root());
    Ok(quietly("rustc", command, ASKING)?.trim().to_owned())
}

/// The crate's own operations, now.
fn count() -> Result<Counts> {
    setup::tools(&[setup::VALGRIND])?;
    let package = ["--profile", "bench", "--package", "stage2-benches", "--bin", "counts"];
    quietly("counts-build", cargo([&["build"], &package[..]].concat()), BUILDING)?;
    let run = cargo([&["run", "--quiet"], &package[..], &["--", "--own", "--plain"]].concat());
    let printed = quietly("counts", run, COUNTING)?;
    let counts: Counts = printed.lines().filter_map(entry).collect();
    if counts.is_empty() {
        bail!("no operation was counted");
    }
    Ok(counts)
}

/// `name = count`, the name in quotation marks or not.
fn entry(line: &str) -> Option<(String, u64)> {
    let (name, count) = line.rsplit_once(" = ")?;
    Some((name.trim_matches('"').to_owned(), count.parse().ok()?))
}

fn parse(written: &str) -> BTreeMap<String, Baseline> {
    let mut all = BTreeMap::<String, Baseline>::new();
    let mut architecture = String::new();
    for line in written.lines() {
        if let Some(section) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section.trim_end_matches(".counts").clone_into(&mut architecture);
            continue;
        }
        let baseline = all.entry(architecture.clone());
        if let Some(rustc) = line.strip_prefix("rustc = ") {
            rustc.trim_matches('"').clone_into(&mut baseline.or_default().rustc);
        } else if let Some((name, count)) = entry(line) {
            baseline.or_default().counts.insert(name, count);
        }
    }
    all
}

fn print(all: &BTreeMap<String, Baseline>) -> String {
    let mut text = format!("# Instructions of each operation, all its parts together, by callgrind: `{UPDATE}`.\n");
    for (architecture, Baseline { rustc, counts }) in all {
        let _ = write!(text, "\n[{architecture}]\nrustc = \"{rustc}\"\n\n[{architecture}.counts]\n");
        for (name, count) in counts {
            let _ = writeln!(text, "\"{name}\" = {count}");
        }
    }
    text
}

/// What differs by more than [`TOLERANCE`].
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    worse: Vec<String>,
    better: Vec<String>,
}

fn compare(before: &Counts, now: &Counts) -> Report {
    let mut report = Report::default();
    for (name, &count) in now {
        let Some(&old) = before.get(name) else {
            report.worse.push(format!("{name}: {count} instructions, and none in {FILE}"));
            continue;
        };
        #[allow(clippy::cast_precision_loss, reason = "a ratio for people to read")]
        let percent = (count as f64 / old as f64 - 1.0) * 100.0;
        let line = format!("{name}: {old} instructions before, {count} now ({percent:+.1} %)");
        if count * 100 > old * (100 + TOLERANCE) {
            report.worse.push(line);
        } else if count * 100 < old * (100 - TOLERANCE) {
            report.better.push(line);
        }
    }
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    report.worse.extend(gone.map(|name| format!("{name}: in {FILE}, and not counted any more")));
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, u64)]) -> Counts {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let baseline = Baseline { rustc: "rustc 1.95.0".to_owned(), counts: counts(&[("map: EPT", 7), ("a, b", 8)]) };
        let all = BTreeMap::from([("x86_64".to_owned(), baseline)]);
        assert_eq!(parse(&print(&all)), all);
    }

    #[test]
    fn three_percent_more_is_reported_with_both_counts() {
        let report = compare(&counts(&[("map", 1000)]), &counts(&[("map", 1031)]));
        assert_eq!(report.worse, ["map: 1000 instructions before, 1031 now (+3.1 %)"]);
        assert_eq!(compare(&counts(&[("map", 1000)]), &counts(&[("map", 1030)])), Report::default());
    }

    #[test]
    fn three_percent_less_is_told_and_no_failure() {
        let report = compare(&counts(&[("map", 1000)]), &counts(&[("map", 900)]));
        assert!(report.worse.is_empty());
        assert_eq!(report.better, ["map: 1000 instructions before, 900 now (-10.0 %)"]);
    }

    #[test]
    fn an_operation_that_only_one_side_has_is_reported() {
        assert_eq!(compare(&counts(&[]), &counts(&[("map", 1)])).worse.len(), 1);
        assert_eq!(compare(&counts(&[("map", 1)]), &counts(&[])).worse.len(), 1);
    }
}
