//! Defects to put into what the crate does on Intel's and AMD's CPUs.

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use stage2::{
    Access, CpuId, GuestPhysAddr, Level, MappingFlags, PhysAddr,
    format::{Change, Denials, Entry, Fields, Format, Inexpressible, Leaf},
    invalidate::{Content, Invalidate, Reach, Scope, Unreachable},
    x86_64::{
        Nested, Root,
        ept::{Executor, Op, VmFail},
        npt,
    },
};
use stage2_model::{EptExecutor, NptExecutor, ept};

/// One thing done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No INVEPT, or its counterpart, at all.
    NoInvept,
    /// INVEPT on the CPU that changed the tables, and nowhere else.
    LocalOnly,
    /// INVLPG, or INVLPGA, in its place.
    Invlpg,
    /// Two virtual CPUs that have one ASID take turns as if they had a VPID each.
    NoSwitch,
    /// No flush when a CPU first runs a space.
    NoFirstFlush,
    /// Frames are freed when the other CPUs are interrupted, not when they have answered.
    TooEarly,
    /// Entries that can be written and not read.
    WriteOnly,
    /// A leaf of 1 GiB where the CPU has none.
    LargeLeaf,
    /// What the CPU noted is lost when permissions change.
    MarksLost,
    /// AMD's entries that are the hypervisor's alone.
    NotForUsers,
    /// Large leaves that cannot be executed are not split.
    NeverSplit,
}

/// The executor, which may be at fault.
#[derive(Clone)]
pub struct Faulty {
    executor: EptExecutor,
    fault: Option<Fault>,
    /// Which CPUs flushed the space.
    flushed: Arc<[AtomicBool; 2]>,
}

impl Faulty {
    pub fn new(model: &Arc<ept::Machine>, fault: Option<Fault>) -> Self {
        Self { executor: EptExecutor(model.clone()), fault, flushed: Arc::default() }
    }
}

impl Executor for Faulty {
    fn execute(&self, operation: Op) -> Result<(), VmFail> {
        let first = || !self.flushed[self.executor.0.current()].swap(true, Ordering::SeqCst);
        match (operation, self.fault) {
            (Op::Invept(..), Some(Fault::NoInvept)) => Ok(()),
            (Op::Invept(..), Some(Fault::NoFirstFlush)) if first() => Ok(()),
            (Op::Invept(..), Some(Fault::Invlpg)) => {
                let model = &self.executor.0;
                model.guest_flush(model.current());
                Ok(())
            }
            _ => self.executor.execute(operation),
        }
    }
}

/// The same on AMD's CPUs.
#[derive(Clone)]
pub struct FaultyNpt {
    executor: NptExecutor,
    fault: Option<Fault>,
    flushed: Arc<[AtomicBool; 2]>,
}

impl FaultyNpt {
    pub fn new(executor: &NptExecutor, fault: Option<Fault>) -> Self {
        Self { executor: executor.clone(), fault, flushed: Arc::default() }
    }
}

impl npt::Executor for FaultyNpt {
    fn execute(&self, operation: npt::Op) {
        let model = &self.executor.machine;
        let first = || !self.flushed[model.current()].swap(true, Ordering::SeqCst);
        match (operation, self.fault) {
            (npt::Op::Flush(_), Some(Fault::NoInvept)) => {}
            (npt::Op::Flush(_), Some(Fault::NoFirstFlush)) if first() => {}
            (npt::Op::Flush(_), Some(Fault::Invlpg)) => model.guest_flush(model.current()),
            _ => self.executor.execute(operation),
        }
    }
}

/// A part of the crate, which may be at fault.
#[derive(Clone, Debug)]
pub struct Tampered<T> {
    inner: T,
    fault: Option<Fault>,
}

impl<T> Tampered<T> {
    pub fn new(inner: T, fault: Option<Fault>) -> Self {
        Self { inner, fault }
    }
}

