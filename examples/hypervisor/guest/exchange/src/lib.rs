//! What two guests say to each other through memory that both map: thousands of messages each way, of which each side
//! knows what the other has to say.
//!
//! The memory is a ring each way, with one sender and one receiver. Neither side trusts the other: what stands
//! in the memory is checked before it is used.
#![no_std]

#[cfg(test)]
extern crate std;

mod gift;
mod message;
mod notes;
mod ring;
mod talk;

pub use gift::{Gift, digest_words};
pub use message::{Account, LONGEST, Message, digest};
pub use notes::Notes;
pub use ring::{Receiver, Sender};
pub use talk::Talk;

/// Where a Linux guest finds what the hypervisor maps for it: outside its memory, so that its programs may map it.
pub mod linux {
    /// The ring.
    pub const RING: usize = 0x7000_0000;
    /// The page that says what is to be done.
    pub const NOTES: usize = 0x7100_0000;
}

/// A word of the shared memory, little-endian.
pub type Word = core::sync::atomic::AtomicU64;

/// The bytes of the memory that two guests share: a ring each way.
pub const REGION_SIZE: usize = 2 * ring::WORDS * size_of::<Word>();

/// The end of the memory that a guest has: what it sends goes into the ring of that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest that mapped the ring first.
    First,
    /// The guest that mapped it second.
    Second,
}

impl End {
    /// From its number.
    #[must_use]
    pub fn new(number: u64) -> Option<Self> {
        [Self::First, Self::Second].into_iter().find(|end| end.number() == number)
    }

    /// 0 or 1.
    #[must_use]
    pub fn number(self) -> u64 {
        match self {
            Self::First => 0,
            Self::Second => 1,
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// Why an exchange failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The memory does not have the size.
    #[error("the shared memory has {words} words")]
    Size {
        /// How many 8-byte words it has.
        words: usize,
    },
    /// The other side's index makes no sense.
    #[error("an index says that {unread} words are unread")]
    Index {
        /// The difference of the two indices.
        unread: u64,
    },
    /// A message is longer than there can be, or longer than what was sent.
    #[error("message {number} claims {length} bytes")]
    Length {
        /// Which one was expected.
        number: u32,
        /// What its header says.
        length: usize,
    },
    /// Another message than the next.
    #[error("message {found} came where {expected} was due")]
    Sequence {
        /// The number that was due.
        expected: u32,
        /// The number in the header.
        found: u32,
    },
    /// The bytes are not those that the header was made for.
    #[error("message {number} has checksum {found:#x}, its header {expected:#x}")]
    Checksum {
        /// Which one.
        number: u32,
        /// The header's.
        expected: u64,
        /// The bytes'.
        found: u64,
    },
    /// A whole message, but another one than this sender has to send.
    #[error("message {number} is not what the other side had to say")]
    Content {
        /// Which one.
        number: u32,
    },
    /// The other side is silent.
    #[error("the other side is silent after {sent} messages sent and {received} received")]
    Silent {
        /// How many were sent.
        sent: u32,
        /// How many were received.
        received: u32,
    },
}
