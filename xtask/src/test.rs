//! `cargo xtask test`: every check, step by step, and a closing line that counts the steps.

use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::steps::{self, Outcome};
use crate::{Verdict, baseline};

#[derive(Args, Debug)]
pub struct Options {
    /// Run these steps alone, in the order of the full run
    #[arg(long, value_enum, value_name = "STEP", value_delimiter = ',')]
    pub only: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// The code is formatted
    Fmt,
    /// House rules that no lint knows
    House,
    /// Clippy, for the host and for each bare-metal target
    Lints,
    /// The oldest Rust that the packages promise builds them
    Msrv,
    /// Unit tests, property tests, documentation tests, on the host
    Unit,
    /// The shootdown, and waiting for a page, in every interleaving
    Loom,
    /// No operation takes more instructions than the baseline says
    Counts,
    /// The documentation builds without a warning
    Doc,
    /// The crate can be packaged, and builds from its package
    Package,
    /// The scenarios at EL2, on each model of CPU
    Qemu,
    /// The scenarios under VMX, on each model of CPU
    Bochs,
    /// The scenarios under SVM, on each model of CPU
    Npt,
    /// A guest boots while its pages move
    Demo,
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn run(self) -> Result<Outcome> {
        match self {
            Self::Fmt => steps::fmt(),
            Self::House => steps::house(),
            Self::Lints => steps::lints(),
            Self::Msrv => steps::msrv(),
            Self::Unit => steps::unit(),
            Self::Loom => steps::loom(),
            Self::Counts => baseline::check(),
            Self::Doc => steps::doc(),
            Self::Package => steps::package(),
            Self::Qemu => steps::qemu(),
            Self::Bochs => steps::bochs(),
            Self::Npt => steps::npt(),
            Self::Demo => steps::demo(),
        }
    }
}

/// Runs the steps; a failed one does not hold up the others.
pub fn run(options: &Options) -> Verdict {
    let mut count = Count::default();
    for step in selected(&options.only) {
        let name = step.name();
        println!("{name}: started");
        let started = Instant::now();
        let outcome = step.run();
        let seconds = started.elapsed().as_secs_f64();
        match &outcome {
            Ok(Outcome::Passed(detail)) => println!("{name}: ok in {seconds:.1} s{}", in_brackets(detail)),
            Ok(Outcome::Skipped(reason)) => println!("{name}: skipped: {reason}"),
            Err(error) => println!("{error:#}\n{name}: FAILED in {seconds:.1} s"),
        }
        count.add(&outcome);
    }
    println!("{}", count.closing_line());
    if count.failed == 0 { Verdict::Good } else { Verdict::Bad }
}

fn selected(only: &[Step]) -> Vec<Step> {
    let wanted = |step: &&Step| only.is_empty() || only.contains(step);
    Step::value_variants().iter().filter(wanted).copied().collect()
}

fn in_brackets(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}

#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Count {
    fn add(&mut self, outcome: &Result<Outcome>) {
        match outcome {
            Ok(Outcome::Passed(_)) => self.passed += 1,
            Ok(Outcome::Skipped(_)) => self.skipped += 1,
            Err(_) => self.failed += 1,
        }
    }

    fn closing_line(&self) -> String {
        let skipped = if self.skipped == 0 { String::new() } else { format!(", {} skipped", self.skipped) };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn without_a_choice_every_step_runs() {
        assert_eq!(selected(&[]).len(), 13);
    }

    #[test]
    fn chosen_steps_run_once_each_in_the_order_of_the_full_run() {
        assert_eq!(selected(&[Step::Unit, Step::Fmt, Step::Unit]), [Step::Fmt, Step::Unit]);
    }

    #[test]
    fn the_closing_line_counts_the_steps() {
        let mut count = Count::default();
        count.add(&Ok(Outcome::Passed(String::new())));
        count.add(&Err(anyhow!("no")));
        assert_eq!(count.closing_line(), "1 passed, 1 failed");
        count.add(&Ok(Outcome::Skipped(String::new())));
        assert_eq!(count.closing_line(), "1 passed, 1 failed, 1 skipped");
    }
}
