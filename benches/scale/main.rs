//! How costs grow with what there is: memory, areas, spaces, threads. On `AArch64` tables, in times of this machine.

mod areas;
mod curve;
mod latency;
mod sizes;
mod spaces;
mod threads;

use std::time::{Duration, Instant};

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Quick,
    Full,
}

/// Prints all curves.
fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let extent = if quick { Extent::Quick } else { Extent::Full };
    sizes::measure(extent).print("sizes");
    areas::measure(extent).print("areas");
    spaces::measure(extent).print("spaces");
    threads::measure(extent).print("threads");
    latency::measure(extent);
}

/// How long something takes.
fn time(work: impl FnOnce()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}

/// The least of several times: what else runs on the machine only adds to it.
fn least(turns: usize, mut one: impl FnMut() -> Duration) -> Duration {
    (0..turns).map(|_| one()).min().unwrap_or_default()
}

#[allow(clippy::cast_precision_loss, reason = "for people to read")]
fn nanoseconds(time: Duration, parts: usize) -> f64 {
    time.as_nanos() as f64 / parts as f64
}
