//! The walks of both stages. Arm DDI 0487, section D8.2.

use super::{
    access::allows,
    caches::Caches,
    config::Caching,
    cpu::Cpu,
    descriptor::{ACCESS_FLAG, Descriptor, Leaf, complaint, decode},
    fault::{Access, Cause, Fault},
    registers::{Features, Regime, VTCR_HA, shift},
    tlb::{CombinedWalk, Tag},
};
use crate::{
    Memory,
    story::{Ledger, Rule},
};

/// Which value of a word a walk sees that was stored and not yet ordered (H30), and what it may lean on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// What is cached first, then the oldest values: the answer that the guest may get for longest.
    Oldest,
    /// Memory as it is, nothing cached; what it finds is filled in.
    Newest,
    /// Memory as it is, nothing cached, nothing filled in: what the tables justify.
    Justified,
}

/// A walk on one CPU.
pub struct Walker<'a> {
    pub memory: &'a Memory,
    pub ledger: &'a mut Ledger,
    pub cpu: &'a mut Cpu,
    pub number: usize,
    pub features: Features,
    pub regime: Regime,
    pub view: View,
    /// Whether the hardware may set access flags on the way: not in speculation.
    pub updates: bool,
    pub caches: &'a Caches,
    pub caching: Caching,
    /// Whether the newest view met a word that is not ordered yet: it is looked at, but nothing is filled in from it,
    /// since the guest may be kept from it for a while longer.
    pub early: bool,
    /// The stage-2 tables of the last walk, by level, and the address of its last entry.
    pub path: [Option<u64>; 4],
    pub entry: u64,
}

/// A VA translated by both stages.
#[derive(Clone, Copy, Debug)]
pub struct Translation {
    pub pa: u64,
    pub ipa: u64,
    pub leaf: Leaf,
    /// The guest's own descriptor; 0 with stage 1 off.
    pub stage1: u64,
}

/// Why a VA was not translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Stage1(Cause, u8),
    Stage2(Fault),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Stage2(fault)
    }
}

