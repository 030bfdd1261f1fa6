//! The lines of the caches.

use core::ptr::NonNull;

/// The bytes of a cache line on every CPU that has a second stage of translation.
const LINE: u64 = 64;

/// The virtual addresses of the lines that hold `len` bytes.
pub(super) fn lines(bytes: NonNull<u8>, len: usize) -> impl Iterator<Item = u64> {
    let start = bytes.as_ptr().addr() as u64;
    (start & !(LINE - 1)..start + len as u64).step_by(LINE as usize)
}
