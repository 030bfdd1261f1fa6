//! Cache maintenance: which lines were cleaned, and when.

use std::collections::HashMap;

use super::{
    descriptor::{Leaf, MemoryType},
    registers::Features,
};
use crate::{Memory, memory::PAGE};

/// Bytes of a cache line.
pub const LINE: u64 = 64;

/// Whether caches hide the hypervisor's stores from a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coherency {
    /// They do not: IDC and DIC, and no guest that runs uncached.
    Coherent,
    /// They do, unless the lines were cleaned: a frame must be, before its entry becomes valid (H14).
    Incoherent,
}

/// The maintenance so far, in the memory's time.
pub struct Caches {
    pub coherency: Coherency,
    /// When a line was last cleaned to the point of coherency.
    coherent: HashMap<u64, u64>,
    /// When a line was last cleaned at least to the point of unification.
    unified: HashMap<u64, u64>,
    /// When all instruction caches were last invalidated.
    instruction: u64,
}

impl Caches {
    pub fn new(coherency: Coherency) -> Self {
        Self { coherency, coherent: HashMap::new(), unified: HashMap::new(), instruction: 0 }
    }

    /// `DC CIVAC`, of a line by its physical address.
    pub fn clean(&mut self, at: u64, now: u64) {
        self.coherent.insert(at / LINE, now);
        self.unified.insert(at / LINE, now);
    }

    /// `DC CVAU`.
    pub fn unify(&mut self, at: u64, now: u64) {
        self.unified.insert(at / LINE, now);
    }

    /// `IC IALLUIS`.
    pub const fn invalidate_instructions(&mut self, now: u64) {
        self.instruction = now;
    }

    /// Whether every line of some bytes was cleaned to the point of coherency after a time.
    pub fn cleaned_since(&self, at: u64, bytes: u64, time: u64) -> bool {
        all_since(&self.coherent, at, bytes, time)
    }

    /// Whether fetches see every byte as it was written before a time: cleaned, then instruction caches invalidated.
    pub fn fetchable_since(&self, at: u64, bytes: u64, time: u64) -> bool {
        all_since(&self.unified, at, bytes, time) && self.instruction > time
    }

    /// What keeps a page of the crate's frames from being reached: its lines are older than its allocation.
    pub fn complaint(&self, memory: &Memory, at: u64, leaf: Leaf, fwb: bool, features: &Features) -> Option<String> {
        let time = memory.owner(at).filter(|_| !memory.is_reserved(at))?;
        if self.coherency == Coherency::Coherent || matches!(leaf.memory_type(fwb), MemoryType::Device(_)) {
            return None;
        }
        let page = at & !(PAGE - 1);
        if !fwb && !self.cleaned_since(page, PAGE, time) {
            return Some("not every line was cleaned since it was allocated".into());
        }
        let fetched = leaf.executable(features) && !self.fetchable_since(page, PAGE, time);
        fetched.then(|| "instruction caches were not synchronized since it was allocated".into())
    }
}

fn all_since(lines: &HashMap<u64, u64>, at: u64, bytes: u64, time: u64) -> bool {
    (at / LINE..(at + bytes).div_ceil(LINE)).all(|line| lines.get(&line).is_some_and(|done| *done > time))
}
