//! EPT: raw entries, exits, and what INVEPT is needed for.

use std::sync::Arc;

use stage2_model::{
    Memory, Rule,
    ept::{Access, Config, Entry, Exit, Features, Machine, decode},
};

const WB: u64 = 6 << 3;
const GPA: u64 = 0x8000_1000;

struct Bench {
    memory: Arc<Memory>,
    machine: Arc<Machine>,
    eptp: u64,
    tables: [u64; 4],
}

impl Bench {
    /// Tables down to the page of [`GPA`], whose entry is `leaf` with the address of a frame full of ones.
    fn new(tracked: u64, leaf: u64) -> Self {
        let memory = Memory::new(0x10_0000, 8 << 20);
        let machine = Machine::new(&memory, Config::default());
        let tables = [0; 4].map(|_| memory.allocate(1, 4096).unwrap());
        for table in tables {
            (0..512).for_each(|index| memory.write(table + index * 8, 0));
        }
        memory.write(tables[0], tables[1] | 7);
        memory.write(tables[1] + 2 * 8, tables[2] | 7);
        memory.write(tables[2], tables[3] | 7);
        let eptp = tables[0] | 3 << 3 | 6 | tracked;
        let this = Self { memory, machine, eptp, tables };
        this.memory.write(this.entry(), this.frame(1) | leaf);
        (0..2).for_each(|cpu| this.machine.enter(cpu, eptp));
        this
    }

    fn entry(&self) -> u64 {
        self.tables[3] + 8
    }

    fn frame(&self, word: u64) -> u64 {
        let at = self.memory.allocate(1, 4096).unwrap();
        (0..512).for_each(|index| self.memory.write(at + index * 8, word));
        at
    }

    fn qualification(&self, access: Access) -> u64 {
        match self.machine.access(0, GPA, access) {
            Err(Exit::Violation { gpa: GPA, qualification }) => qualification,
            other => panic!("{other:x?}"),
        }
    }

    fn broken(&self) -> Vec<Rule> {
        self.machine.take_violations().iter().map(|violation| violation.rule).collect()
    }
}

#[test]
fn violations_are_qualified_as_hardware_does() {
    assert_eq!(Bench::new(0, 0).qualification(Access::Read), 0x181);
    assert_eq!(Bench::new(0, WB | 1).qualification(Access::Write(0)), 0x18a);
    assert_eq!(Bench::new(0, WB | 3).qualification(Access::Execute), 0x19c);
    assert_eq!(Bench::new(0, WB | 4).qualification(Access::Read), 0x1a1);
    assert_eq!(Bench::new(0, 0).qualification(Access::GuestWalk), 0x81);
    assert_eq!(Bench::new(1 << 6, WB | 1).qualification(Access::GuestWalk), 0x8b);
}

#[test]
fn misconfigurations_are_what_the_manual_lists() {
    let refused = |raw, level, features| matches!(decode(raw, level, features), Entry::Misconfigured(_));
    for raw in [WB | 2, WB | 6, 2 << 3 | 1, 3 << 3 | 1, 7 << 3 | 1, 1 << 46 | WB | 1] {
        assert!(refused(raw, 1, &Features::ALL), "{raw:#x}");
    }
    assert!(refused(0x1000 | 1 << 7 | WB | 7, 2, &Features::ALL), "a misaligned block");
    assert!(refused(1 << 7 | WB | 7, 4, &Features::ALL));
    assert!(refused(8 | 7, 2, &Features::ALL), "memory type of a table");
    assert_eq!(decode(1 << 30 | 1 << 7 | WB | 7, 3, &Features::ALL), Entry::Leaf(1 << 30));
    assert!(refused(1 << 30 | 1 << 7 | WB | 7, 3, &Features::NONE));
    assert_eq!(decode(WB | 4, 1, &Features::ALL), Entry::Leaf(0));
    assert!(refused(WB | 4, 1, &Features::NONE));
    assert_eq!(decode(WB | 1 << 63, 1, &Features::ALL), Entry::Absent);
}

