//! A program of a Linux guest, which talks to another guest through memory that the hypervisor mapped into both.
//!
//! It maps that memory by `/dev/mem`, as root: Linux forbids only what it takes for its own memory.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use exchange::{End, Gift, Notes, REGION_SIZE, Talk, Word, digest_words, linux};
use rustix::fs::OFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// After so long in vain it gives up.
const PATIENCE: Duration = Duration::from_secs(100);
const PAGE: usize = 4096;

fn main() -> Result<()> {
    let memory = Memory::open()?;
    let page = memory.map(linux::NOTES, PAGE, ProtFlags::READ).context("the page that says what is to be done")?;
    let words = [0, 1].map(|index: usize| page[index].load(Ordering::Relaxed));
    let Notes { messages } = Notes::from_words(words).context("the page has no notes")?;
    let ring = memory.map(linux::RING, REGION_SIZE, ProtFlags::READ | ProtFlags::WRITE).context("the ring")?;
    let mut talk = Talk::new(ring, End::First)?;
    let account = talk.exchange(messages, patience())?;
    println!("guest: ring ok end={} {account}", End::First.number());
    get_gift(&memory, &mut talk)
}

/// Gets memory from the other guest, and looks what is in it.
fn get_gift(memory: &Memory, talk: &mut Talk<'_>) -> Result<()> {
    let gift = Gift::from_words(talk.hear(patience())?).context("what the other guest sent is no gift")?;
    let words = memory.map(gift.at, gift.size, ProtFlags::READ | ProtFlags::WRITE).context("what was given")?;
    let digest = digest_words(words);
    talk.tell([digest], patience())?;
    ensure!(digest == gift.digest, "what was given has checksum {digest:#x}, not {:#x}", gift.digest);
    println!("guest: gift ok got at={:#x} size={:#x} digest={digest:#x}", gift.at, gift.size);
    Ok(())
}

/// Lets other programs run, for the `idle`th time in a row; `None` if that took too long.
fn patience() -> impl FnMut(u64) -> Option<()> {
    let mut since = Instant::now();
    move |idle| {
        if idle == 1 {
            since = Instant::now();
        }
        thread::yield_now();
        (since.elapsed() < PATIENCE).then_some(())
    }
}

/// What the guest takes for physical memory.
struct Memory(File);

impl Memory {
    fn open() -> Result<Self> {
        let flags = OFlags::SYNC.bits().cast_signed();
        let file = File::options().read(true).write(true).custom_flags(flags).open("/dev/mem");
        file.map(Self).context("/dev/mem")
    }

    /// Maps some of it, for good. Every other program that maps it uses atomics, too.
    #[allow(unsafe_code, reason = "memory that another guest writes")]
    fn map(&self, at: usize, size: usize, access: ProtFlags) -> Result<&'static [Word]> {
        // SAFETY: a new mapping, of memory that this kernel does not use.
        let start = unsafe { mmap(std::ptr::null_mut(), size, access, MapFlags::SHARED, &self.0, at as u64)? };
        // SAFETY: so many bytes are mapped, and are never unmapped.
        Ok(unsafe { std::slice::from_raw_parts(start.cast::<Word>(), size / size_of::<Word>()) })
    }
}
