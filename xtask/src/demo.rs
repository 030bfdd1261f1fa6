//! `cargo xtask demo`: a guest under the example hypervisor, judged by its own words.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};

use crate::board::{Arch, Demo, Guest, Staged};
use crate::bochs;
use crate::guest::{self, Linux};
use crate::initramfs::{Ending, Workload};
use crate::process::{self, End, Finished, Heard, Job};
use crate::qemu;
use crate::verdict::{self, Expected, Torture};
use crate::workspace::{AARCH64, build_bare_metal, release_program};
use crate::{Verdict, pair, setup};

const BUILDING: Duration = Duration::from_secs(600);

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The architecture of the hypervisor and its guest
    #[arg(long, value_enum, default_value_t = Arch::Aarch64)]
    pub arch: Arch,
    /// How many guests run at once: one, or two that talk to each other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    pub guests: u8,
    /// The guest's CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub smp: u8,
    /// How the guest's memory is mapped as it is touched
    #[arg(long, value_enum, default_value_t = Leaf::TwoMegabytes)]
    pub leaf: Leaf,
    /// Move the guest's pages all the time, from a CPU that the guest does not have
    #[arg(long)]
    pub torture: bool,
    /// The guest; without this, Linux where it can be had, else the tiny one. Of two guests, what runs beside the small
    /// one: without this, first its own fork, then Linux
    #[arg(long, value_enum)]
    pub guest: Option<Kind>,
    /// A Linux kernel of your own (an uncompressed arm64 Image, or a bzImage)
    #[arg(long, value_name = "FILE", requires = "initrd")]
    pub kernel: Option<PathBuf>,
    /// Its initramfs, whose init ends with the line "guest: workload ok" and powers off (a PC resets)
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Show the whole console, the guest's kernel included
    #[arg(long, conflicts_with = "quiet")]
    pub watch: bool,
    /// Show nothing of the console
    #[arg(long)]
    pub quiet: bool,
    /// Rounds of the Linux guest's workload; without this, as many as take a moment
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// Memory that the Linux guest fills at once, in MiB; without this, what takes a moment
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u16).range(4..=320))]
    pub fill_mb: Option<u16>,
    /// Messages that two guests exchange, each way
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub messages: u32,
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
    pub fn name(self) -> &'static str {
        match self {
            Self::FourKilobytes => "4k",
            Self::TwoMegabytes => "2m",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Debian's kernel with a checksummed workload
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
    if options.guests == 1 { boot_one(options) } else { pair::boot(options) }
}

fn boot_one(options: &Options) -> Result<String> {
    let (tool, packages): (_, &[&str]) = match options.arch {
        Arch::Aarch64 => (setup::QEMU_AARCH64, &["hypervisor"]),
        Arch::X86_64 => (setup::BOCHS, &["hypervisor", "boot-rom"]),
    };
    setup::tools(&[tool])?;
    setup::rust_targets(&[options.arch.target()])?;
    let prepared = prepare(options)?;
    println!("demo: building the hypervisor");
    process::quietly("demo-build", build_bare_metal(options.arch.target(), packages), BUILDING)?;
    println!("demo: booting {}", prepared.what);
    let started = Instant::now();
    let finished = emulate(options, &prepared.demo)?;
    let figures = judge(&finished, &prepared.expected).inspect_err(|_| show_failure(options, &finished))?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(format!("guest={} seconds={seconds:.1} {figures}", prepared.name))
}

pub fn emulate(options: &Options, demo: &Demo) -> Result<Finished> {
    match options.arch {
        Arch::Aarch64 => watch_console(options, qemu::demo(demo, &release_program(AARCH64, "hypervisor"))),
        Arch::X86_64 => {
            let bochs::Ready { command, log, turns } = bochs::demo(demo)?;
            let finished = watch_console(options, command)
                .with_context(|| format!("what Bochs says itself is in {}", log.display()))?;
            drop(turns);
            Ok(finished)
        }
    }
}

/// A run that is ready to start.
struct Prepared {
    demo: Demo,
    expected: Expected,
    name: &'static str,
    what: String,
}

