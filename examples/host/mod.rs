// What the examples run on, those of the documentation too: the host's heap for physical memory, and a CPU on which no
// guest runs. The documentation includes the text of this file, so that nothing stands at its head.

use std::{
    alloc::{Layout, alloc, dealloc},
    error::Error,
    ptr::NonNull,
};

use stage2::{
    Access, Cause, Config, CpuId, Fault, Frames, GuestPhysRange, GuestSpace, Limits, MappingFlags, Origin, PhysAddr,
    Platform,
    aarch64::{Capabilities, Executor, IdRegisters, Op, Stage1, Stage2, Tlb, Vmid},
};

pub const RW: MappingFlags = MappingFlags::READ.union(MappingFlags::WRITE);

/// The host's heap: here a physical address is a pointer.
#[derive(Clone)]
pub struct Heap;

#[allow(unsafe_code, reason = "an allocator of host frames")]
// SAFETY: the heap gives memory to one owner at a time, and a physical address is its pointer.
unsafe impl Frames for Heap {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        let layout = Layout::from_size_align(count * 0x1000, align).ok()?;
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc(layout) })?;
        Some(PhysAddr::from_usize(memory.as_ptr().expose_provenance()))
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        let size = count * 0x1000;
        // The crate aligns what it asks for to its size.
        let layout = Layout::from_size_align(size, size.next_power_of_two()).expect("the layout of `allocate`");
        // SAFETY: the caller gives back what `allocate` gave, whole (`Pieces::Whole`).
        unsafe { dealloc(self.pointer(at).as_ptr(), layout) }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(at.as_usize())).expect("the heap does not start at 0")
    }

    fn pool(&self) -> Option<usize> {
        Some(0)
    }
}

/// A CPU that has no translations to forget.
#[derive(Clone)]
pub struct Idle;

impl Executor for Idle {
    fn execute(&self, _: Op) {}

    fn vttbr(&self) -> u64 {
        0
    }

    fn vtcr(&self) -> u64 {
        0
    }

    fn hcr(&self) -> u64 {
        0
    }

    fn stage1(&self) -> Stage1 {
        Stage1 { tcr: 0, sctlr: 0 }
    }

    fn mask_interrupts(&self) -> u64 {
        0
    }

    fn restore_interrupts(&self, _saved: u64) {}
}

pub struct Host;

impl Platform for Host {
    type Format = Stage2;
    type Frames = Heap;
    type Invalidate = Tlb<Idle>;
}

/// A guest without memory.
pub fn guest(vmid: u16) -> Result<GuestSpace<Host>, Box<dyn Error>> {
    // A CPU with 48-bit physical addresses, FEAT_S2FWB, IDC and DIC.
    let registers = IdRegisters { mmfr0: 0x5, mmfr2: 1 << 40, ctr: 0x3004_0004, ..IdRegisters::default() };
    let capabilities = Capabilities::from_registers(registers);
    let format = Stage2::new(&capabilities, 40, Vmid(vmid))?;
    Ok(GuestSpace::new(Config {
        format,
        frames: Heap,
        invalidate: Tlb::new(capabilities, Idle),
        cpus: 1,
        limits: Limits::default(),
    })?)
}

pub fn range(start: usize, size: usize) -> GuestPhysRange {
    GuestPhysRange::from_start_size(start.into(), size)
}

/// The fault that a guest's access to an untouched page is.
#[allow(dead_code, reason = "not every example has a guest that faults")]
pub fn fault(space: &GuestSpace<Host>, at: usize, access: Access) -> Result<(), Box<dyn Error>> {
    let fault = Fault { gpa: at.into(), access, cause: Cause::Translation, origin: Origin::Instruction };
    println!("      {access:?} at {at:#x}: {:?}", space.fault(CpuId(0), fault)?);
    Ok(())
}
