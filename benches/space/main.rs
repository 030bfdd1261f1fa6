//! What the crate costs, beside the least that the same work can cost.
//!
//! ```sh
//! cargo bench --bench space                   # everything, and the ratios
//! cargo bench --bench space -- fault          # the groups whose name contains "fault"
//! cargo bench --bench space -- instructions   # instruction counts alone, by valgrind
//! ```
//!
//! The tables are real `AArch64` stage-2 tables, the CPU's instructions are counted and not executed, the frames come
//! from the host's memory. `docs/performance.md` says what each group measures.

mod access;
mod areas;
mod faults;
mod floor;
mod forks;
mod instructions;
mod machine;
mod peer;
mod pool;
mod sizes;
mod suite;
mod tables;

fn main() {
    if let Some(name) = instructions::asked_for() {
        return instructions::run(&name);
    }
    let only_instructions = std::env::args().any(|argument| argument == "instructions");
    if !only_instructions {
        let mut suite = suite::Suite::new();
        tables::bench(&mut suite);
        faults::bench(&mut suite);
        forks::bench(&mut suite);
        sizes::bench(&mut suite);
        access::bench(&mut suite);
        areas::bench(&mut suite);
        suite.finish();
    }
    // Without a filter too: cargo itself passes one argument.
    if only_instructions || std::env::args().len() <= 2 {
        instructions::report();
        sizes::report();
    }
}
