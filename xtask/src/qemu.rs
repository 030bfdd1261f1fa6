//! Command lines for QEMU's `virt` board with EL2.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::QEMU_AARCH64;
use crate::verdict::Torture;

/// Where the guest's files lie in the board's memory until the hypervisor copies them into the guest. They lie above
/// all that the hypervisor hands out, and nowhere near the guest's own addresses, which begin at `0x4000_0000`.
const KERNEL_AT: u64 = 0xC000_0000;
const INITRD_AT: u64 = 0xC800_0000;
const STAGING_END: u64 = 0xE000_0000;
/// The board's memory begins at `0x4000_0000`; with this much it ends at `STAGING_END`.
const DEMO_MEMORY: &str = "2560M";

/// A file that QEMU puts into the board's memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Staged {
    file: PathBuf,
    at: u64,
    size: u64,
}

impl Staged {
    /// # Errors
    /// The file cannot be read, or does not fit.
    pub fn kernel(file: &Path) -> Result<Self> {
        Self::new(file, KERNEL_AT, INITRD_AT)
    }

    /// # Errors
    /// The file cannot be read, or does not fit.
    pub fn initrd(file: &Path) -> Result<Self> {
        Self::new(file, INITRD_AT, STAGING_END)
    }

    fn new(file: &Path, at: u64, end: u64) -> Result<Self> {
        let size = fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
        if size == 0 || size > end - at {
            bail!("{} has {size} bytes; 1 to {} fit", file.display(), end - at);
        }
        Ok(Self { file: file.to_owned(), at, size })
    }

    /// As the hypervisor reads it: address, length.
    fn place(&self) -> String {
        format!("{:#x},{:#x}", self.at, self.size)
    }

    /// QEMU's options are comma-separated, and a comma in a value is written twice.
    fn loader(&self) -> String {
        let file = self.file.display().to_string().replace(',', ",,");
        format!("loader,file={file},addr={:#x},force-raw=on", self.at)
    }
}

/// What the hypervisor runs.
pub enum Guest {
    Tiny,
    Linux { kernel: Staged, initrd: Staged },
}

/// A run of the example hypervisor.
pub struct Demo {
    pub guest: Guest,
    /// The guest's CPUs.
    pub cpus: usize,
    /// `4k` or `2m`.
    pub leaf: &'static str,
    pub torture: Torture,
}

impl Demo {
    /// The emulator that runs `hypervisor` so.
    pub fn command(&self, hypervisor: &Path) -> Command {
        let mut command = board("max,pauth-impdef=on", self.cpus + self.spare_cpus(), DEMO_MEMORY, hypervisor);
        command.arg("-append").arg(self.boot_arguments());
        if let Guest::Linux { kernel, initrd } = &self.guest {
            command.arg("-device").arg(kernel.loader()).arg("-device").arg(initrd.loader());
        }
        command
    }

    /// Under torture a CPU that the guest does not have moves the guest's pages.
    fn spare_cpus(&self) -> usize {
        usize::from(self.torture == Torture::On)
    }

    /// What the hypervisor reads from the board's device tree, /chosen/bootargs.
    fn boot_arguments(&self) -> String {
        let setting = format!("smp={} leaf={} torture={}", self.cpus, self.leaf, self.spare_cpus());
        match &self.guest {
            Guest::Tiny => format!("guest=tiny {setting}"),
            Guest::Linux { kernel, initrd } => {
                format!("guest=linux {setting} kernel={} initrd={}", kernel.place(), initrd.place())
            }
        }
    }
}

/// The emulator that runs the test program on a model of CPU.
pub fn suite(model: &str, cpus: usize, program: &Path) -> Command {
    let model = if model == "max" { "max,pauth-impdef=on" } else { model };
    board(model, cpus, "1G", program)
}

/// An interrupt controller without its ITS, no network card: nothing on this board writes to memory but its CPUs.
fn board(model: &str, cpus: usize, memory: &str, program: &Path) -> Command {
    let mut command = Command::new(QEMU_AARCH64.program);
    command.args(["-M", "virt,virtualization=on,gic-version=3,its=off", "-cpu", model]);
    command.arg("-smp").arg(cpus.to_string()).args(["-m", memory, "-nographic", "-nic", "none", "-no-reboot"]);
    command.arg("-kernel").arg(OsString::from(program));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> Vec<String> {
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    fn after(command: &Command, option: &str) -> Vec<String> {
        words(command).windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }

    fn linux() -> Guest {
        Guest::Linux {
            kernel: Staged { file: "Image".into(), at: KERNEL_AT, size: 0x20 },
            initrd: Staged { file: "a,b.gz".into(), at: INITRD_AT, size: 0x10 },
        }
    }

    #[test]
    fn the_hypervisor_is_told_where_the_guests_files_lie() {
        let demo = Demo { guest: linux(), cpus: 2, leaf: "4k", torture: Torture::On };
        let command = demo.command(Path::new("hypervisor"));
        assert_eq!(
            after(&command, "-append"),
            ["guest=linux smp=2 leaf=4k torture=1 kernel=0xc0000000,0x20 initrd=0xc8000000,0x10"]
        );
        assert_eq!(
            after(&command, "-device"),
            ["loader,file=Image,addr=0xc0000000,force-raw=on", "loader,file=a,,b.gz,addr=0xc8000000,force-raw=on"]
        );
    }

    #[test]
    fn torture_takes_one_cpu_more_than_the_guest_has() {
        for (torture, board) in [(Torture::Off, "2"), (Torture::On, "3")] {
            let demo = Demo { guest: Guest::Tiny, cpus: 2, leaf: "2m", torture };
            assert_eq!(after(&demo.command(Path::new("h")), "-smp"), [board]);
        }
    }

    #[test]
    fn the_tiny_guest_needs_no_files() {
        let demo = Demo { guest: Guest::Tiny, cpus: 1, leaf: "2m", torture: Torture::Off };
        let command = demo.command(Path::new("h"));
        assert_eq!(after(&command, "-append"), ["guest=tiny smp=1 leaf=2m torture=0"]);
        assert!(after(&command, "-device").is_empty());
    }

    #[test]
    fn staged_files_end_with_the_boards_memory() {
        assert_eq!(0x4000_0000 + 2560 * 0x10_0000, STAGING_END);
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused() {
        let file = std::env::current_exe().expect("this program");
        assert!(Staged::new(&file, 0, 16).is_err());
        assert!(Staged::new(&file, 0, 1 << 40).is_ok());
        assert!(Staged::new(Path::new("/no/such/file"), 0, 16).is_err());
    }

    #[test]
    fn only_the_max_cpu_has_the_pauth_option() {
        assert_eq!(after(&suite("cortex-a57", 1, Path::new("p")), "-cpu"), ["cortex-a57"]);
        assert_eq!(after(&suite("max", 2, Path::new("p")), "-cpu"), ["max,pauth-impdef=on"]);
    }
}
