//! Stage-2 descriptors: what they mean, and how they may change.

use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;

use super::{
    Capabilities, Features, Root, Tracking, Vmid,
    bits::{
        ACCESSED, ADDRESS, BUSY, DBM, DEVICE, DIRTY, EXECUTE_NEVER, EXECUTE_NEVER_ALL, FORCED_WRITE_BACK,
        INNER_SHAREABLE, LOAN, MEM_ATTR, NON_CACHEABLE, OWNED, READ, REGION, STRICT_DEVICE, TABLE_OR_PAGE, VALID,
        WRITE, WRITE_BACK,
    },
    config::{INDEX_BITS, PAGE_SHIFT},
};
use crate::{
    addr::Level,
    arch::{memory, owner},
    format::{Access, Change, Denials, Entry, Fields, Format, Inexpressible, Leaf, Marked, Used},
    geometry::Geometry,
};

/// `AArch64` stage 2: descriptors of 4 KiB, 2 MiB and 1 GiB.
///
/// - `READ`, `WRITE`, `EXECUTE` are had in every combination but none: stage 2 gives each by itself.
/// - `DEVICE` is Device-nGnRE, `DEVICE | UNCACHED` Device-nGnRnE, `UNCACHED` Normal non-cacheable, neither Normal
///   write-back. A device is never executable.
/// - `USER` is refused: stage 2 does not tell EL1's accesses from EL0's.
///
/// # Example
/// ```
/// use stage2::{
///     MappingFlags,
///     aarch64::{Capabilities, ConfigError, IdRegisters, Stage2, Tracking, Vmid},
///     format::Format,
/// };
///
/// let neoverse_n1 = IdRegisters { mmfr0: 0x0010_1125, mmfr1: 0x1021_2122, mmfr2: 0x1011, ..IdRegisters::default() };
/// let capabilities = Capabilities::from_registers(neoverse_n1);
/// let format = Stage2::new(&capabilities, 40, Vmid(1))?.with_tracking(Tracking::DirtyState)?;
/// assert_eq!(format.geometry().input_bits(), 40);
/// assert!(format.check(MappingFlags::EXECUTE | MappingFlags::DEVICE).is_err());
/// assert!(matches!(Stage2::new(&capabilities, 52, Vmid(1)), Err(ConfigError::InputBits { .. })));
/// # Ok::<(), ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage2 {
    pub(super) capabilities: Capabilities,
    pub(super) geometry: Geometry,
    pub(super) vmid: Vmid,
    pub(super) tracking: Tracking,
    /// Which bits of a leaf this CPU reads as more than their neighbours: DBM, where the hardware turns a write into its
    /// dirty state (H12), and those of XN of which any says that not both exception levels may execute.
    pub(super) read: u64,
}

impl Format for Stage2 {
    const PAGE_SHIFT: u32 = PAGE_SHIFT;
    const INDEX_BITS: u32 = INDEX_BITS;

    type Root = Root;

    #[inline]
    fn root_shape(&self) -> (Level, u32) {
        (self.geometry.root_level, self.geometry.root_index_bits)
    }

    fn root(&self, table: PhysAddr) -> Root {
        self.registers(table)
    }

    fn output_bits(&self) -> u32 {
        self.capabilities.physical_bits
    }

    #[inline]
    fn maps(&self, level: Level) -> bool {
        // Blocks of 512 GiB need FEAT_LPA2.
        level <= Level(2) && level <= self.geometry.root_level
    }

    fn check(&self, flags: MappingFlags) -> Result<(), Inexpressible> {
        let access = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
        let expressible = access | MappingFlags::DEVICE | MappingFlags::UNCACHED;
        let device_code = MappingFlags::DEVICE | MappingFlags::EXECUTE;
        if !flags.intersects(access) {
            Err(Inexpressible(flags))
        } else if !expressible.contains(flags) {
            Err(Inexpressible(flags.difference(expressible)))
        } else if flags.contains(device_code) {
            Err(Inexpressible(device_code))
        } else {
            Ok(())
        }
    }

