//! The instructions themselves: one operation, one instruction.
#![allow(unsafe_code, reason = "instructions")]

use core::arch::asm;

use super::{
    Capabilities, Domain, Executor, IdRegisters, Kind, Op, Stage1, Tlbi, Unresolved,
    tlb::{HCR_E2H, HCR_TGE},
};
use crate::fault::Fault;

/// Reads a system register.
macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: the registers named in this file are there at EL2, and reading them changes nothing.
        unsafe { asm!(concat!("mrs {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}

/// Executes one instruction, which may read and write any memory as far as the compiler knows: tables, and what is
/// reached through them, must be stored before and not be read in advance.
macro_rules! execute {
    ($instruction:expr) => {
        // SAFETY: of the caller's promise to `Instructions::new`: this is EL2, and these tables are its to manage.
        unsafe { asm!($instruction, options(nostack, preserves_flags)) }
    };
    ($instruction:expr, $operand:expr) => {
        // SAFETY: as above.
        unsafe { asm!($instruction, in(reg) $operand, options(nostack, preserves_flags)) }
    };
}

/// The CPU that runs this, at EL2.
///
/// On `aarch64` targets only.
#[derive(Clone, Copy, Debug)]
pub struct Instructions(());

impl Instructions {
    /// Everything in this file, for a hypervisor.
    ///
    /// # Safety
    /// - It is used at EL2 only, on CPUs that have what the [`Tlb`](super::Tlb)'s capabilities say.
    /// - The roots that it is given are of tables in memory that this hypervisor manages, and stay allocated while a
    ///   CPU has them in its registers.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }

    /// Asks the CPU for the address of a fault whose registers do not give it ([H10](crate::hardware#h10)).
    ///
    /// To be called on the CPU that took the fault, before another guest is activated there. `None`: the guest's
    /// tables changed meanwhile; enter the guest again.
    #[must_use]
    pub fn resolve(&self, unresolved: Unresolved) -> Option<Fault> {
        let interrupts = self.mask_interrupts();
        // With E2H and TGE the instruction below would translate by the host's own tables (as in H2).
        let host = self.hcr() & (HCR_E2H | HCR_TGE) == HCR_E2H | HCR_TGE;
        if host {
            self.execute(Op::ChangeHcr(HCR_TGE, 0));
            self.execute(Op::Isb);
        }
        // The guest may have executed an AT of its own, and not have read the result yet.
        let guests = read!("par_el1");
        execute!("at s1e1r, {}", unresolved.far);
        self.execute(Op::Isb);
        let par = read!("par_el1");
        execute!("msr par_el1, {}", guests);
        if host {
            self.execute(Op::ChangeHcr(0, HCR_TGE));
            self.execute(Op::Isb);
        }
        self.restore_interrupts(interrupts);
        unresolved.translated(par)
    }

    /// Whether the names of EL1's registers mean EL2's own here, and `TCR_EL12`, `SCTLR_EL12` the guest's: with E2H
    /// (D23.2). They go by their encodings, since assemblers for Armv8.0 do not know the names.
    fn is_redirected(self) -> bool {
        self.hcr() & HCR_E2H != 0
    }
}

impl Capabilities {
    /// What this CPU can do. A hypervisor with several takes the [`minimum`](Self::minimum) over all.
    ///
    /// On `aarch64` targets only.
    #[must_use]
    pub fn detect() -> Self {
        Self::from_registers(IdRegisters {
            midr: read!("midr_el1"),
            mmfr0: read!("id_aa64mmfr0_el1"),
            mmfr1: read!("id_aa64mmfr1_el1"),
            mmfr2: read!("id_aa64mmfr2_el1"),
            isar0: read!("id_aa64isar0_el1"),
            ctr: read!("ctr_el0"),
        })
    }
}

impl Executor for Instructions {
    fn execute(&self, operation: Op) {
        match operation {
            Op::Dsb(domain, kind) => barrier(domain, kind),
            Op::Isb => execute!("isb"),
            Op::Tlbi(tlbi, operand) => invalidate(tlbi, operand),
            Op::SetVttbr(value) => execute!("msr vttbr_el2, {}", value),
            Op::SetVtcr(value) => execute!("msr vtcr_el2, {}", value),
            Op::ChangeHcr(clear, set) => execute!("msr hcr_el2, {}", (self.hcr() & !clear) | set),
            Op::SetTcrEl1(value) if self.is_redirected() => execute!("msr s3_5_c2_c0_2, {}", value),
            Op::SetTcrEl1(value) => execute!("msr tcr_el1, {}", value),
            Op::SetSctlrEl1(value) if self.is_redirected() => execute!("msr s3_5_c1_c0_0, {}", value),
            Op::SetSctlrEl1(value) => execute!("msr sctlr_el1, {}", value),
            Op::DcCivac(address) => execute!("dc civac, {}", address),
            Op::DcCvau(address) => execute!("dc cvau, {}", address),
            Op::IcIalluis => execute!("ic ialluis"),
        }
    }

    fn vttbr(&self) -> u64 {
        read!("vttbr_el2")
    }

    fn vtcr(&self) -> u64 {
        read!("vtcr_el2")
    }

    fn hcr(&self) -> u64 {
        read!("hcr_el2")
    }

    fn stage1(&self) -> Stage1 {
        if self.is_redirected() {
            return Stage1 { tcr: read!("s3_5_c2_c0_2"), sctlr: read!("s3_5_c1_c0_0") };
        }
        Stage1 { tcr: read!("tcr_el1"), sctlr: read!("sctlr_el1") }
    }

    fn mask_interrupts(&self) -> u64 {
        let saved = read!("daif");
        // Not debug exceptions and SErrors: their handlers do not run guests.
        execute!("msr daifset, #3");
        saved
    }

    fn restore_interrupts(&self, saved: u64) {
        execute!("msr daif, {}", saved);
    }
}

fn barrier(domain: Domain, kind: Kind) {
    match (domain, kind) {
        (Domain::NonShareable, Kind::Stores) => execute!("dsb nshst"),
        (Domain::NonShareable, Kind::All) => execute!("dsb nsh"),
        (Domain::InnerShareable, Kind::Stores) => execute!("dsb ishst"),
        (Domain::InnerShareable, Kind::All) => execute!("dsb ish"),
        (Domain::System, Kind::Stores) => execute!("dsb st"),
        (Domain::System, Kind::All) => execute!("dsb sy"),
    }
}

/// `TLBI` (Arm DDI 0487, edition K.a, C5.5). The range operations go by their encodings, since assemblers for Armv8.0
/// do not know the names.
fn invalidate(tlbi: Tlbi, operand: u64) {
    match tlbi {
        Tlbi::Ipas2e1is => execute!("tlbi ipas2e1is, {}", operand),
        Tlbi::Ipas2le1is => execute!("tlbi ipas2le1is, {}", operand),
        Tlbi::Ripas2e1is => execute!("sys #4, c8, c0, #2, {}", operand),
        Tlbi::Ripas2le1is => execute!("sys #4, c8, c0, #6, {}", operand),
        Tlbi::Ipas2e1 => execute!("tlbi ipas2e1, {}", operand),
        Tlbi::Vmalle1is => execute!("tlbi vmalle1is"),
        Tlbi::Vmalle1 => execute!("tlbi vmalle1"),
        Tlbi::Vmalls12e1is => execute!("tlbi vmalls12e1is"),
        Tlbi::Vmalls12e1 => execute!("tlbi vmalls12e1"),
    }
}
