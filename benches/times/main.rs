//! How long the crate takes, beside the least that the same work can take.
//!
//! ```sh
//! cargo bench                                        # everything, and the instructions at the end
//! cargo bench -p stage2-benches --bench times fault  # the groups whose name contains "fault"
//! ```
//!
//! The tables are real `AArch64` stage-2 tables, the CPU's instructions are not executed, the frames come from the host's
//! memory. Criterion's plots are in `target/criterion/report/index.html`.

mod access;
mod areas;
mod faults;
mod forks;
mod machine;
mod peer;
mod sizes;
mod suite;
mod tables;

use std::process::Command;

fn main() {
    let mut suite = suite::Suite::new();
    tables::bench(&mut suite);
    faults::bench(&mut suite);
    forks::bench(&mut suite);
    sizes::bench(&mut suite);
    access::bench(&mut suite);
    areas::bench(&mut suite);
    suite.finish();
    sizes::report();
    // Without a filter: cargo itself passes one argument. `cargo xtask bench` counts by itself.
    if std::env::args().len() <= 2 && std::env::var_os("STAGE2_ONLY_TIMES").is_none() {
        count();
    }
}

/// Counts the instructions, where there is valgrind.
fn count() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("\ninstructions are not counted: there is no valgrind");
    } else if let Err(error) = Command::new(env!("CARGO_BIN_EXE_counts")).status() {
        println!("\ninstructions are not counted: {error}");
    }
}
