//! EPT: raw entries, exits, and what INVEPT is needed for.

use std::sync::Arc;

use stage2_model::{
    Memory, Rule,
    ept::{Access, Config, Entry, Exit, Features, Guest, Machine, Reset, decode},
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
        bench.memory.release(bench.tables[3], 1, stage2::frames::Pieces::Any);
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

#[test]
fn what_is_freed_while_no_guest_runs_must_be_forgotten_before_one_does() {
    for invept in [false, true] {
        let bench = Bench::new(0, WB | 7);
        assert_eq!(bench.machine.access(1, GPA, Access::Read), Ok(1));
        (0..2).for_each(|cpu| bench.machine.leave(cpu));
        let old = bench.memory.read(bench.entry()).unwrap() & !0xfff;
        bench.memory.write(bench.entry(), bench.frame(2) | WB | 7);
        bench.memory.release(old, 1, stage2::frames::Pieces::Any);
        bench.machine.check();
        if invept {
            bench.machine.invept(1, bench.eptp);
        }
        bench.machine.enter(1, bench.eptp);
        let came = bench.machine.access(1, GPA, Access::Read).unwrap();
        assert_eq!(came == 2, invept);
        assert_eq!(bench.broken().contains(&Rule::FreedWhileReachable), !invept);
    }
}

#[test]
fn a_pointer_must_be_flushed_before_its_first_use_and_when_its_root_was_anothers() {
    let memory = Memory::new(0x10_0000, 1 << 20);
    let machine = Machine::new(&memory, Config { reset: Reset::Unknown, ..Config::default() });
    let broken = || !machine.take_violations().is_empty();
    let root = memory.allocate(1, 4096).unwrap();
    let eptp = root | 3 << 3 | 6;
    let enter = |cpu| {
        machine.enter(cpu, eptp);
        machine.stop(cpu);
    };
    enter(0);
    assert!(broken());
    machine.invept(0, eptp);
    machine.invept_all(1);
    (0..2).for_each(enter);
    assert!(!broken());
    memory.release(root, 1, stage2::frames::Pieces::Any);
    assert_eq!(memory.allocate(1, 4096), Some(root));
    for cpu in 0..2 {
        enter(cpu);
        assert!(broken(), "{cpu}");
        machine.invept(cpu, eptp);
        enter(cpu);
        assert!(!broken(), "{cpu}");
    }
}

#[test]
fn a_root_that_is_free_is_a_violation() {
    let bench = Bench::new(0, WB | 7);
    bench.machine.stop(0);
    bench.machine.stop(1);
    bench.memory.release(bench.tables[0], 1, stage2::frames::Pieces::Any);
    bench.machine.check();
    bench.machine.enter(0, bench.eptp);
    assert_eq!(bench.broken(), [Rule::LostTable]);
}

mod paging_of_the_guests_own {
    use super::*;

    const LINEAR: u64 = 0x7000_0000_1000;
    const PRESENT: u64 = 0x63;

    /// The guest's tables in the four pages behind [`GPA`], which map [`LINEAR`] to it.
    struct Paged {
        bench: Bench,
        guest: Guest,
    }

    impl Paged {
        fn new(tracked: u64) -> Self {
            let bench = Bench::new(tracked, WB | 7);
            let frames = [0; 4].map(|_| bench.frame(0));
            for (number, frame) in frames.into_iter().enumerate() {
                bench.memory.write(bench.entry() + (number as u64 + 1) * 8, frame | WB | 7);
            }
            let next = |number: u64| GPA + number * 0x1000;
            bench.memory.write(frames[0] + (LINEAR >> 39 & 0x1ff) * 8, next(2) | PRESENT);
            bench.memory.write(frames[1] + (LINEAR >> 30 & 0x1ff) * 8, next(3) | PRESENT);
            bench.memory.write(frames[2] + (LINEAR >> 21 & 0x1ff) * 8, next(4) | PRESENT);
            bench.memory.write(frames[3] + (LINEAR >> 12 & 0x1ff) * 8, GPA | PRESENT);
            let guest = Guest { cr3: Some(next(1)), vpid: 1 };
            bench.machine.enter_as(0, bench.eptp, guest);
            Self { bench, guest }
        }

        /// The EPT entry of the guest's table `number`, from 1 for its root.
        fn entry(&self, number: u64) -> u64 {
            self.bench.entry() + number * 8
        }

        fn loads(&self) -> Result<u64, Exit> {
            self.bench.machine.access(0, LINEAR, Access::Read)
        }
    }

    #[test]
    fn leads_to_the_page() {
        let paged = Paged::new(0);
        assert_eq!(paged.loads(), Ok(1));
        assert_eq!(paged.bench.machine.access(0, LINEAR + 0x20_0000, Access::Read), Err(Exit::PageFault));
        paged.bench.machine.check();
    }

    #[test]
    fn is_walked_by_writes_where_accesses_are_noted() {
        for (tracked, rights, qualification) in [(0, 0, 0x081), (1 << 6, 0, 0x083), (1 << 6, 1, 0x08b), (0, 4, 0x0a1)] {
            let paged = Paged::new(tracked);
            let raw = paged.bench.memory.read(paged.entry(2)).unwrap();
            paged.bench.memory.write(paged.entry(2), raw & !7 | rights);
            let gpa = GPA + 0x2000 + (LINEAR >> 30 & 0x1ff) * 8;
            assert_eq!(paged.loads(), Err(Exit::Violation { gpa, qualification }), "{tracked:#x} {rights}");
        }
        let paged = Paged::new(1 << 6);
        assert_eq!(paged.loads(), Ok(1));
        assert_eq!(paged.bench.memory.read(paged.entry(1)).unwrap() & 0x300, 0x300, "a table is dirty");
        assert_eq!(paged.bench.memory.read(paged.entry(0)).unwrap() & 0x300, 0x100, "the page is not");
    }

    /// The staleness of a page that holds a table of the guest's: what the guest or INVVPID forgets is not enough.
    #[test]
    fn is_cached_by_ep4ta_too() {
        for (forget, fresh) in [(0, false), (1, false), (2, false), (3, true)] {
            let paged = Paged::new(0);
            let machine = &paged.bench.machine;
            assert_eq!(paged.loads(), Ok(1));
            // The last table moves, to where it maps another page.
            let moved = paged.bench.frame(0);
            paged.bench.memory.write(moved + (LINEAR >> 12 & 0x1ff) * 8, (GPA + 0x1000) | PRESENT);
            paged.bench.memory.write(paged.entry(4), moved | WB | 7);
            match forget {
                1 => machine.guest_flush(0),
                2 => machine.invvpid_all(0),
                3 => machine.invept(0, paged.bench.eptp),
                _ => {}
            }
            assert_eq!(paged.loads().unwrap() == 1, !fresh, "{forget}");
            assert_eq!(paged.bench.broken(), if fresh { vec![] } else { vec![Rule::Stale] }, "{forget}");
        }
    }

    #[test]
    fn is_cached_by_vpid() {
        let paged = Paged::new(0);
        assert_eq!(paged.loads(), Ok(1));
        // The guest's own entry changes, which is the guest's own business: nothing is broken, and nothing is seen.
        let last = paged.bench.memory.read(paged.entry(4)).unwrap() & 0xf_ffff_ffff_f000;
        paged.bench.memory.write(last + (LINEAR >> 12 & 0x1ff) * 8, 0);
        assert_eq!(paged.loads(), Ok(1));
        paged.bench.machine.enter_as(0, paged.bench.eptp, Guest { vpid: 2, ..paged.guest });
        assert_eq!(paged.loads(), Err(Exit::PageFault));
        paged.bench.machine.enter_as(0, paged.bench.eptp, paged.guest);
        assert_eq!(paged.loads(), Ok(1));
        paged.bench.machine.guest_flush(0);
        assert_eq!(paged.loads(), Err(Exit::PageFault));
        paged.bench.machine.check();
    }
}
