//! One CPU: its registers, its caches, and its walker's view of memory.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::{
    operand::Target,
    registers::{HCR_E2H, HCR_TGE, HCR_VM, Stage1},
    tlb::Tlb,
};
use crate::{Memory, memory::PAGE};

/// A TLB invalidation that was issued, and not yet waited for.
pub struct Pending {
    pub vmid: u16,
    pub target: Target,
    /// Words that were stored and not ordered before it was issued, with what walks may have seen until after it.
    pub unordered: Vec<(u64, u64)>,
}

/// One CPU.
#[derive(Default)]
pub struct Cpu {
    /// `VTTBR_EL2` in effect.
    pub vttbr: u64,
    /// `VTTBR_EL2` as written last; in effect from the next `isb` or entry to the guest on.
    pub vttbr_written: u64,
    pub vtcr: u64,
    pub hcr: u64,
    pub stage1: Stage1,
    /// The VTTBR that the guest's registers were loaded for.
    pub stage1_for: u64,
    pub tlb: Tlb,
    /// What its walker last saw of each word, as of the last barrier (H30).
    pub seen: BTreeMap<u64, u64>,
    pub pending: Vec<Pending>,
    /// Pages that the guest used here lately: what speculation goes for.
    pub used: VecDeque<u64>,
    /// Whether speculation would find nothing new: true from a refill until something changes.
    pub settled: bool,
    /// VMIDs that were flushed here since reset.
    pub flushed: HashSet<u16>,
    /// Whether the guest ran here since the last `dsb` that ends walks in flight.
    pub ran: bool,
    /// How often interrupts were masked more than restored.
    pub masked: u64,
}

impl Cpu {
    /// Whether the guest's translation is in force: `VM`, and not the host's regime of `E2H` and `TGE`.
    pub const fn translates(&self) -> bool {
        self.hcr & HCR_VM != 0 && self.hcr & (HCR_E2H | HCR_TGE) != HCR_E2H | HCR_TGE
    }

    /// Notes a page that the guest used.
    pub fn note_used(&mut self, address: u64, most: usize) {
        let page = address & !0xfff;
        match self.used.iter().position(|known| *known == page) {
            Some(at) => drop(self.used.remove(at)),
            None => self.settled = false,
        }
        self.used.push_front(page);
        self.used.truncate(most);
    }

    /// The pages that speculation goes for: what the guest used, and what lies beside it.
    pub fn nearby(&self) -> Vec<u64> {
        let near = |page: &u64| [page.checked_sub(PAGE), Some(*page), page.checked_add(PAGE)];
        let mut pages: Vec<_> = self.used.iter().flat_map(near).flatten().collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// The words that changed since the walker saw them, with what it saw.
    pub fn in_flight(&self, memory: &Memory) -> Vec<(u64, u64)> {
        let changed = |(at, seen): (&u64, &u64)| (memory.read(*at)? != *seen).then_some((*at, *seen));
        self.seen.iter().filter_map(changed).collect()
    }

    /// What was stored becomes visible to the walker.
    pub fn observe(&mut self, memory: &Memory) {
        for (at, seen) in &mut self.seen {
            let current = memory.read(*at).unwrap_or(*seen);
            self.settled &= current == *seen;
            *seen = current;
        }
    }

    /// A free is not a store: the walker's view of a frame that is given back is dropped.
    pub fn forget(&mut self, at: u64, bytes: u64) {
        let mut later = self.seen.split_off(&at);
        self.seen.append(&mut later.split_off(&(at + bytes)));
    }
}
