//! Intel's part of the PC.
#![allow(unsafe_code, reason = "VMX instructions")]

use core::sync::atomic::{AtomicBool, Ordering};

use stage2::{
    Platform, native,
    x86_64::ept::{Capabilities, Depth, Ept, Features, LargeLeaves, Root, Tracking},
};
use stage2_bare::{
    board::Board,
    pc::{Tables, Vendor, shooter::Shooter},
};
use stage2_scenarios::{Marks, Setting, Stop};

use crate::guest::WithVmcs;

/// The parts: the crate's own for this target, with a place for defects to be put in.
pub struct Parts;

impl Platform for Parts {
    type Format = native::Format;
    type Frames = Board;
    type Invalidate = native::Invalidate<Shooter>;
}

/// It can be read.
pub const READ: u64 = 1 << 0;
/// A leaf's memory type.
pub const TYPE: u64 = 0b111 << 3;
/// A readable and writable leaf of write-back memory.
pub const MEMORY: u64 = READ | Parts::WRITE | 6 << 3;
/// It can be executed.
const EXECUTE: u64 = 1 << 2;

/// Intel SDM Vol. 3C, 29.3.2.
impl Tables for Parts {
    const PRESENT: u64 = READ | Self::WRITE | EXECUTE;
    const WRITE: u64 = 1 << 1;
    const LARGE: u64 = 1 << 7;
    const ACCESSED: u64 = 1 << 8;
    const DIRTY: u64 = 1 << 9;

    fn is_executable(bits: u64) -> bool {
        bits & EXECUTE != 0
    }

    fn root(root: Root) -> u64 {
        root.eptp
    }
}

/// CPUs with VMX.
pub struct Vmx {
    capabilities: Capabilities,
    instructions: native::Instructions,
    /// Whether spaces that are made from now on have [`LargeLeaves::ExecuteNever`].
    careful: AtomicBool,
}

impl Vmx {
    /// This PC's.
    pub fn detect() -> Self {
        Self {
            capabilities: Capabilities::detect(),
            // SAFETY: this program is in VMX root operation, its tables come from its pool, and a space is activated
            // on a CPU that has just made the virtual CPU's VMCS current.
            instructions: unsafe { native::Instructions::new() },
            careful: AtomicBool::new(false),
        }
    }

    /// Runs `work` with spaces whose large leaves are executed, or never (H18).
    pub fn with_large_leaves<R>(&self, large_leaves: LargeLeaves, work: impl FnOnce() -> R) -> R {
        self.careful.store(large_leaves == LargeLeaves::ExecuteNever, Ordering::SeqCst);
        let done = work();
        self.careful.store(false, Ordering::SeqCst);
        done
    }
}

impl Vendor for Vmx {
    type Parts = Parts;
    type Vcpu = WithVmcs;

    // Bochs counts one tick an instruction, or more.
    const PATIENCE: u64 = 1 << 26;
    const NEVER: u64 = 1 << 19;

    fn widest(&self) -> u32 {
        self.capabilities.physical_bits.min(48)
    }

    fn largest_leaf(&self) -> usize {
        if self.capabilities.features.contains(Features::LEAF_1G) { 1 << 30 } else { 1 << 21 }
    }

    fn rounds(&self, most: u64) -> u64 {
        // The emulator interleaves the CPUs every few instructions: it needs fewer.
        most / 4
    }

    fn format(&self, setting: Setting) -> Result<Ept, Stop> {
        // The root's address is the tag: there is no other to be had.
        let failed = |error| Stop::failed(format_args!("{error}"));
        let format = Ept::new(&self.capabilities, Depth::Four).map_err(failed)?;
        let careful = self.careful.load(Ordering::SeqCst);
        let large_leaves = if careful { LargeLeaves::ExecuteNever } else { LargeLeaves::Executable };
        let format = format.with_input_bits(setting.bits).map_err(failed)?.with_large_leaves(large_leaves);
        let tracking = match setting.marks {
            Marks::Software => Tracking::Software,
            Marks::Hardware => Tracking::Hardware,
        };
        format.with_tracking(tracking).map_err(|_| Stop::Skipped("the CPU does not note accesses and writes"))
    }

    fn invalidate(&self) -> native::Invalidate<Shooter> {
        native::Invalidate::new(self.capabilities, self.instructions, Shooter)
    }
}
