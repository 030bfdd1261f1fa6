//! What the commands need from the machine: each missing thing is named, then installed where that is possible
//! without a question, and otherwise the command that installs it is named.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::quietly;
use crate::workspace::root;

const INSTALLING: Duration = Duration::from_secs(600);
const ASKING: Duration = Duration::from_secs(60);

/// A program, and the Debian package that has it.
pub struct Tool {
    pub program: &'static str,
    package: &'static str,
}

pub const QEMU_AARCH64: Tool = Tool { program: "qemu-system-aarch64", package: "qemu-system-arm" };

pub const QEMU_X86_64: Tool = Tool { program: "qemu-system-x86_64", package: "qemu-system-x86" };

pub const BOCHS: Tool = Tool { program: "bochs-bin", package: "bochs" };

pub const VALGRIND: Tool = Tool { program: "valgrind", package: "valgrind" };

/// The ROMs of a screen that Bochs wants to see, whether it is used or not, and the package that has the first.
const VGA_ROMS: [&str; 3] =
    ["/usr/share/seabios/vgabios-stdvga.bin", "/usr/share/vgabios/vgabios.bin", "/usr/share/bochs/VGABIOS-lgpl-latest"];
const VGA_PACKAGE: &str = "seabios";

/// A ROM of a screen.
pub fn vga_rom() -> Result<PathBuf> {
    let find = || VGA_ROMS.iter().map(PathBuf::from).find(|rom| rom.is_file());
    if let Some(rom) = find() {
        return Ok(rom);
    }
    println!("setup: {} is missing (Debian package {VGA_PACKAGE})", VGA_ROMS[0]);
    install_packages(&[VGA_PACKAGE])?;
    find().with_context(|| format!("{} is still missing after its package was installed", VGA_ROMS[0]))
}

/// Makes sure that these programs are there.
pub fn tools(wanted: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = wanted.iter().filter(|tool| !has_program(tool.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for tool in &missing {
        println!("setup: {} is missing (Debian package {})", tool.program, tool.package);
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    install_packages(&packages)?;
    match wanted.iter().find(|tool| !has_program(tool.program)) {
        None => Ok(()),
        Some(tool) => bail!("{} is still missing after its package was installed", tool.program),
    }
}

/// Whether a program is on the search path.
pub fn has_program(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !has_program("apt-get") {
        bail!("install what is missing; on Debian it is `{by_hand}`");
    }
    let Some(privilege) = privilege() else {
        bail!("no right to install packages; as root, run `{by_hand}`");
    };
    println!("setup: {by_hand}");
    quietly("setup-update", apt_get(privilege, &["update"]), INSTALLING).or_else(|error| {
        // One unreachable source of many fails the update; the package may be known all the same.
        eprintln!("setup: going on without fresh package lists: {error:#}");
        Ok::<_, anyhow::Error>(String::new())
    })?;
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    quietly("setup-install", apt_get(privilege, &install), INSTALLING)
        .with_context(|| format!("could not install; try `{by_hand}` as root"))?;
    Ok(())
}

/// How this user installs packages without being asked for a password.
fn privilege() -> Option<Privilege> {
    if rustix::process::geteuid().is_root() {
        return Some(Privilege::Root);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", "true"]);
    (has_program("sudo") && quietly("setup-sudo", sudo, ASKING).is_ok()).then_some(Privilege::Sudo)
}

#[derive(Clone, Copy)]
enum Privilege {
    Root,
    Sudo,
}

fn apt_get(privilege: Privilege, arguments: &[&str]) -> Command {
    let mut command = match privilege {
        Privilege::Root => Command::new("apt-get"),
        Privilege::Sudo => {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", "apt-get"]);
            sudo
        }
    };
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Makes sure that the toolchain can build for these targets.
pub fn rust_targets(targets: &[&str]) -> Result<()> {
    let missing: Vec<&str> = targets.iter().copied().filter(|target| !has_target(target)).collect();
    add_to_toolchain("target", &missing)
}

/// Makes sure that the toolchain has `cargo fmt` and `cargo clippy`.
pub fn rust_components() -> Result<()> {
    let needed = [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")];
    let missing: Vec<&str> =
        needed.iter().filter(|(_, program)| !answers(program)).map(|(component, _)| *component).collect();
    add_to_toolchain("component", &missing)
}

fn add_to_toolchain(kind: &str, missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("rustup {kind} add {}", missing.join(" "));
    println!("setup: the Rust toolchain lacks {}", missing.join(", "));
    if !has_program("rustup") {
        bail!("without rustup the toolchain cannot be extended; with it, `{by_hand}` would");
    }
    println!("setup: {by_hand}");
    let mut command = Command::new("rustup");
    command.args([kind, "add"]).args(missing).current_dir(root());
    quietly("setup-rustup", command, INSTALLING).with_context(|| format!("`{by_hand}` failed"))?;
    Ok(())
}

/// A target is there if its library folder is.
fn has_target(target: &str) -> bool {
    let mut command = Command::new("rustc");
    command.args(["--print", "target-libdir", "--target", target]).current_dir(root());
    quietly("setup-rustc", command, ASKING).is_ok_and(|folder| Path::new(folder.trim()).is_dir())
}

/// Rustup's stand-ins are on the search path even where what they stand for is not installed.
fn answers(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").current_dir(root());
    quietly("setup-component", command, ASKING).is_ok()
}

/// The name of an installed toolchain of a release such as `1.88`, installing it if need be; `None` where it cannot be had.
pub fn toolchain(release: &str) -> Option<String> {
    if !has_program("rustup") {
        return None;
    }
    installed_toolchain(release).or_else(|| {
        println!("setup: rustup toolchain install {release} --profile minimal");
        let mut command = Command::new("rustup");
        command.args(["toolchain", "install", release, "--profile", "minimal", "--no-self-update"]);
        quietly("setup-toolchain", command, INSTALLING).ok()?;
        installed_toolchain(release)
    })
}

fn installed_toolchain(release: &str) -> Option<String> {
    let mut command = Command::new("rustup");
    command.args(["toolchain", "list"]);
    let listed = quietly("setup-toolchains", command, ASKING).ok()?;
    find_toolchain(&listed, release)
}

fn find_toolchain(listed: &str, release: &str) -> Option<String> {
    let names: BTreeSet<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let of_release =
        |name: &&&str| name.strip_prefix(release).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']));
    names.iter().find(of_release).map(|name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolchain_is_found_by_its_release() {
        let listed = "stable-x86_64-unknown-linux-gnu (active, default)\n1.88.0-x86_64-unknown-linux-gnu\n";
        assert_eq!(find_toolchain(listed, "1.88").as_deref(), Some("1.88.0-x86_64-unknown-linux-gnu"));
        assert_eq!(
            find_toolchain("1.88-x86_64-unknown-linux-gnu", "1.88").as_deref(),
            Some("1.88-x86_64-unknown-linux-gnu")
        );
    }

    #[test]
    fn another_release_is_not_taken_for_it() {
        assert_eq!(find_toolchain("1.880.0-x86_64\n1.8.0-x86_64\nnightly\n", "1.88"), None);
    }

    #[test]
    fn a_program_is_looked_for_on_the_search_path() {
        assert!(has_program("sh"));
        assert!(!has_program("no-program-has-this-name"));
    }
}
