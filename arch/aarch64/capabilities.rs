//! What a CPU can do, as its identification registers say.
//!
//! Only they are trusted: control bits such as `VTCR_EL2.VS` or `HA` read back as written on CPUs that ignore them.
//!
//! Arm DDI 0487, edition K.a, section D23.2 (general system control registers).

use bitflags::bitflags;

bitflags! {
    /// What a CPU may lack.
    ///
    /// `FEAT_BBM` is not here: break-before-make is kept as on CPUs of level 0 ([H7](crate::hardware#h7)).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u32 {
        /// The 4 KiB granule at stage 2. Without it there is no [`Stage2`](super::Stage2).
        const GRANULE_4K = 1 << 0;
        /// `FEAT_S2FWB`: stage 2 can force write-back whatever the guest says. In force where it is there.
        const FORCED_WRITE_BACK = 1 << 1;
        /// `FEAT_XNX`: execute-never for EL1 and EL0 apart.
        const EXECUTE_NEVER_BY_LEVEL = 1 << 2;
        /// `FEAT_TTL`: TLB invalidations take a hint of the level.
        const TTL = 1 << 3;
        /// `FEAT_TLBIRANGE`: TLB invalidations of ranges.
        const TLB_RANGE = 1 << 4;
        /// `FEAT_HAFDBS`: the CPU can set the access flag.
        const ACCESS_FLAG = 1 << 5;
        /// `FEAT_HAFDBS`: the CPU can set the dirty state.
        const DIRTY_STATE = 1 << 6;
        /// `CTR_EL0.IDC`: instruction fetches see data without cleaning data caches.
        const IDC = 1 << 7;
        /// `CTR_EL0.DIC`: instruction fetches see data without invalidating instruction caches.
        const DIC = 1 << 8;
    }
}

bitflags! {
    /// What a CPU gets wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Errata: u32 {
        /// Cortex-A57 1319537, Cortex-A72 1319367, Cortex-A55 1530923, Cortex-A76 1165522: a translation that EL2
        /// speculates for EL1 mixes the `VTTBR_EL2` of one guest with the stage-1 registers of another, and is cached
        /// ([H2](crate::hardware#h2)). [`Tlb`](super::Tlb) keeps it from invalidations. A hypervisor that changes
        /// guests sets `TCR_EL1.EPD0` and `EPD1` before [`activate`](crate::invalidate::Invalidate::activate) and loads the
        /// next guest's `TCR_EL1` last.
        const SPECULATIVE_TRANSLATION = 1 << 0;
        /// Cortex-A57 834220: a stage-2 fault is reported where stage 1 faults, with a wrong address
        /// ([H10](crate::hardware#h10)).
        const WRONG_FAULT_ADDRESS = 1 << 1;
        /// Cortex-A76 1286807, Cortex-A55 2441007, Cortex-A510 2441009: behind a broadcast invalidation and its barrier
        /// another CPU may still finish an access by the old translation. A second of each waits for it.
        const INCOMPLETE_BROADCAST = 1 << 2;
    }
}

/// The identification registers that matter to stage 2, as read on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRegisters {
    /// `MIDR_EL1`.
    pub midr: u64,
    /// `ID_AA64MMFR0_EL1`.
    pub mmfr0: u64,
    /// `ID_AA64MMFR1_EL1`.
    pub mmfr1: u64,
    /// `ID_AA64MMFR2_EL1`.
    pub mmfr2: u64,
    /// `ID_AA64ISAR0_EL1`.
    pub isar0: u64,
    /// `CTR_EL0`.
    pub ctr: u64,
}

/// What one CPU can do or, by [`minimum`](Capabilities::minimum), what each of several can.
///
/// A space runs on any of the hypervisor's CPUs: make its format and its [`Tlb`](super::Tlb) from the minimum over all.
///
/// # Example
/// ```
/// use stage2::aarch64::{Capabilities, Features, IdRegisters};
///
/// // On hardware, each CPU: `Capabilities::detect()`.
/// let small = Capabilities::from_registers(IdRegisters { mmfr0: 0x0000_1122, ..IdRegisters::default() });
/// let large = IdRegisters { mmfr0: 0x0010_1125, mmfr1: 0x1021_2122, mmfr2: 0x1011, ..IdRegisters::default() };
/// let large = Capabilities::from_registers(large);
/// let all = small.minimum(large);
/// assert_eq!((all.physical_bits, all.vmid_bits), (40, 8));
/// assert!(large.features.contains(Features::DIRTY_STATE) && !all.features.contains(Features::DIRTY_STATE));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The width of a physical address in bits.
    pub physical_bits: u32,
    /// The width of a VMID in bits: 8 or 16.
    pub vmid_bits: u32,
    /// The size in bytes of the smallest line of any data cache.
    pub data_line: usize,
    /// What it has.
    pub features: Features,
    /// What it gets wrong.
    pub errata: Errata,
}

