//! The Linux guest: Debian's own kernel and a static busybox, fetched once and kept in the target folder, or what the
//! user brings.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::board::Arch;
use crate::initramfs::{self, Programs, Workload};
use crate::workspace::target;

const BUSYBOX_PACKAGE: &str = "busybox-static";

/// A kernel whose memory is all this crate's: small, with what the board needs built in.
fn kernel_package(arch: Arch) -> String {
    format!("linux-image-cloud-{}", arch.debian())
}

/// What a kernel begins with, where, and what it is called.
fn form(arch: Arch) -> (&'static [u8], usize, &'static str) {
    match arch {
        // Linux, arch/arm64/booting.rst.
        Arch::Aarch64 => (b"ARM\x64", 0x38, "an uncompressed arm64 Image"),
        // Linux, arch/x86/boot.rst.
        Arch::X86_64 => (b"HdrS", 0x202, "a bzImage"),
    }
}

/// A guest's files, and the checksums that it has to print, if we know them.
pub struct Linux {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub sums: Vec<String>,
}

/// Debian's kernel with our workload, and a program of ours that talks to another guest, if there is one.
///
/// # Errors
/// The packages are not cached and cannot be fetched.
pub fn debian(arch: Arch, workload: Workload, neighbour: Option<&[u8]>) -> Result<Linux> {
    let folder = target().join("guest").join(arch.debian());
    let cached = folder.join("linux");
    let (kernel, busybox) = (cached.join("kernel"), cached.join("busybox"));
    if !(kernel.is_file() && busybox.is_file()) {
        let (package, debian) = (kernel_package(arch), arch.debian());
        println!("guest: fetching Debian's {package} and {BUSYBOX_PACKAGE} for {debian} (about 35 MB, once)");
        fetch(arch, &folder, &cached)?;
    }
    check_kernel(arch, &kernel)?;
    let program = fs::read(&busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    let initrd = folder.join("initramfs.cpio.gz");
    fs::write(&initrd, initramfs::build(Programs { busybox: &program, neighbour }, workload)?)
        .with_context(|| format!("cannot write {}", initrd.display()))?;
    Ok(Linux { kernel, initrd, sums: initramfs::checksums(&program, workload.rounds) })
}

/// The user's own kernel and initramfs, whose `init` has to print the same closing words as ours.
pub fn own(arch: Arch, kernel: &Path, initrd: &Path) -> Result<Linux> {
    check_kernel(arch, kernel)?;
    if !initrd.is_file() {
        bail!("{} is not a file", initrd.display());
    }
    Ok(Linux { kernel: kernel.to_owned(), initrd: initrd.to_owned(), sums: Vec::new() })
}

/// Everything is made beside its place and moved there when it is whole: an interrupted fetch leaves no half guest.
fn fetch(arch: Arch, folder: &Path, cached: &Path) -> Result<()> {
    let scratch = folder.join("fetching");
    remove(&scratch)?;
    let (unpacked, ready) = (scratch.join("unpacked"), scratch.join("ready"));
    fs::create_dir_all(&unpacked)?;
    fs::create_dir_all(&ready)?;
    let client = apt::Client::new(&scratch.join("apt"), arch.debian())?;
    let kernel_package = client.dependency(&kernel_package(arch))?;
    client.unpack(&[&kernel_package, BUSYBOX_PACKAGE], &unpacked)?;
    fs::copy(find_kernel(&unpacked.join("boot"))?, ready.join("kernel"))?;
    fs::copy(find_busybox(&unpacked)?, ready.join("busybox"))?;
    remove(cached)?;
    fs::rename(&ready, cached)?;
    remove(&scratch)?;
    println!("guest: {kernel_package} is ready");
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn find_kernel(boot: &Path) -> Result<PathBuf> {
    for entry in fs::read_dir(boot)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")) {
            return Ok(path);
        }
    }
    bail!("the kernel's package has no kernel")
}

/// Its folder moved between Debian releases.
fn find_busybox(unpacked: &Path) -> Result<PathBuf> {
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| unpacked.join(place));
    places.into_iter().find(|place| place.is_file()).context("busybox's package has no busybox")
}

fn check_kernel(arch: Arch, kernel: &Path) -> Result<()> {
    let contents = fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    if !is_kernel(arch, &contents) {
        bail!("{} is not {}", kernel.display(), form(arch).2);
    }
    Ok(())
}

fn is_kernel(arch: Arch, contents: &[u8]) -> bool {
    let (magic, at, _) = form(arch);
    contents.get(at..at + magic.len()) == Some(magic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_known_by_its_header_and_its_architecture() {
        for (arch, other) in [(Arch::Aarch64, Arch::X86_64), (Arch::X86_64, Arch::Aarch64)] {
            let mut header = vec![0; 0x300];
            assert!(!is_kernel(arch, &header));
            let (magic, at, _) = form(arch);
            header[at..at + magic.len()].copy_from_slice(magic);
            assert!(is_kernel(arch, &header));
            assert!(!is_kernel(other, &header));
        }
    }

    #[test]
    fn a_short_file_is_no_kernel() {
        assert!(!is_kernel(Arch::Aarch64, b""));
        assert!(!is_kernel(Arch::Aarch64, &[0x1f; 58]));
        assert!(!is_kernel(Arch::X86_64, &[0x1f; 0x204]));
    }
}
