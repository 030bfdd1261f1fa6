//! A hypervisor written by hand, in raw words: what the model is judged by.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Arc;

use stage2::aarch64::{Domain, Kind, Op, Tlbi};
use stage2_model::{
    Memory, Rule,
    arm::{Abort, Access, Config, HCR_VM, Machine, Stage1},
};

/// 40 bits of IPA and of PA, level 1 first, two concatenated tables, inner shareable write-back walks.
pub const VTCR: u64 = 0x8002_3558;
/// VMID 1, if 8 bits.
pub const VMID: u64 = 1 << 48;
/// Normal write-back, inner shareable, accessed, readable, writable, executable; a page.
pub const PAGE_RW: u64 = 0x7ff;
/// The same, not writable.
pub const PAGE_RO: u64 = 0x77f;
/// The same as [`PAGE_RW`], as a block.
pub const BLOCK_RW: u64 = 0x7fd;

pub const DSB_ST: Op = Op::Dsb(Domain::InnerShareable, Kind::Stores);
pub const DSB: Op = Op::Dsb(Domain::InnerShareable, Kind::All);
pub const DSB_LOCAL: Op = Op::Dsb(Domain::NonShareable, Kind::All);
pub const VMALLE1IS: Op = Op::Tlbi(Tlbi::Vmalle1is, 0);
pub const VMALLE1: Op = Op::Tlbi(Tlbi::Vmalle1, 0);
pub const VMALLS12E1IS: Op = Op::Tlbi(Tlbi::Vmalls12e1is, 0);

/// `TLBI IPAS2E1IS` of a page, without a hint.
pub const fn ipas2e1is(ipa: u64) -> Op {
    Op::Tlbi(Tlbi::Ipas2e1is, ipa >> 12)
}

/// The right sequence for a leaf (H1).
pub fn whole(ipa: u64) -> Vec<Op> {
    vec![DSB_ST, ipas2e1is(ipa), DSB, VMALLE1IS, DSB, Op::Isb]
}

/// The guest's data page.
pub const DATA: u64 = 0x4000_0000;
/// Its stage-1 tables: levels 1, 2, 3.
pub const TABLES: [u64; 3] = [0x4010_0000, 0x4010_1000, 0x4010_2000];
/// The VA of the data page.
pub const VA: u64 = 0x20_0000;

/// A machine with one space, VMID 1, on all its CPUs.
pub struct Hand {
    pub memory: Arc<Memory>,
    pub machine: Arc<Machine>,
    pub root: u64,
}

impl Hand {
    pub fn new(config: Config) -> Self {
        let memory = Memory::new(0x8000_0000, 32 << 20);
        let machine = Machine::new(&memory, config);
        let root = memory.allocate(2, 0x2000).unwrap();
        clear(&memory, root, 2);
        let this = Self { memory, machine, root };
        for cpu in 0..config.cpus {
            this.machine.load(cpu, VMID | root, VTCR, HCR_VM);
        }
        this.run(0, &[VMALLS12E1IS, DSB]);
        this
    }

    /// Runs operations on a CPU.
    pub fn run(&self, cpu: usize, operations: &[Op]) {
        for operation in operations {
            self.machine.execute(cpu, *operation);
        }
    }

    /// A frame full of one word.
    pub fn frame(&self, word: u64) -> u64 {
        let at = self.memory.allocate(1, 4096).unwrap();
        (0..512).for_each(|index| self.memory.write(at + index * 8, word));
        at
    }

    /// Where the entry for an IPA is, at a level; tables are made on the way.
    pub fn entry(&self, ipa: u64, level: u8) -> u64 {
        let mut at = self.root + (ipa >> 30) * 8;
        for shift in [21, 12].into_iter().take(level as usize - 1) {
            if self.memory.read(at) == Some(0) {
                let table = self.memory.allocate(1, 4096).unwrap();
                clear(&self.memory, table, 1);
                self.memory.write(at, table | 3);
            }
            let table = self.memory.read(at).unwrap() & 0xffff_ffff_f000;
            at = table + (ipa >> shift & 0x1ff) * 8;
        }
        at
    }

    /// Maps a page that was not mapped.
    pub fn map(&self, ipa: u64, pa: u64, bits: u64) {
        self.memory.write(self.entry(ipa, 3), pa | bits);
        self.run(0, &[DSB_ST]);
    }

    /// Breaks, does what is given, makes again.
    pub fn remap(&self, ipa: u64, pa: u64, invalidation: &[Op]) {
        self.memory.write(self.entry(ipa, 3), 0);
        self.run(0, invalidation);
        self.memory.write(self.entry(ipa, 3), pa | PAGE_RW);
        self.run(0, &[DSB_ST]);
    }

    pub fn read(&self, cpu: usize, address: u64) -> Result<u64, Abort> {
        self.machine.access(cpu, address, Access::Read)
    }

    /// Gives the guest a data page full of `word`, and tables that map [`VA`] to it; turns its stage 1 on.
    pub fn with_stage1(self, word: u64) -> Self {
        self.map(DATA, self.frame(word), PAGE_RW);
        for (level, ipa) in TABLES.into_iter().enumerate() {
            let table = self.frame(0);
            // Nothing else is in them: index 0, 1 and 0 of the three levels.
            let next = TABLES.get(level + 1).map_or(DATA | 0xf03, |next| next | 3);
            self.memory.write(table + if level == 1 { 8 } else { 0 }, next);
            self.map(ipa, table, PAGE_RW);
        }
        for cpu in 0..self.machine.config().cpus {
            self.machine.set_stage1(cpu, Stage1::on(TABLES[0], 1));
        }
        self
    }

    /// The rules broken so far; the machine forgets them.
    pub fn broken(&self) -> Vec<Rule> {
        let mut rules: Vec<_> = self.machine.take_violations().iter().map(|violation| violation.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

/// Frames full of zeros.
pub fn clear(memory: &Memory, at: u64, pages: u64) {
    (0..pages * 512).for_each(|index| memory.write(at + index * 8, 0));
}
