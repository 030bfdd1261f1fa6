//! Memory that holds what was written.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::Failure;

/// 4 MiB.
const WORDS: usize = 1 << 19;

static MEMORY: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

/// Fills memory with numbers, and sums them.
pub fn fill_and_sum() -> Result<(), Failure> {
    for (number, word) in (0..).zip(&MEMORY) {
        word.store(number, Ordering::Relaxed);
    }
    let found = MEMORY.iter().fold(0_u64, |sum, word| sum.wrapping_add(word.load(Ordering::Relaxed)));
    let expected = (WORDS as u64 - 1) * (WORDS as u64 / 2);
    if found == expected { Ok(()) } else { Err(Failure::Sum { found, expected }) }
}
