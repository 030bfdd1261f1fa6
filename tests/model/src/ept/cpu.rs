//! What one CPU caches of guest-physical addresses, and the walk behind it. Intel SDM Vol. 3C, section 29.4.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    entry::{
        ACCESSED, DIRTY, EXECUTE, Entry, Features, READ, WRITE, decode, ep4ta, kind, marks, rights as allowed, shift,
    },
    guest::{Combined, Guest, Structure},
};
use crate::{Memory, memory::PAGE};

/// A guest-physical translation: the rights of all entries on the way, the leaf, and whether it is known as dirty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub hpa: u64,
    pub level: u8,
    pub rights: u64,
    /// Memory type and IPAT.
    pub kind: u64,
    pub dirty: bool,
    /// Something that it names was freed while no guest ran here: to be forgotten before one does.
    pub doomed: bool,
}

/// A table that is cached, and the rights on the way to it.
pub struct Cached {
    table: u64,
    rights: u64,
    doomed: bool,
}

#[derive(Default)]
pub struct Cpu {
    pub eptp: Option<u64>,
    pub guest: Guest,
    /// Whether the guest runs; between VM exit and entry nothing is walked, and nothing that is cached is used.
    pub running: bool,
    /// EP4TA, level, GPA above the leaf's shift.
    pub leaves: HashMap<(u64, u8, u64), Mapping>,
    /// EP4TA, level of the table, GPA above it.
    pub tables: HashMap<(u64, u8, u64), Cached>,
    /// VPID, EP4TA, linear page.
    pub combined: HashMap<(u16, u64, u64), Combined>,
    /// VPID, EP4TA, level of the guest's table, linear address above it.
    pub structures: HashMap<(u16, u64, u8, u64), Structure>,
    /// Pages that the guest used, by its own addresses.
    pub used: BTreeSet<u64>,
    pub clean: Clean,
}

/// The EP4TAs of which no old translation can be cached.
#[derive(Default)]
pub struct Clean {
    /// INVEPT of everything, since reset.
    all: bool,
    /// Those that were flushed by themselves since then, or since reset.
    flushed: HashSet<u64>,
    /// Those whose roots were freed since then.
    freed: HashSet<u64>,
}

impl Clean {
    fn flush(&mut self, tag: Option<u64>) {
        match tag {
            Some(tag) => {
                self.flushed.insert(tag);
                self.freed.remove(&tag);
            }
            None => *self = Self { all: true, ..Self::default() },
        }
    }

    fn free(&mut self, tag: u64) {
        self.flushed.remove(&tag);
        self.freed.insert(tag);
    }

    /// Whether a guest may run here by an EPT pointer.
    pub fn allows(&self, eptp: u64) -> bool {
        let tag = ep4ta(eptp);
        self.flushed.contains(&tag) || self.all && !self.freed.contains(&tag)
    }
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
            let cached = self.tables.get(&(tag, level, gpa >> (shift(level) + 9)))?;
            Some(((level, cached.table, cached.rights), cached.doomed))
        });
        let root = (4, eptp & 0xf_ffff_ffff_f000, READ | WRITE | EXECUTE);
        let (start, doomed) = cached.unwrap_or((root, false));
        let tables = &mut self.tables;
        let mut found = walk(memory, features, start, gpa, None, |level, table, rights| {
            let key = (tag, level, gpa >> (shift(level) + 9));
            tables.entry(key).or_insert(Cached { table, rights, doomed });
        })?;
        found.doomed = doomed;
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

    /// Drops what is tagged with an EPT pointer, or everything.
    pub fn invept(&mut self, eptp: Option<u64>) {
        self.clean.flush(eptp.map(ep4ta));
        let stays = |tag: u64| eptp.is_some_and(|eptp| ep4ta(eptp) != tag);
        self.leaves.retain(|key, _| stays(key.0));
        self.tables.retain(|key, _| stays(key.0));
        self.combined.retain(|key, _| stays(key.1));
        self.structures.retain(|key, _| stays(key.1));
    }

    /// What is cached of frames that are being freed. While no guest runs here it is no fault yet: it must be forgotten
    /// before one does.
    pub fn freed(&mut self, at: u64, bytes: u64) -> Vec<String> {
        (at..at + bytes).step_by(PAGE as usize).for_each(|frame| self.clean.free(ep4ta(frame)));
        let freed = |start: u64, size: u64| start < at + bytes && at < start + size;
        let mut found = Vec::new();
        for (key, mapping) in &mut self.leaves {
            if !mapping.doomed && freed(mapping.hpa, 1 << shift(mapping.level)) {
                mapping.doomed = true;
                found.push(format!("a mapping of GPA {:#x}", key.2 << shift(key.1)));
            }
        }
        for (key, cached) in &mut self.tables {
            if !cached.doomed && freed(cached.table, PAGE) {
                cached.doomed = true;
                found.push(format!("a level-{} table for GPA {:#x}", key.1, key.2 << (shift(key.1) + 9)));
            }
        }
        for (key, combined) in &mut self.combined {
            let on_the_way = combined.path.iter().any(|(_, hpa)| freed(*hpa, PAGE));
            if !combined.mapping.doomed
                && (on_the_way || freed(combined.mapping.hpa, 1 << shift(combined.mapping.level)))
            {
                combined.mapping.doomed = true;
                found.push(format!("a translation of linear {:#x}", key.2 << 12));
            }
        }
        for (key, structure) in &mut self.structures {
            if !structure.doomed && freed(structure.hpa, PAGE) {
                structure.doomed = true;
                found.push(format!("a table of the guest's for linear {:#x}", key.3 << (shift(key.2) + 9)));
            }
        }
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
        let here = allowed(raw, features.vendor);
        let flags = set.map(|bits| if matches!(entry, Entry::Leaf(_)) { bits } else { ACCESSED });
        let flags = flags.map(|bits| marks(bits, features.vendor));
        if let Some(flags) = flags.filter(|flags| here != 0 && raw & flags != *flags) {
            memory.compare_exchange(at, raw, raw | flags);
        }
        rights &= here;
        match entry {
            Entry::Absent => return Err(Stop::Absent),
            Entry::Misconfigured(why) => return Err(Stop::Misconfigured(why)),
            Entry::Leaf(hpa) => {
                return Ok(Mapping {
                    hpa,
                    level,
                    rights,
                    kind: kind(raw, level, features.vendor),
                    dirty: raw & marks(DIRTY, features.vendor) != 0,
                    doomed: false,
                });
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
