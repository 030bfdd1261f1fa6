//! `cargo xtask demo --guests 2`: two guests at once, which talk to each other.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::board::{Arch, Demo, Guest, Staged};
use crate::bochs::flat;
use crate::demo::{self, Kind, Options};
use crate::pair_verdict::{self, Pair};
use crate::verdict::Torture;
use crate::workspace::{AARCH64, AARCH64_LINUX, build_bare_metal, build_for_linux, release_program, target};
use crate::{guest, process, qemu, setup};

const BUILDING: Duration = Duration::from_secs(600);

/// Where the small guest is linked: where the hypervisor puts it.
const NEIGHBOUR_AT: u64 = 0x4020_0000;

/// Runs the pairs that are asked for; their figures.
pub fn boot(options: &Options) -> Result<String> {
    refuse(options)?;
    setup::tools(&[setup::QEMU_AARCH64])?;
    setup::rust_targets(&[AARCH64])?;
    println!("demo: building the hypervisor and the small guest");
    process::quietly("demo-build", build_bare_metal(AARCH64, &["hypervisor", "neighbour"]), BUILDING)?;
    let mut figures = Vec::new();
    if options.guest != Some(Kind::Linux) {
        figures.push(boot_pair(options, Pair::Fork, None)?);
    }
    if options.guest != Some(Kind::Tiny) {
        match linux(options) {
            Ok(linux) => figures.push(boot_pair(options, Pair::Linux, Some(linux))?),
            Err(error) if options.guest.is_none() => {
                println!("demo: no Linux guest to be had, the small one runs beside its fork alone: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(figures.join("; "))
}

/// What two guests cannot have.
fn refuse(options: &Options) -> Result<()> {
    if options.arch != Arch::Aarch64 {
        bail!("two guests need --arch aarch64: in this example a PC's interrupt controllers and ports are one guest's");
    }
    if options.torture || options.smp != 1 || options.kernel.is_some() {
        bail!("two guests go without --torture, --smp and --kernel");
    }
    Ok(())
}

fn boot_pair(options: &Options, pair: Pair, linux: Option<guest::Linux>) -> Result<String> {
    let mut guests = Vec::new();
    let mut sums = Vec::new();
    if let Some(linux) = linux {
        let kernel = Staged::new(&linux.kernel, qemu::KERNEL_AT)?;
        guests.push(Guest::Linux { kernel, initrd: Staged::new(&linux.initrd, qemu::INITRD_AT)? });
        sums = linux.sums;
    }
    let program = Staged::new(&neighbour()?, qemu::NEIGHBOUR_AT)?;
    guests.push(Guest::Neighbour { program, messages: options.messages });
    let demo = Demo { guests, cpus: 1, leaf: options.leaf.name(), torture: Torture::Off };
    println!("demo: booting {pair}: {} CPUs, {} leaves", demo.board_cpus(), demo.leaf);
    let started = Instant::now();
    let finished = demo::emulate(options, &demo)?;
    let judged = pair_verdict::judge(&finished.output, pair, options.messages, &sums);
    let figures = demo::believe(&finished, judged).inspect_err(|_| demo::show_failure(options, &finished))?;
    Ok(format!("guests={} seconds={:.1} {figures}", pair.name(), started.elapsed().as_secs_f64()))
}

/// Linux, with a program that talks to the small guest.
fn linux(options: &Options) -> Result<guest::Linux> {
    setup::rust_targets(&[AARCH64_LINUX])?;
    process::quietly("demo-build", build_for_linux("linux-neighbour"), BUILDING)?;
    let program = release_program(AARCH64_LINUX, "linux-neighbour");
    let program = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    guest::debian(options.arch, demo::workload(options), Some(&program))
}

/// The small guest, as it lies in memory.
fn neighbour() -> Result<PathBuf> {
    let file = target().join("guest").join("neighbour.bin");
    let image = flat(&release_program(AARCH64, "neighbour"), NEIGHBOUR_AT)?;
    fs::create_dir_all(target().join("guest"))?;
    fs::write(&file, image).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}
