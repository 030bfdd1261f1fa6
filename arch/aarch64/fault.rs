//! A guest's abort, read from the registers of the exception.
//!
//! Arm DDI 0487, edition K.a, D23.2: `ESR_EL2` (ISS encodings for Instruction and Data Aborts from a lower Exception
//! level), `FAR_EL2`, `HPFAR_EL2`, `PAR_EL1`.

use super::Errata;
use crate::{
    addr::GuestPhysAddr,
    fault::{Cause, Fault, Origin},
    format::Access,
};

/// What an exception to EL2 leaves in the registers.
///
/// # Example
/// ```
/// use stage2::{Access, Cause, aarch64::{Decoded, Syndrome, decode}};
///
/// // A data abort from the guest: a write, translation fault at level 3.
/// let syndrome = Syndrome { esr: 0x9200_0047, far: 0xffff_0000_0000_1008, hpfar: 0x0040_0010 };
/// let Decoded::Fault(fault) = decode(syndrome) else { panic!("not a fault of stage 2") };
/// assert_eq!((fault.access, fault.cause), (Access::Write, Cause::Translation));
/// assert_eq!(fault.gpa.as_usize(), 0x4000_1008);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syndrome {
    /// `ESR_EL2`.
    pub esr: u64,
    /// `FAR_EL2`.
    pub far: u64,
    /// `HPFAR_EL2`.
    pub hpfar: u64,
}

/// What an exception says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A fault of stage 2, for [`GuestSpace::fault`](crate::GuestSpace::fault).
    Fault(Fault),
    /// A fault of stage 2 whose address the registers do not give: the CPU has to translate.
    NeedsTranslation(Unresolved),
    /// A fault of stage 2 at a cache maintenance instruction. `Some`: of memory that is not mapped, reported as a read.
    /// `None`: of memory that does not allow it; there is nothing to maintain, and the instruction can be skipped.
    CacheMaintenance(Option<Fault>),
    /// The guest's address leads to more bits than stage 2 takes: the guest's own error.
    AddressSize(GuestPhysAddr),
    /// An error on the bus or in memory, at this virtual address if the CPU knows it.
    External {
        /// The guest's virtual address.
        far: Option<u64>,
    },
    /// The TLBs hold two translations of one address: invalidate the whole VMID, and look for a missing
    /// break-before-make.
    TlbConflict,
    /// Another abort, by its fault status code: alignment, unsupported atomics, the like.
    Other {
        /// DFSC or IFSC.
        status: u8,
    },
    /// Not an abort of a lower Exception level.
    NotAnAbort {
        /// The exception class.
        class: u8,
    },
}

/// A fault whose guest-physical address has to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unresolved {
    /// The guest's virtual address.
    pub far: u64,
    /// What the guest tried.
    pub access: Access,
    /// Why the CPU refused.
    pub cause: Cause,
}

impl Unresolved {
    /// The fault, from what `AT S1E1R` of [`far`](Self::far) left in `PAR_EL1`.
    ///
    /// `None` where that failed: the guest's tables changed meanwhile. Enter the guest again; it faults again, or not.
    #[must_use]
    pub fn translated(self, par: u64) -> Option<Fault> {
        let failed = par & PAR_FAILED != 0;
        let page = par & PAR_ADDRESS;
        let gpa = address(page, self.far);
        (!failed).then_some(Fault { gpa, access: self.access, cause: self.cause, origin: Origin::Instruction })
    }
}

/// `PAR_EL1.F`: the translation failed.
const PAR_FAILED: u64 = 1 << 0;
/// `PAR_EL1.PA`, \[51:12\]; the top four are zero on CPUs without `FEAT_LPA`.
const PAR_ADDRESS: u64 = ((1 << 52) - 1) & !0xfff;

/// EC of an instruction abort from a lower Exception level.
const INSTRUCTION_ABORT: u8 = 0x20;
/// EC of a data abort from a lower Exception level.
const DATA_ABORT: u8 = 0x24;

/// ISV: bits 23:14 describe the transfer.
const TRANSFER_VALID: u64 = 1 << 24;
/// `FnV`: FAR does not hold the address.
const FAR_NOT_VALID: u64 = 1 << 10;
/// CM: a cache maintenance instruction; then `WnR` is 1, though nothing was stored.
const CACHE_MAINTENANCE: u64 = 1 << 8;
/// S1PTW: on the walk of stage 1's tables.
const STAGE1_WALK: u64 = 1 << 7;
/// `WnR`: a write.
const WRITE: u64 = 1 << 6;

/// Reads an abort's registers.
#[must_use]
pub fn decode(syndrome: Syndrome) -> Decoded {
    decode_distrusting(syndrome, Errata::empty())
}

