//! An architecture that does not exist: its entries are rotated by their level, so that a mixed-up level cannot go
//! unnoticed; its absent entry is not zero; its root is wider than its tables.

use std::cell::RefCell;

use memory_addr::PhysAddr;
use stage2::{
    Access, Level, MappingFlags,
    format::{Change, Denials, Entry, Fields, Format, Inexpressible, Leaf, Marked, Owner, Used},
};

thread_local! {
    /// What happens when this thread has read a leaf for the next time.
    static ON_LEAF: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    /// What happens when this thread has read an absent entry for the next time.
    static ON_ABSENT: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Has something happen elsewhere when this thread has read that number of leaves more, before it can do anything about
/// the last of them.
pub fn on_leaf(number: usize, action: impl FnOnce() + 'static) {
    ON_LEAF.set(Some(Box::new(move || if number <= 1 { action() } else { on_leaf(number - 1, action) })));
}

/// The same for absent entries.
pub fn on_absent(number: usize, action: impl FnOnce() + 'static) {
    ON_ABSENT.set(Some(Box::new(move || if number <= 1 { action() } else { on_absent(number - 1, action) })));
}

/// The format: 4 KiB pages, 32 entries a table, three levels and a root of 128 entries. A block of uncached memory does
/// not execute.
#[derive(Clone, Debug)]
pub struct Toy;

const ABSENT: u64 = 0x0a00_0000_0000_00a0;
const BUSY: u64 = u64::MAX;

/// The kind stands in the topmost four bits.
const KIND_SHIFT: u32 = 60;
const TABLE: u64 = 1;
const LEAF: u64 = 2;
const MARKED_TABLE: u64 = 3;
const MARKED_LEAF: u64 = 4;

/// The other bits of a leaf, rotated by the level.
const BITS: u64 = (1 << KIND_SHIFT) - 1;
const PAGE_SHIFT: u32 = 10;
/// Above the page's number, which 40 bits of address leave room for.
const LOAN: u64 = 1 << 40;

fn distance(level: Level) -> u32 {
    7 * (u32::from(level.0) + 1)
}

fn rotate(level: Level, kind: u64, bits: u64) -> u64 {
    let rotated = (bits << distance(level) | bits >> (KIND_SHIFT - distance(level))) & BITS;
    kind << KIND_SHIFT | rotated
}

fn unrotate(level: Level, raw: u64) -> u64 {
    let bits = raw & BITS;
    (bits >> distance(level) | bits << (KIND_SHIFT - distance(level))) & BITS
}

fn encode(leaf: &Leaf) -> u64 {
    let owner = match leaf.owner {
        Owner::Foreign => 0,
        Owner::Space => 1 << 6,
        Owner::Shared => 1 << 9,
        Owner::Frozen => 1 << 6 | 1 << 9,
        Owner::OnLoan => LOAN | 1 << 6,
        Owner::Borrowed => LOAN,
    };
    leaf.flags.bits() as u64 | owner | (leaf.used as u64) << 7 | page(leaf.at)
}

fn page(at: PhysAddr) -> u64 {
    (at.as_usize() as u64 >> 12) << PAGE_SHIFT
}

fn address(bits: u64) -> PhysAddr {
    PhysAddr::from_usize((((bits & !LOAN) >> PAGE_SHIFT) << 12) as usize)
}

fn leaf_of(bits: u64) -> Leaf {
    Leaf {
        at: address(bits),
        flags: MappingFlags::from_bits_truncate(bits as usize & 0x3f),
        owner: match (bits >> 6 & 1, bits >> 9 & 1) {
            (0, 0) if bits & LOAN != 0 => Owner::Borrowed,
            (_, 0) if bits & LOAN != 0 => Owner::OnLoan,
            (0, 0) => Owner::Foreign,
            (_, 0) => Owner::Space,
            (0, _) => Owner::Shared,
            _ => Owner::Frozen,
        },
        used: [Used::Not, Used::Accessed, Used::Dirty, Used::Dirty][(bits >> 7) as usize & 3],
    }
}

impl Format for Toy {
    const PAGE_SHIFT: u32 = 12;
    const INDEX_BITS: u32 = 5;

    type Root = u64;

    fn root_shape(&self) -> (Level, u32) {
        (Level(3), 7)
    }

    fn root(&self, table: PhysAddr) -> u64 {
        table.as_usize() as u64
    }

    fn output_bits(&self) -> u32 {
        40
    }

    fn maps(&self, level: Level) -> bool {
        level < Level(3)
    }

    fn check(&self, flags: MappingFlags) -> Result<(), Inexpressible> {
        let access = MappingFlags::READ | MappingFlags::WRITE | MappingFlags::EXECUTE;
        if flags.contains(MappingFlags::USER) || !flags.intersects(access) {
            return Err(Inexpressible(flags));
        }
        Ok(())
    }

    fn allowed(&self, level: Level, flags: MappingFlags) -> MappingFlags {
        let is_restricted = level > Level::PAGE && flags.contains(MappingFlags::UNCACHED);
        if is_restricted { flags - MappingFlags::EXECUTE } else { flags }
    }

    fn absent(&self) -> u64 {
        ABSENT
    }

    fn table(&self, at: PhysAddr) -> u64 {
        // A table's entry does not say its level; the walker does.
        TABLE << KIND_SHIFT | page(at)
    }

    fn leaf(&self, level: Level, leaf: &Leaf) -> u64 {
        rotate(level, LEAF, encode(&Leaf { flags: self.allowed(level, leaf.flags), ..*leaf }))
    }

    fn mark(&self, level: Level, entry: u64) -> u64 {
        match self.decode(level, entry) {
            Entry::Table(at) => MARKED_TABLE << KIND_SHIFT | page(at),
            Entry::Leaf(leaf) => rotate(level, MARKED_LEAF, encode(&leaf)),
            other => panic!("only what is live is marked, not {other:?}"),
        }
    }

    fn busy(&self) -> u64 {
        BUSY
    }

    fn decode(&self, level: Level, entry: u64) -> Entry {
        match entry >> KIND_SHIFT {
            _ if entry == ABSENT => {
                if let Some(action) = ON_ABSENT.take() {
                    action();
                }
                Entry::Absent
            }
            _ if entry == BUSY => Entry::Busy,
            TABLE => Entry::Table(address(entry & BITS)),
            LEAF => {
                if let Some(action) = ON_LEAF.take() {
                    action();
                }
                Entry::Leaf(leaf_of(unrotate(level, entry)))
            }
            MARKED_TABLE => Entry::Marked(Marked::Table(address(entry & BITS))),
            MARKED_LEAF => match leaf_of(unrotate(level, entry)) {
                lent @ Leaf { owner: Owner::OnLoan, .. } => Entry::Lent(lent),
                leaf => Entry::Marked(Marked::Leaf(leaf)),
            },
            // A second panic would end the process, and with it the other tests' verdicts.
            _ if std::thread::panicking() => Entry::Absent,
            _ => panic!("{entry:#x} is no entry of {level}"),
        }
    }

    fn with_flags(&self, level: Level, entry: u64, flags: MappingFlags) -> u64 {
        match self.decode(level, entry) {
            Entry::Leaf(leaf) => self.leaf(level, &Leaf { flags, ..leaf }),
            other => panic!("only leaves have flags, not {other:?}"),
        }
    }

    fn touched(&self, level: Level, entry: u64, access: Access) -> u64 {
        match (self.decode(level, entry), access) {
            (Entry::Leaf(leaf), Access::Write) => self.leaf(level, &Leaf { used: Used::Dirty, ..leaf }),
            (Entry::Leaf(leaf @ Leaf { used: Used::Not, .. }), _) => {
                self.leaf(level, &Leaf { used: Used::Accessed, ..leaf })
            }
            _ => entry,
        }
    }

    fn fields(&self, level: Level) -> Fields {
        let of = |bits| rotate(level, 0, bits);
        Fields { address: of(page(PhysAddr::from_usize((1 << 40) - 1))), hardware: of(3 << 7), owned: of(1 << 6) }
    }

    fn change(&self, level: Level, old: u64, new: u64) -> Change {
        let (Entry::Leaf(old), Entry::Leaf(new)) = (self.decode(level, old), self.decode(level, new)) else {
            return Change::Break;
        };
        let kind = MappingFlags::DEVICE | MappingFlags::UNCACHED;
        if old.at != new.at || old.flags & kind != new.flags & kind {
            Change::Break
        } else if new.flags.contains(old.flags) {
            Change::Raise
        } else {
            Change::Restrict
        }
    }

    fn denials(&self) -> Denials {
        Denials::Cached
    }
}
