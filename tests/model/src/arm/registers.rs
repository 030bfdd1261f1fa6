//! The control registers, as the model reads them.
//!
//! Arm DDI 0487, sections D19.2 (register descriptions) and D8.2 (translation process).

/// What a CPU of the model implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one extension that a CPU has or lacks")]
pub struct Features {
    /// Physical address bits (`ID_AA64MMFR0_EL1.PARange`).
    pub pa_bits: u32,
    /// 8 or 16.
    pub vmid_bits: u32,
    /// `FEAT_XNX`: execute-never for EL0 and EL1 apart.
    pub xnx: bool,
    /// `FEAT_TTL`: level hints.
    pub ttl: bool,
    /// `FEAT_TLBIRANGE`: range operations.
    pub range: bool,
    /// `FEAT_S2FWB`: stage 2 overrides cacheability.
    pub fwb: bool,
    /// `FEAT_HAFDBS`: hardware access flag and dirty state.
    pub hafdbs: bool,
}

impl Features {
    /// A CPU with all extensions.
    pub const ALL: Self =
        Self { pa_bits: 48, vmid_bits: 16, xnx: true, ttl: true, range: true, fwb: true, hafdbs: true };

    /// A CPU with none of them.
    pub const NONE: Self =
        Self { pa_bits: 44, vmid_bits: 8, xnx: false, ttl: false, range: false, fwb: false, hafdbs: false };
}

/// `HCR_EL2.VM`: stage 2 is on. Section D19.2.48.
pub const HCR_VM: u64 = 1 << 0;
/// `HCR_EL2.TGE`.
pub const HCR_TGE: u64 = 1 << 27;
/// `HCR_EL2.E2H`.
pub const HCR_E2H: u64 = 1 << 34;
/// `HCR_EL2.FWB`.
pub const HCR_FWB: u64 = 1 << 46;
/// `VTCR_EL2.HA`: hardware sets the access flag. Section D19.2.166.
pub const VTCR_HA: u64 = 1 << 21;
/// `VTCR_EL2.HD`: hardware manages dirty state.
pub const VTCR_HD: u64 = 1 << 22;
/// `VTCR_EL2.VS`: 16-bit VMIDs.
pub const VTCR_VS: u64 = 1 << 19;

/// The bits of an address that an entry at a level resolves above: 39, 30, 21, 12 for levels 0 to 3. Section D8.2.
pub const fn shift(level: u8) -> u32 {
    39 - 9 * level as u32
}

/// Stage 2 of one guest on one CPU, as the registers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Regime {
    /// The identifier that cached entries carry.
    pub vmid: u16,
    /// The first table.
    pub root: u64,
    /// Its level.
    pub start: u8,
    /// Bits of an intermediate address.
    pub ipa_bits: u32,
    /// Bits of an output address.
    pub pa_bits: u32,
    /// `VTCR_EL2`.
    pub vtcr: u64,
    /// Whether `HCR_EL2.FWB` is set.
    pub fwb: bool,
}

impl Regime {
    /// Reads the registers.
    ///
    /// # Errors
    /// What in them a CPU with these features would not take, or would take for something else.
    pub fn decode(vttbr: u64, vtcr: u64, hcr: u64, features: &Features) -> Result<Self, String> {
        check_controls(vtcr, hcr, features)?;
        let ipa_bits = 64 - (vtcr & 0x3f) as u32;
        let pa_bits = [32, 36, 40, 42, 44, 48, 52, 0][(vtcr >> 16 & 7) as usize];
        if pa_bits > features.pa_bits || pa_bits == 0 {
            return Err(format!("VTCR_EL2.PS gives {pa_bits} bits, the CPU has {}", features.pa_bits));
        }
        if ipa_bits > pa_bits {
            return Err(format!("an IPA of {ipa_bits} bits is wider than the {pa_bits} of VTCR_EL2.PS"));
        }
        let start = start_level(vtcr, ipa_bits, features)?;
        let root = vttbr & 0xffff_ffff_fffe;
        let size = 8u64 << (ipa_bits - shift(start));
        if !root.is_multiple_of(size.max(64)) {
            return Err(format!("VTTBR_EL2 {vttbr:#x} is not aligned to the {size:#x} bytes of its tables"));
        }
        if root >> pa_bits != 0 {
            return Err(format!("VTTBR_EL2 {vttbr:#x} is beyond {pa_bits} bits"));
        }
        let vmid = (vttbr >> 48) as u16;
        if vtcr & VTCR_VS == 0 && vmid >> 8 != 0 {
            return Err(format!("VMID {vmid:#x} without VTCR_EL2.VS"));
        }
        Ok(Self { vmid, root, start, ipa_bits, pa_bits, vtcr, fwb: hcr & HCR_FWB != 0 })
    }

