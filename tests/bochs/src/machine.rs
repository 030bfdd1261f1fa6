//! The PC as a machine of the scenarios.
#![allow(unsafe_code, reason = "VMX instructions")]

use alloc::vec::Vec;
use core::{
    cell::RefCell,
    sync::atomic::{AtomicBool, Ordering},
};

use hypervisor::{
    cpu,
    vcpu::{Exit, Vcpu, reason},
};
use memory_addr::PAGE_SIZE_4K;
use stage2::{
    Config, CpuId, GuestPhysAddr, GuestSpace, Limits, Mapping, MappingFlags, PhysAddr, Platform, Used, native,
    x86_64::ept::{Capabilities, Decoded, Depth, Ept, Features, LargeLeaves, Tracking, decode},
};
use stage2_bare::{
    board::{self, Board},
    cpus,
    pc::{self, Errand},
};
use stage2_scenarios::{Attempt, Device, Facts, FrameZero, Machine, Marks, Seat, Setting, Step, Stop, View, range};

use crate::{
    guest,
    shooter::{self, Shooter},
    tables::{ACCESSED, DIRTY, Entry},
};

/// The parts: the crate's own for this target, with a place for faults to be put in.
pub struct Parts;

impl Platform for Parts {
    type Format = native::Format;
    type Frames = Board;
    type Invalidate = native::Invalidate<Shooter>;
}

/// How many virtual CPUs scenarios use.
const VCPUS: usize = 2;

/// The virtual CPUs of one CPU: a scenario's guests all use the same ones, so that their tags are the same, too.
struct Own([RefCell<Option<Vcpu>>; VCPUS]);

// SAFETY: each CPU uses its own place alone.
unsafe impl Sync for Own {}

static OWN: [Own; cpus::MOST] = [const { Own([const { RefCell::new(None) }; VCPUS]) }; cpus::MOST];

/// The PC.
pub struct Bochs {
    board: Board,
    capabilities: Capabilities,
    instructions: native::Instructions,
    cpus: usize,
    /// Whether spaces that are made from now on have [`LargeLeaves::ExecuteNever`].
    careful: AtomicBool,
}

/// Where the PC's memory ends with 512 MiB.
const MEMORY_END: usize = 0x2000_0000;
/// A page that is nobody's.
const FOREIGN: usize = MEMORY_END - PAGE_SIZE_4K;
/// Behind the program and its heap.
const POOL_START: usize = 0x800_0000;

/// The reset vector, which is in the ROM: what devices do is not the same on all models of Bochs.
const ROM: Device = Device { at: PhysAddr::from_usize(0xffff_f000), offset: 0xff0, value: 0x0d_e9 };

impl Bochs {
    /// Starts the other CPU and takes all memory.
    pub fn start() -> Self {
        pc::write_tables();
        cpu::on_nmi(shooter::on_nmi);
        Self {
            board: Board::new(POOL_START..FOREIGN),
            capabilities: Capabilities::detect(),
            // SAFETY: this program is in VMX root operation, its tables come from its pool, and a space is activated
            // on a CPU that has just made the virtual CPU's VMCS current.
            instructions: unsafe { native::Instructions::new() },
            cpus: cpus::start(|| {}),
            careful: AtomicBool::new(false),
        }
    }

    /// The PC's memory.
    pub fn board(&self) -> Board {
        self.board
    }

    /// Runs `work` with spaces whose large leaves are executed, or never (H18).
    pub fn with_large_leaves<R>(&self, large_leaves: LargeLeaves, work: impl FnOnce() -> R) -> R {
        self.careful.store(large_leaves == LargeLeaves::ExecuteNever, Ordering::SeqCst);
        let done = work();
        self.careful.store(false, Ordering::SeqCst);
        done
    }

