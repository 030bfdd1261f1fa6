//! The model of the hardware as a machine of the scenarios.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread,
};

use stage2::{
    Config, CpuId, GuestPhysAddr, GuestSpace, Limits, PhysAddr, Platform,
    aarch64::{
        Capabilities, Decoded, Errata, Executor, Features, Op, Stage2, Syndrome, Tlb, Tracking, Vmid,
        decode_distrusting,
    },
};
use stage2_model::{
    Failure, Memory, ModelExecutor, Pool, Sabotage, Sabotaged,
    arm::{self, Abort, Access, Coherency, Hpfar, Reset, Speculation, Stage1},
};
use stage2_scenarios::{Attempt, Device, Facts, FrameZero, Machine, Marks, Seat, Setting, Step, Stop, Tag, View};

/// The parts: the crate's own, on the model, with a place for defects to be put in.
pub struct Parts;

impl Platform for Parts {
    type Format = Stage2;
    type Frames = Pool;
    type Invalidate = Tlb<Sabotaged<ModelExecutor>>;
}

/// A kind of CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None of the extensions, caches that hide stores, and errata.
    CortexA57,
    /// Hardware access flag and dirty state, execute-never by level, 16-bit VMIDs.
    NeoverseN1,
    /// All that the crate knows.
    Everything,
}

/// A model machine.
pub struct Model {
    kind: Kind,
    memory: Arc<Memory>,
    hardware: Arc<arm::Machine>,
    capabilities: Capabilities,
    next_tag: AtomicU16,
    /// `VTTBR_EL2` of each CPU, as last activated.
    active: [AtomicU64; CPUS],
    /// Whether two CPUs run at once.
    racing: AtomicBool,
    /// What is done wrong in spaces that are made from now on.
    sabotage: Option<Sabotage>,
}

/// CPUs of the model.
const CPUS: usize = 4;
/// CPUs for the scenarios: each more would cost time, even while idle.
const SEATS: usize = 2;
/// The first GiB is foreign memory, a block of its own; the frames come from behind it.
const FOREIGN: u64 = 1 << 30;
/// Memory for tables and guests.
const FRAMES: u64 = 256 << 20;
/// A page in the middle of foreign memory.
const FOREIGN_PAGE: usize = 0x1234_5000;
/// Where no memory is: devices.
const DEVICE: usize = 0x9000_0000;
/// The first tag that scenarios cannot ask for.
const FIRST_FRESH: u16 = 8;
/// How far a guest counts at most where a defect was put in.
const FAR: u64 = 3000;
/// All tags have eight bits.
const TAGS: u16 = 256;
/// `TCR_EL1.EPD0` and `EPD1`: no walk starts.
const NO_WALKS: u64 = 1 << 7 | 1 << 23;

impl Kind {
    fn model(self) -> arm::Features {
        match self {
            Self::CortexA57 => arm::Features::NONE,
            Self::NeoverseN1 => {
                arm::Features { pa_bits: 48, vmid_bits: 16, xnx: true, hafdbs: true, ..arm::Features::NONE }
            }
            Self::Everything => arm::Features::ALL,
        }
    }

    fn capabilities(self) -> Capabilities {
        let n1 =
            Features::GRANULE_4K | Features::EXECUTE_NEVER_BY_LEVEL | Features::ACCESS_FLAG | Features::DIRTY_STATE;
        let (features, errata) = match self {
            Self::CortexA57 => (Features::GRANULE_4K, Errata::SPECULATIVE_TRANSLATION | Errata::WRONG_FAULT_ADDRESS),
            Self::NeoverseN1 => (n1, Errata::empty()),
            Self::Everything => (Features::all(), Errata::empty()),
        };
        let model = self.model();
        Capabilities { physical_bits: model.pa_bits, vmid_bits: model.vmid_bits, data_line: 64, features, errata }
    }
}

impl Model {
    /// A machine whose TLBs hold junk at first, and whose CPUs report as little as they may.
    pub fn new(kind: Kind) -> Self {
        let memory = Memory::new(0, FOREIGN + FRAMES);
        let foreign = memory.reserve(FOREIGN / stage2_model::PAGE, FOREIGN);
        assert_eq!(foreign, 0, "foreign memory comes first");
        let errata = kind == Kind::CortexA57;
        let config = arm::Config {
            cpus: CPUS,
            features: kind.model(),
            hpfar: Hpfar::WhereDefined,
            coherency: if kind == Kind::Everything { Coherency::Coherent } else { Coherency::Incoherent },
            reset: Reset::Unknown,
            speculation: if errata { Speculation::AcrossSwitch } else { Speculation::InContext },
            window: 16,
        };
        Self {
            kind,
            hardware: arm::Machine::new(&memory, config),
            memory,
            capabilities: kind.capabilities(),
            next_tag: AtomicU16::new(0),
            active: [const { AtomicU64::new(0) }; CPUS],
            racing: AtomicBool::new(false),
            sabotage: None,
        }
    }

