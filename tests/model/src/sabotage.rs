//! Defects to put into a sequence of operations, to see that they are noticed.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use stage2::aarch64::{Domain, Executor, Kind, Op, Stage1, Tlbi};

use crate::arm::{Features, decode_tlbi};

/// One thing done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// No TLBI at all.
    DropTlbi,
    /// Stage 2 by address, and not stage 1 behind it.
    OnlyStage2,
    /// Stage 1, and not stage 2 before it.
    OnlyStage1,
    /// Stage 1 first.
    SwappedOrder,
    /// A barrier is left out.
    DropDsb(Barrier),
    /// `vae2is` where stage 2 is meant: no translation of the guest's goes.
    UseVae2is,
    /// The address in place of the page number.
    UnshiftedOperand,
    /// This CPU only.
    LocalOnly,
    /// Under another VMID.
    WrongVmid,
    /// No local invalidation after a raised permission (H3).
    DropDenialInvalidation,
    /// A level hint that does not match what was there.
    WrongLevel,
}

/// Which barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barrier {
    /// The ones for stores.
    Publishing,
    /// The ones between stage 2 and stage 1.
    AfterStage2,
    /// The ones that end an invalidation.
    AfterStage1,
    /// All of them.
    Every,
}

/// An executor that does one thing wrong, while [armed](Sabotaged::arm). Clones are the same one.
#[derive(Clone)]
pub struct Sabotaged<E> {
    inner: E,
    fault: Sabotage,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    armed: AtomicBool,
    struck: AtomicUsize,
    held: Mutex<Held>,
}

/// Stage-2 operations held back, and the TLBI that came last.
#[derive(Default)]
struct Held {
    back: Vec<Op>,
    last: Option<Tlbi>,
}

impl<E: Executor> Sabotaged<E> {
    /// Does nothing wrong yet.
    pub fn new(inner: E, fault: Sabotage) -> Self {
        Self { inner, fault, shared: Arc::default() }
    }

    /// From now on.
    pub fn arm(&self) {
        self.shared.armed.store(true, Ordering::SeqCst);
    }

    /// No longer.
    pub fn disarm(&self) {
        self.shared.armed.store(false, Ordering::SeqCst);
    }

    /// How many operations were tampered with: a test whose fault never struck shows nothing.
    pub fn struck(&self) -> usize {
        self.shared.struck.load(Ordering::SeqCst)
    }

    fn tamper(&self, operation: Op, held: &mut Held) -> Vec<Op> {
        let Op::Tlbi(tlbi, operand) = operation else {
            return if self.drops(operation, held) { Vec::new() } else { vec![operation] };
        };
        held.last = Some(tlbi);
        let (second, local) = (is_second(tlbi), matches!(tlbi, Tlbi::Ipas2e1 | Tlbi::Vmalle1));
        match self.fault {
            Sabotage::DropTlbi => Vec::new(),
            Sabotage::OnlyStage2 if is_first(tlbi) => Vec::new(),
            Sabotage::OnlyStage1 if second => Vec::new(),
            Sabotage::OnlyStage1 if tlbi == Tlbi::Vmalls12e1is => vec![Op::Tlbi(Tlbi::Vmalle1is, 0)],
            Sabotage::SwappedOrder if second => {
                held.back.push(operation);
                Vec::new()
            }
            Sabotage::SwappedOrder if is_first(tlbi) => {
                let barrier = Op::Dsb(Domain::InnerShareable, Kind::All);
                [operation, barrier].into_iter().chain(held.back.drain(..)).collect()
            }
            Sabotage::UseVae2is if second || tlbi == Tlbi::Vmalls12e1is => Vec::new(),
            Sabotage::UnshiftedOperand if second => vec![Op::Tlbi(tlbi, unshifted(tlbi, operand))],
            Sabotage::LocalOnly => localized(tlbi, operand),
            Sabotage::WrongVmid => self.elsewhere(operation),
            Sabotage::DropDenialInvalidation if local => Vec::new(),
            Sabotage::WrongLevel if second => vec![Op::Tlbi(tlbi, wrong_level(tlbi, operand))],
            _ => vec![operation],
        }
    }

