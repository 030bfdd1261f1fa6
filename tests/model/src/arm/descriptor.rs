//! Stage-2 descriptors, as the hardware reads them. Arm DDI 0487, section D8.3.

use super::registers::{Features, shift};

/// Bits 47:12.
const ADDRESS: u64 = 0xffff_ffff_f000;
/// Bits 50:48, reserved without 52-bit addresses.
const HIGH_ADDRESS: u64 = 7 << 48;
/// Contiguous.
const CONTIGUOUS: u64 = 1 << 52;
/// Bit 11, reserved in stage 2.
const BIT_11: u64 = 1 << 11;
/// Access flag.
pub const ACCESS_FLAG: u64 = 1 << 10;
/// `S2AP[0]`: read.
const READ: u64 = 1 << 6;
/// `S2AP[1]`: write.
pub const WRITE: u64 = 1 << 7;
/// Dirty bit modifier.
const DIRTY_MODIFIER: u64 = 1 << 51;

/// What a word in a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// A fault.
    Invalid,
    /// The next table.
    Table(u64),
    /// A block or page.
    Leaf(Leaf),
}

/// A block or page: the word, and the level that it was found at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The word.
    pub raw: u64,
    /// Where it was found.
    pub level: u8,
}

/// What kind of memory a leaf says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryType {
    /// Any of the four device types.
    Device(u8),
    /// Normal: stage 2's outer and inner cacheability as encoded, combined with stage 1's.
    Normal(u8),
    /// Normal, write-back whatever stage 1 says (FWB).
    ForcedWriteBack,
    /// Normal, with stage 1's cacheability (FWB).
    OfStage1,
    /// Normal, non-cacheable (FWB).
    ForcedNonCacheable,
    /// A reserved encoding.
    Reserved,
}

/// Reads a word of a table at a level. Section D8.3.1.
#[must_use]
pub const fn decode(raw: u64, level: u8) -> Descriptor {
    match (raw & 3, level) {
        (3, 0..=2) => Descriptor::Table(raw & ADDRESS),
        (1, 1 | 2) | (3, 3) => Descriptor::Leaf(Leaf { raw, level }),
        _ => Descriptor::Invalid,
    }
}

/// What is wrong with a valid word, beyond what faults.
pub fn complaint(raw: u64, level: u8, fwb: bool, features: &Features) -> Option<String> {
    let what = match decode(raw, level) {
        Descriptor::Invalid => None,
        _ if raw & HIGH_ADDRESS != 0 => Some("address bits 50:48"),
        Descriptor::Table(_) => None,
        Descriptor::Leaf(leaf) => leaf.complaint(fwb, features),
    };
    what.map(|what| format!("{what} in entry {raw:#018x} at level {level}"))
}

impl Leaf {
    /// Bytes that it maps.
    #[must_use]
    pub const fn size(&self) -> u64 {
        1 << shift(self.level)
    }

    /// The address that it maps to.
    #[must_use]
    pub const fn output(&self) -> u64 {
        self.raw & ADDRESS & !(self.size() - 1)
    }

    /// The address that it maps an IPA to.
    #[must_use]
    pub const fn translate(&self, ipa: u64) -> u64 {
        self.output() | ipa & (self.size() - 1)
    }

    pub(crate) const fn accessed(&self) -> bool {
        self.raw & ACCESS_FLAG != 0
    }

    pub(crate) const fn readable(&self) -> bool {
        self.raw & READ != 0
    }

    pub(crate) const fn writable(&self) -> bool {
        self.raw & WRITE != 0
    }

    /// Whether a write makes the hardware set [`WRITE`], if it may. Section D8.5.
    pub(crate) const fn becomes_writable(&self) -> bool {
        self.raw & DIRTY_MODIFIER != 0 && !self.writable()
    }

    /// Whether EL1 may fetch from it. Section D8.4.4: XN[1:0] 00 all, 01 EL0 only, 10 neither, 11 EL1 only.
    pub(crate) const fn executable(&self, features: &Features) -> bool {
        let (high, low) = (self.raw >> 54 & 1, self.raw >> 53 & 1);
        if features.xnx { high == low } else { high == 0 }
    }

    /// `MemAttr[3:0]`. Sections D8.6.5 (without FWB) and D8.6.6 (with it).
    #[must_use]
    pub const fn memory_type(&self, fwb: bool) -> MemoryType {
        let bits = (self.raw >> 2 & 0xf) as u8;
        match (fwb, bits >> 2, bits & 3) {
            (_, 0, device) => MemoryType::Device(device),
            (false, _, 1..) => MemoryType::Normal(bits),
            (true, 1, 1) => MemoryType::ForcedNonCacheable,
            (true, 1, 2) => MemoryType::ForcedWriteBack,
            (true, 1, 3) => MemoryType::OfStage1,
            _ => MemoryType::Reserved,
        }
    }

    /// SH: 0 none, 2 outer, 3 inner.
    #[must_use]
    pub const fn shareability(&self) -> u8 {
        (self.raw >> 8 & 3) as u8
    }

    fn complaint(&self, fwb: bool, features: &Features) -> Option<&'static str> {
        if self.memory_type(fwb) == MemoryType::Reserved {
            Some("a reserved MemAttr")
        } else if self.shareability() == 1 {
            Some("a reserved SH")
        } else if self.raw & ADDRESS != self.output() {
            Some("a misaligned block address")
        } else if self.raw & CONTIGUOUS != 0 {
            Some("the contiguous bit, which the model knows no run for,")
        } else if self.raw & BIT_11 != 0 {
            Some("bit 11")
        } else if self.raw & DIRTY_MODIFIER != 0 && !features.hafdbs {
            Some("DBM without FEAT_HAFDBS")
        } else {
            None
        }
    }

    /// Whether two leaves cannot be cached for one address at the same time without a break in between (H7): another
    /// output address, size, memory type or shareability. Both are taken to cover `ipa`.
    pub(crate) fn conflicts(&self, other: &Self, ipa: u64, fwb: bool) -> bool {
        self.level != other.level
            || self.translate(ipa) != other.translate(ipa)
            || self.memory_type(fwb) != other.memory_type(fwb)
            || self.shareability() != other.shareability()
    }
}
