//! The steps of `cargo xtask test`. Each can run alone, sets up what it needs itself, and has its time limits.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::board::Arch;
use crate::demo::{self, Kind, Leaf};
use crate::process::{self, End, Heard, Job, quietly};
use crate::workspace::{AARCH64, RISCV64, X86_64, build_bare_metal, cargo, release_program, root};
use crate::{bochs, docs, house, pc, qemu, setup, verdict, workspace};

const MINUTE: Duration = Duration::from_secs(60);
const BUILDING: Duration = Duration::from_secs(600);
const TESTING: Duration = Duration::from_secs(900);
const EMULATING: Duration = Duration::from_secs(300);

/// The oldest Rust that the packages promise, `rust-version` in Cargo.toml.
const OLDEST_RUST: &str = "1.88";
const CPU_MODELS: [&str; 3] = ["cortex-a57", "neoverse-n1", "max"];
const CPU_COUNTS: [usize; 2] = [1, 2];
/// With everything that the crate uses; without 1 GiB leaves, accessed and dirty; a newer one.
const PC_MODELS: [&str; 3] = ["corei7_skylake_x", "corei7_sandy_bridge_2600k", "tigerlake"];
/// Those with SVM: with everything that QEMU has; AMD's; one without leaves of 1 GiB.
const SVM_MODELS: [&str; 3] = ["max", "EPYC", "qemu64"];
/// The memory of a PC, in MiB.
const PC_MEMORY: usize = 512;

/// How a step that did not fail ended.
#[derive(Debug)]
pub enum Outcome {
    /// With what is worth saying about it.
    Passed(String),
    /// With the reason.
    Skipped(String),
}

fn passed() -> Outcome {
    Outcome::Passed(String::new())
}

pub fn fmt() -> Result<Outcome> {
    setup::rust_components()?;
    quietly("fmt", cargo(["fmt", "--all", "--check", "--", "--color", "never"]), MINUTE)?;
    Ok(passed())
}

pub fn house() -> Result<Outcome> {
    let complaints = house::check(&root())?;
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    Ok(passed())
}

pub fn lints() -> Result<Outcome> {
    setup::rust_components()?;
    setup::rust_targets(&[AARCH64, X86_64, RISCV64])?;
    clippy("lints-host", &["--all-targets"])?;
    for target in [AARCH64, X86_64, RISCV64] {
        clippy(&format!("lints-{target}"), &["--package", "stage2", "--lib", "--target", target])?;
    }
    let programs = ["hypervisor", "neighbour", "stage2-qemu", "stage2-size"].map(|program| ["--package", program]);
    clippy("lints-bare-metal", &[programs.as_flattened(), &["--target", AARCH64]].concat())?;
    let programs = ["boot-rom", "hypervisor", "stage2-bochs", "stage2-svm"].map(|program| ["--package", program]);
    clippy("lints-pc", &[programs.as_flattened(), &["--target", X86_64]].concat())?;
    Ok(passed())
}

fn clippy(name: &str, what: &[&str]) -> Result<()> {
    let arguments = [&["clippy", "--quiet"], what, &["--", "--deny", "warnings"]].concat();
    quietly(name, cargo(arguments), BUILDING).map(drop)
}

pub fn msrv() -> Result<Outcome> {
    let Some(toolchain) = setup::toolchain(OLDEST_RUST) else {
        return Ok(Outcome::Skipped(format!(
            "Rust {OLDEST_RUST} cannot be had; the step `lints` has clippy's incompatible_msrv"
        )));
    };
    let mut check = Command::new("rustup");
    check.args(["run", &toolchain, "cargo", "check"]).current_dir(root());
    // These name the newer toolchain that runs this program.
    check.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    quietly("msrv", check, BUILDING)?;
    Ok(Outcome::Passed(toolchain))
}

pub fn unit() -> Result<Outcome> {
    let output = quietly("unit", cargo(["test", "--no-fail-fast"]), TESTING)?;
    match tests_passed(&output) {
        0 => bail!("no test was run"),
        count => Ok(Outcome::Passed(format!("{count} tests"))),
    }
}

/// Built beside everything else, since the flag would have everything else built again.
pub fn loom() -> Result<Outcome> {
    let mut test = cargo(["test", "--package", "stage2", "--lib", "::model::"]);
    test.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", root().join("target/loom"));
    let output = quietly("loom", test, TESTING)?;
    match tests_passed(&output) {
        0 => bail!("no model was run"),
        count => Ok(Outcome::Passed(format!("{count} models"))),
    }
}

/// The sum over all test programs' closing lines.
fn tests_passed(output: &str) -> usize {
    let closing = output.lines().filter_map(|line| line.trim().strip_prefix("test result: ok. "));
    closing.filter_map(|words| words.split_once(" passed")?.0.parse::<usize>().ok()).sum()
}

/// For the host, and for targets of either architecture: each shows the parts of all.
pub fn doc() -> Result<Outcome> {
    setup::rust_targets(&[AARCH64, X86_64])?;
    let mut complaints = Vec::new();
    for target in [None, Some(AARCH64), Some(X86_64)] {
        let folder = target.map_or_else(workspace::target, |name| workspace::target().join(name)).join("doc/stage2");
        // A page that was there before would stand in for one that is missing.
        if folder.is_dir() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        let mut doc = cargo(["doc", "--quiet", "--no-deps"]);
        if let Some(name) = target {
            doc.args(["--package", "stage2", "--target", name]);
        }
        doc.env("RUSTDOCFLAGS", "--deny warnings");
        quietly("doc", doc, BUILDING)?;
        let host_or = target.unwrap_or("the host");
        complaints.extend(docs::check(&folder)?.into_iter().map(|complaint| format!("for {host_or}: {complaint}")));
    }
    if !complaints.is_empty() {
        bail!("{}", complaints.join("\n"));
    }
    Ok(passed())
}

