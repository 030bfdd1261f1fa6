//! What a CPU can do, as its model-specific registers and CPUID say.
//!
//! Intel SDM Vol. 3C (edition of December 2024), appendix A.10; Vol. 4, section 2.1 for `IA32_ARCH_CAPABILITIES`.

use bitflags::bitflags;

use super::Invept;

bitflags! {
    /// What a CPU may lack: the bits of `IA32_VMX_EPT_VPID_CAP` that matter here, in their places (appendix A.10).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// Leaves that can be executed and not read.
        const EXECUTE_ONLY = 1 << 0;
        /// Tables of four levels.
        const FOUR_LEVELS = 1 << 6;
        /// Tables of five levels.
        const FIVE_LEVELS = 1 << 7;
        /// Tables that are walked uncached.
        const UNCACHED_WALK = 1 << 8;
        /// Tables that are walked through the write-back cache.
        const WRITE_BACK_WALK = 1 << 14;
        /// Leaves of 2 MiB.
        const LEAF_2M = 1 << 16;
        /// Leaves of 1 GiB.
        const LEAF_1G = 1 << 17;
        /// INVEPT.
        const INVEPT = 1 << 20;
        /// The CPU can set accessed and dirty.
        const ACCESSED_DIRTY = 1 << 21;
        /// INVEPT of one EPTP's translations.
        const INVEPT_SINGLE = 1 << 25;
        /// INVEPT of all EPTPs' translations.
        const INVEPT_ALL = 1 << 26;
        /// INVVPID.
        const INVVPID = 1 << 32;
        /// INVVPID of all VPIDs' translations.
        const INVVPID_ALL = 1 << 42;
    }
}

bitflags! {
    /// What a CPU gets wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Errata: u64 {
        /// Without `RDCL_NO`: the CPU loads speculatively through the address of an entry that is not present (L1TF).
        /// Entries that keep an address while they are not present hold it inverted, whatever the CPU; absent ones
        /// name the host's frame 0, which must hold no secrets ([H19](crate::hardware#h19)).
        const SPECULATIVE_LOAD = 1 << 0;
        /// Without `IF_PSCHANGE_MC_NO`: a guest that executes from a large page, and changes its size, makes the CPU
        /// check the machine (XSA-304, CVE-2018-12207). See [`LargeLeaves`](super::LargeLeaves)
        /// ([H18](crate::hardware#h18)).
        const MACHINE_CHECK = 1 << 1;
    }
}

/// `IA32_ARCH_CAPABILITIES` bit 0.
const RDCL_NO: u64 = 1 << 0;
/// `IA32_ARCH_CAPABILITIES` bit 6.
const IF_PSCHANGE_MC_NO: u64 = 1 << 6;

/// The registers that matter to EPT, as read on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// `IA32_VMX_EPT_VPID_CAP` (MSR 0x48c); 0 on a CPU that has neither EPT nor VPIDs.
    pub ept_vpid_cap: u64,
    /// `IA32_ARCH_CAPABILITIES` (MSR 0x10a); 0 on a CPU without it, which then may have every erratum.
    pub arch_capabilities: u64,
    /// MAXPHYADDR (CPUID `0x8000_0008`, EAX\[7:0\]).
    pub physical_bits: u32,
}

/// What one CPU can do or, by [`minimum`](Capabilities::minimum), what each of several can.
///
/// A space runs on any of the hypervisor's CPUs: make its format and its [`Tlb`](super::Tlb) from the minimum over all.
///
/// # Example
/// ```
/// use stage2::x86_64::ept::{Capabilities, Features, Invept, Registers};
///
/// // On hardware, each CPU: `Capabilities::detect()`.
/// let skylake = Registers { ept_vpid_cap: 0xf01_0673_4141, arch_capabilities: 0x40, physical_bits: 46 };
/// let skylake = Capabilities::from_registers(skylake);
/// assert_eq!(skylake.invept(), Some(Invept::Single));
/// let without = skylake.minimum(skylake.without(Features::LEAF_1G));
/// assert!(!without.features.contains(Features::LEAF_1G));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The width of a physical address in bits (MAXPHYADDR).
    pub physical_bits: u32,
    /// What it has.
    pub features: Features,
    /// What it gets wrong.
    pub errata: Errata,
}

impl Capabilities {
    /// Reads them out of the registers' values.
    #[must_use]
    pub fn from_registers(registers: Registers) -> Self {
        let immune = |bit| registers.arch_capabilities & bit != 0;
        let mut errata = Errata::empty();
        errata.set(Errata::SPECULATIVE_LOAD, !immune(RDCL_NO));
        errata.set(Errata::MACHINE_CHECK, !immune(IF_PSCHANGE_MC_NO));
        Self {
            physical_bits: registers.physical_bits,
            features: Features::from_bits_truncate(registers.ept_vpid_cap),
            errata,
        }
    }

    /// What both have, and what either gets wrong.
    #[must_use]
    pub fn minimum(self, other: Self) -> Self {
        Self {
            physical_bits: self.physical_bits.min(other.physical_bits),
            features: self.features & other.features,
            errata: self.errata | other.errata,
        }
    }

    /// The same without some features, for a hypervisor that does not want them.
    #[must_use]
    pub fn without(self, features: Features) -> Self {
        Self { features: self.features - features, ..self }
    }

    /// The narrowest INVEPT that there is; `None` on a CPU that has none.
    #[must_use]
    pub fn invept(&self) -> Option<Invept> {
        let has = |kind| self.features.contains(Features::INVEPT | kind);
        if has(Features::INVEPT_SINGLE) {
            Some(Invept::Single)
        } else {
            has(Features::INVEPT_ALL).then_some(Invept::All)
        }
    }
}

#[cfg(test)]
#[path = "tests/capabilities.rs"]
mod tests;
