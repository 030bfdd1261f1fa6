//! EPT entries and the EPT pointer, as the hardware reads them: Intel SDM Vol. 3C, section 29.3. And AMD's in their
//! place: AMD64 APM Vol. 2, sections 5.3, 5.4 and 15.25.

/// The vendor whose tables the CPUs walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// Intel: EPT.
    Intel,
    /// AMD: nested page tables.
    Amd,
}

/// What the CPUs of a machine can do (`IA32_VMX_EPT_VPID_CAP`, `MAXPHYADDR`; CPUID on AMD's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The CPUs' vendor.
    pub vendor: Vendor,
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
    pub const ALL: Self =
        Self { vendor: Vendor::Intel, physical_bits: 46, execute_only: true, gigabyte: true, accessed_dirty: true };
    /// A CPU with none of these.
    pub const NONE: Self =
        Self { vendor: Vendor::Intel, physical_bits: 36, execute_only: false, gigabyte: false, accessed_dirty: false };
    /// AMD's, whose tables cannot express execute-only, and which always notes accesses.
    pub const AMD: Self = Self { vendor: Vendor::Amd, physical_bits: 48, execute_only: false, ..Self::ALL };
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
    /// Not present: a violation.
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

/// The identifier of cached translations: bits 51:12 of the pointer (section 29.4.1), or the ASID in its place.
pub const fn ep4ta(eptp: u64) -> u64 {
    match eptp >> ASID_SHIFT {
        0 => eptp >> 12 & 0xff_ffff_ffff,
        asid => asid | 1 << 63,
    }
}

/// Above the address of a pointer that [`nested_pointer`] made.
const ASID_SHIFT: u32 = 52;

/// nCR3 and an ASID of up to twelve bits, as what a [`Machine`](super::Machine) takes for an EPT pointer. AMD's CPUs
/// always set accessed and dirty.
#[must_use]
pub const fn nested_pointer(ncr3: u64, asid: u32) -> u64 {
    (asid as u64) << ASID_SHIFT | ncr3 | TRACKED
}

/// Bits of AMD's entries: present, writable, user, accessed, dirty; execution is forbidden.
mod amd {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const USER: u64 = 1 << 2;
    pub const ACCESSED: u64 = 1 << 5;
    pub const DIRTY: u64 = 1 << 6;
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The highest bit of the place in the PAT, in a large leaf.
    pub const LARGE_PAT: u64 = 1 << 12;
}

/// What an entry allows, by [`READ`], [`WRITE`] and [`EXECUTE`]; 0 if it is not present.
pub const fn rights(raw: u64, vendor: Vendor) -> u64 {
    match vendor {
        Vendor::Intel => raw & (READ | WRITE | EXECUTE),
        Vendor::Amd if raw & amd::PRESENT == 0 => 0,
        Vendor::Amd => {
            let write = if raw & amd::WRITE == 0 { 0 } else { WRITE };
            let execute = if raw & amd::NO_EXECUTE == 0 { EXECUTE } else { 0 };
            READ | write | execute
        }
    }
}

/// What a leaf says of its memory's type.
pub const fn kind(raw: u64, level: u8, vendor: Vendor) -> u64 {
    match vendor {
        Vendor::Intel => raw >> 3 & 0xf,
        Vendor::Amd => raw >> 3 & 0b11 | if level == 1 { raw >> 5 & 0b100 } else { raw >> 10 & 0b100 },
    }
}

/// [`ACCESSED`] and [`DIRTY`] where the vendor has them.
pub const fn marks(set: u64, vendor: Vendor) -> u64 {
    match vendor {
        Vendor::Intel => set,
        Vendor::Amd => {
            let accessed = if set & ACCESSED == 0 { 0 } else { amd::ACCESSED };
            accessed | if set & DIRTY == 0 { 0 } else { amd::DIRTY }
        }
    }
}

/// Reads a word of a table of AMD's: what has a reserved bit set is as bad as what Intel calls misconfigured.
const fn decode_amd(raw: u64, level: u8, features: Features) -> Entry {
    if raw & amd::PRESENT == 0 {
        return Entry::Absent;
    }
    if raw & amd::USER == 0 {
        return Entry::Misconfigured("an entry that no guest can use: its accesses are a user's");
    }
    let address = raw & 0xf_ffff_ffff_f000;
    if address >> features.physical_bits != 0 {
        return Entry::Misconfigured("address bits beyond the physical width");
    }
    if level != 1 && raw & LARGE == 0 {
        return Entry::Table(address);
    }
    if level == 4 || level == 3 && !features.gigabyte {
        return Entry::Misconfigured("a leaf at a level that cannot have one");
    }
    let address = if level == 1 { address } else { address & !amd::LARGE_PAT };
    if address & ((1 << shift(level)) - 1) != 0 {
        return Entry::Misconfigured("a misaligned block");
    }
    Entry::Leaf(address)
}

/// Reads a word of a table. Sections 29.3.2 (formats) and 29.3.3.1 (misconfigurations).
#[must_use]
pub const fn decode(raw: u64, level: u8, features: &Features) -> Entry {
    if matches!(features.vendor, Vendor::Amd) {
        return decode_amd(raw, level, *features);
    }
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
    if features.vendor == Vendor::Amd {
        // VMRUN refuses the hypervisor's own ASID (15.5.1).
        return if eptp >> ASID_SHIFT == 0 { wrong("ASID 0") } else { Ok(()) };
    }
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
