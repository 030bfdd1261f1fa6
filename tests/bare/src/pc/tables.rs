//! The tables that the CPU walks, as they lie in memory: read, and spoiled, past the crate.

use memory_addr::PAGE_SIZE_4K;
use stage2::{GuestSpace, PhysAddr, Platform, Root};

use crate::board::{peek, poke};

/// What a vendor's entries look like, by its manual.
pub trait Tables: Platform {
    /// Bits of which an entry that says something has at least one.
    const PRESENT: u64;
    /// It can be written.
    const WRITE: u64;
    /// A leaf above the last level.
    const LARGE: u64;
    /// The CPU noted an access.
    const ACCESSED: u64;
    /// The CPU noted a write.
    const DIRTY: u64;

    /// Whether an entry can be executed.
    fn is_executable(bits: u64) -> bool;

    /// What points to the root table, with whatever else is in the same word.
    fn root(root: Root<Self>) -> u64;
}

/// The address in an entry.
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
    pub fn of<P: Tables>(space: &GuestSpace<P>, gpa: usize, level: u32) -> Self {
        let mut table = P::root(space.root()) & ADDRESS;
        let mut here = 3;
        loop {
            let index = gpa >> (12 + 9 * here) & 0x1ff;
            let at = PhysAddr::from_usize(table as usize + index * 8);
            let bits = peek(at);
            if here == level || bits & P::PRESENT == 0 || bits & P::LARGE != 0 {
                return Self { at, bits };
            }
            table = bits & ADDRESS;
            here -= 1;
        }
    }

    /// The leaf at a guest-physical address.
    pub fn leaf<P: Tables>(space: &GuestSpace<P>, gpa: usize) -> Self {
        Self::of(space, gpa, 0)
    }

    /// Writes other bits in its place.
    ///
    /// # Panics
    /// It lies in no table.
    pub fn replace(self, bits: u64) {
        assert!(self.at.as_usize() >= PAGE_SIZE_4K, "no table is there");
        poke(self.at, bits);
    }

    /// Whether it has all of these bits.
    #[must_use]
    pub fn has(self, bits: u64) -> bool {
        self.bits & bits == bits
    }
}
