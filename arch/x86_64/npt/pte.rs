//! NPT entries for the page tables of `page_table_multiarch`.

use core::fmt;

use memory_addr::PhysAddr;
use page_table_multiarch::{GenericPTE, MappingFlags};

use super::{Asid, Capabilities, Features, Npt, PAT_AT_RESET};
use crate::{Entry, Format, Geometry, Leaf, Level, Owner, Used};

/// An entry of [`Npt`] as a CPU with leaves of 1 GiB reads it, whose hypervisor left the PAT as it was.
///
/// For users who keep a `PageTable64`. Flags that NPT does not express leave an entry of nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct NptEntry(u64);

/// What CPUs with large leaves have. The ASID is no entry's.
const FORMAT: Npt = Npt {
    capabilities: Capabilities { physical_bits: 52, guest_physical_bits: 48, asids: 2, features: Features::all() },
    geometry: Geometry { page_shift: 12, index_bits: 9, root_level: Level(3), root_index_bits: 9 },
    pat: PAT_AT_RESET,
    asid: Asid(1),
};

impl NptEntry {
    /// A leaf's descriptor; blocks of both sizes look the same.
    fn encode(at: PhysAddr, flags: MappingFlags, level: Level) -> Self {
        let leaf = Leaf { at, flags, owner: Owner::Foreign, used: Used::Accessed };
        match FORMAT.check(flags) {
            Ok(()) => Self(FORMAT.leaf(level, &leaf)),
            Err(_) => Self(FORMAT.absent()),
        }
    }

    /// What it says as a leaf; a table is read as one of a page, and its flags mean nothing.
    fn leaf(self) -> Option<Leaf> {
        let level = if self.is_huge() { Level(1) } else { Level::PAGE };
        match FORMAT.decode(level, self.0) {
            Entry::Leaf(leaf) => Some(leaf),
            _ => None,
        }
    }
}

impl GenericPTE for NptEntry {
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

impl fmt::Debug for NptEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NptEntry")
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
            let mut entry = NptEntry::new_page(at, flags, huge);
            assert_eq!((entry.paddr(), entry.flags(), entry.is_huge()), (at, flags, huge));
            assert!(entry.is_present() && !entry.is_unused());
            entry.set_flags(MappingFlags::READ, huge);
            entry.set_paddr(PhysAddr::from_usize(0x20_0000));
            assert_eq!(entry, NptEntry::new_page(PhysAddr::from_usize(0x20_0000), MappingFlags::READ, huge));
            entry.clear();
            assert!(entry.is_unused() && !entry.is_present());
        }
    }

    #[test]
    fn a_table_keeps_its_address_and_is_not_huge() {
        let entry = NptEntry::new_table(PhysAddr::from_usize(0x8000));
        assert_eq!((entry.paddr().as_usize(), entry.bits()), (0x8000, 0x8007));
        assert!(entry.is_present() && !entry.is_huge());
    }

    #[test]
    fn inexpressible_flags_leave_nothing() {
        for flags in [MappingFlags::empty(), MappingFlags::READ | MappingFlags::USER, MappingFlags::WRITE] {
            assert!(NptEntry::new_page(PhysAddr::from_usize(0x1000), flags, false).is_unused());
        }
    }
}
