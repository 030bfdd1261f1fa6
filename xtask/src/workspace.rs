//! Where things are, and how cargo is called.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

pub const AARCH64: &str = "aarch64-unknown-none-softfloat";
pub const X86_64: &str = "x86_64-unknown-none";
pub const RISCV64: &str = "riscv64gc-unknown-none-elf";

/// The repository's top folder. Cargo names this package's folder when it runs the command.
pub fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Cargo's output folder; what the commands fetch and log goes there too.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The release build of a program.
pub fn release_program(target_name: &str, name: &str) -> PathBuf {
    target().join(target_name).join("release").join(name)
}

/// A program of a Linux guest on arm64, without a library that it would have to find there.
pub const AARCH64_LINUX: &str = "aarch64-unknown-linux-musl";

/// Builds a program of a Linux guest, by the linker that comes with Rust.
pub fn build_for_linux(package: &str) -> Command {
    let mut command = cargo(["build", "--release", "--target", AARCH64_LINUX, "--package", package]);
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
    command.env("CARGO_PROFILE_RELEASE_STRIP", "true");
    command
}

/// `cargo` with arguments, at the repository's top.
pub fn cargo<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Builds bare-metal packages.
pub fn build_bare_metal(target_name: &str, packages: &[&str]) -> Command {
    let mut command = cargo(["build", "--release", "--target", target_name]);
    for package in packages {
        command.args(["--package", package]);
    }
    command
}
