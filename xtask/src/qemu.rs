//! Command lines for QEMU's `virt` board with EL2.

use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use crate::board::{Demo, Guest, Staged};
use crate::setup::QEMU_AARCH64;

/// Where the guest's files lie in the board's memory until the hypervisor copies them into the guest. They lie above
/// all that the hypervisor hands out, and nowhere near the guest's own addresses, which begin at `0x4000_0000`.
pub const KERNEL_AT: Range<u64> = 0xC000_0000..INITRD_AT.start;
pub const INITRD_AT: Range<u64> = 0xC800_0000..NEIGHBOUR_AT.start;
pub const NEIGHBOUR_AT: Range<u64> = 0xDF00_0000..0xE000_0000;
/// The board's memory begins at `0x4000_0000`; with this much it ends behind them.
const DEMO_MEMORY: &str = "2560M";

/// The emulator that runs `hypervisor` so.
pub fn demo(demo: &Demo, hypervisor: &Path) -> Command {
    let mut command = board("max,pauth-impdef=on", demo.board_cpus(), DEMO_MEMORY, hypervisor);
    command.arg("-append").arg(demo.options());
    for file in demo.guests.iter().flat_map(Guest::files) {
        command.arg("-device").arg(loader(file));
    }
    command
}

/// QEMU's options are comma-separated, and a comma in a value is written twice.
fn loader(staged: &Staged) -> String {
    let file = staged.file.display().to_string().replace(',', ",,");
    format!("loader,file={file},addr={:#x},force-raw=on", staged.at)
}

/// The emulator that runs the test program on a model of CPU.
pub fn suite(model: &str, cpus: usize, program: &Path) -> Command {
    let model = if model == "max" { "max,pauth-impdef=on" } else { model };
    board(model, cpus, "1G", program)
}

/// An interrupt controller without its ITS, no network card: only the CPUs write to this board's memory.
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
    use crate::board::tests::linux;
    use crate::verdict::Torture;

    fn words(command: &Command) -> Vec<String> {
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    fn after(command: &Command, option: &str) -> Vec<String> {
        words(command).windows(2).filter(|pair| pair[0] == option).map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn the_guests_files_are_loaded_and_the_options_passed() {
        let run = Demo { guests: vec![linux()], cpus: 2, leaf: "4k", torture: Torture::On };
        let command = demo(&run, Path::new("hypervisor"));
        assert_eq!(after(&command, "-append"), [run.options()]);
        assert_eq!(
            after(&command, "-device"),
            ["loader,file=Image,addr=0xc0000000,force-raw=on", "loader,file=a,,b.gz,addr=0xc8000000,force-raw=on"]
        );
        assert_eq!(after(&command, "-smp"), ["3"]);
    }

    #[test]
    fn the_tiny_guest_loads_nothing() {
        let run = Demo { guests: vec![Guest::Tiny], cpus: 1, leaf: "2m", torture: Torture::Off };
        assert!(after(&demo(&run, Path::new("h")), "-device").is_empty());
    }

    #[test]
    fn staged_files_end_with_the_boards_memory() {
        assert_eq!(0x4000_0000 + 2560 * 0x10_0000, NEIGHBOUR_AT.end);
    }

    #[test]
    fn only_the_max_cpu_has_the_pauth_option() {
        assert_eq!(after(&suite("cortex-a57", 1, Path::new("p")), "-cpu"), ["cortex-a57"]);
        assert_eq!(after(&suite("max", 2, Path::new("p")), "-cpu"), ["max,pauth-impdef=on"]);
    }
}
