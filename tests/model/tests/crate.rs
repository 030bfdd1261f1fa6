//! The crate on the model: its sequences are clean, and each defect put into them is noticed.

use std::sync::Arc;

use stage2::{
    CpuId, Fault, GuestPhysAddr, GuestPhysRange, GuestSpace, LeafPolicy, Limits, Mapping, MappingFlags, Outcome,
    Platform, Populate, VcpuId,
    aarch64::{Decoded, Stage2, Syndrome, Tlb, Vmid, decode},
};
use stage2_model::{
    Barrier, Memory, ModelExecutor, Pool, Sabotage, Sabotaged,
    arm::{Abort, Access, Coherency, Config, Features, Hpfar, Machine, Speculation, Stage1},
    capabilities,
};

type Executor = Sabotaged<ModelExecutor>;

struct Model;

impl Platform for Model {
    type Format = Stage2;
    type Frames = Pool;
    type Invalidate = Tlb<Executor>;
}

/// A guest with its own tables, on every CPU of a machine.
struct Guest {
    memory: Arc<Memory>,
    machine: Arc<Machine>,
    executor: Executor,
    space: Option<GuestSpace<Model>>,
}

const RAM: usize = 0x4000_0000;
const SIZE: usize = 8 << 20;
/// Where the guest's tables are: levels 1, 2 and 3.
const TABLES: u64 = RAM as u64;
/// The first of its data pages, and its virtual address.
const DATA: u64 = RAM as u64 + 0x10_0000;
const VA: u64 = 0x1000;
const PAGES: u64 = 16;

fn range(start: usize, size: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(GuestPhysAddr::from_usize(start), size)
}

const RWX: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE).union(MappingFlags::EXECUTE);
const RX: MappingFlags = MappingFlags::READ.union(MappingFlags::EXECUTE);

impl Guest {
    fn new(config: Config, leaf: LeafPolicy, fault: Sabotage) -> Self {
        let memory = Memory::new(0, 64 << 20);
        let machine = Machine::new(&memory, config);
        let executor = Sabotaged::new(ModelExecutor(machine.clone()), fault);
        let capabilities = capabilities(&config);
        let space = GuestSpace::new(stage2::Config {
            format: Stage2::new(&capabilities, 36, Vmid(3)).unwrap(),
            frames: Pool::new(&memory),
            invalidate: Tlb::new(capabilities, executor.clone()),
            cpus: config.cpus,
            limits: Limits::default(),
        })
        .unwrap();
        space.map(range(RAM, SIZE), Mapping::Private { populate: Populate::Lazy, leaf }, RWX).unwrap();
        for cpu in 0..config.cpus {
            machine.on(cpu, || space.activate());
            space.enter(CpuId(cpu), VcpuId(cpu)).unwrap();
        }
        let this = Self { memory, machine, executor, space: Some(space) };
        this.boot();
        this
    }

    fn space(&self) -> &GuestSpace<Model> {
        self.space.as_ref().unwrap()
    }

    /// The guest, with its stage 1 off, writes its tables and data, then turns it on.
    fn boot(&self) {
        self.write(0, TABLES, (TABLES + 0x1000) | 3);
        self.write(0, TABLES + 0x1000, (TABLES + 0x2000) | 3);
        for page in 0..PAGES {
            self.write(0, TABLES + 0x2000 + (VA / 4096 + page) * 8, (DATA + page * 4096) | 0xf03);
            self.write(0, DATA + page * 4096, page);
        }
        for cpu in 0..self.machine.config().cpus {
            self.machine.set_stage1(cpu, Stage1::on(TABLES, 1));
        }
        for page in 0..PAGES {
            for cpu in 0..self.machine.config().cpus {
                assert_eq!(self.touch(cpu, VA + page * 4096, Access::Read), Ok(page));
            }
        }
    }

    fn write(&self, cpu: usize, address: u64, value: u64) {
        assert_eq!(self.touch(cpu, address, Access::Write(value)), Ok(value));
    }

