//! A small guest at EL1 that is forked while it runs, and talks to another guest through memory that both map.
#![no_std]
#![cfg_attr(target_os = "none", no_main)]
#![cfg(target_os = "none")]

mod boot;
mod calls;
mod console;
mod gift;
mod memory;
mod pattern;
mod time;
mod writer;

use calls::Forked;
use exchange::{End, Notes, Talk, Word};
use pattern::Version;

/// Where it maps the ring: before it is forked, and as the fork.
const RING: usize = 0x7400_0000;
const RING_OF_FORK: usize = 0x7800_0000;
/// Where it maps the page that says what is to be done.
const NOTES: usize = 0x7500_0000;

/// Why it is not content.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{what} was refused")]
    Refused { what: &'static str },
    #[error("{what} was not refused")]
    NotRefused { what: &'static str },
    #[error("the sum of its memory is {found:#x}, not {expected:#x}")]
    Sum { found: u64, expected: u64 },
    #[error("word {word} of page {page} is {found:#x}, not {expected:#x}")]
    Pattern { page: usize, word: usize, found: u64, expected: u64 },
    #[error("the fork found the counters at {first} and {second}")]
    Torn { first: u64, second: u64 },
    #[error("a counter went from {from} to {to} though no CPU counts")]
    Counted { from: u64, to: u64 },
    #[error("{what} took too long")]
    TooLong { what: &'static str },
    #[error("the page has no notes")]
    Notes,
    #[error("what was given away has checksum {found:#x}, not {expected:#x}")]
    Gift { found: u64, expected: u64 },
    #[error("what was to be given is not there")]
    NoGift,
    #[error("what was given away from {at:#x} still reads {value:#x}")]
    StillThere { at: usize, value: u64 },
    #[error("{0}")]
    Exchange(#[from] exchange::Error),
}

/// The first virtual CPU, once it is in Rust.
#[unsafe(no_mangle)]
#[allow(unsafe_code, reason = "the entry's name")]
extern "C" fn first() -> ! {
    match run() {
        Ok(()) => console::line!("guest: workload ok rounds=1 forks=1"),
        Err(failure) => console::line!("guest: workload FAILED {failure}"),
    }
    calls::power_off()
}

fn run() -> Result<(), Failure> {
    memory::fill_and_sum()?;
    if calls::map(calls::What::Notes, NOTES, calls::Access::Write).is_some() {
        return Err(Failure::NotRefused { what: "a frozen page to be written" });
    }
    let ring = calls::map(calls::What::Ring, RING, calls::Access::Write);
    let ring = ring.ok_or(Failure::Refused { what: "the ring" })?;
    writer::start()?;
    pattern::write(Version::First, |_| true);
    let before = writer::count();
    match calls::fork().ok_or(Failure::Refused { what: "the fork" })? {
        Forked::Parent { child } => parent(ring, child, before),
        Forked::Child => child(),
    }
}

/// The one that was forked: what it writes from now on is its own.
fn parent(ring: calls::Mapped, child: u64, before: u64) -> Result<(), Failure> {
    let after = writer::count();
    pattern::write(Version::Parent, |_| true);
    writer::wait_for(after + 1000)?;
    writer::stop()?;
    console::line!("guest: fork ok child={child} before={before} after={after}");
    let mut talk = exchange(ring)?;
    gift::give(&mut talk, ring.words)?;
    if ring.end == Some(End::Second) {
        // The other end is another guest's, and the fork has no guest to talk to.
        time::wait("the fork", |_| !calls::runs(child))?;
    }
    pattern::check(|_| Version::Parent)
}

/// The fork: it finds everything as it was.
fn child() -> Result<(), Failure> {
    let found = writer::as_found()?;
    pattern::check(|_| Version::First)?;
    let is_own = |page: usize| page >= pattern::PAGES / 2;
    pattern::write(Version::Child, is_own);
    console::line!("guest: fork ok found={found}");
    if let Some(ring) = calls::map(calls::What::Ring, RING_OF_FORK, calls::Access::Write) {
        gift::get(&mut exchange(ring)?)?;
    } else {
        console::line!("guest: fork has no guest to talk to");
    }
    pattern::check(|page| if is_own(page) { Version::Child } else { Version::First })?;
    match writer::as_found()? {
        same if same == found => Ok(()),
        to => Err(Failure::Counted { from: found, to }),
    }
}

/// Both ways, as often as the page says.
fn exchange(ring: calls::Mapped) -> Result<Talk<'static>, Failure> {
    let notes = calls::map(calls::What::Notes, NOTES, calls::Access::Read);
    let notes = notes.ok_or(Failure::Refused { what: "the page to be read" })?;
    let [sign, messages, ..] = notes.words else { return Err(Failure::Notes) };
    let words = [sign, messages].map(|word: &Word| word.load(core::sync::atomic::Ordering::Relaxed));
    let Notes { messages } = Notes::from_words(words).ok_or(Failure::Notes)?;
    let end = ring.end.ok_or(Failure::Refused { what: "an end of the ring" })?;
    let mut patience = time::Patience::new();
    let mut talk = Talk::new(ring.words, end)?;
    let account = talk.exchange(messages, |idle| patience.wait(idle))?;
    console::line!("guest: ring ok end={} {account}", end.number());
    Ok(talk)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    console::line!("guest: workload FAILED {info}");
    calls::power_off()
}
