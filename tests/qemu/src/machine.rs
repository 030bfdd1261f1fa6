//! The board as a machine of the scenarios.
#![allow(unsafe_code, reason = "EL2's instructions")]

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use memory_addr::PAGE_SIZE_4K;
use stage2::{
    Config, CpuId, GuestPhysAddr, GuestSpace, Limits, Mapping, MappingFlags, PhysAddr, Platform,
    aarch64::decode_distrusting,
    aarch64::{Capabilities, Decoded, Domain, Executor, Kind, Op, Stage2, Syndrome, Tlb, Tracking, Vmid},
    native,
};
use stage2_bare::{
    Tags,
    board::{self, Board},
    cpus,
};
use stage2_scenarios::{Attempt, Device, Facts, FrameZero, Machine, Marks, Seat, Setting, Step, Stop, range};

use crate::{guest, saboteur::Saboteur};

/// The parts: the crate's own for this target, with a place for defects to be put in.
pub struct Parts;

impl Platform for Parts {
    type Format = Stage2;
    type Frames = Board;
    type Invalidate = Tlb<Saboteur>;
}

/// The board.
pub struct Qemu {
    board: Board,
    capabilities: Capabilities,
    instructions: native::Instructions,
    cpus: usize,
    tags: Tags,
    /// `VTTBR_EL2` of each CPU, as last activated.
    active: [AtomicU64; cpus::MOST],
}

/// Where the board's memory ends with 1 GiB.
const MEMORY_END: usize = 0x8000_0000;
/// A page that is no space's.
const FOREIGN: usize = MEMORY_END - PAGE_SIZE_4K;
/// Behind the program and its heap.
const POOL_START: usize = 0x4800_0000;

/// All tags have eight bits.
const TAGS: u32 = 256;

/// `ESR_EL2.EC` of `HVC`.
const HVC: u8 = 0x16;

/// The PL011's identification: two of its registers side by side.
const UART: Device = Device { at: PhysAddr::from_usize(0x0900_0000), offset: 0xfe0, value: 0x10_0000_0011 };

impl Qemu {
    /// Starts the other CPU and takes all memory.
    pub fn start() -> Self {
        guest::prepare();
        Self {
            board: Board::new(POOL_START..FOREIGN),
            capabilities: Capabilities::detect(),
            // SAFETY: this program runs at EL2, and its tables come from its pool.
            instructions: unsafe { native::Instructions::new() },
            cpus: cpus::start(guest::prepare),
            tags: Tags::new(TAGS),
            active: [const { AtomicU64::new(0) }; cpus::MOST],
        }
    }

    /// The board's memory.
    pub fn board(&self) -> Board {
        self.board
    }

    /// Makes this CPU's root the space's, if it is another's.
    pub fn activate(&self, space: &GuestSpace<Parts>) {
        let root = space.root().vttbr;
        // Only then: QEMU forgets all translations when the register changes, and a hypervisor need not either.
        if self.active[cpus::here()].swap(root, Ordering::Relaxed) != root {
            space.activate();
        }
    }

    fn format(&self, setting: Setting) -> Result<Stage2, Stop> {
        let vmid = Vmid(self.tags.number(setting.tag) as u16);
        let format = Stage2::new(&self.capabilities, setting.bits, vmid)
            .map_err(|error| Stop::failed(format_args!("{error}")))?;
        let tracking = match setting.marks {
            Marks::Software => Tracking::Software,
            Marks::Hardware => Tracking::DirtyState,
        };
        format.with_tracking(tracking).map_err(|_| Stop::Skipped("the CPU does not note accesses and writes"))
    }

    /// One try on this CPU.
    fn try_here(&self, space: &GuestSpace<Parts>, seat: Seat, step: Step) -> Attempt {
        self.activate(space);
        guest::set_view(seat.view);
        if let Err(error) = space.enter(seat.cpu, seat.vcpu) {
            return Attempt::Unexpected(alloc::format!("{error}"));
        }
        // SAFETY: the space is active and entered, and `space` put the program in its place.
        let (syndrome, x0) = unsafe { guest::run(step, seat.view) };
        if let Err(error) = space.leave(seat.cpu) {
            return Attempt::Unexpected(alloc::format!("{error}"));
        }
        self.read_exception(syndrome, x0)
    }

