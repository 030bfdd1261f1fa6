//! One space's configuration: the tree's shape, nCR3 and the ASID, from one place (W12).
//!
//! AMD64 APM Vol. 2 (publication 24593, revision 3.42): 15.25.3 "Enabling Nested Paging", 15.16 for ASIDs, 7.8 for the
//! PAT, 5.2.1 for CR3.

use memory_addr::PhysAddr;

use super::{Capabilities, Features, Npt};
use crate::{addr::Level, geometry::Geometry};

/// The identifier of one guest's translations in the TLBs: not 0, which is the hypervisor's.
///
/// No two spaces may have the same one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Asid(pub u32);

/// The values that a space needs in each VMCB that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// nCR3 (VMCB offset 0xb0): the root table and how it is walked.
    pub ncr3: u64,
    /// The guest's ASID (VMCB offset 0x58).
    pub asid: Asid,
}

/// A memory type, by its number in the PAT (table 7-9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryType {
    /// UC.
    Uncacheable = 0,
    /// WC.
    WriteCombining = 1,
    /// WB.
    WriteBack = 6,
}

/// The PAT of a CPU that came out of reset (table 7-10): WB, WT, UC-, UC, twice. It has no write-combining.
pub const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;

/// Why a space cannot be had on these CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Neither SVM nor nested paging, or one alone.
    #[error("the CPU has no nested paging")]
    NoNestedPaging,
    /// Entries cannot forbid execution.
    #[error("the CPU has no execute-never")]
    NoExecuteNever,
    /// There is no such ASID for a guest.
    #[error("{asid:?}, where guests have 1 to {most}")]
    Asid {
        /// What was asked for.
        asid: Asid,
        /// The last that there is.
        most: u32,
    },
    /// Another width of guest-physical addresses than tables of four levels translate.
    #[error("guest-physical addresses of {bits} bits; the tables translate {least} to {most}")]
    InputBits {
        /// The width that was asked for.
        bits: u32,
        /// The narrowest.
        least: u32,
        /// The widest.
        most: u32,
    },
    /// An entry holds addresses of 32 to 52 bits.
    #[error("physical addresses of {0} bits")]
    PhysicalBits(u32),
    /// The hypervisor's PAT lacks a memory type that tables and leaves need; write-back in its first half.
    #[error("the PAT has no {0:?}")]
    NoMemoryType(MemoryType),
}

/// A CR3 and a table's entry choose among the first four types of the PAT: the slot's low bits are PWT and PCD.
const WALK_SLOTS: u32 = 4;
/// CR3 bits 4:3, PCD and PWT, and the same of entries.
pub(super) const SLOT_SHIFT: u32 = 3;

impl Npt {
    /// The tables of a space, which CPUs know as `asid`.
    ///
    /// `capabilities` is the minimum over all CPUs that may run the space. Guest-physical addresses are as wide as four
    /// levels translate, see [`with_input_bits`](Self::with_input_bits); the hypervisor's PAT is the one at reset, see
    /// [`with_pat`](Self::with_pat).
    ///
    /// # Errors
    /// [`ConfigError`] with what the CPUs cannot do.
    pub fn new(capabilities: &Capabilities, asid: Asid) -> Result<Self, ConfigError> {
        let has = |feature| capabilities.features.contains(feature);
        if !has(Features::SVM | Features::NESTED_PAGING) {
            return Err(ConfigError::NoNestedPaging);
        }
        if !has(Features::NO_EXECUTE) {
            return Err(ConfigError::NoExecuteNever);
        }
        if asid.0 == 0 || asid.0 >= capabilities.asids {
            return Err(ConfigError::Asid { asid, most: capabilities.asids.saturating_sub(1) });
        }
        if !(32..=52).contains(&capabilities.physical_bits) {
            return Err(ConfigError::PhysicalBits(capabilities.physical_bits));
        }
        let geometry = Geometry { page_shift: 12, index_bits: 9, root_level: Level(3), root_index_bits: 9 };
        Ok(Self { capabilities: *capabilities, geometry, pat: PAT_AT_RESET, asid })
    }

    /// The same, for guest-physical addresses of `bits`: what is beyond is refused. A guest with tables of its own
    /// cannot name an address beyond [`Capabilities::guest_physical_bits`].
    ///
    /// # Errors
    /// [`ConfigError::InputBits`]: tables of four levels have another width.
    pub fn with_input_bits(self, bits: u32) -> Result<Self, ConfigError> {
        let root = self.geometry.shift(self.geometry.root_level);
        let (least, most) = (root + 1, root + self.geometry.index_bits);
        if !(least..=most).contains(&bits) {
            return Err(ConfigError::InputBits { bits, least, most });
        }
        Ok(Self { geometry: Geometry { root_index_bits: bits - root, ..self.geometry }, ..self })
    }

    /// The same, for CPUs on which the hypervisor's PAT (MSR 0x277) has this value while guests run.
    ///
    /// # Errors
    /// [`ConfigError::NoMemoryType`]: write-back is not in its first half, or uncacheable nowhere.
    pub fn with_pat(self, pat: u64) -> Result<Self, ConfigError> {
        let format = Self { pat, ..self };
        if format.slot(MemoryType::WriteBack).is_none_or(|slot| slot >= WALK_SLOTS) {
            return Err(ConfigError::NoMemoryType(MemoryType::WriteBack));
        }
        if format.slot(MemoryType::Uncacheable).is_none() {
            return Err(ConfigError::NoMemoryType(MemoryType::Uncacheable));
        }
        Ok(format)
    }

    /// The first place of a memory type in the PAT.
    pub(super) fn slot(&self, memory_type: MemoryType) -> Option<u32> {
        (0..8).find(|slot| self.type_of(*slot) == memory_type as u8)
    }

    /// The number of the memory type in a place of the PAT.
    pub(super) const fn type_of(&self, slot: u32) -> u8 {
        (self.pat >> (8 * slot)) as u8 & 0b111
    }

    /// PCD and PWT of what points to a table: it is walked through the write-back cache.
    pub(super) fn walk(&self) -> u64 {
        // `with_pat` refuses a PAT without.
        u64::from(self.slot(MemoryType::WriteBack).unwrap_or(0)) << SLOT_SHIFT
    }

    /// The root of a space at `table`.
    pub(super) fn root_at(&self, table: PhysAddr) -> Root {
        Root { ncr3: table.as_usize() as u64 | self.walk(), asid: self.asid }
    }
}

#[cfg(test)]
#[path = "tests/config.rs"]
mod tests;
