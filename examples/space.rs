//! A guest's memory on any host: the tables are real AArch64 stage-2 tables, the instructions are printed.
//!
//! ```sh
//! cargo run --example space
//! ```
#![allow(unsafe_code, reason = "an allocator of host frames")]

use std::{
    alloc::{Layout, alloc, dealloc},
    ptr::NonNull,
};

use memory_addr::PAGE_SIZE_4K;
use stage2::{
    Access, Cause, Config, CpuId, Fault, Frames, GuestPhysAddr, GuestPhysRange, GuestSpace, LeafPolicy, Limits,
    Mapping, MappingFlags, Origin, PhysAddr, Platform, Populate,
    aarch64::{Capabilities, Executor, IdRegisters, Op, Stage1, Stage2, Tlb, Vmid},
};

/// The host's heap, taken for physical memory: here a physical address is a pointer.
#[derive(Clone)]
struct Heap;

// SAFETY: the heap gives memory to one owner at a time, and a physical address is its pointer.
unsafe impl Frames for Heap {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        let layout = Layout::from_size_align(count * PAGE_SIZE_4K, align).ok()?;
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc(layout) })?;
        Some(PhysAddr::from_usize(memory.as_ptr().expose_provenance()))
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        let size = count * PAGE_SIZE_4K;
        // The crate aligns what it asks for to its size.
        let layout = Layout::from_size_align(size, size.next_power_of_two()).expect("the layout of `allocate`");
        // SAFETY: the caller gives back what `allocate` gave, whole (`Pieces::Whole`).
        unsafe { dealloc(self.pointer(at).as_ptr(), layout) }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        NonNull::new(std::ptr::with_exposed_provenance_mut(at.as_usize())).expect("the heap does not start at 0")
    }
}

/// A CPU that says what it would do.
struct Narrator;

impl Executor for Narrator {
    fn execute(&self, operation: Op) {
        println!("      {operation:x?}");
    }

    fn vttbr(&self) -> u64 {
        1 << 48
    }

    fn vtcr(&self) -> u64 {
        // The space's own, which is active.
        0x8005_3558
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

struct Host;

impl Platform for Host {
    type Format = Stage2;
    type Frames = Heap;
    type Invalidate = Tlb<Narrator>;
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // What a CPU with 48-bit physical addresses, FEAT_S2FWB, IDC and DIC says of itself.
    let registers = IdRegisters { mmfr0: 0x5, mmfr2: 1 << 40, ctr: 0x3004_0004, ..IdRegisters::default() };
    let capabilities = Capabilities::from_registers(registers);
    let space = GuestSpace::<Host>::new(Config {
        format: Stage2::new(&capabilities, 40, Vmid(1))?,
        frames: Heap,
        invalidate: Tlb::new(capabilities, Narrator),
        cpus: 1,
        limits: Limits::default(),
    })?;
    let range = |start, size| GuestPhysRange::from_start_size(GuestPhysAddr::from_usize(start), size);
    let rw = MappingFlags::READ | MappingFlags::WRITE;

    println!("RAM on demand, and a UART:");
    let lazy = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
    space.map(range(0x4000_0000, 16 << 20), lazy, rw | MappingFlags::EXECUTE)?;
    let uart = Mapping::Linear { to: PhysAddr::from_usize(0x0900_0000) };
    space.map(range(0x0900_0000, 0x1000), uart, rw | MappingFlags::DEVICE)?;

    println!("The guest touches a page:");
    let fault = Fault {
        gpa: GuestPhysAddr::from_usize(0x4000_1008),
        access: Access::Write,
        cause: Cause::Translation,
        origin: Origin::Instruction,
    };
    println!("      {:?}", space.fault(CpuId(0), fault)?);

    println!("The hypervisor writes three more, and reads them back:");
    space.write(GuestPhysAddr::from_usize(0x4000_2ffe), b"across a border")?;
    let text: [u8; 15] = space.read_obj(GuestPhysAddr::from_usize(0x4000_2ffe))?;
    println!("      {:?}", std::str::from_utf8(&text)?);

    println!("The page's frame is taken from under the guest:");
    space.relocate(range(0x4000_1000, 0x1000))?;

    println!("Half of it goes:\n");
    space.unmap(range(0x4080_0000, 8 << 20))?;
    println!("{space}\n{:?}\n{:x?}", space.stats(), space.root());
    Ok(())
}
