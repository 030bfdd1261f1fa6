//! Looking through everything that is cached, used or not.

use super::{
    descriptor::Leaf,
    fault::{Cause, Fault},
    machine::Machine,
    registers::shift,
    walker::{View, Walker},
};
use crate::story::Rule;

impl Machine {
    /// Reports every cached entry of the guests loaded now that the tables do not justify, whether or not an access
    /// meets it: after an operation that removed, moved or restricted something, there must be none. (After one that
    /// raised a permission, old denials may be left.)
    pub fn scan(&self) {
        let mut state = self.state();
        self.speculate(&mut state);
        for number in 0..state.cpus.len() {
            if state.cpus[number].translates()
                && let Some(mut walker) = self.walker(&mut state, number, View::Justified)
            {
                walker.scan();
            }
        }
    }

    /// How many entries a CPU has cached, of all kinds and guests.
    #[must_use]
    pub fn cached(&self, cpu: usize) -> usize {
        let tlb = &self.state().cpus[cpu].tlb;
        tlb.leaves.len() + tlb.walks.len() + tlb.combined.len() + tlb.combined_walks.len()
    }
}

impl Walker<'_> {
    fn scan(&mut self) {
        let vmid = self.regime.vmid;
        let leaves = self.cpu.tlb.leaves.iter().filter(|(key, _)| key.0 == vmid);
        let leaves: Vec<_> = leaves.map(|(key, cached)| (key.2 << shift(key.1), cached.leaf)).collect();
        let combined = self.cpu.tlb.combined.iter().filter(|(key, _)| key.0 == vmid);
        let combined: Vec<_> = combined.map(|(_, entry)| (entry.ipa, entry.leaf.leaf)).collect();
        for (ipa, leaf) in leaves.into_iter().chain(combined) {
            self.scan_leaf(ipa, leaf);
        }
        let walks = self.cpu.tlb.walks.iter().filter(|(key, _)| key.0 == vmid);
        let walks: Vec<_> = walks.map(|(key, table)| (key.1, key.2 << (shift(key.1) + 9), *table)).collect();
        for (level, ipa, table) in walks {
            let _ = self.stage2(ipa, false);
            if self.path[level as usize] != Some(table) {
                self.report(Rule::Stale, || format!("level-{level} table {table:#x} is cached for IPA {ipa:#x}"));
            }
        }
    }

    fn scan_leaf(&mut self, ipa: u64, cached: Leaf) {
        /// `S2AP`: read and write.
        const RIGHTS: u64 = 3 << 6;
        let fwb = self.regime.fwb;
        match self.stage2(ipa, false) {
            Err(Fault { cause: Cause::AccessFlag, .. }) => {}
            Ok(now)
                if !now.conflicts(&cached, ipa, fwb)
                    && cached.raw & RIGHTS & !now.raw == 0
                    && (now.executable(&self.features) || !cached.executable(&self.features)) => {}
            now => self.report_stale(ipa, cached, &now),
        }
    }

    fn report_stale(&mut self, ipa: u64, cached: Leaf, now: &Result<Leaf, Fault>) {
        self.report(Rule::Stale, || format!("{cached:x?} is cached for IPA {ipa:#x}, the tables say {now:x?}"));
    }
}
