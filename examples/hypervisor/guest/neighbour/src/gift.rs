//! Memory that it donates, or gets.
#![allow(unsafe_code, reason = "memory that the hypervisor mapped")]

use core::sync::atomic::Ordering;

use exchange::{Gift, Talk, Word, digest_words};

use crate::{Failure, boot, calls, console, time::Patience};

const WORDS: usize = 4096;

/// 32 KiB, which are not touched any more once they are given away.
#[repr(align(4096))]
struct Memory([Word; WORDS]);

static MEMORY: Memory = Memory([const { Word::new(0) }; WORDS]);

/// Donates memory to the other side, tells it where, and hears that everything is there.
pub fn give(talk: &mut Talk<'_>, ring: &[Word]) -> Result<(), Failure> {
    fill(&MEMORY.0, 0x0067_6976_656e_0000);
    let digest = digest_words(&MEMORY.0);
    let (from, size) = (MEMORY.0.as_ptr().addr(), size_of_val(&MEMORY));
    if calls::donate(ring.as_ptr().addr(), size).is_some() {
        return Err(Failure::NotRefused { what: "to donate what is shared" });
    }
    let at = calls::donate(from, size).ok_or(Failure::Refused { what: "to donate memory" })?;
    if let Some(value) = boot::probe(from) {
        return Err(Failure::StillThere { at: from, value });
    }
    if calls::donate(from, size).is_some() {
        return Err(Failure::NotRefused { what: "to donate it again" });
    }
    let mut patience = Patience::new();
    talk.tell(Gift { at, size, digest }.to_words(), |idle| patience.wait(idle))?;
    let [found] = talk.hear(|idle| patience.wait(idle))?;
    if found != digest {
        return Err(Failure::Gift { found, expected: digest });
    }
    console::line!("guest: gift ok given from={from:#x} to={at:#x} size={size:#x} digest={digest:#x}");
    Ok(())
}

/// Gets memory from the other side, looks what is in it, and uses it.
pub fn get(talk: &mut Talk<'_>) -> Result<(), Failure> {
    let mut patience = Patience::new();
    let gift = talk.hear(|idle| patience.wait(idle))?;
    let Gift { at, size, digest } = Gift::from_words(gift).ok_or(Failure::NoGift)?;
    if boot::probe(at).is_none() {
        return Err(Failure::NoGift);
    }
    let words = core::ptr::with_exposed_provenance::<Word>(at);
    // SAFETY: the hypervisor mapped it there, as the probe of its first word says, and no other guest has it.
    let words = unsafe { core::slice::from_raw_parts(words, size / size_of::<Word>()) };
    let found = digest_words(words);
    talk.tell([found], |idle| patience.wait(idle))?;
    if found != digest {
        return Err(Failure::Gift { found, expected: digest });
    }
    fill(words, 0x0074_616b_656e_0000);
    console::line!("guest: gift ok got at={at:#x} size={size:#x} digest={found:#x}");
    Ok(())
}

fn fill(words: &[Word], first: u64) {
    for (word, value) in words.iter().zip(first..) {
        word.store(value, Ordering::Relaxed);
    }
}