    /// A machine on which every space does one thing wrong.
    /// Frames: on one kind they come zeroed.
    fn pool(&self) -> Pool {
        let pool = Pool::new(&self.memory);
        if self.kind == Kind::NeoverseN1 { pool.zeroed() } else { pool }
    }

    pub fn sabotaged(kind: Kind, sabotage: Sabotage) -> Self {
        Self { sabotage: Some(sabotage), ..Self::new(kind) }
    }

    /// Panics if the model saw a rule broken.
    #[track_caller]
    pub fn check(&self) {
        self.hardware.check();
    }

    /// Whether the model saw a rule broken.
    pub fn complaints(&self) -> Vec<stage2_model::Rule> {
        self.hardware.violations().iter().map(|violation| violation.rule).collect()
    }

    /// From now on an access may meet an old translation: operations are in progress while the guest runs.
    pub fn race(&self) {
        self.racing.store(true, Ordering::SeqCst);
    }

    /// How allocations go from now on.
    pub fn luck(&self, failure: Failure) {
        self.memory.fail(failure);
    }

    /// Looks for translations that are cached and should not be, without an access that would meet them.
    pub fn scan(&self) {
        self.hardware.scan();
    }

    fn executor(&self) -> ModelExecutor {
        ModelExecutor(self.hardware.clone())
    }

    fn tag(&self, tag: Tag) -> Vmid {
        match tag {
            Tag::This(number) => Vmid(number),
            Tag::Fresh => Vmid(self.next_tag.fetch_add(1, Ordering::Relaxed) % (TAGS - FIRST_FRESH) + FIRST_FRESH),
        }
    }

    /// Makes the space this CPU's, if it is not, and sets the guest's own registers.
    pub fn switch(&self, space: &GuestSpace<Parts>, cpu: usize, view: View) {
        let stage1 = match view {
            View::Physical => Stage1 { tcr: 25, ..Stage1::default() },
            View::Virtual(root) => Stage1::on(root.as_usize() as u64, 0),
        };
        let root = space.root().vttbr;
        if self.active[cpu].swap(root, Ordering::SeqCst) != root {
            // Walks of the next guest's tables start when its registers are complete (erratum 1319367).
            let executor = self.executor();
            executor.execute(Op::SetTcrEl1(stage1.tcr | NO_WALKS));
            executor.execute(Op::Isb);
            executor.execute(Op::SetSctlrEl1(1));
            executor.execute(Op::Isb);
            space.activate();
        }
        self.hardware.set_stage1(cpu, stage1);
    }

    fn step(&self, cpu: usize, step: Step) -> Result<u64, Abort> {
        match step {
            Step::Read(at) => self.access(cpu, at, Access::Read),
            Step::Write(at, value) => self.access(cpu, at, Access::Write(value)),
            // MOVZ X0, #value: imm16 is [20:5].
            Step::Execute(at) => self.access(cpu, at, Access::Execute).map(|word| word >> 5 & 0xffff),
            Step::CountTo(at, target) => loop {
                let value = self.access(cpu, at, Access::Read)?;
                let copy = self.access(cpu, at + stage2_model::PAGE as usize, Access::Read)?;
                // With a defect put in, the count may never come to its end.
                let end = if self.sabotage.is_some() { target.min(FAR) } else { target };
                if value < copy || value >= end {
                    return Ok(value);
                }
                self.access(cpu, at, Access::Write(value + 1))?;
                self.access(cpu, at + stage2_model::PAGE as usize, Access::Write(value + 1))?;
            },
            Step::Forget => {
                self.hardware.guest_flush(cpu);
                Ok(0)
            }
        }
    }

    fn access(&self, cpu: usize, at: usize, access: Access) -> Result<u64, Abort> {
        if self.racing.load(Ordering::SeqCst) {
            self.hardware.access_racing(cpu, at as u64, access)
        } else {
            self.hardware.access(cpu, at as u64, access)
        }
    }