/// Reads an abort's registers, on a CPU with errata.
#[must_use]
pub fn decode_distrusting(syndrome: Syndrome, errata: Errata) -> Decoded {
    let class = syndrome.class();
    if class != INSTRUCTION_ABORT && class != DATA_ABORT {
        return Decoded::NotAnAbort { class };
    }
    let status = (syndrome.esr & 0x3f) as u8;
    match status {
        0b00_0000..=0b00_0011 | 0b10_1001 => Decoded::AddressSize(syndrome.gpa()),
        0b00_0100..=0b00_0111 | 0b10_1011 => syndrome.fault(Cause::Translation, errata),
        0b00_1000..=0b00_1011 => syndrome.fault(Cause::AccessFlag, errata),
        0b00_1100..=0b00_1111 => syndrome.fault(Cause::Permission, errata),
        // Synchronous external aborts and parity errors, on the access (…0000, …1000) and on walks.
        0b01_0000 | 0b01_0011..=0b01_0111 | 0b01_1000 | 0b01_1011..=0b01_1111 => {
            Decoded::External { far: (!syndrome.has(FAR_NOT_VALID)).then_some(syndrome.far) }
        }
        0b11_0000 => Decoded::TlbConflict,
        status => Decoded::Other { status },
    }
}

impl Syndrome {
    /// EC, \[31:26\].
    const fn class(self) -> u8 {
        (self.esr >> 26 & 0x3f) as u8
    }

    const fn has(self, bit: u64) -> bool {
        self.esr & bit != 0
    }

    /// The page from HPFAR, which is the guest's table with S1PTW; what is below it from FAR (F5).
    fn gpa(self) -> GuestPhysAddr {
        // FIPA, [43:4], is bits 51:12 of the address.
        let page = (self.hpfar & 0xfff_ffff_fff0) << 8;
        let offset = if self.has(FAR_NOT_VALID) || self.has(STAGE1_WALK) { 0 } else { self.far };
        address(page, offset)
    }

    fn maintains_cache(self) -> bool {
        self.class() == DATA_ABORT && self.has(CACHE_MAINTENANCE)
    }

    fn access(self, cause: Cause) -> Access {
        if self.has(STAGE1_WALK) {
            // The walk of a fetch is no fetch, and only its update of the access flag or dirty state needs a
            // permission that a table's memory may lack (H11).
            return if cause == Cause::Permission { Access::Write } else { Access::Read };
        }
        match self.class() {
            INSTRUCTION_ABORT => Access::Execute,
            _ if self.has(WRITE) && !self.has(CACHE_MAINTENANCE) => Access::Write,
            _ => Access::Read,
        }
    }

    fn fault(self, cause: Cause, errata: Errata) -> Decoded {
        let walk = self.has(STAGE1_WALK);
        let access = self.access(cause);
        // HPFAR is written for every fault on a walk; for others not with permission faults (H10).
        let known = walk || (cause != Cause::Permission && !errata.contains(Errata::WRONG_FAULT_ADDRESS));
        let origin = if walk { Origin::GuestWalk } else { Origin::Instruction };
        let fault = Fault { gpa: self.gpa(), access, cause, origin };
        match (self.maintains_cache() && !walk, known) {
            (true, true) => Decoded::CacheMaintenance(Some(fault)),
            (true, false) if cause == Cause::Permission => Decoded::CacheMaintenance(None),
            (false, true) => Decoded::Fault(fault),
            // Under the erratum the fault may be stage 1's: maintenance must not be skipped for it either.
            (_, false) => Decoded::NeedsTranslation(Unresolved { far: self.far, access, cause }),
        }
    }

    /// What a load or store was to move, where the CPU says so: for the emulation of a device.
    ///
    /// `None` for pairs, vectors, atomics, write-back forms and walks: those have to be read from the instruction.
    #[must_use]
    pub fn transfer(self) -> Option<Transfer> {
        let simple = self.class() == DATA_ABORT && self.has(TRANSFER_VALID);
        if !simple || self.has(STAGE1_WALK) || self.has(CACHE_MAINTENANCE) {
            return None;
        }
        Some(Transfer {
            size: 1 << (self.esr >> 22 & 0b11),
            register: (self.esr >> 16 & 0x1f) as u8,
            extension: if self.has(1 << 21) { Extension::Sign } else { Extension::Zero },
            width: if self.has(1 << 15) { Width::X } else { Width::W },
            access: self.access(Cause::Translation),
        })
    }
}

/// A load or store of one general-purpose register (ISS \[24:14\]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// SAS: 1, 2, 4 or 8 bytes.
    pub size: usize,
    /// SRT: the register's number; 31 is the zero register.
    pub register: u8,
    /// SSE: how a loaded value fills the register.
    pub extension: Extension,
    /// SF: how wide the register is.
    pub width: Width,
    /// A load ([`Access::Read`]) or a store ([`Access::Write`]).
    pub access: Access,
}

impl Transfer {
    /// What the register holds after a load of `value`.
    #[must_use]
    pub fn loaded(self, value: u64) -> u64 {
        let unused = 64 - 8 * self.size as u32;
        let zeros = value << unused >> unused;
        let filled = match self.extension {
            Extension::Zero => zeros,
            Extension::Sign => ((value << unused).cast_signed() >> unused).cast_unsigned(),
        };
        match self.width {
            Width::W => filled & 0xffff_ffff,
            Width::X => filled,
        }
    }
}

/// How a value that is narrower than its register fills it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// With zeros.
    Zero,
    /// With copies of its top bit.
    Sign,
}

/// The width of a general-purpose register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 32 bits; the upper half becomes zero.
    W,
    /// 64 bits.
    X,
}

/// The page of one address and the offset in it of another.
fn address(page: u64, offset: u64) -> GuestPhysAddr {
    GuestPhysAddr::from((page | (offset & 0xfff)) as usize)
}

#[cfg(test)]
#[path = "tests/fault.rs"]
mod tests;