    /// What the guest gets in the end, its faults answered.
    fn touch(&self, cpu: usize, address: u64, access: Access) -> Result<u64, String> {
        for _ in 0..8 {
            match self.machine.access(cpu, address, access) {
                Ok(value) => return Ok(value),
                Err(Abort::Stage1(cause, level)) => return Err(format!("stage 1: {cause:?} at {level}")),
                Err(Abort::Stage2(report)) => {
                    let syndrome = Syndrome { esr: report.esr, far: report.far, hpfar: report.hpfar };
                    let fault = self.decoded(cpu, syndrome);
                    assert_eq!(fault.gpa.as_usize() as u64, report.fault.ipa, "{report:x?}");
                    match self.machine.on(cpu, || self.answer(cpu, fault)) {
                        Outcome::Resolved | Outcome::Retry => {}
                        other => return Err(format!("{other:?}")),
                    }
                }
            }
        }
        Err("the same fault for ever".into())
    }

    /// A read while other threads change the map.
    fn race(&self, cpu: usize, address: u64, access: Access) -> u64 {
        loop {
            match self.machine.access_racing(cpu, address, access) {
                Ok(value) => return value,
                Err(Abort::Stage2(report)) => {
                    let fault = self.decoded(cpu, Syndrome { esr: report.esr, far: report.far, hpfar: report.hpfar });
                    let outcome = self.machine.on(cpu, || self.answer(cpu, fault));
                    assert!(matches!(outcome, Outcome::Resolved | Outcome::Retry), "{outcome:?}");
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    fn answer(&self, cpu: usize, fault: Fault) -> Outcome {
        self.space().leave(CpuId(cpu)).unwrap();
        let outcome = self.space().fault(CpuId(cpu), fault).unwrap();
        self.space().enter(CpuId(cpu), VcpuId(cpu)).unwrap();
        outcome
    }

    fn decoded(&self, cpu: usize, syndrome: Syndrome) -> Fault {
        match decode(syndrome) {
            Decoded::Fault(fault) => fault,
            Decoded::NeedsTranslation(unresolved) => {
                let par = self.machine.stage1_translate(cpu, unresolved.far).map_or(1, |ipa| ipa & !0xfff);
                unresolved.translated(par).expect("tables that translate")
            }
            other => panic!("{other:?}"),
        }
    }

    /// Moves tables and data, takes away and gives back, with the guest looking on. What the guest found wrong.
    fn torture(&self) -> Result<(), String> {
        let space = self.space();
        let data = |page: u64| range((DATA + page * 4096) as usize, 4096);
        for round in 0..3 {
            space.relocate(range(TABLES as usize, 0x3000)).unwrap();
            self.look(0..PAGES)?;
            space.relocate(range(DATA as usize, 4 * 4096)).unwrap();
            self.look(0..PAGES)?;
            space.protect(data(round), RX).unwrap();
            self.refused(round)?;
            space.protect(data(round), RWX).unwrap();
            for cpu in 0..2 {
                self.touch(cpu, VA + round * 4096, Access::Write(round))?;
            }
            self.machine.on(1, || space.relocate(data(round))).unwrap();
            self.look(0..PAGES)?;
        }
        space.unmap(range(DATA as usize, 8 * 4096)).unwrap();
        self.machine.scan();
        for cpu in 0..2 {
            match self.touch(cpu, VA + 3 * 4096, Access::Read) {
                Err(what) if what == "NotMapped" => {}
                other => return Err(format!("unmapped, and got {other:?}")),
            }
        }
        self.look(8..PAGES)
    }

    fn look(&self, pages: std::ops::Range<u64>) -> Result<(), String> {
        for page in pages {
            for cpu in 0..2 {
                match self.touch(cpu, VA + page * 4096, Access::Read)? {
                    value if value == page => {}
                    other => return Err(format!("page {page} holds {other:#x} on CPU {cpu}")),
                }
            }
        }
        Ok(())
    }

    fn refused(&self, page: u64) -> Result<(), String> {
        for cpu in 0..2 {
            match self.touch(cpu, VA + page * 4096, Access::Write(0xbad)) {
                Err(what) if what.contains("Denied") => {}
                other => return Err(format!("a write to a protected page: {other:?}")),
            }
        }
        Ok(())
    }

    /// Ends the guest; every frame must have come back.
    fn end(mut self) {
        for cpu in 0..self.machine.config().cpus {
            self.space().leave(CpuId(cpu)).unwrap();
            self.machine.stop(cpu);
        }
        drop(self.space.take());
        self.machine.check();
        assert_eq!(self.memory.allocated(), 0, "frames leaked");
    }
}

#[test]
fn the_crates_sequences_are_clean_on_every_kind_of_cpu() {
    let config = Config::default();
    let plain = Config { features: Features::NONE, coherency: Coherency::Incoherent, ..config };
    for config in [
        config,
        Config { hpfar: Hpfar::Always, ..config },
        Config { speculation: Speculation::AcrossSwitch, ..plain },
        Config { features: Features { fwb: false, ..Features::ALL }, ..plain },
        Config { features: Features { ttl: true, ..Features::NONE }, ..config },
    ] {
        for leaf in [LeafPolicy::Pages, LeafPolicy::Largest] {
            let guest = Guest::new(config, leaf, Sabotage::DropTlbi);
            guest.machine.check();
            assert_eq!(guest.torture(), Ok(()));
            guest.machine.check();
            guest.end();
        }
    }
}

#[test]
fn every_fault_in_them_is_noticed() {
    for fault in [
        Sabotage::DropTlbi,
        Sabotage::OnlyStage2,
        Sabotage::OnlyStage1,
        Sabotage::SwappedOrder,
        Sabotage::DropDsb(Barrier::Publishing),
        Sabotage::DropDsb(Barrier::AfterStage2),
        Sabotage::DropDsb(Barrier::AfterStage1),
        Sabotage::DropDsb(Barrier::Every),
        Sabotage::UseVae2is,
        Sabotage::UnshiftedOperand,
        Sabotage::LocalOnly,
        Sabotage::WrongVmid,
        Sabotage::DropDenialInvalidation,
        Sabotage::WrongLevel,
    ] {
        for leaf in [LeafPolicy::Pages, LeafPolicy::Largest] {
            for features in [Features::ALL, Features::NONE] {
                if (fault, features) == (Sabotage::WrongLevel, Features::NONE) {
                    continue;
                }
                let guest = Guest::new(Config { features, ..Config::default() }, leaf, fault);
                guest.executor.arm();
                let outcome = guest.torture();
                let broken = guest.machine.take_violations();
                assert!(guest.executor.struck() > 0, "{fault:?} never struck");
                assert!(outcome.is_err() || !broken.is_empty(), "{fault:?} went unnoticed ({leaf:?}, {features:?})");
                std::mem::forget(guest);
            }
        }
    }
}

#[test]
fn threads_that_fault_relocate_and_unmap_at_once_break_nothing() {
    let guest = Guest::new(Config { cpus: 3, window: 16, ..Config::default() }, LeafPolicy::Pages, Sabotage::DropTlbi);
    let space = guest.space();
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            let guest = &guest;
            scope.spawn(move || {
                for round in 0..150 {
                    let page = round % PAGES;
                    assert_eq!(guest.race(cpu, VA + page * 4096, Access::Read), page);
                }
            });
        }
        scope.spawn(|| {
            space.leave(CpuId(2)).unwrap();
            guest.machine.on(2, || {
                for round in 0..40 {
                    space.relocate(range(TABLES as usize, 0x3000)).unwrap();
                    space.relocate(range(DATA as usize + (round % PAGES as usize) * 4096, 4096)).unwrap();
                    let lazy = range(RAM + 0x40_0000 + round * 4096, 4096);
                    space.write(lazy.start, &[1]).unwrap();
                    space.unmap(lazy).unwrap();
                }
            });
        });
    });
    guest.machine.scan();
    guest.machine.check();
    assert_eq!(guest.look(0..PAGES), Ok(()));
    guest.end();
}
