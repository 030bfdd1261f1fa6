//! NPT: raw entries by AMD's manual, what `EXITINFO1` says, and what a flush by ASID is needed for.

use std::sync::Arc;

use stage2_model::{
    Memory, Rule,
    ept::{Access, Config, Entry, Exit, Features, Guest, Machine, Reset, decode, nested_pointer},
};

const GPA: u64 = 0x8000_1000;
/// Present, writable, user.
const ALL: u64 = 0b111;
const NO_EXECUTE: u64 = 1 << 63;

struct Bench {
    memory: Arc<Memory>,
    machine: Arc<Machine>,
    tables: [u64; 4],
}

impl Bench {
    /// Tables down to the page of [`GPA`], whose entry is `leaf` with the address of a frame full of ones.
    fn new(leaf: u64) -> Self {
        let memory = Memory::new(0x10_0000, 8 << 20);
        let config = Config { features: Features::AMD, reset: Reset::Empty, ..Config::default() };
        let machine = Machine::new(&memory, config);
        let tables = [0; 4].map(|_| memory.allocate(1, 4096).unwrap());
        for table in tables {
            (0..512).for_each(|index| memory.write(table + index * 8, 0));
        }
        memory.write(tables[0], tables[1] | ALL);
        memory.write(tables[1] + 2 * 8, tables[2] | ALL);
        memory.write(tables[2], tables[3] | ALL);
        let this = Self { memory, machine, tables };
        this.memory.write(this.entry(), this.frame(1) | leaf);
        this.machine.enter(0, this.pointer(1));
        this
    }

    fn pointer(&self, asid: u32) -> u64 {
        nested_pointer(self.tables[0], asid)
    }

    fn entry(&self) -> u64 {
        self.tables[3] + 8
    }

    fn frame(&self, word: u64) -> u64 {
        let at = self.memory.allocate(1, 4096).unwrap();
        (0..512).for_each(|index| self.memory.write(at + index * 8, word));
        at
    }

    fn error_code(&self, access: Access) -> u64 {
        match self.machine.access(0, GPA, access) {
            Err(Exit::Violation { gpa: GPA, qualification }) => Exit::error_code(qualification),
            other => panic!("{other:x?}"),
        }
    }

    fn broken(&self) -> Vec<Rule> {
        self.machine.take_violations().iter().map(|violation| violation.rule).collect()
    }
}

#[test]
fn entries_are_what_the_manual_says() {
    let amd = |raw, level| decode(raw, level, &Features::AMD);
    assert_eq!(amd(0, 1), Entry::Absent);
    assert_eq!(amd(!1, 1), Entry::Absent);
    assert_eq!(amd(0x1234_5007, 1), Entry::Leaf(0x1234_5000));
    assert_eq!(amd(NO_EXECUTE | 0x1234_5085, 1), Entry::Leaf(0x1234_5000), "bit 7 is the PAT's");
    assert_eq!(amd(0x1234_5027, 2), Entry::Table(0x1234_5000));
    assert_eq!(amd(0x1220_00a7, 2), Entry::Leaf(0x1220_0000));
    assert_eq!(amd(0x1220_10a7, 2), Entry::Leaf(0x1220_0000), "bit 12 is the PAT's");
    for (raw, level, features) in [
        (0x1234_5003, 1, Features::AMD),
        (1 << 48 | 7, 1, Features::AMD),
        (0x1220_2087, 2, Features::AMD),
        (0x87, 4, Features::AMD),
        (0x87, 3, Features { gigabyte: false, ..Features::AMD }),
    ] {
        assert!(matches!(decode(raw, level, &features), Entry::Misconfigured(_)), "{raw:#x} at level {level}");
    }
    assert_eq!(amd(0x87, 3), Entry::Leaf(0));
}

#[test]
fn a_fault_says_which_access_failed_and_of_what() {
    assert_eq!(Bench::new(0).error_code(Access::Read), 0x1_0000_0004);
    assert_eq!(Bench::new(0).error_code(Access::Write(1)), 0x1_0000_0006);
    assert_eq!(Bench::new(0).error_code(Access::Execute), 0x1_0000_0014);
    assert_eq!(Bench::new(0b101).error_code(Access::Write(1)), 0x1_0000_0007);
    assert_eq!(Bench::new(ALL | NO_EXECUTE).error_code(Access::Execute), 0x1_0000_0015);
    // A walk of the guest's own tables, which is a write.
    let bench = Bench::new(ALL);
    bench.machine.enter_as(0, bench.pointer(1), Guest { cr3: Some(0x7000), vpid: 0 });
    let Err(Exit::Violation { gpa, qualification }) = bench.machine.access(0, GPA, Access::Read) else {
        panic!("no memory is there")
    };
    assert_eq!((gpa & !0xfff, Exit::error_code(qualification)), (0x7000, 0x2_0000_0006));
}

#[test]
fn accessed_and_dirty_are_always_noted() {
    let bench = Bench::new(ALL);
    let frame = bench.memory.read(bench.entry()).unwrap() & !0xfff;
    bench.machine.access(0, GPA, Access::Read).unwrap();
    assert_eq!(bench.memory.read(bench.entry()), Some(frame | ALL | 1 << 5));
    assert_eq!(bench.memory.read(bench.tables[0]), Some(bench.tables[1] | ALL | 1 << 5));
    bench.machine.access(0, GPA, Access::Write(2)).unwrap();
    assert_eq!(bench.memory.read(bench.entry()), Some(frame | ALL | 1 << 5 | 1 << 6));
}

#[test]
fn what_was_taken_away_is_cached_until_its_asid_is_flushed() {
    for (flushed, stale) in [(None, true), (Some(2), true), (Some(1), false)] {
        let bench = Bench::new(ALL);
        bench.machine.access(0, GPA, Access::Read).unwrap();
        bench.machine.leave(0);
        bench.memory.write(bench.entry(), 0);
        if let Some(asid) = flushed {
            bench.machine.invept(0, bench.pointer(asid));
        }
        bench.machine.resume(0);
        let came = bench.machine.access(0, GPA, Access::Read);
        assert_eq!(came.is_ok(), stale, "{flushed:?}");
        assert_eq!(bench.broken(), if stale { vec![Rule::Stale] } else { vec![] }, "{flushed:?}");
    }
}

/// The tag is the ASID, not the root: that another root comes with the old one's ASID forgets nothing.
#[test]
fn another_root_with_the_same_asid_meets_what_was_cached() {
    let bench = Bench::new(ALL);
    bench.machine.access(0, GPA, Access::Read).unwrap();
    let empty = bench.frame(0);
    bench.machine.enter(0, nested_pointer(empty, 2));
    assert!(bench.machine.access(0, GPA, Access::Read).is_err());
    bench.machine.enter(0, nested_pointer(empty, 1));
    assert!(bench.machine.access(0, GPA, Access::Read).is_ok());
    assert_eq!(bench.broken(), [Rule::Stale]);
}

#[test]
fn the_hypervisors_own_asid_is_refused() {
    let bench = Bench::new(ALL);
    bench.machine.enter(0, bench.pointer(0));
    assert_eq!(bench.broken(), [Rule::Register]);
}
