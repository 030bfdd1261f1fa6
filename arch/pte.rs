//! Entries of each format for the page tables of `page_table_multiarch`.

use core::{fmt, marker::PhantomData};

use memory_addr::PhysAddr;
use page_table_multiarch::{GenericPTE, MappingFlags};

use crate::{
    addr::Level,
    format::{Entry, Format, Leaf, Owner, Used},
};

/// A format with one value that needs no look at the CPU: as all CPUs have it, or all that matter.
///
/// It is a constant, since `page_table_multiarch` makes entries from nothing but an address and flags. The crate's own
/// formats have one; the trait is not reachable from outside.
pub trait Baseline: Format + Copy + Eq {
    /// The value.
    const BASELINE: Self;
    /// What its entries are called.
    const ENTRY: &'static str;
}

/// An entry of the format `F`, as its [`Baseline`] has it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct PagingEntry<F> {
    bits: u64,
    format: PhantomData<F>,
}

impl<F: Baseline> PagingEntry<F> {
    const fn from_bits(bits: u64) -> Self {
        Self { bits, format: PhantomData }
    }

    /// A leaf's entry; blocks of both sizes look the same.
    fn encode(at: PhysAddr, flags: MappingFlags, level: Level) -> Self {
        let leaf = Leaf { at, flags, owner: Owner::Foreign, used: Used::Accessed };
        match F::BASELINE.check(flags) {
            Ok(()) => Self::from_bits(F::BASELINE.leaf(level, &leaf)),
            Err(_) => Self::from_bits(F::BASELINE.absent()),
        }
    }

    /// What it says, without its level: a table is read as a page's leaf, and its flags mean nothing.
    fn leaf(self) -> Option<Leaf> {
        match F::BASELINE.decode(self.level(), self.bits) {
            Entry::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }

    /// The lowest level that it is a leaf of.
    fn level(self) -> Level {
        level(self.is_huge())
    }
}

const fn level(is_huge: bool) -> Level {
    if is_huge { Level(1) } else { Level::PAGE }
}

impl<F: Baseline> GenericPTE for PagingEntry<F> {
    fn new_page(paddr: PhysAddr, flags: MappingFlags, is_huge: bool) -> Self {
        Self::encode(paddr, flags, level(is_huge))
    }

    fn new_table(paddr: PhysAddr) -> Self {
        Self::from_bits(F::BASELINE.table(paddr))
    }

    fn paddr(&self) -> PhysAddr {
        self.leaf().map_or(PhysAddr::from_usize(0), |leaf| leaf.at)
    }

    fn flags(&self) -> MappingFlags {
        self.leaf().map_or(MappingFlags::empty(), |leaf| leaf.flags)
    }

    fn set_paddr(&mut self, paddr: PhysAddr) {
        *self = Self::encode(paddr, self.flags(), self.level());
    }

    fn set_flags(&mut self, flags: MappingFlags, is_huge: bool) {
        *self = Self::new_page(self.paddr(), flags, is_huge);
    }

    fn bits(self) -> usize {
        self.bits as usize
    }

    fn is_unused(&self) -> bool {
        self.bits == F::BASELINE.absent()
    }

    fn is_present(&self) -> bool {
        self.leaf().is_some()
    }

    fn is_huge(&self) -> bool {
        matches!(F::BASELINE.decode(Level(1), self.bits), Entry::Leaf(_))
    }

    fn clear(&mut self) {
        self.bits = F::BASELINE.absent();
    }
}

impl<F: Baseline> fmt::Debug for PagingEntry<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(F::ENTRY)
            .field("raw", &format_args!("{:#018x}", self.bits))
            .field("paddr", &self.paddr())
            .field("flags", &self.flags())
            .finish()
    }
}

#[cfg(test)]
#[path = "tests/pte.rs"]
mod tests;
