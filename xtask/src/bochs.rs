//! Command lines for Bochs: a PC without a BIOS, whose CPUs have VMX. Its ROM and its program are the project's own.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSegment};
use rustix::fs::{FlockOperation, flock};

use crate::board::{Demo, Guest, Staged};
use crate::process::quietly;
use crate::setup;
use crate::workspace::{X86_64, release_program, target};

const ASKING: Duration = Duration::from_secs(10);

/// Where the ROM begins; it ends with the first 4 GiB.
const ROM_AT: u64 = 0xffff_0000;
const ROM_SIZE: usize = 0x1_0000;
/// Where the ROM jumps to.
const PROGRAM_AT: u64 = 0x10_0000;
/// Where the example hypervisor finds its options and the guest's files: behind its heap, below what it hands out.
const OPTIONS_AT: u64 = 0x500_0000;
pub const KERNEL_AT: Range<u64> = 0x600_0000..INITRD_AT.start;
pub const INITRD_AT: Range<u64> = 0x800_0000..0x2000_0000;
/// The memory of a PC with the example hypervisor, in MiB.
const DEMO_MEMORY: usize = 1024;

/// A PC.
pub struct Machine<'a> {
    /// What its files and logs are called.
    pub name: &'a str,
    /// A CPU model of Bochs.
    pub model: &'a str,
    pub cpus: usize,
    /// Its memory, in MiB.
    pub memory: usize,
    /// A bare-metal package that was built, which the ROM jumps to.
    pub program: &'a str,
    /// What else is in memory, and where.
    pub data: Vec<(u64, Vec<u8>)>,
}

/// A PC that is ready to run.
pub struct Ready {
    pub command: Command,
    /// What Bochs says itself; the PC's console is the command's output.
    pub log: PathBuf,
    /// Locks, to be kept until the run is over.
    pub turns: Vec<File>,
}

/// A PC with the example hypervisor.
///
/// # Errors
/// As [`Machine::prepare`]'s; a file of the guest's cannot be read.
pub fn demo(demo: &Demo) -> Result<Ready> {
    let mut data = vec![(OPTIONS_AT, [demo.options().as_bytes(), b"\0"].concat())];
    for Staged { file, at, .. } in demo.guests.iter().flat_map(Guest::files) {
        data.push((*at, fs::read(file).with_context(|| format!("cannot read {}", file.display()))?));
    }
    let (cpus, memory, program) = (demo.board_cpus(), DEMO_MEMORY, "hypervisor");
    Machine { name: "demo", model: "corei7_skylake_x", cpus, memory, program, data }.prepare()
}

impl Machine<'_> {
    /// Writes the files that Bochs reads; waits until no other PC of that name runs.
    ///
    /// # Errors
    /// A program was not built, or does not lie where it should; a file cannot be written.
    pub fn prepare(&self) -> Result<Ready> {
        let folder = target().join("bochs").join(self.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let mut turns = vec![take_turn(&folder.join("lock"))?];
        // One file: each of several would be put over the one before (the ROM says why).
        let mut memory = flat(&release_program(X86_64, self.program), PROGRAM_AT)?;
        self.data.iter().for_each(|(at, bytes)| put(&mut memory, (at - PROGRAM_AT) as usize, bytes));
        let files = [
            ("rom.bin", rom()?),
            ("program.bin", memory),
            ("bochsrc", self.configuration(&setup::vga_rom()?).into_bytes()),
            // Bochs as Debian builds it starts in its debugger.
            ("commands", b"c\n".to_vec()),
        ];
        for (name, contents) in files {
            let file = folder.join(name);
            fs::write(&file, contents).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let isolation = isolation();
        if isolation.is_empty() {
            turns.push(take_turn(&std::env::temp_dir().join("stage2-bochs.lock"))?);
        }
        Ok(Ready { command: command(&folder, isolation), log: folder.join("output"), turns })
    }

    /// Bochs' configuration; its files are in the current folder.
    fn configuration(&self, vga_rom: &Path) -> String {
        let Self { model, cpus, memory, .. } = self;
        let vga_rom = vga_rom.display();
        format!(
            "config_interface: textconfig\n\
             display_library: rfb, options=\"timeout=0\"\n\
             cpu: model={model}, count={cpus}, ips=50000000, reset_on_triple_fault=0\n\
             memory: guest={memory}, host={memory}\n\
             romimage: file=rom.bin, address={ROM_AT:#x}\n\
             vgaromimage: file={vga_rom}\n\
             optramimage1: file=program.bin, address={PROGRAM_AT:#x}\n\
             com1: enabled=1, mode=file, dev=/dev/fd/3\n\
             port_e9_hack: enabled=1\n\
             panic: action=fatal\n\
             error: action=ignore\n\
             info: action=ignore\n\
             debug: action=ignore\n\
             sound: waveoutdrv=dummy\n\
             speaker: enabled=0\n\
             clock: sync=none, time0=1\n"
        )
    }
}

/// Bochs, whose first serial port is the command's output, and whose own words go to a file.
fn command(folder: &Path, isolation: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "exec 3>&1 >output 2>&1; exec \"$@\"", "sh"]);
    command.args(isolation).args([setup::BOCHS.program, "-q", "-f", "bochsrc", "-rc", "commands"]);
    command.current_dir(folder);
    command
}

