//! The model of EPT, and of NPT, as a machine of the scenarios.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    thread,
};

use stage2::{
    Config, CpuId, GuestPhysAddr, GuestSpace, Limits, PhysAddr, Platform,
    format::Used,
    invalidate::Unreachable,
    x86_64::{
        Nested, NestedTlb, Root,
        ept::{self as intel, Capabilities, Depth, Ept, Errata, Features, Interrupt, LargeLeaves, Tlb, Tracking},
        npt::{self, Asid, Npt},
    },
};
use stage2_model::{Failure, Memory, NptExecutor, Pool, Rule, arm, ept};
use stage2_scenarios::{Attempt, Device, Facts, FrameZero, Machine, Marks, Seat, Setting, Step, Stop, Tag, View};

use crate::faults::{Fault, Faulty, FaultyNpt, Tampered};

/// The parts: the crate's own, on the model, with places for defects to be put in.
pub struct Parts;

impl Platform for Parts {
    type Format = Tampered<Nested>;
    type Frames = Pool;
    type Invalidate = Tampered<NestedTlb<Tlb<Faulty, Doorbells>, npt::Tlb<FaultyNpt, Doorbells>>>;
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
    /// AMD's, with leaves of 1 GiB and flushes by ASID.
    Milan,
    /// AMD's, with neither.
    Barcelona,
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
/// The PAT of AMD's CPUs: as at reset, but for write-combining in the place of PWT.
const PAT: u64 = npt::PAT_AT_RESET & !0xff00 | 0x0100;
/// How far a guest counts at most where a defect was put in.
const FAR: u64 = 20_000;
/// How often a guest faults at most, where a defect was put in, before it is taken to do so for ever.
const IN_VAIN: usize = 5000;
/// The first ASID that no scenario asks for.
const FIRST_FRESH: u32 = 9;
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
    /// What AMD's CPUs owe.
    amd: NptExecutor,
    next_tag: AtomicU32,
    doorbells: Doorbells,
    /// Whether two CPUs run at once.
    racing: AtomicBool,
    /// What is done wrong.
    fault: Option<Fault>,
    /// How many tries in a row faulted.
    in_vain: AtomicUsize,
}

impl Kind {
    fn is_amd(self) -> bool {
        self.model().vendor == ept::Vendor::Amd
    }

    /// What AMD's CPUs have. The hypervisor's is the first ASID, scenarios may ask for the next eight.
    fn nested(self) -> npt::Capabilities {
        let mut features = npt::Features::all();
        if self == Self::Barcelona {
            features -= npt::Features::LEAF_1G | npt::Features::FLUSH_BY_ASID;
        }
        npt::Capabilities {
            physical_bits: self.model().physical_bits,
            guest_physical_bits: 48,
            asids: 1 << 12,
            features,
        }
    }

