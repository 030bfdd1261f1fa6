//! Memory that one guest donates to the other, and tells it about.

use core::sync::atomic::Ordering;

use crate::{Word, message::digest_of};

/// The bytes of a page, of which a gift has some.
const PAGE: u64 = 4096;
/// The largest gift in bytes.
const LARGEST: u64 = 1 << 20;

/// A gift.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gift {
    /// Its address in the guest that gets it.
    pub at: usize,
    /// Its size in bytes.
    pub size: usize,
    /// The checksum of what is in it.
    pub digest: u64,
}

impl Gift {
    /// As one guest tells it.
    #[must_use]
    pub fn to_words(self) -> [u64; 3] {
        [self.at as u64, self.size as u64, self.digest]
    }

    /// From the words that the other guest received; `None` if they cannot be a gift.
    #[must_use]
    pub fn from_words([at, size, digest]: [u64; 3]) -> Option<Self> {
        let is_good = at.is_multiple_of(PAGE) && size.is_multiple_of(PAGE) && (PAGE..=LARGEST).contains(&size);
        is_good.then_some(Self { at: at as usize, size: size as usize, digest })
    }
}

/// The checksum of words in memory.
#[must_use]
pub fn digest_words(words: &[Word]) -> u64 {
    digest_of(words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard() {
        let gift = Gift { at: 0x7200_0000, size: 0x4000, digest: 5 };
        assert_eq!(Gift::from_words(gift.to_words()), Some(gift));
    }

    #[test]
    fn what_is_no_gift_is_not_taken_for_one() {
        for words in [[0x7200_0001, 0x1000, 5], [0x7200_0000, 0x1001, 5], [0x7200_0000, 0, 5], [0, LARGEST + PAGE, 5]] {
            assert_eq!(Gift::from_words(words), None);
        }
    }

    #[test]
    fn words_have_the_checksum_of_their_bytes() {
        let words = [Word::new(u64::from_le_bytes(*b"abcdefgh")), Word::new(u64::from_le_bytes(*b"ijklmnop"))];
        assert_eq!(digest_words(&words), crate::digest(b"abcdefghijklmnop"));
    }
}
