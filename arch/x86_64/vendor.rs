//! Either vendor's tables: which, a hypervisor finds out when it starts.

use core::ptr::NonNull;

use memory_addr::PhysAddr;
use page_table_multiarch::MappingFlags;
// Where only the documentation is built, the crate may be missing: bodies alone use it.
#[cfg(target_arch = "x86_64")]
use x86::cpuid::native_cpuid::cpuid_count;

use super::{
    ept::{self, Ept},
    npt::{self, Npt},
};
use crate::{
    addr::{GuestPhysAddr, Level},
    cpu_id::CpuId,
    format::{Access, Change, Denials, Entry, Fields, Format, Inexpressible, Leaf},
    invalidate::{Content, Invalidate, Reach, Scope, Unreachable},
};

/// How a CPU runs guests. Other vendors' CPUs have one of the two as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Intel's, with EPT.
    Vmx,
    /// AMD's, with NPT.
    Svm,
}

impl Extension {
    /// By ECX of CPUID's functions 1 and `0x8000_0001` (0 where there is no such function); `None` on a CPU without.
    #[must_use]
    pub const fn from_registers(basic_ecx: u32, extended_ecx: u32) -> Option<Self> {
        if extended_ecx & 1 << 2 != 0 {
            Some(Self::Svm)
        } else if basic_ecx & 1 << 5 != 0 {
            Some(Self::Vmx)
        } else {
            None
        }
    }

    /// This CPU's.
    ///
    /// On `x86_64` targets only.
    #[cfg(any(target_arch = "x86_64", doc))]
    #[must_use]
    pub fn detect() -> Option<Self> {
        let extended = cpuid_count(0x8000_0000, 0).eax >= 0x8000_0001;
        Self::from_registers(cpuid_count(1, 0).ecx, if extended { cpuid_count(0x8000_0001, 0).ecx } else { 0 })
    }
}

/// A format of either vendor's.
///
/// # Example
/// ```
/// use stage2::{format::Format, x86_64::{Extension, Nested, ept, npt}};
///
/// # let skylake = ept::Registers { ept_vpid_cap: 0xf01_0673_4141, arch_capabilities: 0x40, physical_bits: 46 };
/// # let intel = ept::Capabilities::from_registers(skylake);
/// # let amd = npt::Capabilities::from_registers(npt::Registers::default());
/// // On hardware: `Extension::detect()`. The CPU's VMX bit is set here.
/// let format = match Extension::from_registers(1 << 5, 0).expect("a second stage") {
///     Extension::Vmx => Nested::Ept(ept::Ept::new(&intel, ept::Depth::Four)?),
///     Extension::Svm => Nested::Npt(npt::Npt::new(&amd, npt::Asid(1))?),
/// };
/// assert_eq!(format.geometry().input_bits(), 48);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nested {
    /// Intel's.
    Ept(Ept),
    /// AMD's.
    Npt(Npt),
}

/// The values for a VMCS or a VMCB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// For a VMCS.
    Ept(ept::Root),
    /// For a VMCB.
    Npt(npt::Root),
}

/// What is asked of either.
macro_rules! either {
    ($this:expr, $format:ident => $answer:expr) => {
        match $this {
            Nested::Ept($format) => $answer,
            Nested::Npt($format) => $answer,
        }
    };
}

impl Format for Nested {
    // Both vendors' tables are of one shape.
    const PAGE_SHIFT: u32 = Ept::PAGE_SHIFT;
    const INDEX_BITS: u32 = Ept::INDEX_BITS;

    type Root = Root;

    fn root_shape(&self) -> (Level, u32) {
        either!(self, format => format.root_shape())
    }

    fn root(&self, table: PhysAddr) -> Root {
        match self {
            Self::Ept(format) => Root::Ept(format.root(table)),
            Self::Npt(format) => Root::Npt(format.root(table)),
        }
    }

    fn output_bits(&self) -> u32 {
        either!(self, format => format.output_bits())
    }

    fn maps(&self, level: Level) -> bool {
        either!(self, format => format.maps(level))
    }

    fn check(&self, flags: MappingFlags) -> Result<(), Inexpressible> {
        either!(self, format => format.check(flags))
    }

    fn allowed(&self, level: Level, flags: MappingFlags) -> MappingFlags {
        either!(self, format => format.allowed(level, flags))
    }

    fn absent(&self) -> u64 {
        either!(self, format => format.absent())
    }

    fn table(&self, at: PhysAddr) -> u64 {
        either!(self, format => format.table(at))
    }

    fn leaf(&self, level: Level, leaf: &Leaf) -> u64 {
        either!(self, format => format.leaf(level, leaf))
    }

    fn mark(&self, level: Level, entry: u64) -> u64 {
        either!(self, format => format.mark(level, entry))
    }

    fn busy(&self) -> u64 {
        either!(self, format => format.busy())
    }

    fn decode(&self, level: Level, entry: u64) -> Entry {
        either!(self, format => format.decode(level, entry))
    }

    fn with_flags(&self, level: Level, entry: u64, flags: MappingFlags) -> u64 {
        either!(self, format => format.with_flags(level, entry, flags))
    }

    fn touched(&self, level: Level, entry: u64, access: Access) -> u64 {
        either!(self, format => format.touched(level, entry, access))
    }