    fn drops(&self, operation: Op, held: &Held) -> bool {
        let (Op::Dsb(_, kind), Sabotage::DropDsb(barrier)) = (operation, self.fault) else { return false };
        match barrier {
            Barrier::Every => true,
            Barrier::Publishing => kind == Kind::Stores,
            Barrier::AfterStage2 => kind == Kind::All && held.last.is_some_and(is_second),
            Barrier::AfterStage1 => kind == Kind::All && held.last.is_some_and(|last| !is_second(last)),
        }
    }

    fn elsewhere(&self, operation: Op) -> Vec<Op> {
        let vttbr = self.inner.vttbr();
        let barrier = Op::Dsb(Domain::InnerShareable, Kind::All);
        vec![barrier, Op::SetVttbr(vttbr ^ 1 << 48), Op::Isb, operation, barrier, Op::SetVttbr(vttbr), Op::Isb]
    }
}

const fn is_second(tlbi: Tlbi) -> bool {
    matches!(tlbi, Tlbi::Ipas2e1is | Tlbi::Ipas2le1is | Tlbi::Ripas2e1is | Tlbi::Ripas2le1is | Tlbi::Ipas2e1)
}

const fn is_first(tlbi: Tlbi) -> bool {
    matches!(tlbi, Tlbi::Vmalle1is | Tlbi::Vmalle1)
}

const fn is_range(tlbi: Tlbi) -> bool {
    matches!(tlbi, Tlbi::Ripas2e1is | Tlbi::Ripas2le1is)
}

const fn unshifted(tlbi: Tlbi, operand: u64) -> u64 {
    if is_range(tlbi) {
        operand & !0x1f_ffff_ffff | operand << 12 & 0x1f_ffff_ffff
    } else {
        (operand & 0xff_ffff_ffff) << 12
    }
}

const fn wrong_level(tlbi: Tlbi, operand: u64) -> u64 {
    // Level 1, which an entry for a page or a 2 MiB block never has.
    if is_range(tlbi) { operand & !(3 << 37) | 1 << 37 } else { operand & !(0xf << 44) | 5 << 44 }
}

fn localized(tlbi: Tlbi, operand: u64) -> Vec<Op> {
    match tlbi {
        Tlbi::Ipas2e1is | Tlbi::Ipas2le1is => vec![Op::Tlbi(Tlbi::Ipas2e1, operand)],
        Tlbi::Vmalle1is => vec![Op::Tlbi(Tlbi::Vmalle1, 0)],
        Tlbi::Vmalls12e1is => vec![Op::Tlbi(Tlbi::Vmalls12e1, 0)],
        Tlbi::Ripas2e1is | Tlbi::Ripas2le1is => {
            // There is no local form in the vocabulary: page by page.
            let range = decode_tlbi(tlbi, operand, &Features::ALL).map_or(0..0, |target| target.range);
            range.step_by(4096).map(|at| Op::Tlbi(Tlbi::Ipas2e1, at >> 12)).collect()
        }
        local => vec![Op::Tlbi(local, operand)],
    }
}

impl<E: Executor> Executor for Sabotaged<E> {
    fn execute(&self, operation: Op) {
        if !self.shared.armed.load(Ordering::SeqCst) {
            return self.inner.execute(operation);
        }
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        let instead = self.tamper(operation, &mut held);
        if instead.as_slice() != [operation] {
            self.shared.struck.fetch_add(1, Ordering::SeqCst);
        }
        for operation in instead {
            self.inner.execute(operation);
        }
    }

    fn vttbr(&self) -> u64 {
        self.inner.vttbr()
    }

    fn vtcr(&self) -> u64 {
        self.inner.vtcr()
    }

    fn hcr(&self) -> u64 {
        self.inner.hcr()
    }

    fn stage1(&self) -> Stage1 {
        self.inner.stage1()
    }

    fn mask_interrupts(&self) -> u64 {
        self.inner.mask_interrupts()
    }

    fn restore_interrupts(&self, saved: u64) {
        self.inner.restore_interrupts(saved);
    }
}