/// Bochs shows its screen on a port of the network, and two that start at once take the same one: each gets a network
/// of its own, or, where that is not allowed, runs alone: then this is empty.
fn isolation() -> &'static [&'static str] {
    const WAYS: [&[&str]; 2] = [&["unshare", "--net"], &["unshare", "--map-root-user", "--net"]];
    let works = |way: &&&[&str]| {
        let mut command = Command::new(way[0]);
        command.args(&way[1..]).arg("true");
        setup::has_program(way[0]) && quietly("bochs-isolation", command, ASKING).is_ok()
    };
    WAYS.iter().find(works).copied().unwrap_or_default()
}

/// Waits until no other process holds the file's lock. The lock ends when the file is closed, at this program's end at
/// the latest.
fn take_turn(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// The ROM of a PC without a BIOS, which was built.
///
/// # Errors
/// It was not, or has another size.
pub fn rom() -> Result<Vec<u8>> {
    let rom = flat(&release_program(X86_64, "boot-rom"), ROM_AT)?;
    if rom.len() != ROM_SIZE {
        bail!("the ROM has {} bytes, not {ROM_SIZE}", rom.len());
    }
    Ok(rom)
}

/// What a linked program's memory holds, from `start` on; what is zero at its end is left out.
pub fn flat(program: &Path, start: u64) -> Result<Vec<u8>> {
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no program", program.display()))?;
    let mut memory = Vec::new();
    for segment in file.segments() {
        let contents = segment.data().with_context(|| format!("{} is cut short", program.display()))?;
        if contents.is_empty() {
            continue;
        }
        let Some(place) = segment.address().checked_sub(start).and_then(|place| usize::try_from(place).ok()) else {
            bail!("{} begins at {:#x}, not {start:#x}", program.display(), segment.address());
        };
        if place > 1 << 30 {
            bail!("{} reaches to {:#x}", program.display(), segment.address());
        }
        put(&mut memory, place, contents);
    }
    if memory.is_empty() {
        bail!("{} is empty", program.display());
    }
    Ok(memory)
}

/// Writes into memory, which grows to hold it.
fn put(memory: &mut Vec<u8>, place: usize, contents: &[u8]) {
    memory.resize(memory.len().max(place + contents.len()), 0);
    memory[place..place + contents.len()].copy_from_slice(contents);
}

#[cfg(test)]
mod tests {
    use super::*;

    const PC: Machine<'_> =
        Machine { name: "test", model: "tigerlake", cpus: 2, memory: 512, program: "p", data: Vec::new() };

    #[test]
    fn what_is_put_into_memory_stands_where_it_was_put() {
        let mut memory = vec![1, 2, 3];
        put(&mut memory, 5, &[4]);
        put(&mut memory, 1, &[5]);
        assert_eq!(memory, [1, 5, 3, 0, 0, 4]);
    }

    #[test]
    fn the_configuration_names_the_model_and_all_that_was_asked_for() {
        let configuration = PC.configuration(Path::new("/vga.bin"));
        for line in [
            "cpu: model=tigerlake, count=2, ips=50000000, reset_on_triple_fault=0",
            "memory: guest=512, host=512",
            "romimage: file=rom.bin, address=0xffff0000",
            "optramimage1: file=program.bin, address=0x100000",
            "vgaromimage: file=/vga.bin",
        ] {
            assert!(configuration.lines().any(|found| found == line), "{line} is not in\n{configuration}");
        }
    }

    #[test]
    fn the_console_is_the_commands_output_and_bochs_own_words_are_not() {
        let folder = std::env::temp_dir().join(format!("stage2-bochs-test-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let mut echo = command(&folder, &["sh", "-c", "echo noise; echo console >/dev/fd/3", "--"]);
        let output = echo.output().expect("sh starts");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "console\n");
        assert_eq!(fs::read_to_string(folder.join("output")).expect("its file"), "noise\n");
        fs::remove_dir_all(&folder).expect("it goes");
    }

    #[test]
    fn a_second_turn_waits_for_the_end_of_the_first() {
        let path = std::env::temp_dir().join(format!("stage2-bochs-turn-{}", std::process::id()));
        let first = take_turn(&path).expect("no other process has it");
        let waiting = std::thread::spawn({
            let path = path.clone();
            move || take_turn(&path).map(drop)
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        drop(first);
        waiting.join().expect("no panic").expect("its turn");
        fs::remove_file(&path).expect("it goes");
    }

    #[test]
    fn a_program_that_begins_elsewhere_is_refused() {
        let this = std::env::current_exe().expect("this program");
        let error = flat(&this, u64::MAX).expect_err("nothing begins there").to_string();
        assert!(error.contains("begins at"), "{error}");
        assert!(flat(Path::new("/no/such/program"), 0).is_err());
    }
}
