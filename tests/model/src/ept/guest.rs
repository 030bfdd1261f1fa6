//! The guest's own paging, and what a CPU caches of it combined with EPT. Intel SDM Vol. 3A, section 5.5 (4-level
//! paging); Vol. 3C, section 29.4.1 for combined mappings and combined paging-structure entries.

use super::{
    cpu::{Cpu, Mapping, Stop},
    entry::{Features, READ, TRACKED, WRITE, ep4ta, shift},
};
use crate::{Memory, memory::PAGE};

/// The guest that a CPU runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guest {
    /// Where its paging starts; `None` while that is off.
    pub cr3: Option<u64>,
    /// The identifier of its linear addresses.
    pub vpid: u16,
}

/// What a walk goes by.
pub struct Paging<'a> {
    pub memory: &'a Memory,
    pub features: Features,
    pub eptp: u64,
    pub guest: Guest,
}

/// A linear page's translation by both.
#[derive(Clone, Debug)]
pub struct Combined {
    pub gpa: u64,
    pub mapping: Mapping,
    /// The pages that hold the guest's tables on the way: where the guest has them, where the host has them.
    pub path: Vec<(u64, u64)>,
}

/// A table of the guest's, by the linear addresses that it translates.
#[derive(Clone, Debug)]
pub struct Structure {
    pub hpa: u64,
    path: Vec<(u64, u64)>,
    pub doomed: bool,
}

/// Why a linear address has no translation.
pub enum Refusal {
    /// The guest's own tables say so.
    PageFault,
    /// EPT does, at this address: of the guest's tables, with the rights there and those wanted, or of the page.
    Walk { gpa: u64, wanted: u64, rights: u64 },
    /// EPT does not map the page's address.
    Absent { gpa: u64 },
    /// EPT is wrong at this address.
    Misconfigured { gpa: u64, why: &'static str },
}

const PRESENT: u64 = 1 << 0;
const ACCESSED: u64 = 1 << 5;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0xf_ffff_ffff_f000;

impl Cpu {
    /// By what is cached, as near to the end as there is something.
    pub fn translate_linear(&mut self, paging: &Paging<'_>, linear: u64) -> Result<Combined, Refusal> {
        let (tag, vpid) = (ep4ta(paging.eptp), paging.guest.vpid);
        if let Some(known) = self.combined.get(&(vpid, tag, linear >> 12)) {
            return Ok(known.clone());
        }
        let found = self.walk_guest(paging, linear)?;
        self.combined.insert((vpid, tag, linear >> 12), found.clone());
        Ok(found)
    }

    fn walk_guest(&mut self, paging: &Paging<'_>, linear: u64) -> Result<Combined, Refusal> {
        let key = |level: u8| (paging.guest.vpid, ep4ta(paging.eptp), level, linear >> (shift(level) + 9));
        let cached = (1..=3).find_map(|level| Some((level, self.structures.get(&key(level))?.clone())));
        let root = paging.guest.cr3.unwrap_or_default() & ADDRESS;
        let (mut level, mut table) = match cached {
            Some((level, table)) => (level, table),
            None => (4, self.guest_table(paging, root, linear, 4, Vec::new())?),
        };
        loop {
            let at = (linear >> shift(level) & 0x1ff) * 8;
            let entry = paging.memory.read(table.hpa + at).unwrap_or_default();
            if entry & PRESENT == 0 {
                return Err(Refusal::PageFault);
            }
            if level == 1 || entry & LARGE != 0 {
                let below = (1 << shift(level)) - 1;
                let gpa = (entry & ADDRESS & !below | linear & below) & !(PAGE - 1);
                let mut mapping =
                    self.translate(paging.memory, paging.features, paging.eptp, gpa).map_err(|stop| match stop {
                        Stop::Absent => Refusal::Absent { gpa: gpa | linear & (PAGE - 1) },
                        Stop::Misconfigured(why) => Refusal::Misconfigured { gpa, why },
                    })?;
                mapping.doomed |= table.doomed;
                return Ok(Combined { gpa, mapping, path: table.path });
            }
            level -= 1;
            let doomed = table.doomed;
            table = self.guest_table(paging, entry & ADDRESS, linear, level, table.path)?;
            table.doomed |= doomed;
            self.structures.insert(key(level), table.clone());
        }
    }

    /// The guest's table at `gpa`, whose entries are of `level`, if EPT lets the walk reach its entry.
    fn guest_table(
        &mut self,
        paging: &Paging<'_>,
        gpa: u64,
        linear: u64,
        level: u8,
        mut path: Vec<(u64, u64)>,
    ) -> Result<Structure, Refusal> {
        let at = gpa + (linear >> shift(level) & 0x1ff) * 8;
        let mapping = match self.translate(paging.memory, paging.features, paging.eptp, at) {
            Ok(mapping) => mapping,
            Err(Stop::Absent) => return Err(Refusal::Walk { gpa: at, wanted: wanted(paging, ACCESSED), rights: 0 }),
            Err(Stop::Misconfigured(why)) => return Err(Refusal::Misconfigured { gpa: at, why }),
        };
        let hpa = mapping.hpa | gpa & ((1 << shift(mapping.level)) - 1);
        let entry = paging.memory.read(hpa + (at - gpa)).unwrap_or_default();
        let wanted = wanted(paging, entry);
        if mapping.rights & wanted != wanted {
            return Err(Refusal::Walk { gpa: at, wanted, rights: mapping.rights });
        }
        path.push((gpa, hpa));
        Ok(Structure { hpa, path, doomed: mapping.doomed })
    }

    /// What `INVLPG` and `MOV` to CR3 drop: what was combined for the VPID that runs. Never a guest-physical mapping.
    pub fn drop_linear(&mut self, eptp: u64) {
        let (tag, vpid) = (ep4ta(eptp), self.guest.vpid);
        self.combined.retain(|key, _| (key.0, key.1) != (vpid, tag));
        self.structures.retain(|key, _| (key.0, key.1) != (vpid, tag));
    }
}

/// A walk reads the guest's tables; it writes them to set their accessed flag, and for EPT it always does where that
/// notes accesses (29.3.5).
const fn wanted(paging: &Paging<'_>, entry: u64) -> u64 {
    let updates = entry & (PRESENT | ACCESSED) == PRESENT;
    if paging.eptp & TRACKED != 0 || updates { READ | WRITE } else { READ }
}
