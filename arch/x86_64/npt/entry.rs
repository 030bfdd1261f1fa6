//! NPT entries: those of long mode, of which the guest's accesses are user accesses.
//!
//! AMD64 APM Vol. 2 (publication 24593, revision 3.42): 5.3 and 5.4 for the formats of entries, 7.8.3 for the PAT's bits,
//! 15.25.5 "Nested Table Walk", 15.25.7 and 15.25.8 for what is combined with the guest's own.

use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;

use super::{Asid, Capabilities, Features, MemoryType, Root, config::SLOT_SHIFT};
use crate::{
    addr::Level,
    arch::owner,
    format::{Access, Change, Denials, Entry, Fields, Format, Inexpressible, Leaf, Marked, Used},
    geometry::Geometry,
};

/// Bit 0: present, and readable. All other bits of an entry that is not are ignored.
const PRESENT: u64 = 1 << 0;
/// Bit 1: writes are allowed.
const WRITE: u64 = 1 << 1;
/// Bit 2: user accesses are allowed. All that a guest does is one (H17).
const USER: u64 = 1 << 2;
/// Bit 3: the lowest bit of the place in the PAT (PWT).
const SLOT_0: u64 = 1 << 3;
/// Bit 4: the next (PCD).
const SLOT_1: u64 = 1 << 4;
/// Bit 5: accessed, in tables too. Hardware sets it, whether wanted or not.
const ACCESSED: u64 = 1 << 5;
/// Bit 6 of a leaf: dirty, likewise.
const DIRTY: u64 = 1 << 6;
/// Bit 7 of an entry of 2 MiB or 1 GiB: a leaf. Reserved in larger ones.
const LARGE: u64 = 1 << 7;
/// Bit 7 of an entry of 4 KiB: the highest bit of the place in the PAT.
const SLOT_2_OF_PAGE: u64 = 1 << 7;
/// Bit 12 of a large leaf, likewise: below its address.
const SLOT_2_OF_LARGE: u64 = 1 << 12;
/// The address, \[51:12\]; bits from the physical width up are reserved.
const ADDRESS: u64 = ((1 << 52) - 1) & !0xfff;
/// Bit 63: execution is forbidden. Reserved while the hypervisor's own EFER.NXE is clear.
const NO_EXECUTE: u64 = 1 << 63;

// Bits 58:52 are ignored, and ours. Bits 62:59 are a protection key where the hypervisor uses them, and stay clear.

/// The frame is the space's own; with [`REGION`], a frozen region's; with [`LOAN`], on loan to another space.
const OWNED: u64 = 1 << 52;
/// In an entry that is not present: a CPU is changing a leaf.
const BUSY: u64 = 1 << 53;
/// In an entry that is not present: it was present, and its other bits are as they were. No CPU with NPT loads
/// speculatively through the address of an entry that is not present (L1TF is Intel's, H19).
const MARKED: u64 = 1 << 54;
/// The frame is a region's.
const REGION: u64 = 1 << 55;
/// The frame is on loan: with [`OWNED`] from this space, without to it.
const LOAN: u64 = 1 << 56;

/// AMD NPT: leaves of 4 KiB and 2 MiB, and of 1 GiB where the CPU has them.
///
/// - `READ` is always there: what is present can be read. `EXECUTE` or `WRITE` without it is refused.
/// - Memory is write-back, `UNCACHED` is write-combining, which is what Arm's Normal non-cacheable is, and is refused
///   where the hypervisor's PAT has no such type ([`with_pat`](Npt::with_pat)). `DEVICE` is uncacheable.
/// - The guest's PAT takes part (15.25.8): it can make memory uncacheable, and a device write-combining (a frame
///   buffer). What it may not change cannot be expressed: `DEVICE | UNCACHED` is refused.
/// - `USER` is refused: NPT takes all that a guest does for user accesses.
///
/// # Example
/// ```
/// use stage2::{MappingFlags, format::Format, x86_64::npt::{Asid, Capabilities, ConfigError, Npt, Registers}};
///
/// let milan = Registers {
///     extended_ecx: 0x75c2_37ff,
///     extended_edx: 0x2fd3_fbff,
///     address_sizes: 0x3030,
///     asids: 0x8000,
///     svm_edx: 0x101b_bcff,
/// };
/// let capabilities = Capabilities::from_registers(milan);
/// let format = Npt::new(&capabilities, Asid(1))?;
/// assert!(format.check(MappingFlags::UNCACHED | MappingFlags::READ).is_err(), "the PAT at reset has no such type");
/// // The hypervisor's own PAT, with write-combining in its second place.
/// let format = format.with_pat(0x0007_0406_0007_0106)?;
/// assert!(format.check(MappingFlags::UNCACHED | MappingFlags::READ).is_ok());
/// # Ok::<(), ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Npt {
    pub(super) capabilities: Capabilities,
    pub(super) geometry: Geometry,
    pub(super) pat: u64,
    pub(super) asid: Asid,
}

