//! What a console says about a run. Only words that were really said count: an emulator that ends with status 0 proves
//! nothing, since a guest that crashes may power off as well.

use std::fmt;

use thiserror::Error;

/// What a demo's console must show.
pub struct Expected {
    pub torture: Torture,
    /// The checksum of each round, known beforehand; empty for a guest that is not ours.
    pub sums: Vec<String>,
}

/// Whether pages move while the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Torture {
    Off,
    On,
}

/// Why a demo is not believed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Failure {
    #[error("the guest's kernel panicked: {0}")]
    GuestPanic(String),
    #[error("the hypervisor ended the run: {0}")]
    Hypervisor(String),
    #[error("the guest's workload failed: {0}")]
    Workload(String),
    #[error("the guest never said that its workload was done")]
    Silent,
    #[error("round {round} of the guest has checksum {found}, but {expected} is right")]
    Checksum { round: usize, found: String, expected: String },
    #[error("the guest showed {found} rounds of {expected}")]
    Rounds { found: usize, expected: usize },
    #[error("the guest did not power off")]
    StillOn,
    #[error("the hypervisor gave no figure for {0}")]
    NoFigure(&'static str),
    #[error("{0} frames had lost their poison: something wrote to memory that it no longer owned")]
    Poison(u64),
    #[error("no page was moved")]
    NothingMoved,
    #[error("the poison of no frame was checked")]
    NothingChecked,
}

/// The hypervisor's figures, in its order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Figures(Vec<(String, u64)>);

impl Figures {
    pub fn parse(words: &str) -> Self {
        let pairs = words.split_whitespace().filter_map(|word| word.split_once('='));
        Self(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
    }

    pub fn get(&self, name: &'static str) -> Result<u64, Failure> {
        let figure = self.0.iter().find(|(found, _)| found == name);
        figure.map(|(_, value)| *value).ok_or(Failure::NoFigure(name))
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, value)) in self.0.iter().enumerate() {
            let gap = if place == 0 { "" } else { " " };
            write!(formatter, "{gap}{name}={value}")?;
        }
        Ok(())
    }
}

/// The hypervisor's figures, if the console shows a good run from end to end.
///
/// # Errors
/// The first thing that is wrong, root causes before what follows from them.
pub fn judge_demo(console: &str, expected: &Expected) -> Result<Figures, Failure> {
    refuse_bad_words(console)?;
    if said(console, "guest: workload ok").is_none() {
        return Err(Failure::Silent);
    }
    compare_sums(console, &expected.sums)?;
    if said(console, "hv: end off").is_none() {
        return Err(Failure::StillOn);
    }
    let figures = said(console, "hv: stats ").map(Figures::parse).unwrap_or_default();
    judge_figures(&figures, expected.torture)?;
    Ok(figures)
}

/// Whether a line is the last that a demo's console has to say.
pub fn is_last_word(line: &str) -> bool {
    let end = ["hv: end ", "hv: panic"].iter().any(|start| line.trim_start().starts_with(start));
    // Of several guests one that failed keeps the others waiting.
    let failed = without_number(line) != line && without_number(line).starts_with("guest: workload FAILED");
    end || failed || guest_panic(line).is_some()
}

/// What a guest said, without the number that the hypervisor puts before it where there are several.
pub fn without_number(line: &str) -> &str {
    numbered(line).map_or(line, |(_, words)| words)
}

/// The guest's number, and what it said.
pub fn numbered(line: &str) -> Option<(usize, &str)> {
    let (number, words) = line.split_once("| ")?;
    Some((number.parse().ok()?, words))
}

pub fn refuse_bad_words(console: &str) -> Result<(), Failure> {
    if let Some(reason) = said(console, "hv: end panic").or_else(|| said(console, "hv: panic")) {
        return Err(Failure::Hypervisor(reason.trim_start_matches([':', ' ']).to_owned()));
    }
    if let Some(reason) = console.lines().find_map(|line| workload_failed(line.trim())) {
        return Err(Failure::Workload(reason));
    }
    match console.lines().find_map(guest_panic) {
        Some(reason) => Err(Failure::GuestPanic(reason.to_owned())),
        None => Ok(()),
    }
}

/// Why a guest's workload failed, with the guest's number where there are several.
fn workload_failed(line: &str) -> Option<String> {
    let (guest, words) =
        numbered(line).map_or((String::new(), line), |(number, words)| (format!("guest {number}: "), words));
    words.strip_prefix("guest: workload FAILED").map(|reason| format!("{guest}{}", reason.trim()))
}

fn guest_panic(line: &str) -> Option<&str> {
    line.split_once("Kernel panic - not syncing: ").map(|(_, reason)| reason)
}

/// The rest of the first line that begins so.
pub fn said<'a>(console: &'a str, start: &str) -> Option<&'a str> {
    console.lines().find_map(|line| line.trim().strip_prefix(start))
}

pub fn compare_sums(console: &str, expected: &[String]) -> Result<(), Failure> {
    let rounds = console.lines().filter_map(|line| without_number(line.trim()).strip_prefix("guest: round "));
    let found: Vec<&str> = rounds.filter_map(|words| words.split_once(" sha256 ")).map(|(_, sum)| sum).collect();
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        if found != expected {
            let (found, expected) = ((*found).to_owned(), expected.clone());
            return Err(Failure::Checksum { round: index + 1, found, expected });
        }
    }
    if !expected.is_empty() && found.len() != expected.len() {
        return Err(Failure::Rounds { found: found.len(), expected: expected.len() });
    }
    Ok(())
}

fn judge_figures(figures: &Figures, torture: Torture) -> Result<(), Failure> {
    figures.get("faults")?;
    let bad = figures.get("poison_bad")?;
    if bad > 0 {
        return Err(Failure::Poison(bad));
    }
    if torture == Torture::Off {
        return Ok(());
    }
    if figures.get("relocations")? == 0 {
        return Err(Failure::NothingMoved);
    }
    if figures.get("poison_checked")? == 0 {
        return Err(Failure::NothingChecked);
    }
    Ok(())
}

/// Why a run of the test program is not believed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SuiteFailure {
    #[error("no closing line: the program did not come to its end")]
    NoEnd,
    #[error("no test was run")]
    NoTests,
    #[error("failed: {}", .0.join(", "))]
    Tests(Vec<String>),
}

/// How many tests passed, if the test program came to its end and none failed.
///
/// # Errors
/// No closing line, no tests, or the names of the tests that failed.
pub fn judge_suite(console: &str) -> Result<usize, SuiteFailure> {
    let (passed, failed) = console.lines().rev().find_map(closing_line).ok_or(SuiteFailure::NoEnd)?;
    let names: Vec<String> = console.lines().filter_map(failed_test).map(str::to_owned).collect();
    if !names.is_empty() {
        return Err(SuiteFailure::Tests(names));
    }
    if failed > 0 {
        return Err(SuiteFailure::Tests(vec![format!("{failed} without a name")]));
    }
    if passed == 0 { Err(SuiteFailure::NoTests) } else { Ok(passed) }
}

fn failed_test(line: &str) -> Option<&str> {
    line.trim().strip_prefix("test ")?.split_once(" ... FAILED").map(|(name, _)| name)
}

/// `N passed, M failed`, alone on a line.
pub fn closing_line(line: &str) -> Option<(usize, usize)> {
    let (passed, failed) = line.trim().split_once(" passed, ")?;
    Some((passed.parse().ok()?, failed.strip_suffix(" failed")?.parse().ok()?))
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