    fn next_table(&self, level: Level, entry: u64) -> Option<PhysAddr> {
        either!(self, format => format.next_table(level, entry))
    }

    fn leaf_address(&self, level: Level, entry: u64) -> PhysAddr {
        either!(self, format => format.leaf_address(level, entry))
    }

    fn fields(&self, level: Level) -> Fields {
        either!(self, format => format.fields(level))
    }

    fn change(&self, level: Level, old: u64, new: u64) -> Change {
        either!(self, format => format.change(level, old, new))
    }

    fn denials(&self) -> Denials {
        either!(self, format => format.denials())
    }
}

const _: () = assert!(Ept::PAGE_SHIFT == Npt::PAGE_SHIFT && Ept::INDEX_BITS == Npt::INDEX_BITS);

/// The invalidations of either vendor's tables: [`ept::Tlb`] or [`npt::Tlb`], the one that belongs to the format.
///
/// One that does not belong to it does nothing, and no CPU enters the space: [`flush`](Invalidate::flush) fails.
///
/// # Example
/// ```
/// use stage2::x86_64::{NestedTlb, ept, npt};
/// use stage2::{CpuId, invalidate::{Invalidate, Reach, Unreachable}};
///
/// # struct Idle;
/// # impl ept::Executor for Idle {
/// #     fn execute(&self, _: ept::Op) -> Result<(), ept::VmFail> { Ok(()) }
/// # }
/// # impl npt::Executor for Idle {
/// #     fn execute(&self, _: npt::Op) {}
/// # }
/// type Hook = fn(&mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable>;
/// // `Idle` stands for either vendor's `Instructions`.
/// type Tlbs = NestedTlb<ept::Tlb<Idle, Hook>, npt::Tlb<Idle, Hook>>;
///
/// let send_nmi: Hook = |_cpus| Ok(());
/// let tlb = Tlbs::Npt(npt::Tlb::new(Idle, send_nmi));
/// assert_eq!(tlb.reach(), Reach::ThisCpu);
/// ```
#[derive(Clone, Copy, Debug)]
pub enum NestedTlb<E, N> {
    /// Intel's.
    Ept(E),
    /// AMD's.
    Npt(N),
}

impl<E: Invalidate<ept::Root>, N: Invalidate<npt::Root>> NestedTlb<E, N> {
    /// Asks the one that the root belongs to; `None` where the root is the other vendor's.
    fn ask<R>(
        &self,
        root: Root,
        intel: impl FnOnce(&E, ept::Root) -> R,
        amd: impl FnOnce(&N, npt::Root) -> R,
    ) -> Option<R> {
        match (self, root) {
            (Self::Ept(tlb), Root::Ept(root)) => Some(intel(tlb, root)),
            (Self::Npt(tlb), Root::Npt(root)) => Some(amd(tlb, root)),
            (Self::Ept(_), Root::Npt(_)) | (Self::Npt(_), Root::Ept(_)) => None,
        }
    }
}

impl<E: Invalidate<ept::Root>, N: Invalidate<npt::Root>> Invalidate<Root> for NestedTlb<E, N> {
    fn reach(&self) -> Reach {
        match self {
            Self::Ept(tlb) => tlb.reach(),
            Self::Npt(tlb) => tlb.reach(),
        }
    }

    fn publish(&self) {
        match self {
            Self::Ept(tlb) => tlb.publish(),
            Self::Npt(tlb) => tlb.publish(),
        }
    }

    fn invalidate(&self, root: Root, scope: Scope) {
        self.ask(root, |tlb, root| tlb.invalidate(root, scope), |tlb, root| tlb.invalidate(root, scope));
    }

    fn invalidate_all(&self, root: Root) {
        self.ask(root, Invalidate::invalidate_all, Invalidate::invalidate_all);
    }

    fn flush(&self, root: Root, cpu: CpuId) -> Result<(), Unreachable> {
        self.ask(root, |tlb, root| tlb.flush(root, cpu), |tlb, root| tlb.flush(root, cpu))
            .unwrap_or(Err(Unreachable(cpu)))
    }

    fn invalidate_denial(&self, root: Root, gpa: GuestPhysAddr) {
        self.ask(root, |tlb, root| tlb.invalidate_denial(root, gpa), |tlb, root| tlb.invalidate_denial(root, gpa));
    }

    fn switch_vcpu(&self, root: Root) {
        self.ask(root, Invalidate::switch_vcpu, Invalidate::switch_vcpu);
    }

    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        match self {
            Self::Ept(tlb) => tlb.interrupt(cpus),
            Self::Npt(tlb) => tlb.interrupt(cpus),
        }
    }

    fn synchronize(&self, bytes: NonNull<u8>, len: usize, content: Content) {
        match self {
            Self::Ept(tlb) => tlb.synchronize(bytes, len, content),
            Self::Npt(tlb) => tlb.synchronize(bytes, len, content),
        }
    }

    fn synchronizes(&self, content: Content) -> bool {
        match self {
            Self::Ept(tlb) => tlb.synchronizes(content),
            Self::Npt(tlb) => tlb.synchronizes(content),
        }
    }

    fn activate(&self, root: Root) {
        self.ask(root, Invalidate::activate, Invalidate::activate);
    }
}

#[cfg(test)]
#[path = "tests/vendor.rs"]
mod tests;