#[test]
fn a_remap_needs_invept_on_every_cpu() {
    let bench = Bench::new(0, WB | 7);
    (0..2).for_each(|cpu| assert_eq!(bench.machine.access(cpu, GPA, Access::Read), Ok(1)));
    bench.memory.write(bench.entry(), bench.frame(2) | WB | 7);
    bench.machine.invept(0, bench.eptp);
    assert_eq!(bench.machine.access(0, GPA, Access::Read), Ok(2));
    bench.machine.check();
    assert_eq!(bench.machine.access(1, GPA, Access::Read), Ok(1));
    assert_eq!(bench.broken(), [Rule::Stale]);
    bench.machine.invept_all(1);
    assert_eq!(bench.machine.access(1, GPA, Access::Read), Ok(2));
    bench.machine.check();
}

#[test]
fn another_context_is_not_meant() {
    let bench = Bench::new(0, WB | 7);
    assert_eq!(bench.machine.access(0, GPA, Access::Read), Ok(1));
    bench.memory.write(bench.entry(), 0);
    bench.machine.invept(0, bench.eptp + 0x1000);
    assert_eq!(bench.machine.access(0, GPA, Access::Read), Ok(1));
    assert_eq!(bench.broken(), [Rule::Stale]);
}

#[test]
fn a_raise_needs_nothing() {
    let bench = Bench::new(0, WB | 1);
    assert_eq!(bench.machine.access(0, GPA, Access::Read), Ok(1));
    assert_eq!(bench.qualification(Access::Write(5)), 0x18a);
    bench.memory.write(bench.entry(), bench.memory.read(bench.entry()).unwrap() | 2);
    assert_eq!(bench.machine.access(0, GPA, Access::Write(5)), Ok(5));
    bench.machine.check();
}

#[test]
fn a_dirty_flag_that_is_cleared_without_invept_is_lost() {
    let bench = Bench::new(1 << 6, WB | 7);
    assert_eq!(bench.machine.access(0, GPA, Access::Write(5)), Ok(5));
    assert_eq!(bench.memory.read(bench.entry()).unwrap() & 0x300, 0x300);
    assert_eq!(bench.memory.read(bench.tables[0]).unwrap() & 0x300, 0x100);
    bench.memory.write(bench.entry(), bench.memory.read(bench.entry()).unwrap() & !0x200);
    assert_eq!(bench.machine.access(0, GPA, Access::Write(6)), Ok(6));
    assert_eq!(bench.memory.read(bench.entry()).unwrap() & 0x200, 0);
    assert_eq!(bench.broken(), [Rule::Stale]);
    bench.machine.invept(0, bench.eptp);
    assert_eq!(bench.machine.access(0, GPA, Access::Write(6)), Ok(6));
    assert_eq!(bench.memory.read(bench.entry()).unwrap() & 0x200, 0x200);
    bench.machine.check();
}

#[test]
fn frames_and_tables_freed_before_invept_are_violations() {
    for invept in [false, true] {
        let bench = Bench::new(0, WB | 7);
        assert_eq!(bench.machine.access(1, GPA, Access::Read), Ok(1));
        bench.memory.write(bench.tables[2], 0);
        if invept {
            (0..2).for_each(|cpu| bench.machine.invept(cpu, bench.eptp));
        }
        bench.memory.release(bench.tables[3], 1, stage2::Pieces::Any);
        assert_eq!(bench.broken().is_empty(), invept);
    }
}

#[test]
fn a_pointer_that_vm_entry_refuses_is_a_violation() {
    for wrong in [1, 1 << 3, 1 << 7, 1 << 46] {
        let bench = Bench::new(0, WB | 7);
        bench.machine.enter(0, bench.eptp ^ wrong);
        assert_eq!(bench.broken(), [Rule::Register], "{wrong:#x}");
    }
}