fn prepare(options: &Options) -> Result<Prepared> {
    let torture = if options.torture { Torture::On } else { Torture::Off };
    let (guest, sums, name) = match linux(options)? {
        Some(linux) => {
            let (kernel, initrd) = match options.arch {
                Arch::Aarch64 => (qemu::KERNEL_AT, qemu::INITRD_AT),
                Arch::X86_64 => (bochs::KERNEL_AT, bochs::INITRD_AT),
            };
            let kernel = Staged::new(&linux.kernel, kernel)?;
            (Guest::Linux { kernel, initrd: Staged::new(&linux.initrd, initrd)? }, linux.sums, "linux")
        }
        None => (Guest::Tiny, Vec::new(), "tiny"),
    };
    let (cpus, leaf) = (usize::from(options.smp), options.leaf.name());
    let moved = if options.torture { ", its pages moved all the time" } else { "" };
    let arch = options.arch.target().split('-').next().unwrap_or_default();
    let what = format!("the {name} guest on {arch}: {cpus} CPU(s), {leaf} leaves{moved}");
    let demo = Demo { guests: vec![guest], cpus, leaf, torture };
    Ok(Prepared { demo, expected: Expected { torture, sums }, name, what })
}

/// The Linux guest, or `None` for the tiny one.
fn linux(options: &Options) -> Result<Option<Linux>> {
    if let (Some(kernel), Some(initrd)) = (&options.kernel, &options.initrd) {
        if options.guest == Some(Kind::Tiny) {
            bail!("the tiny guest takes no kernel");
        }
        return guest::own(options.arch, kernel, initrd).map(Some);
    }
    if options.guest == Some(Kind::Tiny) {
        return Ok(None);
    }
    match guest::debian(options.arch, workload(options), None) {
        Ok(linux) => Ok(Some(linux)),
        Err(error) if options.guest.is_none() => {
            println!("demo: no Linux guest to be had, running the tiny one instead: {error:#}");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Bochs is slower than QEMU by far, and its guest's memory is smaller.
pub fn workload(options: &Options) -> Workload {
    let (rounds, random_kb, fill_mb, end) = match options.arch {
        Arch::Aarch64 => (4, 1024, 160, Ending::PowerOff),
        Arch::X86_64 => (1, 128, 8, Ending::Reboot),
    };
    let chosen = |choice: Option<u16>, usual| choice.map_or(usual, usize::from);
    Workload { rounds: chosen(options.rounds, rounds), random_kb, fill_mb: chosen(options.fill_mb, fill_mb), end }
}

fn watch_console(options: &Options, command: std::process::Command) -> Result<Finished> {
    let mut hear = |line: &str| {
        let words = line.starts_with("hv: ") || verdict::without_number(line).starts_with("guest: ");
        if options.watch || (words && !options.quiet) {
            println!("{line}");
        }
        if verdict::is_last_word(line) { Heard::LastWord } else { Heard::Line }
    };
    process::run(Job { name: "demo", command, limit: Duration::from_secs(options.limit), hear: &mut hear })
}

fn judge(finished: &Finished, expected: &Expected) -> Result<verdict::Figures> {
    believe(finished, verdict::judge_demo(&finished.output, expected))
}

/// The console comes first: it says why a run went wrong, which the emulator's end does not.
pub fn believe<T, E: Into<anyhow::Error>>(finished: &Finished, judged: Result<T, E>) -> Result<T> {
    match (judged.map_err(Into::into), finished.end) {
        (Ok(figures), End::Exited(_)) => Ok(figures),
        (Ok(_), end) => Err(anyhow!("the emulator {end}")),
        (Err(failure), End::TimedOut(limit)) => Err(anyhow!("{failure} within {} s", limit.as_secs())),
        (Err(failure), _) => Err(failure),
    }
}

pub fn show_failure(options: &Options, finished: &Finished) {
    if !options.watch {
        println!("---- the console ----\n{}\n---- end of the console ----", finished.output.trim_end());
    }
    println!("demo: the console is kept in {}", finished.log.display());
}