impl Capabilities {
    /// Reads them out of the registers' values.
    #[must_use]
    pub fn from_registers(registers: IdRegisters) -> Self {
        Self {
            physical_bits: physical_bits(registers.mmfr0),
            // VMIDBits (MMFR1 [7:4]): 0b0010 is 16 bits.
            vmid_bits: if field(registers.mmfr1, 4) >= 2 { 16 } else { 8 },
            // DminLine (CTR [19:16]): log2 of the number of 4-byte words.
            data_line: 4 << field(registers.ctr, 16),
            features: features(registers),
            errata: errata(registers.midr),
        }
    }

    /// What both have, and what either gets wrong.
    #[must_use]
    pub fn minimum(self, other: Self) -> Self {
        Self {
            physical_bits: self.physical_bits.min(other.physical_bits),
            vmid_bits: self.vmid_bits.min(other.vmid_bits),
            data_line: self.data_line.min(other.data_line),
            features: self.features & other.features,
            errata: self.errata | other.errata,
        }
    }

    /// The same without some features, for a hypervisor that does not want them.
    ///
    /// Whatever is made for one space must be made from the same value: without
    /// [`FORCED_WRITE_BACK`](Features::FORCED_WRITE_BACK) the tables mean something else, and caches must be cleaned.
    #[must_use]
    pub fn without(self, features: Features) -> Self {
        Self { features: self.features - features, ..self }
    }
}

/// The four-bit field at `shift`.
const fn field(register: u64, shift: u32) -> u64 {
    (register >> shift) & 0xf
}

/// `PARange` (MMFR0 \[3:0\]). Values that are not assigned yet stand for more than the ones that are.
const fn physical_bits(mmfr0: u64) -> u32 {
    match field(mmfr0, 0) {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        4 => 44,
        5 => 48,
        _ => 52,
    }
}

fn features(registers: IdRegisters) -> Features {
    let IdRegisters { mmfr0, mmfr1, mmfr2, isar0, ctr, .. } = registers;
    // TGran4_2 (MMFR0 [43:40]) speaks for stage 2, and with 0 refers to TGran4 ([31:28]), which is 0b1111 for "no".
    let granule = match field(mmfr0, 40) {
        0 => field(mmfr0, 28) != 0xf,
        answer => answer != 1,
    };
    let dirty = field(mmfr1, 0);
    [
        (Features::GRANULE_4K, granule),
        (Features::FORCED_WRITE_BACK, field(mmfr2, 40) >= 1),
        (Features::EXECUTE_NEVER_BY_LEVEL, field(mmfr1, 28) >= 1),
        (Features::TTL, field(mmfr2, 48) >= 1),
        // TLB (ISAR0 [59:56]): 1 is the outer shareable operations alone.
        (Features::TLB_RANGE, field(isar0, 56) >= 2),
        (Features::ACCESS_FLAG, dirty >= 1),
        (Features::DIRTY_STATE, dirty >= 2),
        (Features::IDC, ctr & (1 << 28) != 0),
        (Features::DIC, ctr & (1 << 29) != 0),
    ]
    .into_iter()
    .filter_map(|(feature, there)| there.then_some(feature))
    .collect()
}

