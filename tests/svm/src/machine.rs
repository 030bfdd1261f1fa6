//! AMD's part of the PC.
#![allow(unsafe_code, reason = "SVM instructions")]

use hypervisor::svm::{Next, PAT};
use stage2::{
    Platform,
    x86_64::{
        Nested, NestedTlb, Root, ept,
        npt::{Asid, Capabilities, Features, Instructions, Npt, Tlb},
    },
};
use stage2_bare::{
    Tags,
    board::Board,
    pc::{Tables, Vendor, shooter::Shooter},
};
use stage2_scenarios::{Setting, Stop};

use crate::guest::WithVmcb;

/// The parts: the crate's own for either vendor's CPUs, with a place for defects to be put in.
pub struct Parts;

impl Platform for Parts {
    type Format = Nested;
    type Frames = Board;
    type Invalidate = NestedTlb<ept::Tlb<ept::Instructions, Shooter>, Tlb<Instructions<Next>, Shooter>>;
}

/// The guest can use it at all.
pub const USER: u64 = 1 << 2;
/// It cannot be executed.
const NO_EXECUTE: u64 = 1 << 63;

/// AMD64 APM Vol. 2, 5.3 and 5.4.
impl Tables for Parts {
    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const LARGE: u64 = 1 << 7;
    const ACCESSED: u64 = 1 << 5;
    const DIRTY: u64 = 1 << 6;

    fn is_executable(bits: u64) -> bool {
        bits & NO_EXECUTE == 0
    }

    fn root(root: Root) -> u64 {
        let Root::Npt(root) = root else { panic!("{root:x?} on this CPU") };
        root.ncr3
    }
}

/// CPUs with SVM.
pub struct Svm {
    capabilities: Capabilities,
    tags: Tags,
}

/// The first ASID.
const FIRST: u32 = 1;

impl Svm {
    /// This PC's.
    pub fn detect() -> Self {
        let capabilities = Capabilities::detect();
        Self { capabilities, tags: Tags::new(capabilities.asids - FIRST) }
    }

    /// The width of a host-physical address.
    pub fn physical_bits(&self) -> u32 {
        self.capabilities.physical_bits
    }
}

impl Vendor for Svm {
    type Parts = Parts;
    type Vcpu = WithVmcb;

    // QEMU counts as fast as its host: many seconds, and long for an emulator, too.
    const PATIENCE: u64 = 1 << 35;
    const NEVER: u64 = 1 << 30;

    fn widest(&self) -> u32 {
        self.capabilities.guest_physical_bits.min(48)
    }

    fn largest_leaf(&self) -> usize {
        if self.capabilities.features.contains(Features::LEAF_1G) { 1 << 30 } else { 1 << 21 }
    }

    /// The CPU always notes accesses and writes.
    fn format(&self, setting: Setting) -> Result<Nested, Stop> {
        Npt::new(&self.capabilities, Asid(FIRST + self.tags.number(setting.tag)))
            .and_then(|format| format.with_pat(PAT))
            .and_then(|format| format.with_input_bits(setting.bits))
            .map(Nested::Npt)
            .map_err(|error| Stop::failed(format_args!("{error}")))
    }

    fn invalidate(&self) -> <Parts as Platform>::Invalidate {
        // SAFETY: this program has SVM, EFER.NXE and its PAT set on each CPU, in long mode with four levels; its tables
        // come from its pool, and no virtual CPU runs but on a space that was activated and entered.
        NestedTlb::Npt(Tlb::new(unsafe { Instructions::new(Next) }, Shooter))
    }
}
