//! EPT entries for the page tables of `page_table_multiarch`.

use core::fmt;

use memory_addr::PhysAddr;
use page_table_multiarch::{GenericPTE, MappingFlags};

use super::{Capabilities, Ept, Errata, Exceptions, Features, LargeLeaves, Tracking};
use crate::{Entry, Format, Geometry, Leaf, Level, Owner, Used};

/// An entry of [`Ept`] as a CPU with large leaves reads it: no execute-only, no #VE, use tracked by software.
///
/// For users who keep a `PageTable64`. Flags that EPT does not express leave an entry of nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct EptEntry(u64);

/// What CPUs with large leaves have.
const FORMAT: Ept = Ept {
    capabilities: Capabilities {
        physical_bits: 52,
        features: Features::LEAF_2M.union(Features::LEAF_1G),
        errata: Errata::empty(),
    },
    geometry: Geometry { page_shift: 12, index_bits: 9, root_level: Level(3), root_index_bits: 9 },
    tracking: Tracking::Software,
    exceptions: Exceptions::Off,
    large_leaves: LargeLeaves::Executable,
};

impl EptEntry {
    /// A leaf's descriptor; blocks of both sizes look the same.
    fn encode(at: PhysAddr, flags: MappingFlags, level: Level) -> Self {
        let leaf = Leaf { at, flags, owner: Owner::Foreign, used: Used::Accessed };
        match FORMAT.check(flags) {
            Ok(()) => Self(FORMAT.leaf(level, &leaf)),
            Err(_) => Self(FORMAT.absent()),
        }
    }

    /// What it says as a leaf of a page; the other sizes differ in nothing that is asked here, and a table's flags mean
    /// nothing.
    fn leaf(self) -> Option<Leaf> {
        match FORMAT.decode(Level::PAGE, self.0) {
            Entry::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }
}

impl GenericPTE for EptEntry {
    fn new_page(paddr: PhysAddr, flags: MappingFlags, is_huge: bool) -> Self {
        Self::encode(paddr, flags, if is_huge { Level(1) } else { Level::PAGE })
    }

    fn new_table(paddr: PhysAddr) -> Self {
        Self(FORMAT.table(paddr))
    }

    fn paddr(&self) -> PhysAddr {
        self.leaf().map_or(PhysAddr::from_usize(0), |leaf| leaf.at)
    }

    fn flags(&self) -> MappingFlags {
        self.leaf().map_or(MappingFlags::empty(), |leaf| leaf.flags)
    }

    fn set_paddr(&mut self, paddr: PhysAddr) {
        *self = Self::encode(paddr, self.flags(), if self.is_huge() { Level(1) } else { Level::PAGE });
    }

    fn set_flags(&mut self, flags: MappingFlags, is_huge: bool) {
        *self = Self::new_page(self.paddr(), flags, is_huge);
    }

    fn bits(self) -> usize {
        self.0 as usize
    }

    fn is_unused(&self) -> bool {
        self.0 == FORMAT.absent()
    }

    fn is_present(&self) -> bool {
        self.leaf().is_some()
    }

    fn is_huge(&self) -> bool {
        matches!(FORMAT.decode(Level(1), self.0), Entry::Leaf(_))
    }

    fn clear(&mut self) {
        self.0 = FORMAT.absent();
    }
}

impl fmt::Debug for EptEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EptEntry")
            .field("raw", &format_args!("{:#018x}", self.0))
            .field("paddr", &self.paddr())
            .field("flags", &self.flags())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_say_what_they_were_made_of() {
        let at = PhysAddr::from_usize(0x4020_0000);
        let flags = MappingFlags::READ | MappingFlags::EXECUTE;
        for huge in [false, true] {
            let mut entry = EptEntry::new_page(at, flags, huge);
            assert_eq!((entry.paddr(), entry.flags(), entry.is_huge()), (at, flags, huge));
            assert!(entry.is_present() && !entry.is_unused());
            entry.set_flags(MappingFlags::READ, huge);
            entry.set_paddr(PhysAddr::from_usize(0x20_0000));
            assert_eq!(entry, EptEntry::new_page(PhysAddr::from_usize(0x20_0000), MappingFlags::READ, huge));
            entry.clear();
            assert!(entry.is_unused() && !entry.is_present());
        }
    }

    #[test]
    fn a_table_keeps_its_address_and_is_not_huge() {
        let entry = EptEntry::new_table(PhysAddr::from_usize(0x8000));
        assert_eq!((entry.paddr().as_usize(), entry.bits()), (0x8000, 0x8007));
        assert!(entry.is_present() && !entry.is_huge());
    }

    #[test]
    fn inexpressible_flags_leave_nothing() {
        for flags in [MappingFlags::empty(), MappingFlags::READ | MappingFlags::USER, MappingFlags::WRITE] {
            assert!(EptEntry::new_page(PhysAddr::from_usize(0x1000), flags, false).is_unused());
        }
    }
}