impl<T: Invalidate<Root>> Invalidate<Root> for Tampered<T> {
    fn reach(&self) -> Reach {
        match self.fault {
            Some(Fault::LocalOnly | Fault::TooEarly) => Reach::Everywhere,
            _ => self.inner.reach(),
        }
    }

    fn publish(&self) {
        self.inner.publish();
    }

    fn invalidate(&self, root: Root, scope: Scope) {
        self.inner.invalidate(root, scope);
        if self.fault == Some(Fault::TooEarly) {
            self.inner.interrupt(&mut [CpuId(0), CpuId(1)].into_iter()).expect("CPUs that answer");
        }
    }

    fn invalidate_all(&self, root: Root) {
        self.inner.invalidate_all(root);
    }

    fn flush(&self, root: Root, cpu: CpuId) -> Result<(), Unreachable> {
        self.inner.flush(root, cpu)
    }

    fn invalidate_denial(&self, root: Root, gpa: GuestPhysAddr) {
        self.inner.invalidate_denial(root, gpa);
    }

    fn switch_vcpu(&self, root: Root) {
        if self.fault != Some(Fault::NoSwitch) {
            self.inner.switch_vcpu(root);
        }
    }

    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        self.inner.interrupt(cpus)
    }

    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content) {
        self.inner.synchronize(bytes, len, content);
    }

    fn activate(&self, root: Root) {
        self.inner.activate(root);
    }
}

/// Bit 2 of AMD's entries.
const USER: u64 = 1 << 2;

/// Accessed and dirty of a leaf.
const fn marks(format: &Nested) -> u64 {
    match format {
        Nested::Ept(_) => 0b11 << 8,
        Nested::Npt(_) => 0b11 << 5,
    }
}

impl Format for Tampered<Nested> {
    const PAGE_SHIFT: u32 = Nested::PAGE_SHIFT;
    const INDEX_BITS: u32 = Nested::INDEX_BITS;

    type Root = Root;

    fn root_shape(&self) -> (Level, u32) {
        self.inner.root_shape()
    }

    fn root(&self, table: PhysAddr) -> Root {
        self.inner.root(table)
    }

    fn output_bits(&self) -> u32 {
        self.inner.output_bits()
    }

    fn maps(&self, level: Level) -> bool {
        self.inner.maps(level)
    }

    fn check(&self, flags: MappingFlags) -> Result<(), Inexpressible> {
        match self.fault {
            Some(Fault::WriteOnly) if flags == MappingFlags::WRITE => Ok(()),
            _ => self.inner.check(flags),
        }
    }

    fn allowed(&self, level: Level, flags: MappingFlags) -> MappingFlags {
        match self.fault {
            Some(Fault::NeverSplit) => flags,
            _ => self.inner.allowed(level, flags),
        }
    }

    fn absent(&self) -> u64 {
        self.inner.absent()
    }

    fn table(&self, at: PhysAddr) -> u64 {
        self.inner.table(at)
    }

    fn leaf(&self, level: Level, leaf: &Leaf) -> u64 {
        let entry = self.inner.leaf(level, leaf);
        if self.fault == Some(Fault::NotForUsers) { entry & !USER } else { entry }
    }

    fn mark(&self, level: Level, entry: u64) -> u64 {
        self.inner.mark(level, entry)
    }

    fn busy(&self) -> u64 {
        self.inner.busy()
    }

    fn decode(&self, level: Level, entry: u64) -> Entry {
        self.inner.decode(level, entry)
    }

    fn with_flags(&self, level: Level, entry: u64, flags: MappingFlags) -> u64 {
        let kept = if self.fault == Some(Fault::MarksLost) { entry & !marks(&self.inner) } else { entry };
        self.inner.with_flags(level, kept, flags)
    }

    fn touched(&self, level: Level, entry: u64, access: Access) -> u64 {
        self.inner.touched(level, entry, access)
    }

    fn fields(&self, level: Level) -> Fields {
        self.inner.fields(level)
    }

    fn change(&self, level: Level, old: u64, new: u64) -> Change {
        self.inner.change(level, old, new)
    }

    fn denials(&self) -> Denials {
        self.inner.denials()
    }
}