impl Format for Npt {
    const PAGE_SHIFT: u32 = 12;
    const INDEX_BITS: u32 = 9;

    type Root = Root;

    #[inline]
    fn root_shape(&self) -> (Level, u32) {
        (self.geometry.root_level, self.geometry.root_index_bits)
    }

    fn root(&self, table: PhysAddr) -> Root {
        self.root_at(table)
    }

    #[inline]
    fn output_bits(&self) -> u32 {
        self.capabilities.physical_bits
    }

    #[inline]
    fn maps(&self, level: Level) -> bool {
        match level {
            Level::PAGE | Level(1) => true,
            Level(2) => self.capabilities.features.contains(Features::LEAF_1G),
            _ => false,
        }
    }

    #[inline]
    fn check(&self, flags: MappingFlags) -> Result<(), Inexpressible> {
        let access = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
        let memory = MappingFlags::DEVICE | MappingFlags::UNCACHED;
        let device_code = MappingFlags::DEVICE | MappingFlags::EXECUTE;
        let combining = self.slot(MemoryType::WriteCombining).is_some();
        if !flags.intersects(access) {
            Err(Inexpressible(flags))
        } else if !(access | memory).contains(flags) {
            Err(Inexpressible(flags.difference(access | memory)))
        } else if flags.contains(device_code) {
            Err(Inexpressible(device_code))
        } else if !flags.contains(MappingFlags::READ) {
            Err(Inexpressible(flags & access))
        } else if flags.contains(MappingFlags::UNCACHED) && (flags.contains(MappingFlags::DEVICE) || !combining) {
            Err(Inexpressible(flags & memory))
        } else {
            Ok(())
        }
    }

    #[inline]
    fn table(&self, at: PhysAddr) -> u64 {
        at.as_usize() as u64 & ADDRESS | PRESENT | WRITE | USER | self.walk()
    }

    #[inline]
    fn leaf(&self, level: Level, leaf: &Leaf) -> u64 {
        let large = if level == Level::PAGE { 0 } else { LARGE };
        let owned = owner::encode(leaf.owner, OWNED, REGION, LOAN);
        let used = match leaf.used {
            Used::Not => 0,
            Used::Accessed => ACCESSED,
            Used::Dirty => ACCESSED | DIRTY,
        };
        let address = leaf.at.as_usize() as u64 & address_bits(level);
        address | PRESENT | USER | large | owned | used | self.encode_flags(level, leaf.flags)
    }

    #[inline]
    fn mark(&self, _level: Level, entry: u64) -> u64 {
        entry & !PRESENT | MARKED
    }

    #[inline]
    fn busy(&self) -> u64 {
        BUSY
    }

    #[inline]
    fn decode(&self, level: Level, entry: u64) -> Entry {
        let marked = entry & (PRESENT | MARKED) == MARKED;
        if entry & PRESENT == 0 && !marked {
            return if entry & BUSY == 0 { Entry::Absent } else { Entry::Busy };
        }
        match (self.kind(level, entry), marked) {
            (None, _) => Entry::Absent,
            (Some(Kind::Table), false) => Entry::Table(address(entry & ADDRESS)),
            (Some(Kind::Table), true) => Entry::Marked(Marked::Table(address(entry & ADDRESS))),
            (Some(Kind::Leaf), false) => Entry::Leaf(self.decode_leaf(level, entry)),
            (Some(Kind::Leaf), true) => owner::withdrawn(self.decode_leaf(level, entry)),
        }
    }

    #[inline]
    fn next_table(&self, level: Level, entry: u64) -> Option<PhysAddr> {
        let is_table = entry & (PRESENT | LARGE) == PRESENT && level != Level::PAGE;
        is_table.then(|| address(entry & ADDRESS))
    }

    #[inline]
    fn leaf_address(&self, level: Level, entry: u64) -> PhysAddr {
        address(entry & address_bits(level))
    }

    #[inline]
    fn fields(&self, level: Level) -> Fields {
        Fields { address: address_bits(level), hardware: ACCESSED | DIRTY, owned: OWNED }
    }

    #[inline]
    fn with_flags(&self, level: Level, entry: u64, flags: MappingFlags) -> u64 {
        entry & !(WRITE | NO_EXECUTE | slot_bits(level)) | self.encode_flags(level, flags)
    }

    #[inline]
    fn touched(&self, _level: Level, entry: u64, access: Access) -> u64 {
        entry | if access == Access::Write { ACCESSED | DIRTY } else { ACCESSED }
    }

