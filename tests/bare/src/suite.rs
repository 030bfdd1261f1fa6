//! All scenarios and a machine's own, one after the other: a line a test, and a closing line.

use hypervisor::line;
use stage2_scenarios::{Machine, Scenario, Stop, Verdict, scenarios};

/// Runs everything.
pub fn run<M: Machine>(machine: &M, own: &[Scenario<M>]) {
    let mut count = Count::default();
    for Scenario { name, run } in scenarios::<M>().iter().chain(own) {
        count.add(name, run(machine));
    }
    line!("{} passed, {} failed", count.passed, count.failed);
}

#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn add(&mut self, name: &str, verdict: Verdict) {
        match verdict {
            Ok(()) => {
                self.passed += 1;
                line!("test {name} ... ok");
            }
            Err(Stop::Skipped(reason)) => line!("test {name} ... skipped: {reason}"),
            Err(Stop::Failed(story)) => {
                self.failed += 1;
                line!("test {name} ... FAILED: {story}");
            }
        }
    }
}