fn errata(midr: u64) -> Errata {
    const ARM: u64 = 0x41;
    const CORTEX_A55: u64 = 0xd05;
    const CORTEX_A57: u64 = 0xd07;
    const CORTEX_A72: u64 = 0xd08;
    const CORTEX_A76: u64 = 0xd0b;
    const CORTEX_A510: u64 = 0xd46;
    if midr >> 24 & 0xff != ARM {
        return Errata::empty();
    }
    // Variant ([23:20]) and revision ([3:0]), as in r1p2.
    let release = (field(midr, 20), field(midr, 0));
    let part = midr >> 4 & 0xfff;
    let speculates = match part {
        CORTEX_A57 | CORTEX_A72 => true,
        CORTEX_A55 | CORTEX_A76 => release <= (2, 0),
        _ => false,
    };
    let incomplete = match part {
        CORTEX_A55 => true,
        CORTEX_A76 => release <= (3, 0),
        CORTEX_A510 => release <= (1, 1),
        _ => false,
    };
    let mut errata = Errata::empty();
    errata.set(Errata::SPECULATIVE_TRANSLATION, speculates);
    errata.set(Errata::WRONG_FAULT_ADDRESS, part == CORTEX_A57 && release <= (1, 2));
    errata.set(Errata::INCOMPLETE_BROADCAST, incomplete);
    errata
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU's Cortex-A57.
    const A57: IdRegisters =
        IdRegisters { midr: 0x411f_d070, mmfr0: 0x1124, mmfr1: 0, mmfr2: 0, isar0: 0x1_1120, ctr: 0x8444_c004 };

    /// Everything that is decoded, as on a CPU of Armv9.
    const RICH: IdRegisters = IdRegisters {
        midr: 0x410f_d4f0,
        mmfr0: 0x2 << 40 | 0xf << 28 | 0x6,
        mmfr1: 0x1 << 28 | 0x2 << 4 | 0x2,
        mmfr2: 0x1 << 48 | 0x1 << 40,
        isar0: 0x2 << 56,
        ctr: 0xb444_c004,
    };

    #[test]
    fn a_cortex_a57_has_44_bits_and_nothing_else() {
        let expected = Capabilities {
            physical_bits: 44,
            vmid_bits: 8,
            data_line: 64,
            features: Features::GRANULE_4K,
            errata: Errata::SPECULATIVE_TRANSLATION | Errata::WRONG_FAULT_ADDRESS,
        };
        assert_eq!(Capabilities::from_registers(A57), expected);
    }

    #[test]
    fn every_feature_is_found() {
        let found = Capabilities::from_registers(RICH);
        assert_eq!((found.physical_bits, found.vmid_bits), (52, 16));
        assert_eq!(found.features, Features::all());
        assert_eq!(found.errata, Errata::empty());
    }

    #[test]
    fn the_outer_shareable_operations_alone_are_no_range_operations() {
        let found = Capabilities::from_registers(IdRegisters { isar0: 0x1 << 56, ..RICH });
        assert!(!found.features.contains(Features::TLB_RANGE));
    }

    #[test]
    fn the_access_flag_alone_is_no_dirty_state() {
        let found = Capabilities::from_registers(IdRegisters { mmfr1: 1, ..RICH }).features;
        assert!(found.contains(Features::ACCESS_FLAG) && !found.contains(Features::DIRTY_STATE));
    }

    #[test]
    fn stage_2_may_lack_a_granule_that_stage_1_has_and_the_other_way_round() {
        for (stage2, stage1, there) in
            [(0, 0, true), (0, 1, true), (0, 0xf, false), (1, 0, false), (2, 0xf, true), (3, 0xf, true)]
        {
            let found = Capabilities::from_registers(IdRegisters { mmfr0: stage2 << 40 | stage1 << 28, ..RICH });
            assert_eq!(found.features.contains(Features::GRANULE_4K), there, "{stage2} {stage1}");
        }
    }

    #[test]
    fn physical_ranges_are_the_manuals() {
        for (value, bits) in [32, 36, 40, 42, 44, 48, 52].into_iter().enumerate() {
            assert_eq!(physical_bits(value as u64), bits);
        }
    }

    #[test]
    fn errata_follow_the_part_and_its_release() {
        let (speculates, incomplete) = (Errata::SPECULATIVE_TRANSLATION, Errata::INCOMPLETE_BROADCAST);
        for (midr, expected, name) in [
            (0x411f_d072, speculates | Errata::WRONG_FAULT_ADDRESS, "Cortex-A57 r1p2"),
            (0x411f_d073, speculates, "Cortex-A57 r1p3"),
            (0x410f_d083, speculates, "Cortex-A72"),
            (0x412f_d050, speculates | incomplete, "Cortex-A55 r2p0"),
            (0x413f_d050, incomplete, "Cortex-A55 r3p0"),
            (0x412f_d0b0, speculates | incomplete, "Cortex-A76 r2p0"),
            (0x413f_d0b0, incomplete, "Cortex-A76 r3p0"),
            (0x414f_d0b0, Errata::empty(), "Cortex-A76 r4p0"),
            (0x411f_d461, incomplete, "Cortex-A510 r1p1"),
            (0x411f_d462, Errata::empty(), "Cortex-A510 r1p2"),
            (0x421f_d070, Errata::empty(), "another maker's part"),
        ] {
            assert_eq!(errata(midr), expected, "{name}");
        }
    }

    #[test]
    fn the_minimum_has_what_both_have_and_the_faults_of_either() {
        let (plain, rich) = (Capabilities::from_registers(A57), Capabilities::from_registers(RICH));
        let both = plain.minimum(rich);
        assert_eq!(both, rich.minimum(plain));
        assert_eq!(both, Capabilities { features: Features::GRANULE_4K, ..plain });
        assert_eq!(rich.minimum(Capabilities { data_line: 16, ..rich }).data_line, 16);
    }

    #[test]
    fn a_feature_can_be_renounced() {
        let rich = Capabilities::from_registers(RICH).without(Features::FORCED_WRITE_BACK);
        assert_eq!(rich.features, Features::all() - Features::FORCED_WRITE_BACK);
    }
}
