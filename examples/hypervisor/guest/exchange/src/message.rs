//! The messages: what a side sends follows from its end and the message's number, so that the receiver can check it.

use core::fmt;

use crate::End;

/// The longest message, in bytes.
pub const LONGEST: usize = 1024;

/// A message.
pub struct Message {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Message {
    /// Message `number` from an end: 1 to [`LONGEST`] bytes, all of them numbers without an order.
    #[must_use]
    pub fn new(from: End, number: u32) -> Self {
        let mut random = Random(u64::from(number) << 1 | from.number());
        let length = random.next() as usize % LONGEST + 1;
        let mut bytes = [0; LONGEST];
        for chunk in bytes[..length].chunks_mut(8) {
            chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
        }
        Self { bytes, length }
    }

    /// What it says.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// What was received, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// How many messages.
    pub messages: u32,
    /// Their bytes.
    pub bytes: u64,
    /// All their checksums in one.
    pub digest: u64,
}

impl Account {
    /// What `messages` messages from an end come to.
    #[must_use]
    pub fn of(from: End, messages: u32) -> Self {
        let mut account = Self::default();
        (0..messages).for_each(|number| account.add(Message::new(from, number).bytes()));
        account
    }

    /// One message more.
    pub fn add(&mut self, bytes: &[u8]) {
        self.messages += 1;
        self.bytes += bytes.len() as u64;
        self.digest = self.digest.rotate_left(1) ^ digest(bytes);
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { messages, bytes, digest } = self;
        write!(f, "messages={messages} bytes={bytes} digest={digest:#x}")
    }
}

/// The checksum of some bytes: FNV-1a with 64 bits.
#[must_use]
pub fn digest(bytes: &[u8]) -> u64 {
    digest_of(bytes.iter().copied())
}

/// The same, of bytes that come one by one.
pub(crate) fn digest_of(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv_1a() {
        assert_eq!(digest(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(digest(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn messages_have_every_length_and_differ() {
        let lengths: std::collections::BTreeSet<_> =
            (0..20_000).map(|number| Message::new(End::First, number).length).collect();
        assert_eq!((lengths.first(), lengths.last(), lengths.len()), (Some(&1), Some(&LONGEST), LONGEST));
        assert_ne!(Account::of(End::First, 9), Account::of(End::Second, 9));
    }

    #[test]
    fn an_account_tells_the_order() {
        let account = |messages: [&[u8]; 2]| {
            let mut account = Account::default();
            for bytes in messages {
                account.add(bytes);
            }
            account
        };
        let (one, other) = (account([b"a", b"b"]), account([b"b", b"a"]));
        assert_eq!(one.bytes, other.bytes);
        assert_ne!(one, other);
    }
}