    #[inline]
    fn table(&self, at: PhysAddr) -> u64 {
        encode_address(at) | VALID | TABLE_OR_PAGE
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its arguments in memory cost an eighth of a fault")]
    fn leaf(&self, level: Level, leaf: &Leaf) -> u64 {
        let kind = if level == Level::PAGE { TABLE_OR_PAGE } else { 0 };
        // A CPU that does not set the access flag would fault on a leaf without it, and no hypervisor needs that fault.
        let fresh = leaf.used == Used::Not && self.tracking >= Tracking::AccessFlag;
        let accessed = if fresh { 0 } else { ACCESSED };
        encode_address(leaf.at)
            | VALID
            | kind
            | INNER_SHAREABLE
            | accessed
            | owner::encode(leaf.owner, OWNED, REGION, LOAN)
            | self.encode_flags(leaf.flags, leaf.used == Used::Dirty)
    }

    #[inline]
    fn mark(&self, _level: Level, entry: u64) -> u64 {
        entry & !VALID
    }

    #[inline]
    fn busy(&self) -> u64 {
        BUSY
    }

    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "a walk decodes an entry a level and mostly finds a table: 1/4 of its time"
    )]
    fn decode(&self, level: Level, entry: u64) -> Entry {
        let table = level != Level::PAGE && entry & TABLE_OR_PAGE != 0;
        if entry & VALID == 0 {
            self.decode_invalid(level, entry)
        } else if table {
            Entry::Table(decode_address(entry))
        } else if self.is_leaf(level, entry) {
            Entry::Leaf(self.decode_leaf(entry))
        } else {
            // Reserved: the hardware faults on it as on an absent entry.
            Entry::Absent
        }
    }

    #[inline]
    fn next_table(&self, level: Level, entry: u64) -> Option<PhysAddr> {
        const TABLE: u64 = VALID | TABLE_OR_PAGE;
        (level != Level::PAGE && entry & TABLE == TABLE).then(|| decode_address(entry))
    }

    #[inline]
    fn leaf_address(&self, _level: Level, entry: u64) -> PhysAddr {
        decode_address(entry)
    }

    #[inline]
    fn fields(&self, _level: Level) -> Fields {
        let hardware = match self.tracking {
            Tracking::Software => 0,
            Tracking::AccessFlag => ACCESSED,
            Tracking::DirtyState => ACCESSED | WRITE,
        };
        Fields { address: ADDRESS, hardware, owned: OWNED }
    }

    #[inline]
    fn with_flags(&self, _level: Level, entry: u64, flags: MappingFlags) -> u64 {
        let kept = entry & !(MEM_ATTR | READ | WRITE | DBM | EXECUTE_NEVER | DIRTY);
        kept | self.encode_flags(flags, self.written(entry))
    }

    #[inline]
    fn touched(&self, _level: Level, entry: u64, access: Access) -> u64 {
        let entry = entry | ACCESSED;
        match access {
            Access::Write if self.hardware_dirty(entry) => entry | WRITE,
            Access::Write => entry | DIRTY,
            Access::Read | Access::Execute => entry,
        }
    }

    #[inline]
    fn change(&self, _level: Level, old: u64, new: u64) -> Change {
        // D8.16, "Using break-before-make when updating translation table entries".
        const IN_PLACE: u64 = READ | WRITE | ACCESSED | DBM | EXECUTE_NEVER | OWNED | REGION | LOAN | DIRTY;
        if (old ^ new) & !IN_PLACE != 0 {
            Change::Break
        } else if self.allowances(old) & !self.allowances(new) != 0 {
            Change::Restrict
        } else {
            Change::Raise
        }
    }

    #[inline]
    fn denials(&self) -> Denials {
        Denials::Cached
    }
}

impl Stage2 {
    /// Memory type and permissions, and where it is noted that the leaf was written: in the hardware's dirty state while it
    /// can write, else in a bit of ours. S2AP\[1\] in a leaf without DBM would be a permission.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its arguments cost a thirtieth of a fault")]
    fn encode_flags(&self, flags: MappingFlags, written: bool) -> u64 {
        let memory = match memory::kind(flags) {
            0 => self.write_back(),
            kind => TYPES[kind],
        };
        let execute = if flags.contains(MappingFlags::EXECUTE) { 0 } else { EXECUTE_NEVER_ALL };
        // S2AP\[0\] and S2AP\[1\] stand side by side as the two flags do.
        let access = ((flags & (MappingFlags::READ | MappingFlags::WRITE)).bits() as u64) << READ.trailing_zeros();
        let access = match self.tracking {
            // The hardware notes in S2AP\[1\] that it was written.
            Tracking::DirtyState if access & WRITE != 0 && !written => access ^ WRITE | DBM,
            Tracking::DirtyState if access & WRITE != 0 => access | DBM,
            _ if written => access | DIRTY,
            _ => access,
        };
        memory | access | execute
    }

    #[inline]
    fn write_back(&self) -> u64 {
        let forced = self.capabilities.features.contains(Features::FORCED_WRITE_BACK);
        if forced { FORCED_WRITE_BACK } else { WRITE_BACK }
    }

