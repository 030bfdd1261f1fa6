//! What one CPU caches of guest-physical addresses, and the walk behind it. Intel SDM Vol. 3C, section 29.4.

use std::collections::{BTreeSet, HashMap};

use super::entry::{ACCESSED, DIRTY, EXECUTE, Entry, Features, READ, WRITE, decode, ep4ta, shift};
use crate::Memory;

/// A guest-physical translation: the rights of all entries on the way, the leaf, and whether it is known as dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub hpa: u64,
    pub level: u8,
    pub rights: u64,
    /// Memory type and IPAT.
    pub kind: u64,
    pub dirty: bool,
}

#[derive(Default)]
pub struct Cpu {
    pub eptp: Option<u64>,
    /// EP4TA, level, GPA above the leaf's shift.
    pub leaves: HashMap<(u64, u8, u64), Mapping>,
    /// EP4TA, level of the table, GPA above it; the table, and the rights on the way to it.
    pub tables: HashMap<(u64, u8, u64), (u64, u64)>,
    pub used: BTreeSet<u64>,
}

/// Why a walk ended without a leaf.
pub enum Stop {
    Absent,
    Misconfigured(&'static str),
}

impl Cpu {
    /// Through leaves that are cached, then from tables that are, then from the root; keeps what it finds.
    pub fn translate(&mut self, memory: &Memory, features: Features, eptp: u64, gpa: u64) -> Result<Mapping, Stop> {
        let tag = ep4ta(eptp);
        if let Some(known) = self.leaf_mut(eptp, gpa) {
            return Ok(*known);
        }
        let cached = (1..=3).find_map(|level| {
            let (table, rights) = self.tables.get(&(tag, level, gpa >> (shift(level) + 9)))?;
            Some((level, *table, *rights))
        });
        let start = cached.unwrap_or((4, eptp & 0xf_ffff_ffff_f000, READ | WRITE | EXECUTE));
        let tables = &mut self.tables;
        let found = walk(memory, features, start, gpa, None, |level, table, rights| {
            tables.entry((tag, level, gpa >> (shift(level) + 9))).or_insert((table, rights));
        })?;
        self.leaves.insert((tag, found.level, gpa >> shift(found.level)), found);
        Ok(found)
    }

    pub fn leaf_mut(&mut self, eptp: u64, gpa: u64) -> Option<&mut Mapping> {
        let key = |level| (ep4ta(eptp), level, gpa >> shift(level));
        let level = (1..=3).find(|level| self.leaves.contains_key(&key(*level)))?;
        self.leaves.get_mut(&key(level))
    }

    pub fn drop_mapping(&mut self, eptp: u64, gpa: u64) {
        self.leaves.retain(|key, _| key.0 != ep4ta(eptp) || key.2 != gpa >> shift(key.1));
        self.tables.retain(|key, _| key.0 != ep4ta(eptp) || key.2 != gpa >> (shift(key.1) + 9));
    }

    pub fn purge(&mut self, at: u64, bytes: u64) -> Vec<String> {
        let mut found = Vec::new();
        self.leaves.retain(|key, mapping| {
            let named = mapping.hpa < at + bytes && at < mapping.hpa + (1 << shift(mapping.level));
            if named {
                found.push(format!("a mapping of GPA {:#x}", key.2 << shift(key.1)));
            }
            !named
        });
        self.tables.retain(|key, (table, _)| {
            let named = *table >= at && *table < at + bytes;
            if named {
                found.push(format!("a level-{} table for GPA {:#x}", key.1, key.2 << (shift(key.1) + 9)));
            }
            !named
        });
        found
    }
}

/// The walk itself, from a table of a level on.
pub fn walk(
    memory: &Memory,
    features: Features,
    (mut level, mut table, mut rights): (u8, u64, u64),
    gpa: u64,
    set: Option<u64>,
    mut keep: impl FnMut(u8, u64, u64),
) -> Result<Mapping, Stop> {
    if gpa >> 48 != 0 {
        return Err(Stop::Absent);
    }
    loop {
        let at = table + (gpa >> shift(level) & 0x1ff) * 8;
        let raw = memory.read(at).ok_or(Stop::Misconfigured("a table where there is no memory"))?;
        let entry = decode(raw, level, &features);
        let flags = set.map(|bits| if matches!(entry, Entry::Leaf(_)) { bits } else { ACCESSED });
        if let Some(flags) = flags.filter(|flags| raw & 7 != 0 && raw & flags != *flags) {
            memory.compare_exchange(at, raw, raw | flags);
        }
        rights &= raw;
        match entry {
            Entry::Absent => return Err(Stop::Absent),
            Entry::Misconfigured(why) => return Err(Stop::Misconfigured(why)),
            Entry::Leaf(hpa) => {
                return Ok(Mapping { hpa, level, rights, kind: raw >> 3 & 0xf, dirty: raw & DIRTY != 0 });
            }
            Entry::Table(next) => {
                (level, table) = (level - 1, next);
                keep(level, table, rights);
            }
        }
    }
}

/// Why tables do not justify a mapping that was used.
pub fn unjustified(found: &Mapping, now: Option<&Mapping>, wanted: u64) -> Option<String> {
    let Some(now) = now else { return Some(format!("reached {:#x}, which is mapped no more", found.hpa)) };
    if (found.hpa, found.kind, found.level) != (now.hpa, now.kind, now.level) {
        Some(format!("reached through {found:x?}, the tables say {now:x?}"))
    } else if now.rights & wanted != wanted {
        Some(format!("allowed by {found:x?}, refused by {now:x?}"))
    } else if wanted & WRITE != 0 && found.dirty && !now.dirty {
        Some("a write that is cached as dirty left the entry clean".into())
    } else {
        None
    }
}
