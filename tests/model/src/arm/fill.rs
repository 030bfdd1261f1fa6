//! Taking what a walk found into the caches, and what must not be there any more (H7).

use super::{
    descriptor::Leaf,
    tlb::{CachedLeaf, Combined, CombinedWalk, Tag},
    walker::{Translation, View, Walker},
};
use crate::{memory::PAGE, story::Rule};

impl Walker<'_> {
    pub(super) fn fill_table(&mut self, level: u8, ipa: u64, table: u64) {
        if self.view == View::Justified {
            return;
        }
        let vmid = self.regime.vmid;
        match self.cpu.tlb.table(vmid, level, ipa) {
            Some(live) if live != table => self.report(Rule::BreakBeforeMake, || {
                format!("the level-{level} table for IPA {ipa:#x} is {table:#x}, and {live:#x} is still cached")
            }),
            _ => {}
        }
        // A block that the table replaces must be gone.
        if let Some(live) = self.cpu.tlb.leaf(vmid, ipa).copied()
            && live.leaf.level < level
        {
            self.report(Rule::BreakBeforeMake, || {
                format!("a level-{level} table stands for IPA {ipa:#x}, and the block {:?} is still cached", live.leaf)
            });
        }
        if !self.early {
            self.cpu.tlb.keep_table(vmid, level, ipa, table);
        }
    }

    pub(super) fn fill_leaf(&mut self, ipa: u64, leaf: Leaf) {
        if self.view == View::Justified {
            return;
        }
        let (vmid, fwb) = (self.regime.vmid, self.regime.fwb);
        if let Some(live) = self.cpu.tlb.leaf(vmid, ipa).copied()
            && live.leaf.conflicts(&leaf, ipa, fwb)
        {
            self.report(Rule::BreakBeforeMake, || {
                format!("{leaf:x?} stands for IPA {ipa:#x}, and {:x?} is still cached", live.leaf)
            });
        } else if leaf.level < 3 {
            self.check_below(ipa, leaf);
        }
        if self.cpu.tlb.leaf(vmid, ipa).is_none() {
            self.check_reachable(ipa, leaf);
        }
        if !self.early {
            self.cpu.tlb.keep_leaf(vmid, ipa, CachedLeaf { leaf, vtcr: self.regime.vtcr, fwb });
        }
    }

    /// What a new block hides must be gone: smaller leaves, and the table that named them.
    fn check_below(&mut self, ipa: u64, leaf: Leaf) {
        let vmid = self.regime.vmid;
        if let Some((at, live)) = self.cpu.tlb.inside(vmid, ipa, leaf.size()) {
            let live = live.leaf;
            self.report(Rule::BreakBeforeMake, || {
                format!("block {leaf:x?} stands for IPA {ipa:#x}, and {live:x?} for {at:#x} is still cached")
            });
        }
        if let Some(table) = self.cpu.tlb.table(vmid, leaf.level + 1, ipa) {
            self.report(Rule::BreakBeforeMake, || {
                format!("block {leaf:x?} stands for IPA {ipa:#x}, and table {table:#x} is still cached")
            });
        }
    }

    pub(super) fn fill_combined(&mut self, tag: Tag, va: u64, bits: u32, found: Translation) {
        if self.view == View::Justified {
            return;
        }
        let (vmid, fwb) = (self.regime.vmid, self.regime.fwb);
        let page = found.ipa & !(PAGE - 1);
        if let Some((live, _)) = self.cpu.tlb.combined(vmid, &[tag], va)
            && (live.ipa + (va & ((1 << live.shift) - 1))) & !(PAGE - 1) == page
            && live.leaf.leaf.conflicts(&found.leaf, page, fwb)
        {
            let live = live.leaf.leaf;
            self.report(Rule::BreakBeforeMake, || {
                format!("{:x?} stands for VA {va:#x}, and {live:x?} is still cached with stage 1", found.leaf)
            });
        }
        if self.early {
            return;
        }
        let start = (1u64 << bits) - 1;
        let leaf = CachedLeaf { leaf: found.leaf, vtcr: self.regime.vtcr, fwb };
        let entry =
            Combined { pa: found.pa & !start, ipa: found.ipa & !start, shift: bits, leaf, stage1: found.stage1 };
        self.cpu.tlb.keep_combined(vmid, tag, va, entry);
    }

    pub(super) fn fill_combined_walk(&mut self, level: u8, va: u64, walk: CombinedWalk) {
        let (vmid, asid) = (self.regime.vmid, self.cpu.stage1.asid());
        let live = self.cpu.tlb.guest_table(vmid, asid, level, va);
        if live.is_none() && !self.early {
            self.cpu.tlb.keep_guest_table(vmid, asid, level, va, walk);
        }
        if let Some(live) = live
            && live.ipa == walk.ipa
            && live.pa != walk.pa
        {
            self.report(Rule::BreakBeforeMake, || {
                let CombinedWalk { pa, ipa } = walk;
                format!("the stage-1 table at IPA {ipa:#x} is at {pa:#x}, and {:#x} is still cached", live.pa)
            });
        }
    }

    /// A leaf that became reachable must not lead to a free frame.
    fn check_reachable(&mut self, ipa: u64, leaf: Leaf) {
        let at = leaf.translate(ipa);
        if self.memory.contains(at) && self.memory.owner(at).is_none() {
            self.report(Rule::FreeFrameReached, || format!("IPA {ipa:#x} leads to {at:#x}, which is not allocated"));
        } else if let Some(what) = self.caches.complaint(self.memory, at, leaf, self.regime.fwb, &self.features) {
            self.report(Rule::Unclean, || format!("IPA {ipa:#x} leads to {at:#x}, and {what}"));
        }
    }

    /// Entries that were walked under other controls must not be used (H6).
    pub(super) fn check_controls(&mut self, cached: &CachedLeaf, ipa: u64) {
        if (cached.vtcr, cached.fwb) != (self.regime.vtcr, self.regime.fwb) {
            self.report(Rule::Stale, || {
                format!("the entry for IPA {ipa:#x} was cached under VTCR_EL2 {:#x}, FWB {}", cached.vtcr, cached.fwb)
            });
        }
    }
}
