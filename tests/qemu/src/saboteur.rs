//! The CPU's instructions, with a defect put in: whether the emulated MMU lets tests see it.
#![allow(unsafe_code, reason = "an instruction of the wrong regime")]

use core::{
    arch::asm,
    sync::atomic::{AtomicU8, Ordering},
};

use stage2::{
    aarch64::{Executor, Op, Stage1, Tlbi},
    native,
};

/// A fault in the invalidations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// None.
    None,
    /// No TLB invalidation at all.
    NoInvalidation,
    /// Only by IPA.
    OnlyStage2,
    /// Only stage 1.
    OnlyStage1,
    /// EL2's own translations.
    WrongRegime,
    /// The next page.
    WrongPage,
    /// The address where its page number belongs.
    Unshifted,
    /// This CPU alone.
    Local,
}

const ALL: [Fault; 8] = [
    Fault::None,
    Fault::NoInvalidation,
    Fault::OnlyStage2,
    Fault::OnlyStage1,
    Fault::WrongRegime,
    Fault::WrongPage,
    Fault::Unshifted,
    Fault::Local,
];

static NOW: AtomicU8 = AtomicU8::new(Fault::None as u8);

/// Puts a fault in, or takes it out.
pub fn put_in(fault: Fault) {
    NOW.store(fault as u8, Ordering::SeqCst);
}

/// The instructions, as far as the fault lets them.
#[derive(Clone, Copy, Debug)]
pub struct Saboteur(pub native::Instructions);

impl Executor for Saboteur {
    fn execute(&self, operation: Op) {
        let fault = ALL.into_iter().find(|fault| *fault as u8 == NOW.load(Ordering::SeqCst)).unwrap_or(Fault::None);
        match operation {
            Op::Tlbi(tlbi, operand) => self.invalidate(fault, tlbi, operand),
            other => self.0.execute(other),
        }
    }

    fn vttbr(&self) -> u64 {
        self.0.vttbr()
    }

    fn vtcr(&self) -> u64 {
        self.0.vtcr()
    }

    fn hcr(&self) -> u64 {
        self.0.hcr()
    }

    fn stage1(&self) -> Stage1 {
        self.0.stage1()
    }

    fn mask_interrupts(&self) -> u64 {
        self.0.mask_interrupts()
    }

    fn restore_interrupts(&self, saved: u64) {
        self.0.restore_interrupts(saved);
    }
}

impl Saboteur {
    fn invalidate(self, fault: Fault, tlbi: Tlbi, operand: u64) {
        let everything = matches!(tlbi, Tlbi::Vmalls12e1is | Tlbi::Vmalls12e1);
        let stage1 = matches!(tlbi, Tlbi::Vmalle1is | Tlbi::Vmalle1);
        let stage2 = !everything && !stage1;
        let (tlbi, operand) = match fault {
            // A space that begins or ends does so properly.
            _ if everything => (tlbi, operand),
            Fault::NoInvalidation => return,
            Fault::OnlyStage2 if stage1 => return,
            Fault::OnlyStage1 if stage2 => return,
            Fault::WrongRegime => return other_regime(operand),
            Fault::WrongPage if stage2 => (tlbi, operand + 1),
            Fault::Unshifted if stage2 => (tlbi, operand << 12),
            Fault::Local if stage1 => (Tlbi::Vmalle1, operand),
            Fault::Local => (Tlbi::Ipas2e1, operand),
            _ => (tlbi, operand),
        };
        self.0.execute(Op::Tlbi(tlbi, operand));
    }
}

/// `TLBI VAE2IS`.
fn other_regime(operand: u64) {
    // SAFETY: EL2's translations are all of one table that never changes.
    unsafe { asm!("tlbi vae2is, {}", in(reg) operand, options(nostack, preserves_flags)) }
}
