//! The tables that the CPU walks, as they lie in memory: read, and spoiled, past the crate.

use memory_addr::PAGE_SIZE_4K;
use stage2::{GuestSpace, PhysAddr};
use stage2_bare::board::{peek, poke};

use crate::machine::Parts;

/// Bits of an entry (Intel SDM Vol. 3C, 29.3.2).
pub const WRITE: u64 = 1 << 1;
/// It can be executed.
pub const EXECUTE: u64 = 1 << 2;
/// A leaf above the last level.
pub const LARGE: u64 = 1 << 7;
/// The CPU noted an access.
pub const ACCESSED: u64 = 1 << 8;
/// The CPU noted a write.
pub const DIRTY: u64 = 1 << 9;
/// The lowest three bits: what may be done at all.
pub const ANY: u64 = 0b111;
/// A readable and writable leaf of write-back memory.
pub const MEMORY: u64 = 0b011 | 6 << 3;
/// The address.
const ADDRESS: u64 = 0xf_ffff_ffff_f000;

/// An entry, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    at: PhysAddr,
    /// Its bits.
    pub bits: u64,
}

impl Entry {
    /// The entry of a level in the path to a guest-physical address: 3 is the root's.
    pub fn of(space: &GuestSpace<Parts>, gpa: usize, level: u32) -> Self {
        let mut table = space.root().eptp & ADDRESS;
        let mut here = 3;
        loop {
            let index = gpa >> (12 + 9 * here) & 0x1ff;
            let at = PhysAddr::from_usize(table as usize + index * 8);
            let bits = peek(at);
            if here == level || bits & ANY == 0 || bits & LARGE != 0 {
                return Self { at, bits };
            }
            table = bits & ADDRESS;
            here -= 1;
        }
    }

    /// The leaf at a guest-physical address.
    pub fn leaf(space: &GuestSpace<Parts>, gpa: usize) -> Self {
        Self::of(space, gpa, 0)
    }

    /// Writes other bits in its place.
    pub fn replace(self, bits: u64) {
        assert!(self.at.as_usize() >= PAGE_SIZE_4K, "no table is there");
        poke(self.at, bits);
    }

    /// Whether it has all of these bits.
    pub fn has(self, bits: u64) -> bool {
        self.bits & bits == bits
    }
}
