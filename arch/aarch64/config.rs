//! One space's configuration: the tree's shape and the registers' values, from one place (W12).
//!
//! Arm DDI 0487, edition K.a: D8.2 "Translation process" for start levels and concatenated tables, D23.2 for
//! `VTCR_EL2`, `VTTBR_EL2` and `HCR_EL2`.

use aarch64_cpu::registers::{VTCR_EL2, VTTBR_EL2};
use memory_addr::{MemoryAddr, PhysAddr};

use super::{
    Capabilities, Features, Stage2,
    bits::{DBM, EXECUTE_NEVER, EXECUTE_NEVER_ALL},
};
use crate::{addr::Level, geometry::Geometry};

/// The identifier of one guest's translations in the TLBs.
///
/// No two spaces may have the same one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vmid(pub u16);

/// The values of the registers that a space needs on each CPU that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// `VTTBR_EL2`: the root table and the VMID.
    pub vttbr: u64,
    /// `VTCR_EL2`.
    pub vtcr: u64,
    /// The bits of `HCR_EL2` that belong to stage 2, of [`HCR_BITS`]: those that are not here must be clear.
    pub hcr: u64,
}

/// `HCR_EL2.VM`: stage 2 is on.
pub const HCR_VM: u64 = 1 << 0;
/// `HCR_EL2.FWB`: the memory attributes are those of `FEAT_S2FWB`.
pub const HCR_FWB: u64 = 1 << 46;
/// The bits of `HCR_EL2` that [`Root::hcr`] speaks for.
pub const HCR_BITS: u64 = HCR_VM | HCR_FWB;

/// Whether the CPU or the hypervisor notes which leaves were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tracking {
    /// The hypervisor.
    Software,
    /// The CPU sets the access flag; the hypervisor notes writes.
    AccessFlag,
    /// The CPU sets the access flag and the dirty state.
    DirtyState,
}

/// Why a space cannot be had on these CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The 4 KiB granule is missing.
    #[error("the CPU has no 4 KiB granule at stage 2")]
    NoGranule,
    /// A width of guest-physical addresses that no table of 4 KiB pages can have, or that the CPU cannot.
    #[error("{bits}-bit guest-physical addresses, where 32 to {most} bits can be had")]
    InputBits {
        /// What was asked for.
        bits: u32,
        /// What can be had.
        most: u32,
    },
    /// The VMID is too wide.
    #[error("{vmid:?} does not fit in {bits} bits")]
    VmidBits {
        /// What was asked for.
        vmid: Vmid,
        /// The width of the CPU's.
        bits: u32,
    },
    /// The CPU does not set these marks by itself.
    #[error("the CPU cannot track use by {0:?}")]
    NoTracking(Tracking),
}

/// The widest address of the 4 KiB granule without `FEAT_LPA2`.
const MAX_BITS: u32 = 48;
/// The narrowest guest-physical address on offer.
const MIN_BITS: u32 = 32;
/// log2 of a page's size.
pub(super) const PAGE_SHIFT: u32 = 12;
/// log2 of the number of entries in a table.
pub(super) const INDEX_BITS: u32 = 9;
/// log2 of the number of tables that a root may consist of (D8.2, "Concatenated translation tables").
const CONCATENATION_BITS: u32 = 4;

impl Stage2 {
    /// The tables of a space with `ipa_bits`-bit guest-physical addresses, which CPUs know as `vmid`.
    ///
    /// `capabilities` is the minimum over all CPUs that may run the space. The hypervisor notes the leaves' use; see
    /// [`with_tracking`](Self::with_tracking).
    ///
    /// # Errors
    /// [`ConfigError`] with what the CPUs cannot do.
    pub fn new(capabilities: &Capabilities, ipa_bits: u32, vmid: Vmid) -> Result<Self, ConfigError> {
        let physical_bits = capabilities.physical_bits.min(MAX_BITS);
        if !capabilities.features.contains(Features::GRANULE_4K) {
            return Err(ConfigError::NoGranule);
        }
        if !(MIN_BITS..=physical_bits).contains(&ipa_bits) {
            return Err(ConfigError::InputBits { bits: ipa_bits, most: physical_bits });
        }
        if u32::from(vmid.0) >> capabilities.vmid_bits != 0 {
            return Err(ConfigError::VmidBits { vmid, bits: capabilities.vmid_bits });
        }
        let capabilities = Capabilities { physical_bits, ..*capabilities };
        let by_level = capabilities.features.contains(Features::EXECUTE_NEVER_BY_LEVEL);
        let read = if by_level { EXECUTE_NEVER } else { EXECUTE_NEVER_ALL };
        Ok(Self { capabilities, geometry: geometry(ipa_bits), vmid, tracking: Tracking::Software, read })
    }

