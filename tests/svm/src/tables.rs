//! The tables that the CPU walks, as they lie in memory: read, and spoiled, past the crate.

use memory_addr::PAGE_SIZE_4K;
use stage2::{GuestSpace, PhysAddr, x86_64::Root};
use stage2_bare::board::{peek, poke};

use crate::machine::Parts;

/// Bits of an entry (AMD64 APM Vol. 2, 5.3 and 5.4).
pub const PRESENT: u64 = 1 << 0;
/// It can be written.
pub const WRITE: u64 = 1 << 1;
/// The guest can use it at all.
pub const USER: u64 = 1 << 2;
/// The CPU noted an access.
pub const ACCESSED: u64 = 1 << 5;
/// The CPU noted a write.
pub const DIRTY: u64 = 1 << 6;
/// A leaf above the last level.
pub const LARGE: u64 = 1 << 7;
/// It cannot be executed.
pub const NO_EXECUTE: u64 = 1 << 63;
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
        let Root::Npt(root) = space.root() else { panic!("{:x?} on this CPU", space.root()) };
        let mut table = root.ncr3 & ADDRESS;
        let mut here = 3;
        loop {
            let index = gpa >> (12 + 9 * here) & 0x1ff;
            let at = PhysAddr::from_usize(table as usize + index * 8);
            let bits = peek(at);
            if here == level || bits & PRESENT == 0 || bits & LARGE != 0 {
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