    /// The address of the entry for an IPA in a table of a level.
    #[must_use]
    pub const fn entry(&self, table: u64, level: u8, ipa: u64) -> u64 {
        // The first table is as wide as the IPA needs: concatenated tables are one wider table. Section D8.2.
        let bits = if level == self.start { self.ipa_bits - shift(level) } else { 9 };
        table + (ipa >> shift(level) & ((1 << bits) - 1)) * 8
    }
}

/// The identifier in the register alone, for operations that only need that.
pub const fn vmid(vttbr: u64, vtcr: u64) -> u16 {
    let vmid = (vttbr >> 48) as u16;
    if vtcr & VTCR_VS == 0 { vmid & 0xff } else { vmid }
}

fn check_controls(vtcr: u64, hcr: u64, features: &Features) -> Result<(), String> {
    let wrong = |what: &str| Err(format!("VTCR_EL2 {vtcr:#x}: {what}"));
    if vtcr & 1 << 31 == 0 {
        return wrong("bit 31 is RES1");
    }
    if vtcr >> 14 & 3 != 0 {
        return wrong("TG0 is not 4 KiB, which is all the model knows");
    }
    if vtcr & (1 << 32 | 1 << 33) != 0 {
        return wrong("DS or SL2, which the model's CPUs lack");
    }
    if vtcr >> 12 & 3 != 3 || vtcr >> 10 & 1 == 0 || vtcr >> 8 & 1 == 0 {
        return wrong("walks are not inner shareable and write-back: they do not see the hypervisor's stores");
    }
    if vtcr & (VTCR_HA | VTCR_HD) != 0 && !features.hafdbs {
        return wrong("HA or HD without FEAT_HAFDBS");
    }
    if vtcr & VTCR_VS != 0 && features.vmid_bits < 16 {
        return wrong("VS without 16-bit VMIDs");
    }
    if hcr & HCR_FWB != 0 && !features.fwb {
        return Err("HCR_EL2.FWB without FEAT_S2FWB".into());
    }
    Ok(())
}

/// The level that SL0 asks for, if T0SZ fits: one to 9 bits at the first level, up to 4 more by concatenation.
fn start_level(vtcr: u64, ipa_bits: u32, features: &Features) -> Result<u8, String> {
    let start = match vtcr >> 6 & 3 {
        0 => 2,
        1 => 1,
        2 if features.pa_bits >= 44 => 0,
        other => return Err(format!("VTCR_EL2.SL0 = {other} is reserved here")),
    };
    let most = if start == 0 { 9 } else { 13 };
    if ipa_bits <= shift(start) || ipa_bits - shift(start) > most || !(25..=48).contains(&ipa_bits) {
        return Err(format!("VTCR_EL2 {vtcr:#x}: {ipa_bits} bits of IPA cannot start at level {start}"));
    }
    Ok(start)
}

/// Stage 1 of the guest, as `SCTLR_EL1`, `TCR_EL1` and `TTBR0_EL1` say: one range of addresses from 0 on, 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stage1 {
    /// `SCTLR_EL1`; bit 0 turns stage 1 on.
    pub sctlr: u64,
    /// `TCR_EL1`: T0SZ, EPD0 (bit 7), EPD1 (bit 23), HA (bit 39).
    pub tcr: u64,
    /// `TTBR0_EL1`: the ASID in its top 16 bits, and the IPA of the first table.
    pub ttbr0: u64,
}

impl Stage1 {
    /// Stage 1 on, with 39-bit virtual addresses.
    #[must_use]
    pub const fn on(table: u64, asid: u16) -> Self {
        Self { sctlr: 1, tcr: 25, ttbr0: (asid as u64) << 48 | table }
    }

    pub(crate) const fn enabled(&self) -> bool {
        self.sctlr & 1 != 0
    }

    /// Whether `TCR_EL1.EPD0` keeps walks from starting.
    pub(crate) const fn blocked(&self) -> bool {
        self.tcr & 1 << 7 != 0
    }

    /// Whether the hardware sets the access flag of stage-1 entries.
    pub(crate) const fn hardware_access(&self) -> bool {
        self.tcr & 1 << 39 != 0
    }

    pub(crate) const fn asid(&self) -> u16 {
        (self.ttbr0 >> 48) as u16
    }

    pub(crate) const fn table(&self) -> u64 {
        self.ttbr0 & 0xffff_ffff_f000
    }

    pub(crate) const fn va_bits(&self) -> u32 {
        64 - (self.tcr & 0x3f) as u32
    }

    /// The level of the first table: the lowest whose 9 bits, or fewer, reach the top of the address.
    pub(crate) const fn start(&self) -> u8 {
        match self.va_bits() {
            40.. => 0,
            31..40 => 1,
            _ => 2,
        }
    }
}