    fn decode_invalid(&self, level: Level, entry: u64) -> Entry {
        if entry == 0 {
            Entry::Absent
        } else if entry == BUSY {
            Entry::Busy
        } else if level != Level::PAGE && entry & TABLE_OR_PAGE != 0 {
            Entry::Marked(Marked::Table(decode_address(entry)))
        } else if self.is_leaf(level, entry) {
            owner::withdrawn(self.decode_leaf(entry))
        } else {
            Entry::Absent
        }
    }

    /// Whether what is no table is a page where pages are, or a block where blocks are.
    #[inline]
    fn is_leaf(&self, level: Level, entry: u64) -> bool {
        if level == Level::PAGE { entry & TABLE_OR_PAGE != 0 } else { entry & TABLE_OR_PAGE == 0 && self.maps(level) }
    }

    #[inline]
    fn decode_leaf(&self, entry: u64) -> Leaf {
        let used = match (self.written(entry), entry & ACCESSED != 0) {
            (true, _) => Used::Dirty,
            (false, true) => Used::Accessed,
            (false, false) => Used::Not,
        };
        Leaf {
            at: decode_address(entry),
            flags: self.decode_flags(entry),
            owner: owner::decode::<OWNED, REGION, LOAN>(entry),
            used,
        }
    }

    #[inline]
    fn decode_flags(&self, entry: u64) -> MappingFlags {
        // Where the hardware sets S2AP\[1\] with the first write, DBM allows it.
        let access =
            entry & (READ | WRITE) | (entry & self.read & DBM) >> (DBM.trailing_zeros() - WRITE.trailing_zeros());
        let mut flags = MEMORY[((entry & MEM_ATTR) >> 2) as usize]
            | MappingFlags::from_bits_retain((access >> READ.trailing_zeros()) as usize);
        // `EXECUTE` is what both exception levels may.
        flags.set(MappingFlags::EXECUTE, entry & self.read & EXECUTE_NEVER == 0);
        flags
    }

    /// Whether the hardware turns a write into the dirty state of this leaf (H12).
    #[inline]
    fn hardware_dirty(&self, entry: u64) -> bool {
        entry & self.read & DBM != 0
    }

    #[inline]
    fn written(&self, entry: u64) -> bool {
        entry & DIRTY != 0 || (self.hardware_dirty(entry) && entry & WRITE != 0)
    }

    /// Which exception levels may execute: bit 0 for EL1, bit 1 for EL0.
    #[inline]
    fn executable(&self, entry: u64) -> u64 {
        /// By XN\[1:0\], without `FEAT_XNX`, where XN\[0\] is ignored, and with it.
        const BY_XN: [[u64; 4]; 2] = [[0b11, 0b11, 0b00, 0b00], [0b11, 0b10, 0b00, 0b01]];
        let by_level = self.capabilities.features.contains(Features::EXECUTE_NEVER_BY_LEVEL);
        BY_XN[usize::from(by_level)][(entry >> EXECUTE_NEVER.trailing_zeros()) as usize % 4]
    }

    /// What a CPU may do by this entry without looking again: one bit for each thing.
    #[inline]
    fn allowances(&self, entry: u64) -> u64 {
        let dirty_management = if self.hardware_dirty(entry) { DBM } else { 0 };
        (entry & (READ | WRITE | ACCESSED)) | dirty_management | self.executable(entry)
    }
}

/// `MemAttr`, for each kind of memory; of write-back memory it depends on the CPU.
const TYPES: [u64; memory::KINDS] = [0, DEVICE, NON_CACHEABLE, STRICT_DEVICE];

/// What `MemAttr` makes of the memory, with `FEAT_S2FWB` and without: write-back is all the rest.
const MEMORY: [MappingFlags; 16] = {
    let mut memory = [MappingFlags::empty(); 16];
    memory[(STRICT_DEVICE >> 2) as usize] = MappingFlags::DEVICE.union(MappingFlags::UNCACHED);
    memory[(DEVICE >> 2) as usize] = MappingFlags::DEVICE;
    memory[(NON_CACHEABLE >> 2) as usize] = MappingFlags::UNCACHED;
    memory
};

// S2AP has reads and writes side by side, as the flags have them.
const _: () = {
    assert!(READ >> READ.trailing_zeros() == MappingFlags::READ.bits() as u64);
    assert!(WRITE >> READ.trailing_zeros() == MappingFlags::WRITE.bits() as u64);
};

#[inline]
const fn encode_address(at: PhysAddr) -> u64 {
    at.as_usize() as u64 & ADDRESS
}

#[inline]
const fn decode_address(entry: u64) -> PhysAddr {
    PhysAddr::from_usize((entry & ADDRESS) as usize)
}

#[cfg(test)]
#[path = "tests/entry.rs"]
mod tests;