    /// The tables of a space.
    fn format(&self, setting: Setting) -> Result<Ept, Stop> {
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

    /// A space with the program and its tables in it.
    fn space_of(&self, format: Ept) -> Result<GuestSpace<Parts>, Stop> {
        let space = GuestSpace::new(Config {
            format,
            frames: self.board,
            invalidate: native::Invalidate::new(self.capabilities, self.instructions, Shooter),
            cpus: self.cpus,
            limits: Limits::default(),
        })?;
        let linear = |to| Mapping::Linear { to };
        let tables = range(pc::tables_place(), pc::TABLE_PAGES * PAGE_SIZE_4K);
        space.map(range(pc::program_place(), PAGE_SIZE_4K), linear(pc::program()), READ | MappingFlags::EXECUTE)?;
        space.map(tables, linear(pc::tables()), READ | MappingFlags::WRITE)?;
        Ok(space)
    }
}

/// One run on this CPU.
pub fn run_here(space: &GuestSpace<Parts>, seat: Seat, errand: Errand) -> Attempt {
    with_vcpu(seat.vcpu.0, |vcpu| {
        guest::prepare(vcpu, errand, seat.view);
        match enter(space, seat, vcpu) {
            Ok(exit) => read_exit(vcpu, &exit),
            Err(error) => Attempt::Unexpected(alloc::format!("{error}")),
        }
    })
}

/// Gives `work` this CPU's virtual CPU of that number, as the current one.
fn with_vcpu<R>(number: usize, work: impl FnOnce(&mut Vcpu) -> R) -> R {
    let mut place = OWN[cpus::here()].0[number].borrow_mut();
    let vcpu = place.get_or_insert_with(|| guest::vcpu(number));
    vcpu.load();
    work(vcpu)
}

const READ: MappingFlags = MappingFlags::READ;

/// Runs the guest from where it is until it exits for something else than an NMI.
pub fn enter(space: &GuestSpace<Parts>, seat: Seat, vcpu: &mut Vcpu) -> Result<Exit, stage2::Error> {
    space.activate();
    shooter::entering(space);
    let exit = space.enter(seat.cpu, seat.vcpu).map(|()| {
        loop {
            // SAFETY: the space is active and entered.
            let exit = unsafe { vcpu.run() };
            if !exit.is_nmi() {
                return exit;
            }
            shooter::on_nmi();
        }
    });
    let left = space.leave(seat.cpu);
    shooter::left();
    left.and(exit)
}

/// What an exit says of a step.
pub fn read_exit(vcpu: &Vcpu, exit: &Exit) -> Attempt {
    if let Some(value) = guest::done(vcpu, exit) {
        return Attempt::Done(value);
    }
    match decode(exit.translation) {
        Decoded::Fault(fault) => Attempt::Fault(fault),
        Decoded::NotTranslation { reason: reason::EXCEPTION_OR_NMI } => Attempt::GuestException,
        other => Attempt::Unexpected(alloc::format!("{other:x?}, {exit:x?}")),
    }
}

impl Machine for Bochs {
    type Platform = Parts;

    const GUEST_LEVELS: usize = 4;

    fn facts(&self) -> Facts {
        let widest = self.capabilities.physical_bits.min(48);
        Facts { cpus: self.cpus, narrowest: 40, widest, frame_zero: FrameZero::Readable }
    }

    fn largest_leaf(&self) -> usize {
        if self.capabilities.features.contains(Features::LEAF_1G) { 1 << 30 } else { 1 << 21 }
    }

    fn rounds(&self, most: u64) -> u64 {
        // The emulator interleaves the CPUs every few instructions: it needs fewer.
        most / 4
    }

    fn used(&self, space: &GuestSpace<Parts>, at: GuestPhysAddr) -> Option<Used> {
        let leaf = Entry::leaf(space, at.as_usize());
        Some(match (leaf.has(ACCESSED), leaf.has(DIRTY)) {
            (_, true) => Used::Dirty,
            (true, false) => Used::Accessed,
            (false, false) => Used::Not,
        })
    }

    fn space(&self, setting: Setting) -> Result<GuestSpace<Parts>, Stop> {
        // The root's address is the tag: there is no other to be had.
        self.space_of(self.format(setting)?)
    }

    fn attempt(&self, space: &GuestSpace<Parts>, seat: Seat, step: Step) -> Attempt {
        self.on(seat.cpu, || run_here(space, seat, Errand::Step(step)))
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
        // MOV EAX, value; JMP RDX; NOP (Intel SDM Vol. 2).
        let [low, high] = value.to_le_bytes();
        [0xb8, low, high, 0, 0, 0xff, 0xe2, 0x90].to_vec()
    }

    fn guest_table(&self, at: GuestPhysAddr) -> u64 {
        at.as_usize() as u64 | pc::TABLE
    }

    fn guest_page(&self, at: GuestPhysAddr) -> u64 {
        at.as_usize() as u64 | pc::PAGE
    }

    fn guest_root(&self) -> Option<(usize, u64)> {
        Some((pc::HIGH_INDEX, pc::high_entry()))
    }
}

/// The first virtual CPU on a CPU, as scenarios number them, with paging as it likes.
pub fn seat(cpu: usize) -> Seat {
    Seat { cpu: CpuId(cpu), vcpu: stage2::VcpuId(cpu), view: View::Physical }
}