    fn model(self) -> ept::Features {
        match self {
            Self::Skylake | Self::Guarded => ept::Features::ALL,
            Self::SandyBridge => ept::Features::NONE,
            Self::Milan => ept::Features::AMD,
            Self::Barcelona => ept::Features { gigabyte: false, ..ept::Features::AMD },
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
    /// A machine whose CPUs may have anything cached at first.
    pub fn new(kind: Kind) -> Self {
        let memory = Memory::new(0, FOREIGN + FRAMES);
        let foreign = memory.reserve(FOREIGN / stage2_model::PAGE, FOREIGN);
        assert_eq!(foreign, 0, "foreign memory comes first");
        let config = ept::Config { cpus: CPUS, features: kind.model(), reset: ept::Reset::Unknown };
        let hardware = ept::Machine::new(&memory, config);
        Self {
            kind,
            amd: NptExecutor::new(&hardware, CPUS, kind.nested()),
            next_tag: AtomicU32::new(FIRST_FRESH),
            hardware,
            memory,
            doorbells: Doorbells::default(),
            racing: AtomicBool::new(false),
            fault: None,
            in_vain: AtomicUsize::new(0),
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
                // With a defect put in, the count may never come to its end.
                let end = if self.fault.is_some() { target.min(FAR) } else { target };
                if value >= end {
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
            self.pointer(space, cpu);
            self.hardware.resume(cpu);
        }
    }

    /// What a CPU gets that is about to run a space; on AMD's, `VMRUN` forgets first.
    fn pointer(&self, space: &GuestSpace<Parts>, cpu: usize) -> u64 {
        if let Root::Npt(root) = space.root() {
            self.amd.vmrun(cpu, root);
        }
        pointer(space)
    }

    /// The format of a space, and its invalidations.
    fn parts(&self, setting: Setting) -> Result<(Nested, <Parts as Platform>::Invalidate), Stop> {
        let (format, tlb) = if self.kind.is_amd() {
            let executor = FaultyNpt::new(&self.amd, self.fault);
            (Nested::Npt(self.npt(setting)?), NestedTlb::Npt(npt::Tlb::new(executor, self.doorbells.clone())))
        } else {
            let (format, capabilities) = self.ept(setting)?;
            let executor = Faulty::new(&self.hardware, self.fault);
            (Nested::Ept(format), NestedTlb::Ept(Tlb::new(capabilities, executor, self.doorbells.clone())))
        };
        Ok((format, Tampered::new(tlb, self.fault)))
    }

    fn npt(&self, setting: Setting) -> Result<Npt, Stop> {
        let asid = match setting.tag {
            Tag::This(number) => u32::from(number) + 1,
            Tag::Fresh => self.next_tag.fetch_add(1, Ordering::Relaxed),
        };
        Npt::new(&self.kind.nested(), Asid(asid))
            .and_then(|format| format.with_pat(PAT))
            .map_err(|error| Stop::failed(format_args!("{error}")))
    }

    fn ept(&self, setting: Setting) -> Result<(Ept, Capabilities), Stop> {
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
        let executable = matches!(self.kind, Kind::Skylake | Kind::SandyBridge);
        let format = if executable { format.with_large_leaves(LargeLeaves::Executable) } else { format };
        Ok((format, capabilities))
    }

    fn read_exit(&self, linear: usize, exit: ept::Exit) -> Attempt {
        if exit == ept::Exit::PageFault {
            return Attempt::GuestException;
        }
        let unexpected = |decoded: &dyn Debug| Attempt::Unexpected(format!("{decoded:x?}: {exit:x?}"));
        if self.kind.is_amd() {
            return match npt::decode(amd_exit(exit)) {
                npt::Decoded::Fault(fault) => Attempt::Fault(fault),
                other => unexpected(&other),
            };
        }
        match intel::decode(intel_exit(linear, exit)) {
            intel::Decoded::Fault(fault) => Attempt::Fault(fault),
            other => unexpected(&other),
        }
    }
}

/// A violation, or a misconfiguration, as a VMCS has it.
fn intel_exit(linear: usize, exit: ept::Exit) -> intel::Exit {
    let (reason, qualification, gpa) = match exit {
        ept::Exit::Violation { gpa, qualification } => (48, qualification, gpa),
        ept::Exit::Misconfiguration { gpa, .. } => (49, 0, gpa),
        ept::Exit::PageFault => (0, 0, 0),
    };
    intel::Exit { reason, qualification, gpa, linear: linear as u64 }
}

/// A nested page fault as a VMCB has it.
fn amd_exit(exit: ept::Exit) -> npt::Exit {
    let (code, info1, info2) = match exit {
        ept::Exit::Violation { gpa, qualification } => (0x400, ept::Exit::error_code(qualification), gpa),
        // Bit 3: a reserved bit.
        ept::Exit::Misconfiguration { gpa, .. } => (0x400, 0b1001, gpa),
        ept::Exit::PageFault => (0x4e, 0, 0),
    };
    npt::Exit { code, info1, info2 }
}

/// A space's root as the model takes it.
fn pointer(space: &GuestSpace<Parts>) -> u64 {
    match space.root() {
        Root::Ept(root) => root.eptp,
        Root::Npt(root) => ept::nested_pointer(root.ncr3, root.asid.0),
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
        let (format, invalidate) = self.parts(setting)?;
        Ok(GuestSpace::new(Config {
            format: Tampered::new(format, self.fault),
            frames: Pool::new(&self.memory),
            invalidate,
            cpus: CPUS,
            limits: Limits::default(),
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
            // Each virtual CPU has a VPID of its own; 0 is the hypervisor's. AMD's have none.
            let vpid = if self.kind.is_amd() { 0 } else { seat.vcpu.0 as u16 + 1 };
            self.hardware.enter_as(cpu, self.pointer(space, cpu), ept::Guest { cr3, vpid });
            let came = self.step(space, cpu, step);
            self.hardware.leave(cpu);
            if let Err(error) = space.leave(seat.cpu) {
                return Attempt::Unexpected(format!("{error}"));
            }
            // With a defect put in, the guest may fault for ever.
            let in_vain = if came.is_ok() { 0 } else { self.in_vain.load(Ordering::Relaxed) + 1 };
            self.in_vain.store(in_vain, Ordering::Relaxed);
            if self.fault.is_some() && in_vain > IN_VAIN {
                return Attempt::Unexpected("faults without end".into());
            }
            came.map_or_else(|exit| self.read_exit(address(step), exit), Attempt::Done)
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

    fn relax(&self) {
        thread::yield_now();
    }

    fn park(&self) {
        (0..CPUS).for_each(|cpu| self.hardware.stop(cpu));
    }

    fn used(&self, space: &GuestSpace<Parts>, at: GuestPhysAddr) -> Option<Used> {
        let marks = if self.kind.is_amd() { 5 } else { 8 };
        self.hardware.leaf_entry(pointer(space), at.as_usize() as u64).map(|raw| match raw >> marks & 0b11 {
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