    fn read_exception(&self, syndrome: Syndrome, x0: u64) -> Attempt {
        match decode_distrusting(syndrome, self.capabilities.errata) {
            // The immediate, ESR_EL2.ISS [15:0]: 0 ends a step, 1 is an exception of the guest's own.
            Decoded::NotAnAbort { class: HVC } if syndrome.esr as u16 == 0 => Attempt::Done(x0),
            Decoded::NotAnAbort { class: HVC } | Decoded::AddressSize(_) => Attempt::GuestException,
            Decoded::Fault(fault) => Attempt::Fault(fault),
            Decoded::NeedsTranslation(unresolved) => {
                self.instructions.resolve(unresolved).map_or(Attempt::Again, Attempt::Fault)
            }
            other => Attempt::Unexpected(alloc::format!("{other:x?}")),
        }
    }

    /// Takes this CPU off its space.
    fn park_here(&self) {
        self.instructions.execute(Op::Dsb(Domain::InnerShareable, Kind::All));
        self.instructions.execute(Op::SetVttbr(guest::nowhere()));
        self.instructions.execute(Op::Isb);
        self.active[cpus::here()].store(0, Ordering::Relaxed);
    }
}

impl Machine for Qemu {
    type Platform = Parts;

    const GUEST_LEVELS: usize = 3;

    fn facts(&self) -> Facts {
        let widest = self.capabilities.physical_bits.min(48);
        Facts { cpus: self.cpus, narrowest: 32, widest, frame_zero: FrameZero::Readable }
    }

    fn space(&self, setting: Setting) -> Result<GuestSpace<Parts>, Stop> {
        let space = GuestSpace::new(Config {
            format: self.format(setting)?,
            frames: self.board,
            invalidate: Tlb::new(self.capabilities, Saboteur(self.instructions)),
            cpus: self.cpus,
            limits: Limits::default(),
        })?;
        let program = Mapping::Linear { to: guest::program() };
        let flags = MappingFlags::READ | MappingFlags::EXECUTE;
        space.map(range(guest::place(), guest::PAGES * PAGE_SIZE_4K), program, flags)?;
        Ok(space)
    }

    fn attempt(&self, space: &GuestSpace<Parts>, seat: Seat, step: Step) -> Attempt {
        self.on(seat.cpu, || self.try_here(space, seat, step))
    }

    fn on<R: Send>(&self, cpu: CpuId, work: impl FnOnce() -> R + Send) -> R {
        if cpu.0 == cpus::here() { work() } else { cpus::together(|| (), work).1 }
    }

    fn both<A: Send, B: Send>(&self, first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B + Send) -> (A, B) {
        cpus::together(first, second)
    }

    fn park(&self) {
        for cpu in 0..self.cpus {
            self.on(CpuId(cpu), || self.park_here());
        }
    }

    fn allocated(&self) -> usize {
        self.board.allocated()
    }

    fn allow(&self, count: Option<usize>) {
        Board::allow(count);
    }

    fn peek(&self, at: PhysAddr) -> u64 {
        board::peek(at)
    }

    fn poke(&self, at: PhysAddr, value: u64) {
        board::poke(at, value);
    }

    fn device(&self) -> Device {
        UART
    }

    fn foreign(&self) -> PhysAddr {
        PhysAddr::from_usize(FOREIGN)
    }

    fn code(&self, value: u16) -> Vec<u8> {
        // MOVZ X0, #value; RET (Arm DDI 0487, C6.2).
        let words = [0xd280_0000 | u32::from(value) << 5, 0xd65f_03c0];
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    fn guest_table(&self, at: GuestPhysAddr) -> u64 {
        at.as_usize() as u64 | 0b11
    }

    fn guest_page(&self, at: GuestPhysAddr) -> u64 {
        // Valid page, inner shareable, accessed, not global (D8.3).
        at.as_usize() as u64 | 0xf03
    }
}