    fn read_abort(&self, cpu: usize, abort: Abort) -> Attempt {
        let Abort::Stage2(report) = abort else { return Attempt::GuestException };
        let syndrome = Syndrome { esr: report.esr, far: report.far, hpfar: report.hpfar };
        match decode_distrusting(syndrome, self.capabilities.errata) {
            Decoded::Fault(fault) => Attempt::Fault(fault),
            Decoded::NeedsTranslation(unresolved) => {
                // PAR_EL1: F, or the page.
                let par = self.hardware.stage1_translate(cpu, unresolved.far).map_or(1, |ipa| ipa & !0xfff);
                unresolved.translated(par).map_or(Attempt::Again, Attempt::Fault)
            }
            Decoded::AddressSize(_) | Decoded::External { .. } => Attempt::GuestException,
            other => Attempt::Unexpected(format!("{other:x?}")),
        }
    }
}

impl Machine for Model {
    type Platform = Parts;

    const GUEST_LEVELS: usize = 3;

    fn facts(&self) -> Facts {
        let widest = self.capabilities.physical_bits.min(48);
        Facts { cpus: SEATS, narrowest: 32, widest, frame_zero: FrameZero::Readable }
    }

    fn space(&self, setting: Setting) -> Result<GuestSpace<Parts>, Stop> {
        let format = Stage2::new(&self.capabilities, setting.bits, self.tag(setting.tag))
            .map_err(|error| Stop::failed(format_args!("{error}")))?;
        let tracking = match setting.marks {
            Marks::Software => Tracking::Software,
            Marks::Hardware => Tracking::DirtyState,
        };
        let format =
            format.with_tracking(tracking).map_err(|_| Stop::Skipped("the CPU does not note accesses and writes"))?;
        let sabotaged = Sabotaged::new(self.executor(), self.sabotage.unwrap_or(Sabotage::DropTlbi));
        let space = GuestSpace::new(Config {
            format,
            frames: self.pool(),
            invalidate: Tlb::new(self.capabilities, sabotaged.clone()),
            cpus: CPUS,
            limits: Limits::default(),
        })?;
        if self.sabotage.is_some() {
            sabotaged.arm();
        }
        Ok(space)
    }

    fn attempt(&self, space: &GuestSpace<Parts>, seat: Seat, step: Step) -> Attempt {
        let cpu = seat.cpu.0;
        self.on(seat.cpu, || {
            self.switch(space, cpu, seat.view);
            if let Err(error) = space.enter(seat.cpu, seat.vcpu) {
                return Attempt::Unexpected(format!("{error}"));
            }
            let came = self.step(cpu, step);
            if let Err(error) = space.leave(seat.cpu) {
                return Attempt::Unexpected(format!("{error}"));
            }
            came.map_or_else(|abort| self.read_abort(cpu, abort), Attempt::Done)
        })
    }

    fn on<R: Send>(&self, cpu: CpuId, work: impl FnOnce() -> R + Send) -> R {
        self.hardware.on(cpu.0, work)
    }

    fn both<A: Send, B: Send>(&self, first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B + Send) -> (A, B) {
        self.race();
        thread::scope(|scope| {
            let second = scope.spawn(|| self.hardware.on(1, second));
            let first = self.hardware.on(0, first);
            (first, second.join().unwrap_or_else(|story| std::panic::resume_unwind(story)))
        })
    }

    fn relax(&self) {
        thread::yield_now();
    }

    fn park(&self) {
        for (cpu, active) in self.active.iter().enumerate() {
            self.hardware.stop(cpu);
            active.store(0, Ordering::SeqCst);
        }
    }

    fn allocated(&self) -> usize {
        self.memory.allocated() as usize
    }

    fn allow(&self, count: Option<usize>) {
        self.memory.fail(count.map_or(Failure::Never, Failure::From));
    }

    fn peek(&self, at: PhysAddr) -> u64 {
        self.memory.read(at.as_usize() as u64).unwrap_or_default()
    }

    fn poke(&self, at: PhysAddr, value: u64) {
        self.memory.write(at.as_usize() as u64, value);
    }

    fn device(&self) -> Device {
        let offset = 0x18;
        let value = arm::device_value((DEVICE + offset) as u64);
        Device { at: PhysAddr::from_usize(DEVICE), offset, value }
    }

    fn foreign(&self) -> PhysAddr {
        PhysAddr::from_usize(FOREIGN_PAGE)
    }

    fn code(&self, value: u16) -> Vec<u8> {
        // MOVZ X0, #value; RET (Arm DDI 0487, C6.2).
        let words = [0xd280_0000 | u32::from(value) << 5, 0xd65f_03c0];
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    fn guest_table(&self, at: GuestPhysAddr) -> u64 {
        at.as_usize() as u64 | 0b11
    }

    fn guest_page(&self, at: GuestPhysAddr) -> u64 {
        // Valid page, inner shareable, accessed, not global (D8.3).
        at.as_usize() as u64 | 0xf03
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a model of {:?}", self.kind)
    }
}
