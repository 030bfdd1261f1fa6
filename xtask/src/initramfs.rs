//! The Linux guest's root file system: one static program, one script, and the console's node, in cpio's `newc` form.

use std::io::Write;

use anyhow::Result;
use cpio::newc::{Builder, trailer};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// The script that the guest's kernel starts.
const INIT: &[u8] = include_bytes!("../../examples/hypervisor/guest/linux/init");

/// File types and permissions, as stat(2) has them.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TEXT: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// /dev/console: character device 5:1 (Linux, admin-guide/devices.rst). The kernel opens it before any file system is
/// mounted.
const CONSOLE: (u32, u32) = (5, 1);

/// What the guest is asked to do.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub rounds: usize,
    /// The size of a round's random file.
    pub random_kb: usize,
    pub fill_mb: usize,
    pub end: Ending,
}

/// How the guest turns itself off.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// By its firmware.
    PowerOff,
    /// By a reset, where there is no firmware to ask.
    Reboot,
}

impl Ending {
    /// The program that does it.
    fn command(self) -> &'static str {
        match self {
            Self::PowerOff => "poweroff",
            Self::Reboot => "reboot",
        }
    }
}

/// What is in the file system.
#[derive(Clone, Copy)]
pub struct Programs<'a> {
    pub busybox: &'a [u8],
    /// What talks to another guest, if there is one.
    pub neighbour: Option<&'a [u8]>,
}

/// The whole file system, compressed.
pub fn build(programs: Programs, workload: Workload) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&archive(programs, workload)?)?;
    Ok(encoder.finish()?)
}

/// The checksum that each round of the workload has to print: round n sums n copies of the guest's own program.
pub fn checksums(busybox: &[u8], rounds: usize) -> Vec<String> {
    let mut hasher = Sha256::new();
    let mut sums = Vec::new();
    for _ in 0..rounds {
        hasher.update(busybox);
        sums.push(hexadecimal(&hasher.clone().finalize()));
    }
    sums
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn archive(programs: Programs, workload: Workload) -> Result<Vec<u8>> {
    let Workload { rounds, random_kb, fill_mb, end } = workload;
    let end = end.command();
    let settings =
        format!("stage2.rounds={rounds} stage2.random_kb={random_kb} stage2.fill_mb={fill_mb} stage2.end={end}\n");
    let mut entries = vec![
        (Builder::new("bin").mode(FOLDER), &[][..]),
        (Builder::new("dev").mode(FOLDER), &[]),
        (Builder::new("etc").mode(FOLDER), &[]),
        (Builder::new("dev/console").mode(CHARACTER_DEVICE).rdev_major(CONSOLE.0).rdev_minor(CONSOLE.1), &[]),
        (Builder::new("bin/busybox").mode(PROGRAM), programs.busybox),
        (Builder::new("etc/workload").mode(TEXT), settings.as_bytes()),
        (Builder::new("init").mode(PROGRAM), INIT),
    ];
    entries.extend(programs.neighbour.map(|program| (Builder::new("bin/neighbour").mode(PROGRAM), program)));
    let mut archive = Vec::new();
    for (number, (entry, contents)) in (1..).zip(entries) {
        let mut writer = entry.ino(number).nlink(1).write(&mut archive, u32::try_from(contents.len())?);
        writer.write_all(contents)?;
        writer.finish()?;
    }
    trailer(&mut archive)?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use cpio::NewcReader;

    use super::*;

    const WORKLOAD: Workload = Workload { rounds: 3, random_kb: 7, fill_mb: 5, end: Ending::Reboot };

    fn busybox(busybox: &[u8]) -> Programs<'_> {
        Programs { busybox, neighbour: None }
    }

    /// Each entry's name, mode and size, as a reader finds them.
    fn entries(mut archive: &[u8]) -> Vec<(String, u32, u32)> {
        let mut found = Vec::new();
        loop {
            let reader = NewcReader::new(archive).expect("an entry");
            let entry = reader.entry();
            if entry.is_trailer() {
                return found;
            }
            found.push((entry.name().to_owned(), entry.mode(), entry.file_size()));
            archive = reader.finish().expect("an entry's end");
        }
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let names: Vec<String> =
            entries(&archive(busybox(b"x"), WORKLOAD).unwrap()).into_iter().map(|entry| entry.0).collect();
        assert_eq!(names, ["bin", "dev", "etc", "dev/console", "bin/busybox", "etc/workload", "init"]);
    }

    #[test]
    fn the_programs_are_whole_and_executable() {
        let found = entries(&archive(busybox(&[7; 1001]), WORKLOAD).unwrap());
        assert!(found.contains(&("bin/busybox".to_owned(), PROGRAM, 1001)));
        assert!(found.contains(&("init".to_owned(), PROGRAM, INIT.len() as u32)));
    }

    #[test]
    fn a_guest_with_a_neighbour_has_the_program_that_talks_to_it() {
        let found = entries(&archive(Programs { busybox: b"", neighbour: Some(b"talk") }, WORKLOAD).unwrap());
        assert!(found.contains(&("bin/neighbour".to_owned(), PROGRAM, 4)));
        assert!(entries(&archive(busybox(b""), WORKLOAD).unwrap()).iter().all(|entry| entry.0 != "bin/neighbour"));
    }

    #[test]
    fn the_console_is_character_device_5_1() {
        let archive = archive(busybox(b""), WORKLOAD).unwrap();
        let name = archive.windows(12).position(|window| window == b"dev/console\0").expect("the node");
        // newc: a header of 6 + 13 * 8 characters before the name; rdev is its tenth and eleventh number.
        let field = |number: usize| {
            let start = name - 110 + 6 + number * 8;
            u32::from_str_radix(std::str::from_utf8(&archive[start..start + 8]).unwrap(), 16).unwrap()
        };
        assert_eq!((field(1), field(9), field(10)), (CHARACTER_DEVICE, CONSOLE.0, CONSOLE.1));
    }

    #[test]
    fn the_workload_is_written_as_the_script_reads_it() {
        let archive = archive(busybox(b""), WORKLOAD).unwrap();
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("stage2.rounds=3 stage2.random_kb=7 stage2.fill_mb=5 stage2.end=reboot\n"));
    }

    #[test]
    fn a_rounds_checksum_is_that_of_as_many_copies() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(checksums(b"abc", 1), [abc]);
        assert_eq!(checksums(b"abc", 2)[1], checksums(b"abcabc", 1)[0]);
    }

    #[test]
    fn it_is_compressed_as_gzip() {
        assert_eq!(build(busybox(b"x"), WORKLOAD).unwrap()[..2], [0x1f, 0x8b]);
    }
}
