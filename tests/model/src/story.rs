//! What went wrong, and what led to it.

use std::{collections::VecDeque, fmt};

/// Operations that a violation's story goes back.
const HISTORY: usize = 30;

/// Violations kept; one fault in the code under test may cause thousands.
const KEPT: usize = 64;

/// A rule of the architecture that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// An access was translated by something cached that the tables no longer justify.
    Stale,
    /// A valid entry became another valid one without a break in between (H7).
    BreakBeforeMake,
    /// A frame was freed while something cached, or a root register, still names it (T6).
    FreedWhileReachable,
    /// A guest reached a frame that is not allocated.
    FreeFrameReached,
    /// A walk read a table where there is no memory, or in a frame that is free.
    LostTable,
    /// A control register has a value that the CPU does not take.
    Register,
    /// A table entry has an encoding that is reserved, or that the CPU lacks.
    Descriptor,
    /// An operation that the CPU lacks, or whose operand is reserved.
    Operation,
    /// A VMID was used on a CPU on which it was never flushed (H6).
    UnflushedVmid,
    /// An EPT pointer was used on a CPU that did not flush its EP4TA since that was another's (H16).
    Unflushed,
    /// `VTTBR_EL2` was written while walks of the old one could be in flight (H2).
    WalksInFlight,
    /// A frame became reachable before its lines were cleaned (H14).
    Unclean,
}

/// One broken rule, with its story.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// The CPU concerned.
    pub cpu: usize,
    /// What, and where.
    pub what: String,
    /// The operations before it, the latest last.
    pub history: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:?} on CPU {}: {}", self.rule, self.cpu, self.what)?;
        for line in &self.history {
            writeln!(f, "      {line}")?;
        }
        Ok(())
    }
}

/// Something that happened: the CPU, and what.
type Event = (usize, Box<dyn Fn() -> String + Send>);

/// The events, and the violations seen so far.
#[derive(Default)]
pub(crate) struct Ledger {
    history: VecDeque<Event>,
    violations: Vec<Violation>,
}

impl Ledger {
    /// Notes an event.
    pub(crate) fn note(&mut self, cpu: usize, what: impl Fn() -> String + Send + 'static) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((cpu, Box::new(what)));
    }

    /// Notes a violation, once for each cause.
    pub(crate) fn report(&mut self, rule: Rule, cpu: usize, what: impl FnOnce() -> String) {
        if self.violations.len() >= KEPT {
            return;
        }
        let what = what();
        if self.violations.iter().any(|known| known.rule == rule && known.what == what) {
            return;
        }
        let history = self.history.iter().map(|(cpu, what)| format!("cpu{cpu} {}", what())).collect();
        self.violations.push(Violation { rule, cpu, what, history });
    }

    /// The violations so far.
    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Takes the violations.
    pub(crate) fn take(&mut self) -> Vec<Violation> {
        std::mem::take(&mut self.violations)
    }
}

/// Panics with the violations, if there are any.
pub(crate) fn check(violations: &[Violation]) {
    assert!(
        violations.is_empty(),
        "{} violations of the architecture:\n{}",
        violations.len(),
        violations.iter().take(4).map(ToString::to_string).collect::<String>()
    );
}
