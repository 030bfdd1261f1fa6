//! The PC as a machine of the scenarios.
#![allow(unsafe_code, reason = "each CPU's own virtual CPUs")]

use alloc::vec::Vec;
use core::cell::RefCell;

use hypervisor::{cpu, vcpu::Mode};
use memory_addr::PAGE_SIZE_4K;
use stage2::{
    Config, CpuId, GuestPhysAddr, GuestSpace, Limits, Mapping, MappingFlags, PhysAddr, Platform, VcpuId, format::Used,
};
use stage2_scenarios::{Attempt, Device, Facts, FrameZero, Machine, Seat, Setting, Step, Stop, View, range};

use super::{
    guest::{self, Errand},
    shooter,
    tables::{Entry, Tables},
    vcpu::{Vcpu, enter, prepare},
};
use crate::{
    board::{self, Board},
    cpus,
};

/// What is one vendor's.
pub trait Vendor: Sync + Sized + 'static {
    /// The parts of its spaces, and what their entries look like.
    type Parts: Platform<Frames = Board, Invalidate: Clone> + Tables;
    /// Its virtual CPUs.
    type Vcpu: Vcpu;

    /// How long a guest gets to see something that it must see, in ticks of the time-stamp counter: many times what it
    /// needs.
    const PATIENCE: u64;
    /// How long something must not come to be taken for never.
    const NEVER: u64;

    /// The widest guest-physical address.
    fn widest(&self) -> u32;

    /// The size in bytes of the largest leaf.
    fn largest_leaf(&self) -> usize;

    /// How often to try what goes wrong only sometimes.
    fn rounds(&self, most: u64) -> u64 {
        most
    }

    /// The tables of a space.
    ///
    /// # Errors
    /// The CPUs cannot have them.
    fn format(&self, setting: Setting) -> Result<<Self::Parts as Platform>::Format, Stop>;

    /// A space's invalidations.
    fn invalidate(&self) -> <Self::Parts as Platform>::Invalidate;
}

/// How many virtual CPUs scenarios use.
const VCPUS: usize = 2;

/// The virtual CPUs of one CPU: a scenario's guests all use the same ones, so that their tags are the same, too.
struct Own<C>([RefCell<Option<C>>; VCPUS]);

// SAFETY: each CPU uses its own place alone.
unsafe impl<C> Sync for Own<C> {}

/// The PC.
pub struct Pc<V: Vendor> {
    /// Its vendor's part.
    pub vendor: V,
    board: Board,
    cpus: usize,
    own: [Own<V::Vcpu>; cpus::MOST],
}

/// Where the PC's memory ends with 512 MiB.
const MEMORY_END: usize = 0x2000_0000;
/// A page that is no space's.
const FOREIGN: usize = MEMORY_END - PAGE_SIZE_4K;
/// Behind the program and its heap.
const POOL_START: usize = 0x800_0000;

/// The reset vector, which is in the ROM: what devices do is not the same on all models of an emulator.
const ROM: Device = Device { at: PhysAddr::from_usize(0xffff_f000), offset: 0xff0, value: 0x0d_e9 };

const READ: MappingFlags = MappingFlags::READ;

impl<V: Vendor> Pc<V> {
    /// Starts the other CPU and takes all memory.
    pub fn start(vendor: V) -> Self {
        guest::write_tables();
        cpu::on_nmi(shooter::on_nmi);
        Self {
            vendor,
            board: Board::new(POOL_START..FOREIGN),
            cpus: cpus::start(|| {}),
            own: [const { Own([const { RefCell::new(None) }; VCPUS]) }; cpus::MOST],
        }
    }

    /// The PC's memory.
    pub fn board(&self) -> Board {
        self.board
    }