    #[inline]
    fn change(&self, _level: Level, old: u64, new: u64) -> Change {
        // With the place in the PAT's highest bit at either level.
        const BREAKING: u64 = ADDRESS | LARGE | SLOT_0 | SLOT_1;
        const ALLOWING: u64 = WRITE | ACCESSED | DIRTY;
        if (old ^ new) & BREAKING != 0 {
            Change::Break
        } else if old & !new & ALLOWING != 0 || new & !old & NO_EXECUTE != 0 {
            Change::Restrict
        } else {
            Change::Raise
        }
    }

    #[inline]
    fn denials(&self) -> Denials {
        // 5.5.2: what is raised needs no invalidation; a CPU walks again before it faults.
        Denials::Dropped
    }
}

/// What a present entry is.
enum Kind {
    Table,
    Leaf,
}

impl Npt {
    /// By the level and bit 7; `None` for what has a reserved bit set.
    #[inline]
    fn kind(&self, level: Level, entry: u64) -> Option<Kind> {
        let leaf = level == Level::PAGE || entry & LARGE != 0;
        if leaf { self.maps(level).then_some(Kind::Leaf) } else { Some(Kind::Table) }
    }

    #[inline]
    fn encode_flags(&self, level: Level, flags: MappingFlags) -> u64 {
        let memory_type = if flags.contains(MappingFlags::DEVICE) {
            MemoryType::Uncacheable
        } else if flags.contains(MappingFlags::UNCACHED) {
            MemoryType::WriteCombining
        } else {
            MemoryType::WriteBack
        };
        let write = if flags.contains(MappingFlags::WRITE) { WRITE } else { 0 };
        let no_execute = if flags.contains(MappingFlags::EXECUTE) { 0 } else { NO_EXECUTE };
        // `check` and `with_pat` refuse what has no place.
        let slot = u64::from(self.slot(memory_type).unwrap_or(0));
        let highest = if slot & 0b100 == 0 { 0 } else { slot_2(level) };
        write | no_execute | (slot & 0b11) << SLOT_SHIFT | highest
    }

    #[inline]
    fn decode_flags(&self, level: Level, entry: u64) -> MappingFlags {
        let slot = (entry >> SLOT_SHIFT & 0b11) as u32 | if entry & slot_2(level) == 0 { 0 } else { 0b100 };
        let mut flags = MappingFlags::READ;
        flags.set(MappingFlags::WRITE, entry & WRITE != 0);
        flags.set(MappingFlags::EXECUTE, entry & NO_EXECUTE == 0);
        let memory_type = self.type_of(slot);
        flags.set(MappingFlags::DEVICE, memory_type == MemoryType::Uncacheable as u8);
        flags.set(MappingFlags::UNCACHED, memory_type == MemoryType::WriteCombining as u8);
        flags
    }

    #[inline]
    fn decode_leaf(&self, level: Level, entry: u64) -> Leaf {
        let used = match (entry & DIRTY != 0, entry & ACCESSED != 0) {
            (true, _) => Used::Dirty,
            (false, true) => Used::Accessed,
            (false, false) => Used::Not,
        };
        let owner = owner::decode::<OWNED, REGION, LOAN>(entry);
        Leaf { at: address(entry & address_bits(level)), flags: self.decode_flags(level, entry), owner, used }
    }
}

/// The highest bit of the place in the PAT.
const fn slot_2(level: Level) -> u64 {
    if level.0 == Level::PAGE.0 { SLOT_2_OF_PAGE } else { SLOT_2_OF_LARGE }
}

/// All of them.
const fn slot_bits(level: Level) -> u64 {
    SLOT_0 | SLOT_1 | slot_2(level)
}

/// Where a leaf's address is.
const fn address_bits(level: Level) -> u64 {
    if level.0 == Level::PAGE.0 { ADDRESS } else { ADDRESS & !SLOT_2_OF_LARGE }
}

const fn address(bits: u64) -> PhysAddr {
    PhysAddr::from_usize(bits as usize)
}

// No two fields overlap, but for bit 7 and bit 12, which mean another thing at another level.
const _: () = {
    #[rustfmt::skip]
    let fields = [
        PRESENT, WRITE, USER, SLOT_0, SLOT_1, ACCESSED, DIRTY, LARGE, ADDRESS, OWNED, BUSY, MARKED, REGION,
        LOAN, NO_EXECUTE,
    ];
    let mut seen = 0;
    let mut index = 0;
    while index < fields.len() {
        assert!(seen & fields[index] == 0);
        seen |= fields[index];
        index += 1;
    }
    assert!(SLOT_2_OF_PAGE == LARGE && ADDRESS & SLOT_2_OF_LARGE != 0);
    assert!(SLOT_0 == 1 << SLOT_SHIFT && SLOT_1 == 1 << (SLOT_SHIFT + 1));
};

#[cfg(test)]
#[path = "tests/entry.rs"]
mod tests;
