//! Faults, and how the registers report them.

/// What a translation failed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An output address beyond the physical ones.
    AddressSize,
    /// An invalid entry, or an input address beyond the intermediate ones.
    Translation,
    /// The access flag is clear.
    AccessFlag,
    /// The entry does not allow it.
    Permission,
    /// The walk itself got an answer from no memory.
    External,
}

/// What the guest does at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads the word.
    Read,
    /// Stores this word.
    Write(u64),
    /// Fetches; answers the word.
    Execute,
}

/// A stage-2 fault, before it is put into registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What for.
    pub cause: Cause,
    /// The level that says so.
    pub level: u8,
    /// The intermediate address that failed.
    pub ipa: u64,
    /// Whether a table of the guest's stage 1 was to be reached there.
    pub table_walk: bool,
}

/// Why an access gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// The guest's own stage 1 refuses: the guest's matter.
    Stage1(Cause, u8),
    /// Stage 2 refuses: an exception to EL2.
    Stage2(Report),
}

impl Abort {
    /// What EL2 gets.
    ///
    /// # Panics
    /// If the guest's own tables refused.
    #[must_use]
    #[track_caller]
    pub fn report(self) -> Report {
        match self {
            Self::Stage2(report) => report,
            Self::Stage1(cause, level) => panic!("the guest's stage 1 refuses: {cause:?} at level {level}"),
        }
    }
}

/// An exception to EL2: the raw registers, and beside them what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// `ESR_EL2`.
    pub esr: u64,
    /// `FAR_EL2`.
    pub far: u64,
    /// `HPFAR_EL2`.
    pub hpfar: u64,
    /// What happened.
    pub fault: Fault,
}

/// What `HPFAR_EL2` holds where the architecture does not say (H10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hpfar {
    /// The IPA, for every fault, as emulators have it.
    Always,
    /// Junk for a permission fault that was not on a stage-1 table.
    WhereDefined,
}

/// Something that points nowhere a test has memory.
const JUNK_HPFAR: u64 = 0xbad_f00d << 4;

impl Report {
    /// Fills the registers in. Arm DDI 0487, sections D19.2.37 (`ESR_EL2`, ISS for aborts) and D19.2.61 (`HPFAR_EL2`).
    pub(crate) fn new(fault: Fault, address: u64, access: Access, hpfar: Hpfar) -> Self {
        let class: u64 = if access == Access::Execute { 0x20 } else { 0x24 };
        let base = match fault.cause {
            Cause::AddressSize => 0b00_0000,
            Cause::Translation => 0b00_0100,
            Cause::AccessFlag => 0b00_1000,
            Cause::Permission => 0b00_1100,
            Cause::External => 0b01_0100,
        };
        let mut iss = base | fault.level as u64 | (fault.table_walk as u64) << 7;
        if matches!(access, Access::Write(_)) {
            iss |= 1 << 6;
        }
        if access != Access::Execute && !fault.table_walk {
            // ISV, SAS = doubleword, SRT = 5, SF.
            iss |= 1 << 24 | 3 << 22 | 5 << 16 | 1 << 15;
        }
        let defined = fault.cause != Cause::Permission || fault.table_walk || hpfar == Hpfar::Always;
        let hpfar = if defined { fault.ipa >> 12 << 4 } else { JUNK_HPFAR };
        Self { esr: class << 26 | 1 << 25 | iss, far: address, hpfar, fault }
    }
}
