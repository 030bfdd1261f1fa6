//! What a CPU can do, as CPUID says.
//!
//! AMD64 APM Vol. 3 (publication 24594, revision 3.36), appendix E.4: functions `0x8000_0001`, `0x8000_0008` and
//! `0x8000_000a`.

use bitflags::bitflags;

bitflags! {
    /// What a CPU may lack.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// SVM.
        const SVM = 1 << 0;
        /// Nested paging.
        const NESTED_PAGING = 1 << 1;
        /// `VMRUN` can forget the translations of one ASID; else it forgets all.
        const FLUSH_BY_ASID = 1 << 2;
        /// Entries that forbid execution.
        const NO_EXECUTE = 1 << 3;
        /// Leaves of 1 GiB.
        const LEAF_1G = 1 << 4;
    }
}

/// The answers of CPUID that matter to NPT, as read on one CPU. 0 stands for a function that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// Function `0x8000_0001`, ECX.
    pub extended_ecx: u32,
    /// Function `0x8000_0001`, EDX.
    pub extended_edx: u32,
    /// Function `0x8000_0008`, EAX.
    pub address_sizes: u32,
    /// Function `0x8000_000a`, EBX: how many ASIDs there are.
    pub asids: u32,
    /// Function `0x8000_000a`, EDX.
    pub svm_edx: u32,
}

/// What one CPU can do or, by [`minimum`](Capabilities::minimum), what each of several can.
///
/// A space runs on any of the hypervisor's CPUs: make its format from the minimum over all.
///
/// # Example
/// ```
/// use stage2::x86_64::npt::{Capabilities, Features, Registers};
///
/// // On hardware, each CPU: `Capabilities::detect()`.
/// let milan = Registers {
///     extended_ecx: 0x75c2_37ff,
///     extended_edx: 0x2fd3_fbff,
///     address_sizes: 0x3030,
///     asids: 0x8000,
///     svm_edx: 0x101b_bcff,
/// };
/// let milan = Capabilities::from_registers(milan);
/// assert_eq!((milan.physical_bits, milan.asids), (48, 0x8000));
/// assert!(milan.features.contains(Features::FLUSH_BY_ASID));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The width of a host-physical address in bits. Where memory is encrypted (SME), fewer are left: take them off.
    pub physical_bits: u32,
    /// The width of a guest-physical address in bits that a guest can name.
    pub guest_physical_bits: u32,
    /// How many ASIDs there are: 0, which is the hypervisor's own, up to one less than this.
    pub asids: u32,
    /// What it has.
    pub features: Features,
}

impl Registers {
    /// Each feature's bit.
    fn features(&self) -> Features {
        [
            (Features::SVM, self.extended_ecx >> 2),
            (Features::NESTED_PAGING, self.svm_edx),
            (Features::FLUSH_BY_ASID, self.svm_edx >> 6),
            (Features::NO_EXECUTE, self.extended_edx >> 20),
            (Features::LEAF_1G, self.extended_edx >> 26),
        ]
        .into_iter()
        .filter_map(|(feature, bits)| (bits & 1 != 0).then_some(feature))
        .collect()
    }
}

impl Capabilities {
    /// Reads them out of the registers' values.
    #[must_use]
    pub fn from_registers(registers: Registers) -> Self {
        let physical_bits = registers.address_sizes & 0xff;
        let guests = registers.address_sizes >> 16 & 0xff;
        Self {
            physical_bits,
            // 0 means that it is the same.
            guest_physical_bits: if guests == 0 { physical_bits } else { guests },
            asids: registers.asids,
            features: registers.features(),
        }
    }

    /// What both have.
    #[must_use]
    pub fn minimum(self, other: Self) -> Self {
        Self {
            physical_bits: self.physical_bits.min(other.physical_bits),
            guest_physical_bits: self.guest_physical_bits.min(other.guest_physical_bits),
            asids: self.asids.min(other.asids),
            features: self.features & other.features,
        }
    }

    /// The same without some features, for a hypervisor that does not want them.
    #[must_use]
    pub fn without(self, features: Features) -> Self {
        Self { features: self.features - features, ..self }
    }
}

#[cfg(test)]
#[path = "tests/capabilities.rs"]
mod tests;