pub fn package() -> Result<Outcome> {
    quietly("package", cargo(["package", "--allow-dirty", "--package", "stage2"]), BUILDING)?;
    Ok(passed())
}

pub fn qemu() -> Result<Outcome> {
    setup::tools(&[setup::QEMU_AARCH64])?;
    setup::rust_targets(&[AARCH64])?;
    quietly("qemu-build", build_bare_metal(AARCH64, &["stage2-qemu"]), BUILDING)?;
    let mut total = 0;
    for model in CPU_MODELS {
        for cpus in CPU_COUNTS {
            let command = qemu::suite(model, cpus, &release_program(AARCH64, "stage2-qemu"));
            total += run_suite("qemu", model, cpus, command, MINUTE)?;
        }
    }
    Ok(Outcome::Passed(format!("{total} tests on {} boards", CPU_MODELS.len() * CPU_COUNTS.len())))
}

pub fn bochs() -> Result<Outcome> {
    setup::tools(&[setup::BOCHS])?;
    setup::rust_targets(&[X86_64])?;
    quietly("bochs-build", build_bare_metal(X86_64, &["boot-rom", "stage2-bochs"]), BUILDING)?;
    let mut total = 0;
    for model in PC_MODELS {
        for cpus in CPU_COUNTS {
            let name = format!("{model}-{cpus}");
            let program = "stage2-bochs";
            let machine = bochs::Machine { name: &name, model, cpus, memory: PC_MEMORY, program, data: Vec::new() };
            let bochs::Ready { command, log, turns } = machine.prepare()?;
            total += run_suite("bochs", model, cpus, command, EMULATING)
                .with_context(|| format!("what Bochs says itself is in {}", log.display()))?;
            drop(turns);
        }
    }
    Ok(Outcome::Passed(format!("{total} tests on {} PCs", PC_MODELS.len() * CPU_COUNTS.len())))
}

pub fn npt() -> Result<Outcome> {
    setup::tools(&[setup::QEMU_X86_64])?;
    setup::rust_targets(&[X86_64])?;
    quietly("npt-build", build_bare_metal(X86_64, &["boot-rom", "stage2-svm"]), BUILDING)?;
    let (rom, program) = (pc::write_rom()?, release_program(X86_64, "stage2-svm"));
    let mut total = 0;
    for model in SVM_MODELS {
        for cpus in CPU_COUNTS {
            total += run_suite("npt", model, cpus, pc::suite(model, cpus, PC_MEMORY, &rom, &program), EMULATING)?;
        }
    }
    Ok(Outcome::Passed(format!("{total} tests on {} PCs", SVM_MODELS.len() * CPU_COUNTS.len())))
}

/// Runs a suite's program under an emulator, and believes its closing line.
fn run_suite(emulator: &str, model: &str, cpus: usize, command: Command, limit: Duration) -> Result<usize> {
    let name = format!("{emulator}-{model}-{cpus}");
    let mut hear = |line: &str| match verdict::closing_line(line) {
        Some(_) => Heard::LastWord,
        None => Heard::Line,
    };
    let finished = process::run(Job { name: &name, command, limit, hear: &mut hear })?;
    let judged = match (verdict::judge_suite(&finished.output), finished.end) {
        (Ok(count), End::Exited(_)) => Ok(count),
        (Ok(_), end) => Err(anyhow!("the emulator {end}")),
        (Err(failure), End::Exited(_)) => Err(failure.into()),
        (Err(failure), end) => Err(anyhow!("{failure} ({end})")),
    };
    if judged.is_err() {
        println!("---- the console ----\n{}\n---- end of the console ----", finished.output.trim_end());
    } else {
        println!("{emulator}: {model} with {cpus} CPU(s): {} passed", judged.as_ref().copied().unwrap_or_default());
    }
    judged.with_context(|| format!("{model} with {cpus} CPU(s)"))
}

/// The small guest at once; two guests that talk to each other; then on each architecture the hardest setting that is
/// still quick: two CPUs, small leaves, pages that move.
pub fn demo() -> Result<Outcome> {
    let tiny = demo::Options {
        arch: Arch::Aarch64,
        guests: 1,
        smp: 1,
        leaf: Leaf::TwoMegabytes,
        torture: false,
        guest: Some(Kind::Tiny),
        kernel: None,
        initrd: None,
        watch: false,
        quiet: true,
        rounds: Some(2),
        fill_mb: Some(64),
        messages: 2000,
        limit: 300,
    };
    let hard = demo::Options { smp: 2, leaf: Leaf::FourKilobytes, torture: true, guest: None, ..tiny.clone() };
    let hard_on_pc = demo::Options { arch: Arch::X86_64, rounds: None, fill_mb: Some(4), ..hard.clone() };
    let pairs = demo::Options { guests: 2, guest: None, rounds: Some(1), fill_mb: Some(16), ..tiny.clone() };
    for options in [tiny, pairs, hard, hard_on_pc] {
        println!("demo: ok {}", demo::boot(&options)?);
    }
    Ok(passed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_summed_over_all_programs() {
        let output = "test result: ok. 3 passed; 0 failed; 0 ignored\nnoise\n   test result: ok. 4 passed; 0 failed\n";
        assert_eq!(tests_passed(output), 7);
        assert_eq!(tests_passed("test result: FAILED. 3 passed; 1 failed"), 0);
    }
}
