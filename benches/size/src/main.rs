//! What a small hypervisor for `AArch64` calls of the crate: a space, map, unmap, a fault that is decoded, and the real
//! invalidation. It is linked and never run; `cargo xtask bench` reads how large its code is.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "an entry, and an allocator that says nothing is left")]

use core::{
    alloc::{GlobalAlloc, Layout},
    hint::black_box,
    panic::PanicInfo,
    ptr::NonNull,
};

use stage2::{
    Config, CpuId, Frames, GuestPhysRange, GuestSpace, LeafPolicy, Limits, Mapping, MappingFlags, PhysAddr, Platform,
    Populate,
    aarch64::{Capabilities, Decoded, IdRegisters, Instructions, Stage2, Syndrome, Tlb, Vmid, decode},
};

/// An allocator that the linker cannot look into, and that costs no code.
struct Opaque;

// SAFETY: it never gives memory.
unsafe impl GlobalAlloc for Opaque {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        black_box(layout);
        black_box(core::ptr::null_mut())
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: Opaque = Opaque;

/// The frames of the same kind.
#[derive(Clone)]
struct NoFrames;

// SAFETY: it never gives frames, as far as the compiler is told.
unsafe impl Frames for NoFrames {
    fn allocate(&self, _: usize, _: usize) -> Option<PhysAddr> {
        black_box(None)
    }

    unsafe fn free(&self, at: PhysAddr, _: usize) {
        black_box(at);
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        NonNull::new(core::ptr::with_exposed_provenance_mut(at.as_usize())).unwrap_or(NonNull::dangling())
    }
}

struct Small;

impl Platform for Small {
    type Format = Stage2;
    type Frames = NoFrames;
    type Invalidate = Tlb<Instructions>;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}

#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    black_box(run());
    loop {
        core::hint::spin_loop();
    }
}

/// Everything that it calls, with values that the compiler does not know.
#[inline(never)]
fn run() -> Option<()> {
    let capabilities = Capabilities::from_registers(black_box(IdRegisters::default()));
    // SAFETY: never run.
    let instructions = unsafe { Instructions::new() };
    let space = GuestSpace::<Small>::new(Config {
        format: Stage2::new(&capabilities, black_box(40), Vmid(1)).ok()?,
        frames: NoFrames,
        invalidate: Tlb::new(capabilities, instructions),
        cpus: black_box(4),
        limits: Limits::default(),
    })
    .ok()?;
    let flags = MappingFlags::READ | MappingFlags::WRITE;
    let range = || GuestPhysRange::from_start_size(black_box(0x4000_0000).into(), black_box(0x10_0000));
    let lazy = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
    space.map(range(), black_box(lazy), flags).ok()?;
    let device = Mapping::Linear { to: PhysAddr::from_usize(0x900_0000) };
    space.map(range(), black_box(device), flags | MappingFlags::DEVICE).ok()?;
    if let Decoded::Fault(fault) = decode(black_box(Syndrome { esr: 0, far: 0, hpfar: 0 })) {
        let _ = black_box(space.fault(CpuId(black_box(0)), fault).ok()?);
    }
    space.unmap(range()).ok()
}
