use std::{vec, vec::Vec};

use super::*;

fn memory() -> Vec<Word> {
    (0..WORDS).map(|_| Word::new(0)).collect()
}

#[test]
fn what_is_sent_is_received_in_order() {
    let memory = memory();
    let (mut sender, mut receiver) = (Sender::new(&memory).unwrap(), Receiver::new(&memory).unwrap());
    let mut buffer = [0; LONGEST];
    assert_eq!(receiver.receive(&mut buffer), Ok(None));
    for bytes in [&b"one"[..], b"", b"exactly8", &[7; LONGEST]] {
        assert_eq!(sender.send(bytes), Ok(Some(())));
        assert_eq!(receiver.receive(&mut buffer), Ok(Some(bytes)));
    }
}

#[test]
fn a_full_ring_takes_no_more_until_something_is_received() {
    let memory = memory();
    let (mut sender, mut receiver) = (Sender::new(&memory).unwrap(), Receiver::new(&memory).unwrap());
    let longest = vec![1; LONGEST];
    let mut count = 0;
    while sender.send(&longest).unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, CAPACITY / (HEADER + LONGEST as u64 / 8));
    receiver.receive(&mut [0; LONGEST]).unwrap().unwrap();
    assert_eq!(sender.send(&longest), Ok(Some(())));
}

/// What another guest can write into the memory.
fn spoiled(word_of_ring: usize, value: u64) -> Result<Option<usize>, Error> {
    let memory = memory();
    Sender::new(&memory)?.send(b"some bytes")?.unwrap();
    memory[word_of_ring].store(value, Ordering::Relaxed);
    Receiver::new(&memory)?.receive(&mut [0; LONGEST]).map(|bytes| bytes.map(<[u8]>::len))
}

#[test]
fn nothing_that_stands_in_the_memory_is_believed() {
    let header = |number: u64, length: u64| number << 32 | length;
    assert_eq!(spoiled(WRITTEN, CAPACITY + 1), Err(Error::Index { unread: CAPACITY + 1 }));
    assert_eq!(spoiled(WRITTEN, u64::MAX), Err(Error::Index { unread: u64::MAX }));
    assert_eq!(spoiled(WRITTEN, 3), Err(Error::Length { number: 0, length: 10 }));
    assert_eq!(spoiled(RING, header(0, 1025)), Err(Error::Length { number: 0, length: 1025 }));
    assert_eq!(
        spoiled(RING, header(0, u64::from(u32::MAX))),
        Err(Error::Length { number: 0, length: u32::MAX as usize })
    );
    assert_eq!(spoiled(RING, header(1, 10)), Err(Error::Sequence { expected: 0, found: 1 }));
    assert!(matches!(spoiled(RING + 1, 5), Err(Error::Checksum { number: 0, expected: 5, .. })));
    assert!(matches!(spoiled(RING + 2, 5), Err(Error::Checksum { number: 0, .. })));
    assert_eq!(spoiled(RING + 4, 5), Ok(Some(10)));
}

#[test]
fn a_sender_that_is_lied_to_overwrites_nothing() {
    let memory = memory();
    let mut sender = Sender::new(&memory).unwrap();
    memory[READ].store(1, Ordering::Relaxed);
    assert_eq!(sender.send(b"x"), Err(Error::Index { unread: u64::MAX }));
}

#[test]
fn memory_of_another_size_and_messages_that_are_too_long_are_refused() {
    let memory = memory();
    assert_eq!(Sender::new(&memory[1..]).err(), Some(Error::Size { words: WORDS - 1 }));
    assert_eq!(Receiver::new(&memory[1..]).err(), Some(Error::Size { words: WORDS - 1 }));
    let sent = Sender::new(&memory).unwrap().send(&[0; LONGEST + 1]);
    assert_eq!(sent, Err(Error::Length { number: 0, length: LONGEST + 1 }));
}
