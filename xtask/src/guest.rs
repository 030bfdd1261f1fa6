//! The Linux guest: Debian's own arm64 kernel and a static busybox, fetched once and kept in the target folder, or what
//! the user brings.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::initramfs::{self, Workload};
use crate::workspace::target;

/// A kernel whose memory is all this crate's: small, with what the board needs built in.
const KERNEL_PACKAGE: &str = "linux-image-cloud-arm64";
const BUSYBOX_PACKAGE: &str = "busybox-static";

/// Linux, arch/arm64/booting.rst: the Image header's magic number "ARM\x64" is at offset 56.
const IMAGE_MAGIC: &[u8] = b"ARM\x64";
const IMAGE_MAGIC_OFFSET: usize = 56;

/// A guest's files, and the checksums that it has to print, if we know them.
pub struct Linux {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    pub sums: Vec<String>,
}

/// Debian's kernel with our workload.
///
/// # Errors
/// The packages are not cached and cannot be fetched.
pub fn debian(workload: Workload) -> Result<Linux> {
    let folder = target().join("guest");
    let cached = folder.join("linux");
    let (kernel, busybox) = (cached.join("Image"), cached.join("busybox"));
    if !(kernel.is_file() && busybox.is_file()) {
        println!("guest: fetching Debian's {KERNEL_PACKAGE} and {BUSYBOX_PACKAGE} for arm64 (about 35 MB, once)");
        fetch(&folder, &cached)?;
    }
    check_image(&kernel)?;
    let program = fs::read(&busybox).with_context(|| format!("cannot read {}", busybox.display()))?;
    let initrd = folder.join("initramfs.cpio.gz");
    fs::write(&initrd, initramfs::build(&program, workload)?)
        .with_context(|| format!("cannot write {}", initrd.display()))?;
    Ok(Linux { kernel, initrd, sums: initramfs::checksums(&program, workload.rounds) })
}

/// The user's own kernel and initramfs, whose `init` has to print the same closing words as ours.
pub fn own(kernel: &Path, initrd: &Path) -> Result<Linux> {
    check_image(kernel)?;
    if !initrd.is_file() {
        bail!("{} is not a file", initrd.display());
    }
    Ok(Linux { kernel: kernel.to_owned(), initrd: initrd.to_owned(), sums: Vec::new() })
}

/// Everything is made beside its place and moved there when it is whole: an interrupted fetch leaves no half guest.
fn fetch(folder: &Path, cached: &Path) -> Result<()> {
    let scratch = folder.join("fetching");
    remove(&scratch)?;
    let (unpacked, ready) = (scratch.join("unpacked"), scratch.join("ready"));
    fs::create_dir_all(&unpacked)?;
    fs::create_dir_all(&ready)?;
    let client = apt::Client::new(&scratch.join("apt"))?;
    let kernel_package = client.dependency(KERNEL_PACKAGE)?;
    client.unpack(&[&kernel_package, BUSYBOX_PACKAGE], &unpacked)?;
    fs::copy(find_kernel(&unpacked.join("boot"))?, ready.join("Image"))?;
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

fn check_image(kernel: &Path) -> Result<()> {
    let contents = fs::read(kernel).with_context(|| format!("cannot read {}", kernel.display()))?;
    if !is_image(&contents) {
        bail!("{} is not an uncompressed arm64 Image", kernel.display());
    }
    Ok(())
}

fn is_image(contents: &[u8]) -> bool {
    contents.get(IMAGE_MAGIC_OFFSET..IMAGE_MAGIC_OFFSET + IMAGE_MAGIC.len()) == Some(IMAGE_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_known_by_its_header() {
        let mut header = vec![0; 64];
        assert!(!is_image(&header));
        header[IMAGE_MAGIC_OFFSET..60].copy_from_slice(IMAGE_MAGIC);
        assert!(is_image(&header));
    }

    #[test]
    fn a_short_file_is_no_image() {
        assert!(!is_image(b""));
        assert!(!is_image(&[0x1f; 58]));
    }
}
