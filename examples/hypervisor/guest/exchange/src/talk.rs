//! Both ways at once.

use crate::{Account, End, Error, LONGEST, Message, REGION_SIZE, Receiver, Sender, Word, ring};

/// One end of the memory.
pub struct Talk<'m> {
    end: End,
    sender: Sender<'m>,
    receiver: Receiver<'m>,
}

impl<'m> Talk<'m> {
    /// One end of unused memory.
    ///
    /// # Errors
    /// [`Error::Size`] if it does not have [`REGION_SIZE`] bytes.
    pub fn new(memory: &'m [Word], end: End) -> Result<Self, Error> {
        if size_of_val(memory) != REGION_SIZE {
            return Err(Error::Size { words: memory.len() });
        }
        let (first, second) = memory.split_at(ring::WORDS);
        let (to, from) = match end {
            End::First => (first, second),
            End::Second => (second, first),
        };
        Ok(Self { end, sender: Sender::new(to)?, receiver: Receiver::new(from)? })
    }

    /// Sends so many messages, while it receives and checks as many: what was received.
    ///
    /// `wait` is called whenever no message can be sent or received, with the number of its calls since the last one;
    /// it ends the exchange by returning `None`.
    ///
    /// # Errors
    /// [`Error::Silent`] if `wait` ended it; that a message is not what it should be.
    pub fn exchange(&mut self, messages: u32, mut wait: impl FnMut(u64) -> Option<()>) -> Result<Account, Error> {
        let mut account = Account::default();
        let mut buffer = [0; LONGEST];
        let mut next = Message::new(self.end, 0);
        let mut idle = 0;
        let (first, mut sent) = (self.sender.sent(), 0);
        while sent < messages || account.messages < messages {
            idle += 1;
            if sent < messages && self.sender.send(next.bytes())?.is_some() {
                sent = self.sender.sent() - first;
                next = Message::new(self.end, sent);
                idle = 0;
            }
            if account.messages < messages
                && let Some(bytes) = self.receiver.receive(&mut buffer)?
            {
                if bytes != Message::new(self.end.other(), account.messages).bytes() {
                    return Err(Error::Content { number: account.messages });
                }
                account.add(bytes);
                idle = 0;
            }
            if idle > 0 {
                wait(idle).ok_or(Error::Silent { sent, received: account.messages })?;
            }
        }
        Ok(account)
    }

    /// Sends words of the caller's own choice, once there is room.
    ///
    /// # Errors
    /// As for [`exchange`](Self::exchange).
    pub fn tell<const N: usize>(
        &mut self,
        words: [u64; N],
        mut wait: impl FnMut(u64) -> Option<()>,
    ) -> Result<(), Error> {
        let bytes = words.map(u64::to_le_bytes);
        let mut idle = 0;
        while self.sender.send(bytes.as_flattened())?.is_none() {
            idle += 1;
            wait(idle).ok_or(self.silent())?;
        }
        Ok(())
    }

    /// Receives words of the other side's choice.
    ///
    /// # Errors
    /// As for [`exchange`](Self::exchange); [`Error::Content`] if it is another number of words.
    pub fn hear<const N: usize>(&mut self, mut wait: impl FnMut(u64) -> Option<()>) -> Result<[u64; N], Error> {
        let mut buffer = [0; LONGEST];
        let mut idle = 0;
        loop {
            if let Some(bytes) = self.receiver.receive(&mut buffer)? {
                let words: &[[u8; 8]; N] = bytes
                    .as_chunks()
                    .0
                    .try_into()
                    .map_err(|_| Error::Content { number: self.receiver.received() - 1 })?;
                return Ok(words.map(u64::from_le_bytes));
            }
            idle += 1;
            wait(idle).ok_or(self.silent())?;
        }
    }

    fn silent(&self) -> Error {
        Error::Silent { sent: self.sender.sent(), received: self.receiver.received() }
    }
}

#[cfg(test)]
#[path = "talk_tests.rs"]
mod tests;
