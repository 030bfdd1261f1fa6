//! One way: a ring of words with one sender and one receiver, which need loads and stores alone. The first page has the
//! indices, on lines of their own; they count words and wrap with their type.

use core::sync::atomic::Ordering;

use crate::{Error, LONGEST, Word, digest};

/// Where the sender's index stands.
const WRITTEN: usize = 0;
/// Where the receiver's stands, in words.
const READ: usize = 64;
/// Where the ring begins.
const RING: usize = 512;
/// Its words.
const CAPACITY: u64 = 2048;
/// All words of one way.
pub(crate) const WORDS: usize = RING + CAPACITY as usize;

/// The words before a message: its length in bytes and its number, then its checksum.
const HEADER: u64 = 2;

/// The sending side.
pub struct Sender<'m> {
    words: &'m [Word],
    written: u64,
    number: u32,
}

/// The receiving side.
pub struct Receiver<'m> {
    words: &'m [Word],
    read: u64,
    number: u32,
}

fn ring(words: &[Word]) -> Result<&[Word], Error> {
    if words.len() == WORDS { Ok(words) } else { Err(Error::Size { words: words.len() }) }
}

/// The word of the ring at an index.
fn word(words: &[Word], index: u64) -> &Word {
    &words[RING + (index % CAPACITY) as usize]
}

impl<'m> Sender<'m> {
    /// The sender of an unused ring.
    ///
    /// # Errors
    /// [`Error::Size`].
    pub fn new(words: &'m [Word]) -> Result<Self, Error> {
        Ok(Self { words: ring(words)?, written: 0, number: 0 })
    }

    /// How many messages were sent.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.number
    }

    /// Sends a message of up to [`LONGEST`] bytes: `Some` if there was room for it.
    ///
    /// # Errors
    /// [`Error::Length`] if it is longer, [`Error::Index`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<Option<()>, Error> {
        if bytes.len() > LONGEST {
            return Err(Error::Length { number: self.number, length: bytes.len() });
        }
        // Acquire: what the receiver read is read before it is overwritten here.
        let unread = self.written.wrapping_sub(self.words[READ].load(Ordering::Acquire));
        if unread > CAPACITY {
            return Err(Error::Index { unread });
        }
        let payload = bytes.len().div_ceil(8) as u64;
        if CAPACITY - unread < HEADER + payload {
            return Ok(None);
        }
        self.put(u64::from(self.number) << 32 | bytes.len() as u64);
        self.put(digest(bytes));
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.put(u64::from_le_bytes(word));
        }
        // Release: a receiver that sees the index sees the words before it.
        self.words[WRITTEN].store(self.written, Ordering::Release);
        self.number += 1;
        Ok(Some(()))
    }

    fn put(&mut self, value: u64) {
        word(self.words, self.written).store(value.to_le(), Ordering::Relaxed);
        self.written = self.written.wrapping_add(1);
    }
}

impl<'m> Receiver<'m> {
    /// The receiver of an unused ring.
    ///
    /// # Errors
    /// [`Error::Size`].
    pub fn new(words: &'m [Word]) -> Result<Self, Error> {
        Ok(Self { words: ring(words)?, read: 0, number: 0 })
    }

    /// How many messages were received.
    #[must_use]
    pub fn received(&self) -> u32 {
        self.number
    }

    /// Receives the next message into `buffer`: its bytes, or `None` if there is none yet. Each word is read once.
    ///
    /// # Errors
    /// [`Error::Index`], [`Error::Length`], [`Error::Sequence`], [`Error::Checksum`].
    pub fn receive<'b>(&mut self, buffer: &'b mut [u8; LONGEST]) -> Result<Option<&'b [u8]>, Error> {
        // Acquire: the words before the index are seen.
        let unread = self.words[WRITTEN].load(Ordering::Acquire).wrapping_sub(self.read);
        if unread == 0 {
            return Ok(None);
        }
        if unread > CAPACITY {
            return Err(Error::Index { unread });
        }
        let header = self.get();
        let (found, length) = ((header >> 32) as u32, header as u32 as usize);
        if length > LONGEST || HEADER + length.div_ceil(8) as u64 > unread {
            return Err(Error::Length { number: self.number, length });
        }
        if found != self.number {
            return Err(Error::Sequence { expected: self.number, found });
        }
        let expected = self.get();
        for chunk in buffer[..length].chunks_mut(8) {
            let word = self.get().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        // Release: the words are read before the sender overwrites them.
        self.words[READ].store(self.read, Ordering::Release);
        self.number += 1;
        let bytes = &buffer[..length];
        let found = digest(bytes);
        if found == expected {
            Ok(Some(bytes))
        } else {
            Err(Error::Checksum { number: self.number - 1, expected, found })
        }
    }

    fn get(&mut self) -> u64 {
        let value = u64::from_le(word(self.words, self.read).load(Ordering::Relaxed));
        self.read = self.read.wrapping_add(1);
        value
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
