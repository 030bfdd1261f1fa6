//! A machine without a guest, whose frames run out with the heap.

use super::*;

/// Frames that run out with the heap: one count for both. What the pool itself takes from the heap does not count.
#[derive(Clone)]
pub(super) struct Frail(Pool);

// SAFETY: the pool's, or a failure.
unsafe impl Frames for Frail {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        if admits() { with(Luck::Good, || self.0.allocate(count, align)).0 } else { None }
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        // SAFETY: the caller's promise.
        with(Luck::Good, || unsafe { self.0.free(at, count) });
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        self.0.pointer(at)
    }

    fn pieces(&self) -> Pieces {
        self.0.pieces()
    }

    fn pool(&self) -> Option<usize> {
        self.0.pool()
    }
}

pub(super) struct Parts<F>(std::marker::PhantomData<F>);

impl<F: Format> Platform for Parts<F> {
    type Format = F;
    type Frames = Frail;
    type Invalidate = NoGuest;
}

pub(super) type Space<F> = GuestSpace<Parts<F>>;

pub(super) fn space<F: Format>(memory: &Arc<Memory>, format: &F) -> Result<Space<F>, Error> {
    let frames = Frail(Pool::new(memory));
    GuestSpace::new(Config { format: format.clone(), frames, invalidate: NoGuest, cpus: 2, limits: Limits::default() })
}

pub(super) fn arm() -> Stage2 {
    let capabilities = stage2_model::capabilities(&stage2_model::arm::Config::default());
    Stage2::new(&capabilities, 40, Vmid(1)).expect("40 bits")
}

pub(super) fn intel() -> Ept {
    // IA32_VMX_EPT_VPID_CAP of a Skylake-X.
    let registers = ept::Registers { ept_vpid_cap: 0xf01_0673_4141, arch_capabilities: 0x40, physical_bits: 46 };
    Ept::new(&ept::Capabilities::from_registers(registers), Depth::Four).expect("four levels")
}

pub(super) fn amd() -> Npt {
    let capabilities =
        npt::Capabilities { physical_bits: 48, guest_physical_bits: 48, asids: 0x8000, features: npt::Features::all() };
    Npt::new(&capabilities, Asid(1)).expect("a guest's ASID")
}
