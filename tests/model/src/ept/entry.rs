//! EPT entries and the EPT pointer, as the hardware reads them. Intel SDM Vol. 3C, section 29.3.

/// What the CPUs of a machine can do (`IA32_VMX_EPT_VPID_CAP`, `MAXPHYADDR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Bits of a physical address.
    pub physical_bits: u32,
    /// Entries that allow fetches only.
    pub execute_only: bool,
    /// 1 GiB leaves.
    pub gigabyte: bool,
    /// Accessed and dirty flags.
    pub accessed_dirty: bool,
}

impl Features {
    /// A CPU that can do everything.
    pub const ALL: Self = Self { physical_bits: 46, execute_only: true, gigabyte: true, accessed_dirty: true };
    /// A CPU that can do nothing of it.
    pub const NONE: Self = Self { physical_bits: 36, execute_only: false, gigabyte: false, accessed_dirty: false };
}

/// Read, write, execute in bits 0 to 2: of entries, and of exit qualifications.
pub const READ: u64 = 1;
/// See [`READ`].
pub const WRITE: u64 = 2;
/// See [`READ`].
pub const EXECUTE: u64 = 4;
/// Bit 7 of an entry of levels 3 and 2: it maps memory.
const LARGE: u64 = 1 << 7;
/// Bit 8: accessed.
pub const ACCESSED: u64 = 1 << 8;
/// Bit 9 of a leaf: dirty.
pub const DIRTY: u64 = 1 << 9;
/// EPTP bit 6: accessed and dirty flags are on.
pub const TRACKED: u64 = 1 << 6;

/// What a word of a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Nothing: a violation.
    Absent,
    /// The next table.
    Table(u64),
    /// Memory.
    Leaf(u64),
    /// An encoding that hardware refuses: why.
    Misconfigured(&'static str),
}

/// Bits below an entry of a level: levels are 4 (PML4) to 1 (page table).
pub const fn shift(level: u8) -> u32 {
    12 + 9 * (level as u32 - 1)
}

/// The identifier of cached translations: bits 51:12 of the pointer. Section 29.4.1.
pub const fn ep4ta(eptp: u64) -> u64 {
    eptp >> 12 & 0xff_ffff_ffff
}

/// Reads a word of a table. Sections 29.3.2 (formats) and 29.3.3.1 (misconfigurations).
#[must_use]
pub const fn decode(raw: u64, level: u8, features: &Features) -> Entry {
    if raw & (READ | WRITE | EXECUTE) == 0 {
        return Entry::Absent;
    }
    if raw & 3 == WRITE {
        return Entry::Misconfigured("write without read");
    }
    if raw & 7 == EXECUTE && !features.execute_only {
        return Entry::Misconfigured("execute only, which the CPU lacks");
    }
    let address = raw & 0xf_ffff_ffff_f000;
    if address >> features.physical_bits != 0 {
        return Entry::Misconfigured("address bits beyond MAXPHYADDR");
    }
    if level != 1 && raw & LARGE == 0 {
        return if raw & 0x78 == 0 {
            Entry::Table(address)
        } else {
            Entry::Misconfigured("reserved bits 6:3 of a table")
        };
    }
    if level == 4 || level == 3 && !features.gigabyte {
        return Entry::Misconfigured("a leaf at a level that cannot have one");
    }
    if address & ((1 << shift(level)) - 1) != 0 {
        return Entry::Misconfigured("a misaligned block");
    }
    match raw >> 3 & 7 {
        2 | 3 | 7 => Entry::Misconfigured("a reserved memory type"),
        _ => Entry::Leaf(address),
    }
}

/// What VM entry refuses in an EPT pointer. Section 27.2.1.1.
///
/// # Errors
/// What is wrong.
pub fn check_pointer(eptp: u64, features: &Features) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("EPTP {eptp:#x}: {what}"));
    if !matches!(eptp & 7, 0 | 6) {
        wrong("a memory type that is neither UC nor WB")
    } else if eptp >> 3 & 7 != 3 {
        wrong("not a walk of four levels")
    } else if eptp & TRACKED != 0 && !features.accessed_dirty {
        wrong("accessed and dirty flags, which the CPU lacks")
    } else if eptp & 0xf80 != 0 || eptp >> features.physical_bits != 0 {
        wrong("reserved bits")
    } else {
        Ok(())
    }
}