    /// The same, with the leaves' use noted by `tracking`.
    ///
    /// # Errors
    /// [`ConfigError::NoTracking`] where the CPUs cannot.
    pub fn with_tracking(self, tracking: Tracking) -> Result<Self, ConfigError> {
        let needed = match tracking {
            Tracking::Software => Features::empty(),
            Tracking::AccessFlag => Features::ACCESS_FLAG,
            Tracking::DirtyState => Features::ACCESS_FLAG | Features::DIRTY_STATE,
        };
        if !self.capabilities.features.contains(needed) {
            return Err(ConfigError::NoTracking(tracking));
        }
        let managed = if tracking == Tracking::DirtyState { DBM } else { 0 };
        Ok(Self { tracking, read: self.read & EXECUTE_NEVER | managed, ..self })
    }

    /// The identifier in the TLBs.
    #[must_use]
    pub const fn vmid(&self) -> Vmid {
        self.vmid
    }

    /// The registers' values for a root at `table`.
    pub(super) fn registers(&self, table: PhysAddr) -> Root {
        // BADDR must be aligned to the root's size; a frame allocator that forgets makes the CPU walk something else.
        debug_assert!(table.is_aligned(self.geometry.table_pages(self.geometry.root_level) << PAGE_SHIFT));
        let vttbr = VTTBR_EL2::VMID.val(self.vmid.0.into()) + VTTBR_EL2::BADDR.val(table.as_usize() as u64 >> 1);
        let forced = self.capabilities.features.contains(Features::FORCED_WRITE_BACK);
        Root { vttbr: vttbr.value, vtcr: self.vtcr(), hcr: HCR_VM | if forced { HCR_FWB } else { 0 } }
    }

    /// `VTCR_EL2`: walks are write-back, inner shareable, of the 4 KiB granule.
    fn vtcr(&self) -> u64 {
        let fixed = VTCR_EL2::RES1::SET
            + VTCR_EL2::TG0::Granule4KB
            + VTCR_EL2::SH0::Inner
            + VTCR_EL2::ORGN0::NormalWBRAWA
            + VTCR_EL2::IRGN0::NormalWBRAWA;
        let start = match self.geometry.root_level {
            Level(1) => VTCR_EL2::SL0::Granule4KBLevel2,
            Level(2) => VTCR_EL2::SL0::Granule4KBLevel1,
            _ => VTCR_EL2::SL0::Granule4KBLevel0,
        };
        let output = match self.capabilities.physical_bits {
            48.. => VTCR_EL2::PS::PA_48B_256TB,
            44.. => VTCR_EL2::PS::PA_44B_16TB,
            42.. => VTCR_EL2::PS::PA_42B_4TB,
            40.. => VTCR_EL2::PS::PA_40B_1TB,
            36.. => VTCR_EL2::PS::PA_36B_64GB,
            _ => VTCR_EL2::PS::PA_32B_4GB,
        };
        let vmid = if self.capabilities.vmid_bits == 16 { VTCR_EL2::VS::Bits16 } else { VTCR_EL2::VS::Bits8 };
        let input = VTCR_EL2::T0SZ.val(u64::from(64 - self.geometry.input_bits()));
        let access = VTCR_EL2::HA.val((self.tracking >= Tracking::AccessFlag).into());
        let dirty = VTCR_EL2::HD.val((self.tracking >= Tracking::DirtyState).into());
        (fixed + start + output + vmid + input + access + dirty).value
    }
}

/// The tree with the fewest levels: of up to 16 tables side by side in place of a level of up to 16 entries.
const fn geometry(ipa_bits: u32) -> Geometry {
    let mut root_level = 0;
    while PAGE_SHIFT + INDEX_BITS * (root_level + 1) + CONCATENATION_BITS < ipa_bits {
        root_level += 1;
    }
    Geometry {
        page_shift: PAGE_SHIFT,
        index_bits: INDEX_BITS,
        root_level: Level(root_level as u8),
        root_index_bits: ipa_bits - PAGE_SHIFT - INDEX_BITS * root_level,
    }
}

// Every width has a root of one to 16 tables, of the manual's start levels 2, 1 and 0.
const _: () = {
    let mut bits = MIN_BITS;
    while bits <= MAX_BITS {
        let geometry = geometry(bits);
        assert!(geometry.input_bits() == bits);
        assert!(1 <= geometry.root_level.0 && geometry.root_level.0 <= 3);
        assert!(geometry.root_index_bits <= INDEX_BITS + CONCATENATION_BITS);
        assert!(geometry.table_pages(geometry.root_level) <= 1 << CONCATENATION_BITS);
        bits += 1;
    }
};

#[cfg(test)]
#[path = "tests/config.rs"]
mod tests;
