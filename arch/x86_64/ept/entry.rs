//! EPT entries.
//!
//! Intel SDM Vol. 3C (edition of December 2024), section 29.3.2 "EPT translation mechanism" with its tables of formats;
//! 29.3.3.1 for misconfigurations, 29.3.7 for memory types.

use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;

use super::{Capabilities, Exceptions, Features, LargeLeaves, Root, Tracking};
use crate::{
    addr::Level,
    arch::{memory, owner},
    format::{Access, Change, Denials, Entry, Fields, Format, Inexpressible, Leaf, Marked, Used},
    geometry::Geometry,
};

/// Bit 0: reads are allowed. An entry without any of bits 2:0 is not present, and its other bits are ignored.
const READ: u64 = 1 << 0;
/// Bit 1: writes are allowed.
const WRITE: u64 = 1 << 1;
/// Bit 2: execution is allowed, in any mode.
const EXECUTE: u64 = 1 << 2;
/// Bits 2:0.
const ACCESS: u64 = READ | WRITE | EXECUTE;
/// Bits 5:3 of a leaf: the memory type, by the numbers of the MTRRs.
const MEMORY_TYPE: u64 = 0b111 << 3;
/// Bit 6 of a leaf: the guest's PAT has no say.
const IGNORE_PAT: u64 = 1 << 6;
/// Bit 7 of an entry of 2 MiB or 1 GiB: a leaf. Ignored in an entry of 4 KiB, and kept clear there.
const LARGE: u64 = 1 << 7;
/// Bit 8: accessed, in tables too. Ignored while EPTP does not turn it on, and then ours.
const ACCESSED: u64 = 1 << 8;
/// Bit 9 of a leaf: dirty, likewise.
const DIRTY: u64 = 1 << 9;
/// The address, \[51:12\]; bits from MAXPHYADDR up are reserved.
const ADDRESS: u64 = ((1 << 52) - 1) & !0xfff;
/// Bit 63: the violation is no #VE.
const SUPPRESS_EXCEPTION: u64 = 1 << 63;

// Bits 56:52 and 59 are ignored, and ours.

/// The frame is the space's own; with [`REGION`], a frozen region's; with [`LOAN`], on loan to another space.
const OWNED: u64 = 1 << 52;
/// In an entry that is not present: a CPU is changing a leaf.
const BUSY: u64 = 1 << 53;
/// The frame is a region's.
const REGION: u64 = 1 << 54;
/// The frame is on loan: with [`OWNED`] from this space, without to it.
const LOAN: u64 = 1 << 55;
/// In an entry that is not present: where bits 2:0 are kept. Other bits than in a present one, where some of these
/// have a meaning.
const KEPT_ACCESS_SHIFT: u32 = 60;

const UNCACHEABLE: u64 = 0 << 3;
const WRITE_COMBINING: u64 = 1 << 3;
const WRITE_BACK: u64 = 6 << 3;

/// Intel EPT: leaves of 4 KiB, and of 2 MiB and 1 GiB where the CPU has them.
///
/// - `WRITE` needs `READ`; `EXECUTE` alone needs the capability.
/// - Memory is write-back whatever the guest's PAT says, `UNCACHED` is write-combining, which is what Arm's Normal
///   non-cacheable is. `DEVICE` is uncacheable, but the guest's PAT may make it write-combining (a frame buffer);
///   `DEVICE | UNCACHED` is uncacheable in any case. A device is never executable.
/// - Large leaves that are execute-never ([`LargeLeaves`]) are split at the first fetch; `EXECUTE` alone is
///   then refused, since a large leaf without it would allow no access.
/// - `USER` is refused: EPT does not tell a guest's user accesses from its supervisor's.
///
/// # Example
/// ```
/// use stage2::{Level, format::Format, x86_64::ept::{Capabilities, ConfigError, Depth, Ept, Registers, Tracking}};
///
/// let skylake = Registers { ept_vpid_cap: 0xf01_0673_4141, arch_capabilities: 0x40, physical_bits: 46 };
/// let capabilities = Capabilities::from_registers(skylake);
/// let format = Ept::new(&capabilities, Depth::Four)?.with_tracking(Tracking::Hardware)?.with_input_bits(40)?;
/// assert_eq!(format.geometry().input_bits(), 40);
/// assert!(format.maps(Level(2)), "leaves of 1 GiB");
/// assert_eq!(Ept::new(&capabilities, Depth::Five), Err(ConfigError::NoDepth(Depth::Five)));
/// # Ok::<(), ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ept {
    pub(super) capabilities: Capabilities,
    pub(super) geometry: Geometry,
    pub(super) tracking: Tracking,
    pub(super) exceptions: Exceptions,
    pub(super) large_leaves: LargeLeaves,
}

impl Format for Ept {
    const PAGE_SHIFT: u32 = 12;
    const INDEX_BITS: u32 = 9;

    type Root = Root;

    #[inline]
    fn root_shape(&self) -> (Level, u32) {
        (self.geometry.root_level, self.geometry.root_index_bits)
    }

    fn root(&self, table: PhysAddr) -> Root {
        Root { eptp: self.eptp(table) }
    }