impl Walker<'_> {
    /// Translates an IPA to its leaf. No permission is looked at.
    pub fn stage2(&mut self, ipa: u64, table_walk: bool) -> Result<Leaf, Fault> {
        let fault = |cause, level| Fault { cause, level, ipa, table_walk };
        if self.view == View::Oldest
            && (table_walk || self.caching == Caching::Everything)
            && let Some(cached) = self.cpu.tlb.leaf(self.regime.vmid, ipa).copied()
        {
            self.check_controls(&cached, ipa);
            return Ok(cached.leaf);
        }
        if ipa >> self.regime.ipa_bits != 0 {
            return Err(fault(Cause::Translation, 0));
        }
        let cached = if self.view == View::Oldest { self.cpu.tlb.walk(self.regime.vmid, ipa) } else { None };
        let (mut level, mut table) = cached.unwrap_or((self.regime.start, self.regime.root));
        self.path = [None; 4];
        loop {
            self.path[level as usize] = Some(table);
            let at = self.regime.entry(table, level, ipa);
            self.entry = at;
            let raw = self.table_word(at, ipa).ok_or(fault(Cause::External, level))?;
            if let Some(what) = complaint(raw, level, self.regime.fwb, &self.features) {
                self.report(Rule::Descriptor, || format!("{what}, for IPA {ipa:#x}"));
            }
            match decode(raw, level) {
                Descriptor::Invalid => return Err(fault(Cause::Translation, level)),
                Descriptor::Table(next) if next >> self.regime.pa_bits != 0 => {
                    return Err(fault(Cause::AddressSize, level));
                }
                Descriptor::Table(next) => {
                    level += 1;
                    table = next;
                    self.fill_table(level, ipa, table);
                }
                Descriptor::Leaf(leaf) => {
                    if leaf.output() >> self.regime.pa_bits != 0 {
                        return Err(fault(Cause::AddressSize, level));
                    }
                    let leaf = self.access_flag(at, leaf).ok_or(fault(Cause::AccessFlag, level))?;
                    self.fill_leaf(ipa, leaf);
                    return Ok(leaf);
                }
            }
        }
    }

    /// Translates a VA by both stages; an IPA, where stage 1 is off. No permission is looked at.
    pub fn translate(&mut self, va: u64) -> Result<Translation, Refusal> {
        let stage1 = self.cpu.stage1;
        let asid = stage1.asid();
        let tags: &[Tag] = if stage1.enabled() { &[Tag::Asid(asid), Tag::Global] } else { &[Tag::Flat] };
        if self.view == View::Oldest
            && let Some((entry, _)) = self.cpu.tlb.combined(self.regime.vmid, tags, va)
        {
            let (entry, offset) = (*entry, va & ((1 << entry.shift) - 1));
            let (pa, ipa) = (entry.pa + offset, entry.ipa + offset);
            self.check_controls(&entry.leaf, ipa);
            return Ok(Translation { pa, ipa, leaf: entry.leaf.leaf, stage1: entry.stage1 });
        }
        // With stage 1 off, what is no physical address is refused before stage 2 (section D8.2).
        if !stage1.enabled() && va >> self.features.pa_bits != 0 {
            return Err(Refusal::Stage1(Cause::AddressSize, 0));
        }
        let (ipa, bits, descriptor) = if stage1.enabled() { self.stage1(va)? } else { (va, 30, 0) };
        let leaf = self.stage2(ipa, false)?;
        let found = Translation { pa: leaf.translate(ipa), ipa, leaf, stage1: descriptor };
        // nG, bit 11: the entry is of one address space. Section D8.3.
        let tag = match (stage1.enabled(), descriptor >> 11 & 1) {
            (false, _) => Tag::Flat,
            (true, 0) => Tag::Global,
            (true, _) => Tag::Asid(asid),
        };
        self.fill_combined(tag, va, bits.min(shift(leaf.level)), found);
        Ok(found)
    }

    /// Walks the guest's tables: the IPA of a VA, the bits of the entry's size, the descriptor.
    pub fn stage1(&mut self, va: u64) -> Result<(u64, u32, u64), Refusal> {
        let stage1 = self.cpu.stage1;
        if va >> stage1.va_bits() != 0 || stage1.blocked() {
            return Err(Refusal::Stage1(Cause::Translation, 0));
        }
        let (vmid, asid) = (self.regime.vmid, stage1.asid());
        let cached = if self.view == View::Oldest { self.cpu.tlb.combined_walk(vmid, asid, va) } else { None };
        let (mut level, mut table) = match cached {
            Some((level, walk)) => (level, walk),
            None => (stage1.start(), self.guest_table(stage1.start(), va, stage1.table())?),
        };
        loop {
            let at = (va >> shift(level) & 0x1ff) * 8;
            let fault = Fault { cause: Cause::External, level, ipa: table.ipa + at, table_walk: true };
            // Stores to the guest's tables are the guest's to order: what is there is seen.
            let raw = self.memory.read(table.pa + at).ok_or(Refusal::Stage2(fault))?;
            let output = raw & 0xffff_ffff_f000;
            match (raw & 3, level) {
                (3, 0..=2) => {
                    level += 1;
                    table = self.guest_table(level, va, output)?;
                }
                (1, 1 | 2) | (3, 3) => {
                    let raw = self.guest_access_flag(table, at, raw, level)?;
                    let offset = (1u64 << shift(level)) - 1;
                    return Ok((output & !offset | va & offset, shift(level), raw));
                }
                _ => return Err(Refusal::Stage1(Cause::Translation, level)),
            }
        }
    }

    /// Finds one of the guest's tables through stage 2. Reading it needs leave to read.
    fn guest_table(&mut self, level: u8, va: u64, ipa: u64) -> Result<CombinedWalk, Refusal> {
        let leaf = self.stage2(ipa, true)?;
        if !leaf.readable() {
            return Err(Fault { cause: Cause::Permission, level: leaf.level, ipa, table_walk: true }.into());
        }
        let walk = CombinedWalk { pa: leaf.translate(ipa), ipa };
        if self.view != View::Justified {
            self.fill_combined_walk(level, va, walk);
        }
        Ok(walk)
    }

    /// The access flag of a stage-1 entry, set by hardware if the guest lets it: a write to the guest's table.
    fn guest_access_flag(&mut self, table: CombinedWalk, at: u64, raw: u64, level: u8) -> Result<u64, Refusal> {
        if raw & ACCESS_FLAG != 0 {
            return Ok(raw);
        }
        if !self.cpu.stage1.hardware_access() {
            return Err(Refusal::Stage1(Cause::AccessFlag, level));
        }
        if !self.updates && self.view != View::Justified {
            return Err(Refusal::Stage1(Cause::AccessFlag, level));
        }
        let leaf = self.stage2(table.ipa, true)?;
        let ipa = table.ipa + at;
        if !allows(leaf, Access::Write(0), self.regime.vtcr, &self.features) {
            return Err(Fault { cause: Cause::Permission, level: leaf.level, ipa, table_walk: true }.into());
        }
        if self.updates {
            self.mark_dirty(ipa, leaf);
            self.update(table.pa + at, raw, raw | ACCESS_FLAG);
        }
        Ok(raw | ACCESS_FLAG)
    }

    /// The access flag of a stage-2 entry, set by hardware with `VTCR_EL2.HA`. Section D8.5.
    fn access_flag(&mut self, at: u64, leaf: Leaf) -> Option<Leaf> {
        if leaf.accessed() {
            return Some(leaf);
        }
        if self.regime.vtcr & VTCR_HA == 0 || !(self.updates || self.view == View::Justified) {
            return None;
        }
        let raw = leaf.raw | ACCESS_FLAG;
        if self.updates && !self.update(at, leaf.raw, raw) {
            return None;
        }
        Some(Leaf { raw, ..leaf })
    }

    /// The hardware's own store: it is coherent, and its walker sees it at once.
    pub fn update(&mut self, at: u64, before: u64, after: u64) -> bool {
        let stored = self.memory.compare_exchange(at, before, after);
        if stored {
            self.cpu.seen.insert(at, after);
        }
        stored
    }

    /// A word of a stage-2 table, which must be in a frame that is allocated.
    fn table_word(&mut self, at: u64, ipa: u64) -> Option<u64> {
        if self.memory.owner(at).is_none() {
            self.report(Rule::LostTable, || format!("the walk for IPA {ipa:#x} reads a table entry at {at:#x}"));
        }
        self.word(at)
    }

    fn word(&mut self, at: u64) -> Option<u64> {
        let current = self.memory.read(at)?;
        if self.view == View::Justified {
            return Some(current);
        }
        let seen = *self.cpu.seen.entry(at).or_insert(current);
        self.early |= self.view == View::Newest && seen != current;
        Some(if self.view == View::Oldest { seen } else { current })
    }

    /// What speculation does with an address that the guest uses: all that can be filled, is.
    pub fn prefetch(&mut self, va: u64) {
        self.early = false;
        if let Ok(found) = self.translate(va) {
            let _ = self.stage2(found.ipa, false);
        }
        if self.cpu.stage1.enabled() {
            for table in self.cpu.tlb.guest_tables(self.regime.vmid, self.cpu.stage1.asid(), va) {
                let _ = self.stage2(table.ipa, true);
            }
        }
    }

    pub fn report(&mut self, rule: Rule, what: impl FnOnce() -> String) {
        self.ledger.report(rule, self.number, what);
    }
}
