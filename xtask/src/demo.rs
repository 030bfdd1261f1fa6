//! `cargo xtask demo`: a guest under the example hypervisor, judged by its own words.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};

use crate::guest::{self, Linux};
use crate::initramfs::Workload;
use crate::process::{self, End, Finished, Heard, Job};
use crate::qemu::{self, Guest, Staged};
use crate::verdict::{self, Expected, Torture};
use crate::workspace::{AARCH64, bare_metal_program, build_bare_metal};
use crate::{Verdict, setup};

const BUILDING: Duration = Duration::from_secs(600);

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The guest's CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub smp: u8,
    /// How the guest's memory is mapped as it is touched
    #[arg(long, value_enum, default_value_t = Leaf::TwoMegabytes)]
    pub leaf: Leaf,
    /// Move the guest's pages all the time, from a CPU that the guest does not have
    #[arg(long)]
    pub torture: bool,
    /// The guest; without this, Linux where it can be had, else the tiny one
    #[arg(long, value_enum)]
    pub guest: Option<Kind>,
    /// A Linux kernel of your own (an uncompressed arm64 Image)
    #[arg(long, value_name = "FILE", requires = "initrd")]
    pub kernel: Option<PathBuf>,
    /// Its initramfs, whose init ends with the line "guest: workload ok" and powers off
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Show the whole console, the guest's kernel included
    #[arg(long, conflicts_with = "quiet")]
    pub watch: bool,
    /// Show nothing of the console
    #[arg(long)]
    pub quiet: bool,
    /// Rounds of the Linux guest's workload
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// Memory that the Linux guest fills at once, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 160, value_parser = clap::value_parser!(u16).range(4..=320))]
    pub fill_mb: u16,
    /// Seconds after which a guest that has not ended is given up
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Leaf {
    #[value(name = "4k")]
    FourKilobytes,
    #[value(name = "2m")]
    TwoMegabytes,
}

impl Leaf {
    fn name(self) -> &'static str {
        match self {
            Self::FourKilobytes => "4k",
            Self::TwoMegabytes => "2m",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Debian's arm64 kernel with a checksummed workload
    Linux,
    /// The small guest that the hypervisor brings along
    Tiny,
}

/// Runs the demo and prints its last line.
pub fn run(options: &Options) -> Verdict {
    match boot(options) {
        Ok(figures) => {
            println!("demo: ok {figures}");
            Verdict::Good
        }
        Err(error) => {
            let reason = format!("{error:#}");
            let first = reason.lines().next().unwrap_or_default();
            if first != reason {
                println!("{reason}");
            }
            println!("demo: FAILED {first}");
            Verdict::Bad
        }
    }
}

/// Sets up, builds, boots and judges; the figures of a good run.
pub fn boot(options: &Options) -> Result<String> {
    setup::tools(&[setup::QEMU_AARCH64])?;
    setup::rust_targets(&[AARCH64])?;
    let prepared = prepare(options)?;
    println!("demo: building the hypervisor");
    process::quietly("demo-build", build_bare_metal(AARCH64, &["hypervisor"]), BUILDING)?;
    println!("demo: booting {}", prepared.what);
    let started = Instant::now();
    let command = prepared.demo.command(&bare_metal_program(AARCH64, "hypervisor"));
    let finished = watch_console(options, command)?;
    let figures = judge(&finished, &prepared.expected).inspect_err(|_| show_failure(options, &finished))?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(format!("guest={} seconds={seconds:.1} {figures}", prepared.name))
}

/// A run that is ready to start.
struct Prepared {
    demo: qemu::Demo,
    expected: Expected,
    name: &'static str,
    what: String,
}

fn prepare(options: &Options) -> Result<Prepared> {
    let torture = if options.torture { Torture::On } else { Torture::Off };
    let (guest, sums, name) = match linux(options)? {
        Some(linux) => {
            let kernel = Staged::kernel(&linux.kernel)?;
            (Guest::Linux { kernel, initrd: Staged::initrd(&linux.initrd)? }, linux.sums, "linux")
        }
        None => (Guest::Tiny, Vec::new(), "tiny"),
    };
    let (cpus, leaf) = (usize::from(options.smp), options.leaf.name());
    let moved = if options.torture { ", its pages moved all the time" } else { "" };
    let what = format!("the {name} guest: {cpus} CPU(s), {leaf} leaves{moved}");
    Ok(Prepared { demo: qemu::Demo { guest, cpus, leaf, torture }, expected: Expected { torture, sums }, name, what })
}

/// The Linux guest, or `None` for the tiny one.
fn linux(options: &Options) -> Result<Option<Linux>> {
    if let (Some(kernel), Some(initrd)) = (&options.kernel, &options.initrd) {
        if options.guest == Some(Kind::Tiny) {
            bail!("the tiny guest takes no kernel");
        }
        return guest::own(kernel, initrd).map(Some);
    }
    if options.guest == Some(Kind::Tiny) {
        return Ok(None);
    }
    let workload = Workload { rounds: usize::from(options.rounds), fill_mb: usize::from(options.fill_mb) };
    match guest::debian(workload) {
        Ok(linux) => Ok(Some(linux)),
        Err(error) if options.guest.is_none() => {
            println!("demo: no Linux guest to be had, running the tiny one instead: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn watch_console(options: &Options, command: std::process::Command) -> Result<Finished> {
    let mut hear = |line: &str| {
        let words = line.starts_with("hv: ") || line.starts_with("guest: ");
        if options.watch || (words && !options.quiet) {
            println!("{line}");
        }
        if verdict::is_last_word(line) { Heard::LastWord } else { Heard::Line }
    };
    process::run(Job { name: "demo", command, limit: Duration::from_secs(options.limit), hear: &mut hear })
}

/// The words come first: why a run went wrong stands there, and not in how the emulator ended.
fn judge(finished: &Finished, expected: &Expected) -> Result<verdict::Figures> {
    let judged = verdict::judge_demo(&finished.output, expected);
    match (judged, finished.end) {
        (Ok(figures), End::Exited(_)) => Ok(figures),
        (Ok(_), end) => Err(anyhow!("the emulator {end}")),
        (Err(failure), End::TimedOut(limit)) => Err(anyhow!("{failure} within {} s", limit.as_secs())),
        (Err(failure), _) => Err(failure.into()),
    }
}

fn show_failure(options: &Options, finished: &Finished) {
    if !options.watch {
        println!("---- the console ----\n{}\n---- end of the console ----", finished.output.trim_end());
    }
    println!("demo: the console is kept in {}", finished.log.display());
}