    #[inline]
    fn output_bits(&self) -> u32 {
        self.capabilities.physical_bits
    }

    #[inline]
    fn maps(&self, level: Level) -> bool {
        match level {
            Level::PAGE => true,
            Level(1) => self.capabilities.features.contains(Features::LEAF_2M),
            Level(2) => self.capabilities.features.contains(Features::LEAF_1G),
            _ => false,
        }
    }

    #[inline]
    fn check(&self, flags: MappingFlags) -> Result<(), Inexpressible> {
        let access = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
        let expressible = access | MappingFlags::DEVICE | MappingFlags::UNCACHED;
        let device_code = MappingFlags::DEVICE | MappingFlags::EXECUTE;
        let execute_only =
            self.capabilities.features.contains(Features::EXECUTE_ONLY) && self.large_leaves == LargeLeaves::Executable;
        let readable = flags.contains(MappingFlags::READ);
        if !flags.intersects(access) {
            Err(Inexpressible(flags))
        } else if !expressible.contains(flags) {
            Err(Inexpressible(flags.difference(expressible)))
        } else if flags.contains(device_code) {
            Err(Inexpressible(device_code))
        } else if !readable && (flags.contains(MappingFlags::WRITE) || !execute_only) {
            Err(Inexpressible(flags & access))
        } else {
            Ok(())
        }
    }

    #[inline]
    fn allowed(&self, level: Level, flags: MappingFlags) -> MappingFlags {
        match self.large_leaves {
            LargeLeaves::ExecuteNever if level != Level::PAGE => flags - MappingFlags::EXECUTE,
            _ => flags,
        }
    }

    #[inline]
    fn absent(&self) -> u64 {
        self.suppression()
    }

    #[inline]
    fn table(&self, at: PhysAddr) -> u64 {
        encode_address(at) | ACCESS
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its arguments in memory cost an eighth of a fault")]
    fn leaf(&self, level: Level, leaf: &Leaf) -> u64 {
        let large = if level == Level::PAGE { 0 } else { LARGE };
        let owned = owner::encode(leaf.owner, OWNED, REGION, LOAN);
        let used = match leaf.used {
            Used::Not => 0,
            Used::Accessed => ACCESSED,
            Used::Dirty => ACCESSED | DIRTY,
        };
        let flags = encode_flags(self.allowed(level, leaf.flags));
        encode_address(leaf.at) | large | owned | used | self.suppression() | flags
    }

    #[inline]
    fn mark(&self, _level: Level, entry: u64) -> u64 {
        // CPUs without RDCL_NO load speculatively through the address of an entry that is not present (L1TF):
        // inverted, it is no memory.
        let kept = (entry & !ACCESS) ^ ADDRESS;
        kept | (entry & ACCESS) << KEPT_ACCESS_SHIFT | self.suppression()
    }

    #[inline]
    fn busy(&self) -> u64 {
        BUSY | self.suppression()
    }

    #[inline]
    fn decode(&self, level: Level, entry: u64) -> Entry {
        if entry & ACCESS == 0 {
            return self.decode_invalid(level, entry);
        }
        match self.kind(level, entry) {
            Some(Kind::Table) => Entry::Table(decode_address(entry)),
            Some(Kind::Leaf) => Entry::Leaf(decode_leaf(entry)),
            None => Entry::Absent,
        }
    }

    #[inline]
    fn next_table(&self, level: Level, entry: u64) -> Option<PhysAddr> {
        // Present, and not a large leaf: bit 7 counts for more than bits 2:0.
        let is_table = (1..=ACCESS).contains(&(entry & (LARGE | ACCESS))) && level != Level::PAGE;
        is_table.then(|| decode_address(entry))
    }

    #[inline]
    fn leaf_address(&self, _level: Level, entry: u64) -> PhysAddr {
        decode_address(if entry & ACCESS == 0 { entry ^ ADDRESS } else { entry })
    }

    #[inline]
    fn fields(&self, _level: Level) -> Fields {
        let hardware = match self.tracking {
            Tracking::Software => 0,
            Tracking::Hardware => ACCESSED | DIRTY,
        };
        Fields { address: ADDRESS, hardware, owned: OWNED }
    }

    #[inline]
    fn with_flags(&self, level: Level, entry: u64, flags: MappingFlags) -> u64 {
        entry & !(ACCESS | MEMORY_TYPE | IGNORE_PAT) | encode_flags(self.allowed(level, flags))
    }

    #[inline]
    fn touched(&self, _level: Level, entry: u64, access: Access) -> u64 {
        entry | if access == Access::Write { ACCESSED | DIRTY } else { ACCESSED }
    }

    #[inline]
    fn change(&self, _level: Level, old: u64, new: u64) -> Change {
        // 29.4.3.1, "Operations that invalidate cached mappings", allows more changes in place. These are broken all
        // the same, so that no CPU uses a mix of the old entry and the new one.
        const BREAKING: u64 = ADDRESS | LARGE | MEMORY_TYPE | IGNORE_PAT;
        const ALLOWING: u64 = ACCESS | ACCESSED | DIRTY;
        if (old ^ new) & BREAKING != 0 {
            Change::Break
        } else if old & !new & ALLOWING != 0 {
            Change::Restrict
        } else {
            Change::Raise
        }
    }

    #[inline]
    fn denials(&self) -> Denials {
        // 29.4.3.1: an EPT violation invalidates what was used for the address.
        Denials::Dropped
    }
}

/// What a present entry is.
enum Kind {
    Table,
    Leaf,
}

impl Ept {
    /// What an entry says that is not present.
    fn decode_invalid(&self, level: Level, entry: u64) -> Entry {
        if entry & BUSY != 0 {
            return Entry::Busy;
        }
        let before = unmark(entry);
        match self.kind(level, before) {
            _ if before & ACCESS == 0 => Entry::Absent,
            Some(Kind::Table) => Entry::Marked(Marked::Table(decode_address(before))),
            Some(Kind::Leaf) => owner::withdrawn(decode_leaf(before)),
            None => Entry::Absent,
        }
    }

