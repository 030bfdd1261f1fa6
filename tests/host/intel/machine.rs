//! The model of EPT as a machine of the scenarios.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use stage2::{
    Config, CpuId, GuestPhysAddr, GuestSpace, PhysAddr, Platform, Unreachable, Used,
    x86_64::ept::{
        Capabilities, Decoded, Depth, Ept, Errata, Exit, Features, Interrupt, LargeLeaves, Tlb, Tracking, decode,
    },
};
use stage2_model::{Failure, Memory, Pool, Rule, arm, ept};
use stage2_scenarios::{Attempt, Device, Facts, FrameZero, Machine, Marks, Seat, Setting, Step, Stop, View};

use crate::faults::{Fault, Faulty, Tampered};

/// The parts: the crate's own, on the model, with places for faults to be put in.
pub struct Parts;

impl Platform for Parts {
    type Format = Tampered<Ept>;
    type Frames = Pool;
    type Invalidate = Tampered<Tlb<Faulty, Doorbells>>;
}

/// A kind of CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Leaves of 1 GiB, accessed and dirty, execute-only.
    Skylake,
    /// None of these.
    SandyBridge,
    /// The first, with large leaves that are never executed.
    Guarded,
}

/// CPUs of the model.
const CPUS: usize = 2;
/// The first GiB is foreign memory, a block of its own; the frames come from behind it.
const FOREIGN: u64 = 1 << 30;
/// Memory for tables and guests.
const FRAMES: u64 = 256 << 20;
/// A page in the middle of foreign memory.
const FOREIGN_PAGE: usize = 0x1234_5000;
/// Where no memory is: devices.
const DEVICE: usize = 0x9000_0000;
/// A guest's paging entries: present, writable, accessed, dirty (Intel SDM Vol. 3A, section 5.5.4).
const GUEST_ENTRY: u64 = 0x63;

/// Interrupts that wait for CPUs in the guest.
#[derive(Clone, Default)]
pub struct Doorbells(Arc<[AtomicBool; CPUS]>);

impl Interrupt for Doorbells {
    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        cpus.for_each(|cpu| self.0[cpu.0].store(true, Ordering::SeqCst));
        Ok(())
    }
}

/// A model machine.
pub struct Model {
    kind: Kind,
    memory: Arc<Memory>,
    hardware: Arc<ept::Machine>,
    doorbells: Doorbells,
    /// Whether two CPUs run at once.
    racing: AtomicBool,
    /// What is done wrong.
    fault: Option<Fault>,
}

impl Kind {
    fn model(self) -> ept::Features {
        match self {
            Self::Skylake | Self::Guarded => ept::Features::ALL,
            Self::SandyBridge => ept::Features::NONE,
        }
    }

    fn capabilities(self) -> Capabilities {
        let model = self.model();
        let mut features = Features::all() - Features::FIVE_LEVELS;
        features.set(Features::EXECUTE_ONLY, model.execute_only);
        features.set(Features::LEAF_1G, model.gigabyte);
        features.set(Features::ACCESSED_DIRTY, model.accessed_dirty);
        let errata = if self == Self::Guarded { Errata::MACHINE_CHECK } else { Errata::empty() };
        Capabilities { physical_bits: model.physical_bits, features, errata }
    }
}

impl Model {
    /// A machine whose CPUs may remember anything.
    pub fn new(kind: Kind) -> Self {
        let memory = Memory::new(0, FOREIGN + FRAMES);
        let foreign = memory.reserve(FOREIGN / stage2_model::PAGE, FOREIGN);
        assert_eq!(foreign, 0, "foreign memory comes first");
        let config = ept::Config { cpus: CPUS, features: kind.model(), reset: ept::Reset::Unknown };
        Self {
            kind,
            hardware: ept::Machine::new(&memory, config),
            memory,
            doorbells: Doorbells::default(),
            racing: AtomicBool::new(false),
            fault: None,
        }
    }

    /// A machine on which every space does one thing wrong.
    pub fn faulty(kind: Kind, fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::new(kind) }
    }

    /// Panics if the model saw a rule broken.
    #[track_caller]
    pub fn check(&self) {
        self.hardware.check();
    }

    /// Which rules the model saw broken.
    pub fn complaints(&self) -> Vec<Rule> {
        self.hardware.violations().iter().map(|violation| violation.rule).collect()
    }

    fn step(&self, space: &GuestSpace<Parts>, cpu: usize, step: Step) -> Result<u64, ept::Exit> {
        let access = |at: usize, access: ept::Access| {
            self.answer(space, cpu);
            let came = if self.racing.load(Ordering::SeqCst) {
                self.hardware.access_racing(cpu, at as u64, access)
            } else {
                self.hardware.access(cpu, at as u64, access)
            };
            self.answer(space, cpu);
            came
        };
        match step {
            Step::Read(at) => access(at, ept::Access::Read),
            Step::Write(at, value) => access(at, ept::Access::Write(value)),
            // MOV EAX, value: the opcode, then the value.
            Step::Execute(at) => access(at, ept::Access::Execute).map(|word| word >> 8 & 0xffff),
            Step::CountTo(at, target) => loop {
                let value = access(at, ept::Access::Read)?;
                if value >= target {
                    return Ok(value);
                }
                access(at, ept::Access::Write(value + 1))?;
            },
            Step::Forget => {
                self.hardware.guest_flush(cpu);
                Ok(0)
            }
        }
    }

    /// An interrupt makes the guest exit; the handler flushes, and the guest goes on.
    fn answer(&self, space: &GuestSpace<Parts>, cpu: usize) {
        if self.doorbells.0[cpu].swap(false, Ordering::SeqCst) {
            self.hardware.leave(cpu);
            space.flush(CpuId(cpu)).expect("the model's INVEPT does not fail");
            self.hardware.resume(cpu);
        }
    }

    fn read_exit(linear: usize, exit: ept::Exit) -> Attempt {
        let (reason, qualification, gpa) = match exit {
            ept::Exit::Violation { gpa, qualification } => (48, qualification, gpa),
            ept::Exit::Misconfiguration { gpa, .. } => (49, 0, gpa),
            ept::Exit::PageFault => return Attempt::GuestException,
        };
        match decode(Exit { reason, qualification, gpa, linear: linear as u64 }) {
            Decoded::Fault(fault) => Attempt::Fault(fault),
            other => Attempt::Unexpected(format!("{other:x?}: {exit:x?}")),
        }
    }
}

