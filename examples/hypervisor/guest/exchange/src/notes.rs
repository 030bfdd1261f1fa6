//! The frozen page that the hypervisor shows to every guest: what is to be done.

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notes {
    /// How many messages are to be exchanged, each way.
    pub messages: u32,
}

/// What the page begins with.
const SIGN: u64 = u64::from_le_bytes(*b"exchange");

impl Notes {
    /// As it stands at the beginning of the page.
    #[must_use]
    pub fn to_words(self) -> [u64; 2] {
        [SIGN, u64::from(self.messages)].map(u64::to_le)
    }

    /// What a page says that begins so.
    #[must_use]
    pub fn from_words(words: [u64; 2]) -> Option<Self> {
        let [sign, messages] = words.map(u64::from_le);
        let messages = u32::try_from(messages).ok()?;
        (sign == SIGN).then_some(Self { messages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let notes = Notes { messages: 7 };
        assert_eq!(Notes::from_words(notes.to_words()), Some(notes));
        assert_eq!(Notes::from_words([0, 7]), None);
        assert_eq!(Notes::from_words([SIGN, 1 << 32]), None);
    }
}