    /// By the level and bit 7; `None` for what the hardware calls a misconfiguration.
    #[inline]
    fn kind(&self, level: Level, entry: u64) -> Option<Kind> {
        let leaf = level == Level::PAGE || entry & LARGE != 0;
        if leaf { self.maps(level).then_some(Kind::Leaf) } else { Some(Kind::Table) }
    }

    #[inline]
    fn suppression(&self) -> u64 {
        match self.exceptions {
            Exceptions::Off => 0,
            Exceptions::Suppressed => SUPPRESS_EXCEPTION,
        }
    }
}

/// What [`Format::mark`] was given, but for bit 63.
#[inline]
const fn unmark(entry: u64) -> u64 {
    let access = entry >> KEPT_ACCESS_SHIFT & ACCESS;
    (entry & !(ACCESS << KEPT_ACCESS_SHIFT | SUPPRESS_EXCEPTION)) ^ ADDRESS | access
}

#[inline]
fn encode_flags(flags: MappingFlags) -> u64 {
    TYPES[memory::kind(flags)] | flags.bits() as u64 & ACCESS
}

/// Bits 6:3 of a leaf, for each kind of memory.
const TYPES: [u64; memory::KINDS] =
    [WRITE_BACK | IGNORE_PAT, UNCACHEABLE, WRITE_COMBINING | IGNORE_PAT, UNCACHEABLE | IGNORE_PAT];

#[inline]
fn decode_flags(entry: u64) -> MappingFlags {
    MEMORY[((entry & (MEMORY_TYPE | IGNORE_PAT)) >> 3) as usize]
        | MappingFlags::from_bits_retain((entry & ACCESS) as usize)
}

/// What bits 6:3 of a leaf make of its memory.
const MEMORY: [MappingFlags; 16] = {
    let mut memory = [MappingFlags::empty(); 16];
    memory[(UNCACHEABLE >> 3) as usize] = MappingFlags::DEVICE;
    memory[((UNCACHEABLE | IGNORE_PAT) >> 3) as usize] = MappingFlags::DEVICE.union(MappingFlags::UNCACHED);
    memory[(WRITE_COMBINING >> 3) as usize] = MappingFlags::UNCACHED;
    memory[((WRITE_COMBINING | IGNORE_PAT) >> 3) as usize] = MappingFlags::UNCACHED;
    memory
};

// EPT has the three permissions in the same bits as the flags.
const _: () = {
    assert!(MappingFlags::READ.bits() as u64 == READ);
    assert!(MappingFlags::WRITE.bits() as u64 == WRITE);
    assert!(MappingFlags::EXECUTE.bits() as u64 == EXECUTE);
};

#[inline]
fn decode_leaf(entry: u64) -> Leaf {
    const USED: [Used; 4] = [Used::Not, Used::Accessed, Used::Dirty, Used::Dirty];
    let used = USED[((entry & (ACCESSED | DIRTY)) >> 8) as usize];
    Leaf {
        at: decode_address(entry),
        flags: decode_flags(entry),
        owner: owner::decode::<OWNED, REGION, LOAN>(entry),
        used,
    }
}

#[inline]
const fn encode_address(at: PhysAddr) -> u64 {
    at.as_usize() as u64 & ADDRESS
}

#[inline]
const fn decode_address(entry: u64) -> PhysAddr {
    PhysAddr::from_usize((entry & ADDRESS) as usize)
}

// No two fields overlap, and what is kept of a marked entry finds its place free.
const _: () = {
    #[rustfmt::skip]
    let fields = [
        READ, WRITE, EXECUTE, MEMORY_TYPE, IGNORE_PAT, LARGE, ACCESSED, DIRTY, ADDRESS, OWNED, BUSY,
        REGION, LOAN, ACCESS << KEPT_ACCESS_SHIFT, SUPPRESS_EXCEPTION,
    ];
    let mut seen = 0;
    let mut index = 0;
    while index < fields.len() {
        assert!(seen & fields[index] == 0);
        seen |= fields[index];
        index += 1;
    }
};

#[cfg(test)]
#[path = "tests/entry.rs"]
mod tests;