/// The address of a step.
fn address(step: Step) -> usize {
    match step {
        Step::Read(at) | Step::Write(at, _) | Step::Execute(at) | Step::CountTo(at, _) => at,
        Step::Forget => 0,
    }
}

impl Machine for Model {
    type Platform = Parts;

    const GUEST_LEVELS: usize = 4;

    fn facts(&self) -> Facts {
        Facts { cpus: CPUS, narrowest: 48, widest: 48, frame_zero: FrameZero::Readable }
    }

    fn largest_leaf(&self) -> usize {
        if self.kind.model().gigabyte { 1 << 30 } else { 2 << 20 }
    }

    fn space(&self, setting: Setting) -> Result<GuestSpace<Parts>, Stop> {
        let mut capabilities = self.kind.capabilities();
        if self.fault == Some(Fault::LargeLeaf) {
            capabilities.features |= Features::LEAF_1G;
        }
        let tracking = match setting.marks {
            Marks::Software => Tracking::Software,
            Marks::Hardware => Tracking::Hardware,
        };
        let format = Ept::new(&capabilities, Depth::Four)
            .map_err(|error| Stop::failed(format_args!("{error}")))?
            .with_tracking(tracking)
            .map_err(|_| Stop::Skipped("the CPU does not note accesses and writes"))?;
        let format = match self.kind {
            Kind::Guarded => format,
            Kind::Skylake | Kind::SandyBridge => format.with_large_leaves(LargeLeaves::Executable),
        };
        let executor = Faulty::new(&self.hardware, self.fault);
        let tlb = Tlb::new(capabilities, executor, self.doorbells.clone());
        Ok(GuestSpace::new(Config {
            format: Tampered::new(format, self.fault),
            frames: Pool::new(&self.memory),
            invalidate: Tampered::new(tlb, self.fault),
            cpus: CPUS,
        })?)
    }

    fn attempt(&self, space: &GuestSpace<Parts>, seat: Seat, step: Step) -> Attempt {
        let cpu = seat.cpu.0;
        self.on(seat.cpu, || {
            if let Err(error) = space.enter(seat.cpu, seat.vcpu) {
                return Attempt::Unexpected(format!("{error}"));
            }
            let cr3 = match seat.view {
                View::Physical => None,
                View::Virtual(root) => Some(root.as_usize() as u64),
            };
            // Each virtual CPU has a VPID of its own; 0 is the hypervisor's.
            self.hardware.enter_as(cpu, space.root().eptp, ept::Guest { cr3, vpid: seat.vcpu.0 as u16 + 1 });
            let came = self.step(space, cpu, step);
            self.hardware.leave(cpu);
            if let Err(error) = space.leave(seat.cpu) {
                return Attempt::Unexpected(format!("{error}"));
            }
            came.map_or_else(|exit| Self::read_exit(address(step), exit), Attempt::Done)
        })
    }

    fn on<R: Send>(&self, cpu: CpuId, work: impl FnOnce() -> R + Send) -> R {
        self.hardware.on(cpu.0, work)
    }

    fn both<A: Send, B: Send>(&self, first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B + Send) -> (A, B) {
        self.racing.store(true, Ordering::SeqCst);
        thread::scope(|scope| {
            let second = scope.spawn(|| self.hardware.on(1, second));
            let first = self.hardware.on(0, first);
            (first, second.join().unwrap_or_else(|story| std::panic::resume_unwind(story)))
        })
    }

    fn park(&self) {
        (0..CPUS).for_each(|cpu| self.hardware.stop(cpu));
    }

    fn used(&self, space: &GuestSpace<Parts>, at: GuestPhysAddr) -> Option<Used> {
        self.hardware.leaf_entry(space.root().eptp, at.as_usize() as u64).map(|raw| match raw >> 8 & 0b11 {
            0b00 => Used::Not,
            0b01 => Used::Accessed,
            _ => Used::Dirty,
        })
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
        // MOV EAX, value; RET (Intel SDM Vol. 2).
        let [low, high] = value.to_le_bytes();
        vec![0xb8, low, high, 0, 0, 0xc3]
    }

    fn guest_table(&self, at: GuestPhysAddr) -> u64 {
        at.as_usize() as u64 | GUEST_ENTRY
    }

    fn guest_page(&self, at: GuestPhysAddr) -> u64 {
        at.as_usize() as u64 | GUEST_ENTRY
    }
}
