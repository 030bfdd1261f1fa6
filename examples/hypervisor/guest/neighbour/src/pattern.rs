//! Pages whose words say which machine wrote them.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::Failure;

/// How many there are.
pub const PAGES: usize = 256;
const WORDS: usize = 512;

#[repr(align(4096))]
struct Page([AtomicU64; WORDS]);

static AREA: [Page; PAGES] = [const { Page([const { AtomicU64::new(0) }; WORDS]) }; PAGES];

/// Which machine wrote, and when.
#[derive(Clone, Copy)]
pub enum Version {
    /// Before the fork.
    First = 1,
    /// After it, the one that was forked.
    Parent = 2,
    /// After it, the fork.
    Child = 3,
}

/// What a word holds.
fn word_of(version: Version, page: usize, word: usize) -> u64 {
    (version as u64) << 56 | (page as u64) << 24 | word as u64
}

/// Writes the pages that are wanted.
pub fn write(version: Version, wanted: impl Fn(usize) -> bool) {
    for (number, page) in AREA.iter().enumerate().filter(|(number, _)| wanted(*number)) {
        for (index, word) in page.0.iter().enumerate() {
            word.store(word_of(version, number, index), Ordering::Relaxed);
        }
    }
}

/// Looks whether each page has the version that it should have.
pub fn check(version: impl Fn(usize) -> Version) -> Result<(), Failure> {
    for (page, contents) in AREA.iter().enumerate() {
        for (word, value) in contents.0.iter().enumerate() {
            let (found, expected) = (value.load(Ordering::Relaxed), word_of(version(page), page, word));
            if found != expected {
                return Err(Failure::Pattern { page, word, found, expected });
            }
        }
    }
    Ok(())
}
