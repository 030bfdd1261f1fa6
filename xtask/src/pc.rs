//! Command lines for QEMU's PC, whose CPUs have SVM. Its ROM is the one that Bochs has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use anyhow::{Context, Result};

use crate::bochs;
use crate::setup::QEMU_X86_64;
use crate::workspace::target;

/// Where the test programs' last word goes: any ends QEMU.
const EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=4";

/// Writes the ROM where QEMU reads it. Another run may read it meanwhile.
///
/// # Errors
/// It was not built, or cannot be written.
pub fn write_rom() -> Result<PathBuf> {
    let folder = target().join("qemu");
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let (rom, new) = (folder.join("rom.bin"), folder.join(format!("rom.{}", process::id())));
    fs::write(&new, bochs::rom()?).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, &rom).with_context(|| format!("cannot write {}", rom.display()))?;
    Ok(rom)
}

/// The emulator that runs a program on a model of CPU, which gets SVM if it has none.
pub fn suite(model: &str, cpus: usize, memory: usize, rom: &Path, program: &Path) -> Command {
    let mut command = Command::new(QEMU_X86_64.program);
    command.args(["-M", "pc", "-accel", "tcg", "-cpu"]).arg(format!("{model},+svm,+npt"));
    command.arg("-smp").arg(cpus.to_string()).arg("-m").arg(format!("{memory}M"));
    command.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-device", EXIT]);
    command.arg("-bios").arg(rom).arg("-device");
    // QEMU's options are comma-separated, and a comma in a value is written twice.
    command.arg(format!("loader,file={}", program.display().to_string().replace(',', ",,")));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pc_has_svm_the_rom_and_the_program() {
        let command = suite("EPYC", 2, 512, Path::new("/rom"), Path::new("/a,b"));
        let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        for pair in [
            ["-cpu", "EPYC,+svm,+npt"],
            ["-smp", "2"],
            ["-m", "512M"],
            ["-bios", "/rom"],
            ["-device", EXIT],
            ["-device", "loader,file=/a,,b"],
        ] {
            assert!(words.windows(2).any(|found| found == pair), "{pair:?} is not in {words:?}");
        }
    }
}
