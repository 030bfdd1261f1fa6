//! All scenarios and a machine's own, one after the other: a line a test, and a closing line.

use hypervisor::{console, line, memory, power, vcpu};
use stage2_scenarios::{Machine, Scenario, Stop, Verdict, scenarios};

use crate::board::Board;

/// What the first CPU does, once it is in Rust: starts the machine, runs everything, and turns the machine off.
pub fn main<M: Machine>(start: impl FnOnce() -> M, own: &[Scenario<M>]) -> ! {
    memory::init_heap();
    console::init_log();
    vcpu::prepare();
    run(&start(), own);
    power::off()
}

fn run<M: Machine>(machine: &M, own: &[Scenario<M>]) {
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

/// A check for the end: every freed frame was poisoned, and still is.
///
/// # Errors
/// One was written, or none was freed.
pub fn no_freed_frame_was_written(board: Board) -> Verdict {
    match board.spoiled() {
        (0, _) => Err(Stop::failed(format_args!("nothing was freed"))),
        (_, 0) => Ok(()),
        (checked, spoiled) => Err(Stop::failed(format_args!("{spoiled} of {checked} were"))),
    }
}
