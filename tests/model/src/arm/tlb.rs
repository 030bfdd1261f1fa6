//! Everything that one CPU has cached. It has no bound and evicts nothing (H29).
//!
//! Arm DDI 0487, section D8.16: what a TLB may hold.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::{
    descriptor::{Leaf, WRITE},
    operand::{Stages, Target},
    registers::shift,
};

/// A stage-2 leaf, and the control registers that it was walked under.
#[derive(Clone, Copy, Debug)]
pub struct CachedLeaf {
    pub leaf: Leaf,
    pub vtcr: u64,
    pub fwb: bool,
}

/// The address space that a combined entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tag {
    /// Stage 1 was off.
    Flat,
    /// Every address space of the guest.
    Global,
    /// One address space.
    Asid(u16),
}

/// A translation by both stages, as small as the smaller of the two.
#[derive(Clone, Copy, Debug)]
pub struct Combined {
    /// The physical address of its start.
    pub pa: u64,
    /// The intermediate address of its start.
    pub ipa: u64,
    /// Bits of its size.
    pub shift: u32,
    /// The stage-2 leaf in it.
    pub leaf: CachedLeaf,
    /// The guest's own descriptor in it; 0 with stage 1 off.
    pub stage1: u64,
}

/// Where a walk of the guest's tables may go on.
#[derive(Clone, Copy, Debug)]
pub struct CombinedWalk {
    /// The guest's table, physically.
    pub pa: u64,
    /// The guest's table, as the guest knows it.
    pub ipa: u64,
}

/// VMID, level of the leaf, IPA above the leaf's shift.
type LeafKey = (u16, u8, u64);
/// VMID, level of the table, IPA above the shift of the entry that names it.
type WalkKey = (u16, u8, u64);
/// VMID, address space, bits of the size, VA above them.
type CombinedKey = (u16, Tag, u32, u64);
/// VMID, ASID, level of the table, VA above the shift of the entry that names it.
type CombinedWalkKey = (u16, u16, u8, u64);

/// A map that hashes a few small numbers, often.
type Cache<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;

/// Multiply and rotate: keys are addresses that no adversary chose.
#[derive(Default)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 29
    }
}

/// One CPU's caches.
#[derive(Default)]
pub struct Tlb {
    pub leaves: Cache<LeafKey, CachedLeaf>,
    pub walks: Cache<WalkKey, u64>,
    pub combined: Cache<CombinedKey, Combined>,
    pub combined_walks: Cache<CombinedWalkKey, CombinedWalk>,
}

/// The bits above which a table of a level is chosen: the shift of the entry that names it.
const fn above(level: u8) -> u32 {
    shift(level) + 9
}

/// The sizes that a combined entry may have, in bits: those of the levels.
pub const SIZES: [u32; 3] = [12, 21, 30];

impl Tlb {
    /// The stage-2 leaf for an IPA.
    pub fn leaf(&self, vmid: u16, ipa: u64) -> Option<&CachedLeaf> {
        (1..=3).rev().find_map(|level| self.leaves.get(&(vmid, level, ipa >> shift(level))))
    }

    /// The deepest table on the way to an IPA.
    pub fn walk(&self, vmid: u16, ipa: u64) -> Option<(u8, u64)> {
        (1..=3).rev().find_map(|level| Some((level, *self.walks.get(&(vmid, level, ipa >> above(level)))?)))
    }

    /// The table of one level on the way to an IPA.
    pub fn table(&self, vmid: u16, level: u8, ipa: u64) -> Option<u64> {
        self.walks.get(&(vmid, level, ipa >> above(level))).copied()
    }

    /// Keeps a table of a level.
    pub fn keep_table(&mut self, vmid: u16, level: u8, ipa: u64, table: u64) {
        self.walks.entry((vmid, level, ipa >> above(level))).or_insert(table);
    }

    /// Keeps a leaf, unless there is one.
    pub fn keep_leaf(&mut self, vmid: u16, ipa: u64, cached: CachedLeaf) {
        self.leaves.entry((vmid, cached.leaf.level, ipa >> shift(cached.leaf.level))).or_insert(cached);
    }

    /// The leaves below which `leaf` covers `ipa`, one of them if there are several: what another size would hide.
    pub fn inside(&self, vmid: u16, ipa: u64, size: u64) -> Option<(u64, &CachedLeaf)> {
        let start = ipa & !(size - 1);
        let inside = |key: &LeafKey| {
            let at = key.2 << shift(key.1);
            key.0 == vmid && at >= start && at < start + size && 1u64 << shift(key.1) < size
        };
        self.leaves.iter().find(|(key, _)| inside(key)).map(|(key, cached)| (key.2 << shift(key.1), cached))
    }