    /// One run on this CPU.
    pub fn run_here(&self, space: &GuestSpace<V::Parts>, seat: Seat, errand: Errand) -> Attempt {
        let number = seat.vcpu.0;
        let mut place = self.own[cpus::here()].0[number].borrow_mut();
        let vcpu = place.get_or_insert_with(|| V::Vcpu::new(number, Mode::Long { cr3: 0, rip: 0 }));
        vcpu.load();
        prepare(vcpu, errand, seat.view);
        enter(space, seat, vcpu).unwrap_or_else(|error| Attempt::Unexpected(alloc::format!("{error}")))
    }
}

impl<V: Vendor> Machine for Pc<V> {
    type Platform = V::Parts;

    const GUEST_LEVELS: usize = 4;

    fn facts(&self) -> Facts {
        let widest = self.vendor.widest();
        Facts { cpus: self.cpus, narrowest: 40, widest, frame_zero: FrameZero::Readable }
    }

    fn largest_leaf(&self) -> usize {
        self.vendor.largest_leaf()
    }

    fn rounds(&self, most: u64) -> u64 {
        self.vendor.rounds(most)
    }

    fn used(&self, space: &GuestSpace<V::Parts>, at: GuestPhysAddr) -> Option<Used> {
        let leaf = Entry::leaf(space, at.as_usize());
        Some(match (leaf.has(V::Parts::ACCESSED), leaf.has(V::Parts::DIRTY)) {
            (_, true) => Used::Dirty,
            (true, false) => Used::Accessed,
            (false, false) => Used::Not,
        })
    }

    /// With the program and its tables in it.
    fn space(&self, setting: Setting) -> Result<GuestSpace<V::Parts>, Stop> {
        let space = GuestSpace::new(Config {
            format: self.vendor.format(setting)?,
            frames: self.board,
            invalidate: self.vendor.invalidate(),
            cpus: self.cpus,
            limits: Limits::default(),
        })?;
        let linear = |to| Mapping::Linear { to };
        let program = range(guest::program_place(), PAGE_SIZE_4K);
        let tables = range(guest::tables_place(), guest::TABLE_PAGES * PAGE_SIZE_4K);
        space.map(program, linear(guest::program()), READ | MappingFlags::EXECUTE)?;
        space.map(tables, linear(guest::tables()), READ | MappingFlags::WRITE)?;
        Ok(space)
    }

    fn attempt(&self, space: &GuestSpace<V::Parts>, seat: Seat, step: Step) -> Attempt {
        self.on(seat.cpu, || self.run_here(space, seat, Errand::Step(step)))
    }

    fn on<R: Send>(&self, cpu: CpuId, work: impl FnOnce() -> R + Send) -> R {
        if cpu.0 == cpus::here() { work() } else { cpus::together(|| (), work).1 }
    }

    fn both<A: Send, B: Send>(&self, first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B + Send) -> (A, B) {
        cpus::together(first, second)
    }

    fn park(&self) {
        // A CPU that is not in the guest walks no tables.
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
        ROM
    }

    fn foreign(&self) -> PhysAddr {
        PhysAddr::from_usize(FOREIGN)
    }

    fn code(&self, value: u16) -> Vec<u8> {
        // MOV EAX, value; JMP RDX; NOP (Intel SDM Vol. 2; AMD64 APM Vol. 3).
        let [low, high] = value.to_le_bytes();
        [0xb8, low, high, 0, 0, 0xff, 0xe2, 0x90].to_vec()
    }

    fn guest_table(&self, at: GuestPhysAddr) -> u64 {
        at.as_usize() as u64 | guest::TABLE
    }

    fn guest_page(&self, at: GuestPhysAddr) -> u64 {
        at.as_usize() as u64 | guest::PAGE
    }

    fn guest_root(&self) -> Option<(usize, u64)> {
        Some((guest::HIGH_INDEX, guest::high_entry()))
    }
}

/// The first virtual CPU on a CPU, as scenarios number them, with paging as it likes.
#[must_use]
pub fn seat(cpu: usize) -> Seat {
    Seat { cpu: CpuId(cpu), vcpu: VcpuId(cpu), view: View::Physical }
}
