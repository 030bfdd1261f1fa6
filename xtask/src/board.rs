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
    Linux {
        kernel: Staged,
        initrd: Staged,
    },
    /// It exchanges so many messages with another guest, which is its own fork where there is no other.
    Neighbour {
        program: Staged,
        messages: u32,
    },
}

impl Guest {
    /// As the hypervisor calls it.
    fn name(&self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Linux { .. } => "linux",
            Self::Neighbour { .. } => "neighbour",
        }
    }

    /// The CPUs that the board has for it, where others have `cpus` each.
    fn cpus(&self, cpus: usize) -> usize {
        match self {
            Self::Tiny | Self::Linux { .. } => cpus,
            // Two, and one for its fork.
            Self::Neighbour { .. } => 3,
        }
    }

    /// What else the hypervisor has to know of it.
    fn options(&self) -> String {
        match self {
            Self::Tiny => String::new(),
            Self::Linux { kernel, initrd } => format!(" kernel={} initrd={}", kernel.place(), initrd.place()),
            Self::Neighbour { program, messages } => format!(" neighbour={} messages={messages}", program.place()),
        }
    }

    /// The files that the emulator puts into the board's memory.
    pub fn files(&self) -> Vec<&Staged> {
        match self {
            Self::Tiny => Vec::new(),
            Self::Linux { kernel, initrd } => vec![kernel, initrd],
            Self::Neighbour { program, .. } => vec![program],
        }
    }
}

/// A run of the example hypervisor.
#[derive(Debug)]
pub struct Demo {
    pub guests: Vec<Guest>,
    /// A guest's CPUs.
    pub cpus: usize,
    /// `4k` or `2m`.
    pub leaf: &'static str,
    pub torture: Torture,
}

impl Demo {
    /// The board's CPUs: under torture one that no guest has moves the guest's pages.
    pub fn board_cpus(&self) -> usize {
        self.guests.iter().map(|guest| guest.cpus(self.cpus)).sum::<usize>() + self.spare_cpus()
    }

    fn spare_cpus(&self) -> usize {
        usize::from(self.torture == Torture::On)
    }

    /// The options, as the hypervisor reads them.
    pub fn options(&self) -> String {
        let names = self.guests.iter().map(Guest::name).collect::<Vec<_>>().join(" guest=");
        let more = self.guests.iter().map(Guest::options).collect::<Vec<_>>().concat();
        format!("guest={names} smp={} leaf={} torture={}{more}", self.cpus, self.leaf, self.spare_cpus())
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
        let demo = Demo { guests: vec![linux()], cpus: 2, leaf: "4k", torture: Torture::On };
        let options = "guest=linux smp=2 leaf=4k torture=1 kernel=0xc0000000,0x20 initrd=0xc8000000,0x10";
        assert_eq!(demo.options(), options);
    }

    #[test]
    fn torture_takes_one_cpu_more_than_the_guest_has() {
        for (torture, board) in [(Torture::Off, 2), (Torture::On, 3)] {
            let demo = Demo { guests: vec![Guest::Tiny], cpus: 2, leaf: "2m", torture };
            assert_eq!(demo.board_cpus(), board);
        }
    }

    #[test]
    fn the_tiny_guest_needs_no_files() {
        let demo = Demo { guests: vec![Guest::Tiny], cpus: 1, leaf: "2m", torture: Torture::Off };
        assert_eq!(demo.options(), "guest=tiny smp=1 leaf=2m torture=0");
    }

    /// A guest of a file that is not there.
    pub fn neighbour() -> Guest {
        let program = Staged { file: "neighbour.bin".into(), at: 0xdf00_0000, size: 0x30 };
        Guest::Neighbour { program, messages: 7 }
    }

    #[test]
    fn two_guests_have_cpus_of_their_own_and_one_is_left_for_the_fork() {
        let demo = |guests| Demo { guests, cpus: 1, leaf: "2m", torture: Torture::Off };
        assert_eq!(demo(vec![neighbour()]).board_cpus(), 3);
        let beside_linux = demo(vec![linux(), neighbour()]);
        assert_eq!(beside_linux.board_cpus(), 4);
        let options = "guest=linux guest=neighbour smp=1 leaf=2m torture=0 kernel=0xc0000000,0x20 \
                       initrd=0xc8000000,0x10 neighbour=0xdf000000,0x30 messages=7";
        assert_eq!(beside_linux.options(), options);
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused() {
        let file = std::env::current_exe().expect("this program");
        assert!(Staged::new(&file, 0..16).is_err());
        assert!(Staged::new(&file, 0..1 << 40).is_ok());
        assert!(Staged::new(Path::new("/no/such/file"), 0..16).is_err());
    }
}