    /// The combined entry for a VA.
    pub fn combined(&self, vmid: u16, tags: &[Tag], va: u64) -> Option<(&Combined, CombinedKey)> {
        tags.iter().find_map(|tag| {
            SIZES.iter().find_map(|bits| {
                let key = (vmid, *tag, *bits, va >> bits);
                Some((self.combined.get(&key)?, key))
            })
        })
    }

    /// Keeps a combined entry, unless there is one.
    pub fn keep_combined(&mut self, vmid: u16, tag: Tag, va: u64, entry: Combined) {
        self.combined.entry((vmid, tag, entry.shift, va >> entry.shift)).or_insert(entry);
    }

    /// The deepest of the guest's tables on the way to a VA.
    pub fn combined_walk(&self, vmid: u16, asid: u16, va: u64) -> Option<(u8, CombinedWalk)> {
        (0..=3).rev().find_map(|level| Some((level, self.guest_table(vmid, asid, level, va)?)))
    }

    /// All of the guest's tables on the way to a VA.
    pub fn guest_tables(&self, vmid: u16, asid: u16, va: u64) -> Vec<CombinedWalk> {
        (0..=3).filter_map(|level| self.guest_table(vmid, asid, level, va)).collect()
    }

    /// One of the guest's tables.
    pub fn guest_table(&self, vmid: u16, asid: u16, level: u8, va: u64) -> Option<CombinedWalk> {
        self.combined_walks.get(&(vmid, asid, level, va >> above(level))).copied()
    }

    /// Keeps one of the guest's tables.
    pub fn keep_guest_table(&mut self, vmid: u16, asid: u16, level: u8, va: u64, walk: CombinedWalk) {
        self.combined_walks.insert((vmid, asid, level, va >> above(level)), walk);
    }

    /// The hardware set `S2AP[1]` of the leaf for an IPA.
    pub fn mark_dirty(&mut self, vmid: u16, ipa: u64) {
        for level in 1..=3 {
            if let Some(cached) = self.leaves.get_mut(&(vmid, level, ipa >> shift(level))) {
                cached.leaf.raw |= WRITE;
            }
        }
        let covers = |entry: &Combined| ipa >= entry.ipa && ipa - entry.ipa < 1 << entry.shift;
        for (_, entry) in self.combined.iter_mut().filter(|(key, entry)| key.0 == vmid && covers(entry)) {
            entry.leaf.leaf.raw |= WRITE;
        }
    }

    /// Removes what an operation is sure to remove, and nothing more.
    pub fn invalidate(&mut self, vmid: u16, target: &Target) {
        if target.stages != Stages::First {
            self.leaves.retain(|key, _| key.0 != vmid || !target.hits_leaf(key.1, key.2 << shift(key.1)));
            self.walks.retain(|key, _| key.0 != vmid || !target.hits_table(key.1, key.2 << above(key.1)));
        }
        if target.stages != Stages::Second {
            self.combined.retain(|key, _| key.0 != vmid);
            self.combined_walks.retain(|key, _| key.0 != vmid);
        }
    }

    /// Removes what names a frame; what it was, in words.
    pub fn purge(&mut self, at: u64, bytes: u64) -> Vec<String> {
        let mut found = Vec::new();
        let hit = |start: u64, size: u64| start < at + bytes && at < start + size;
        self.leaves.retain(|key, cached| {
            let named = hit(cached.leaf.output(), cached.leaf.size());
            if named {
                found.push(format!("a stage-2 leaf of VMID {} for IPA {:#x}", key.0, key.2 << shift(key.1)));
            }
            !named
        });
        self.walks.retain(|key, table| {
            let named = hit(*table, 4096);
            if named {
                found.push(format!("a level-{} table of VMID {} for IPA {:#x}", key.1, key.0, key.2 << above(key.1)));
            }
            !named
        });
        self.combined.retain(|key, entry| {
            let named = hit(entry.pa, 1 << entry.shift);
            if named {
                found.push(format!("a combined entry of VMID {} for VA {:#x}", key.0, key.3 << key.2));
            }
            !named
        });
        self.combined_walks.retain(|key, walk| {
            let named = hit(walk.pa, 4096);
            if named {
                found.push(format!("a stage-1 table of VMID {} at IPA {:#x}", key.0, walk.ipa));
            }
            !named
        });
        found
    }
}

impl Target {
    fn hits_leaf(&self, level: u8, ipa: u64) -> bool {
        self.level.is_none_or(|hint| hint == level) && self.touches(ipa, 1 << shift(level))
    }

    /// A level hint is about leaves: with one, walk entries may stay (H4).
    fn hits_table(&self, level: u8, ipa: u64) -> bool {
        !self.last_level && self.level.is_none() && self.touches(ipa, 1 << above(level))
    }
}
