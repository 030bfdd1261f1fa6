//! What the example hypervisor is told, whatever board it runs on.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::verdict::Torture;
use crate::workspace::{AARCH64, X86_64};

/// An architecture that the example hypervisor runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// EL2 of QEMU's `virt` board
    #[value(name = "aarch64")]
    Aarch64,
    /// VMX of a PC, which is Bochs
    #[value(name = "x86_64")]
    X86_64,
}

impl Arch {
    /// As rustc calls it.
    pub fn target(self) -> &'static str {
        match self {
            Self::Aarch64 => AARCH64,
            Self::X86_64 => X86_64,
        }
    }

    /// As Debian calls it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Aarch64 => "arm64",
            Self::X86_64 => "amd64",
        }
    }
}

/// A file that the emulator puts into the board's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staged {
    pub file: PathBuf,
    pub at: u64,
    size: u64,
}

impl Staged {
    /// # Errors
    /// The file cannot be read, or does not fit.
    pub fn new(file: &Path, place: Range<u64>) -> Result<Self> {
        let size = fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
        let room = place.end - place.start;
        if size == 0 || size > room {
            bail!("{} has {size} bytes; 1 to {room} fit", file.display());
        }
        Ok(Self { file: file.to_owned(), at: place.start, size })
    }

    /// As the hypervisor reads it: address, length.
    fn place(&self) -> String {
        format!("{:#x},{:#x}", self.at, self.size)
    }
}

/// What the hypervisor runs.
#[derive(Debug)]
pub enum Guest {
    Tiny,
    Linux { kernel: Staged, initrd: Staged },
}

/// A run of the example hypervisor.
#[derive(Debug)]
pub struct Demo {
    pub guest: Guest,
    /// The guest's CPUs.
    pub cpus: usize,
    /// `4k` or `2m`.
    pub leaf: &'static str,
    pub torture: Torture,
}

impl Demo {
    /// The board's CPUs: under torture one that the guest does not have moves the guest's pages.
    pub fn board_cpus(&self) -> usize {
        self.cpus + self.spare_cpus()
    }

    fn spare_cpus(&self) -> usize {
        usize::from(self.torture == Torture::On)
    }

    /// The options, as the hypervisor reads them.
    pub fn options(&self) -> String {
        let setting = format!("smp={} leaf={} torture={}", self.cpus, self.leaf, self.spare_cpus());
        match &self.guest {
            Guest::Tiny => format!("guest=tiny {setting}"),
            Guest::Linux { kernel, initrd } => {
                format!("guest=linux {setting} kernel={} initrd={}", kernel.place(), initrd.place())
            }
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A guest of files that are not there.
    pub fn linux() -> Guest {
        Guest::Linux {
            kernel: Staged { file: "Image".into(), at: 0xc000_0000, size: 0x20 },
            initrd: Staged { file: "a,b.gz".into(), at: 0xc800_0000, size: 0x10 },
        }
    }

    #[test]
    fn the_hypervisor_is_told_where_the_guests_files_lie() {
        let demo = Demo { guest: linux(), cpus: 2, leaf: "4k", torture: Torture::On };
        let options = "guest=linux smp=2 leaf=4k torture=1 kernel=0xc0000000,0x20 initrd=0xc8000000,0x10";
        assert_eq!(demo.options(), options);
    }

    #[test]
    fn torture_takes_one_cpu_more_than_the_guest_has() {
        for (torture, board) in [(Torture::Off, 2), (Torture::On, 3)] {
            let demo = Demo { guest: Guest::Tiny, cpus: 2, leaf: "2m", torture };
            assert_eq!(demo.board_cpus(), board);
        }
    }

    #[test]
    fn the_tiny_guest_needs_no_files() {
        let demo = Demo { guest: Guest::Tiny, cpus: 1, leaf: "2m", torture: Torture::Off };
        assert_eq!(demo.options(), "guest=tiny smp=1 leaf=2m torture=0");
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused() {
        let file = std::env::current_exe().expect("this program");
        assert!(Staged::new(&file, 0..16).is_err());
        assert!(Staged::new(&file, 0..1 << 40).is_ok());
        assert!(Staged::new(Path::new("/no/such/file"), 0..16).is_err());
    }
}
