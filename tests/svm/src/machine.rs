//! The PC as a machine of the scenarios.
#![allow(unsafe_code, reason = "SVM instructions")]

use alloc::vec::Vec;
use core::{
    cell::RefCell,
    sync::atomic::{AtomicU32, Ordering},
};

use hypervisor::{
    cpu,
    svm::{Exit, Next, PAT, Vcpu},
};
use memory_addr::PAGE_SIZE_4K;
use stage2::{
    Config, CpuId, GuestPhysAddr, GuestSpace, Limits, Mapping, MappingFlags, PhysAddr, Platform, Used,
    x86_64::{
        Nested, NestedTlb, ept,
        npt::{Asid, Capabilities, Decoded, Features, Instructions, Npt, Tlb, decode},
    },
};
use stage2_bare::{
    board::{self, Board},
    cpus,
    pc::{self, Errand},
};
use stage2_scenarios::{Attempt, Device, Facts, FrameZero, Machine, Seat, Setting, Step, Stop, Tag, View, range};

use crate::{
    guest,
    shooter::{self, Shooter},
    tables::{ACCESSED, DIRTY, Entry},
};

/// The parts: the crate's own for either vendor's CPUs, with a place for faults to be put in.
pub struct Parts;

impl Platform for Parts {
    type Format = Nested;
    type Frames = Board;
    type Invalidate = NestedTlb<ept::Tlb<ept::Instructions, Shooter>, Tlb<Instructions<Next>, Shooter>>;
}

/// How many virtual CPUs scenarios use.
const VCPUS: usize = 2;

/// The virtual CPUs of one CPU.
struct Own([RefCell<Option<Vcpu>>; VCPUS]);

// SAFETY: each CPU uses its own place alone.
unsafe impl Sync for Own {}

static OWN: [Own; cpus::MOST] = [const { Own([const { RefCell::new(None) }; VCPUS]) }; cpus::MOST];

/// The PC.
pub struct Svm {
    board: Board,
    capabilities: Capabilities,
    cpus: usize,
    next_tag: AtomicU32,
}

/// Where the PC's memory ends with 512 MiB.
const MEMORY_END: usize = 0x2000_0000;
/// A page that is nobody's.
const FOREIGN: usize = MEMORY_END - PAGE_SIZE_4K;
/// Behind the program and its heap.
const POOL_START: usize = 0x800_0000;

/// The first ASID, and the first that scenarios cannot ask for.
const FIRST: u32 = 1;
const FIRST_FRESH: u32 = FIRST + 8;

/// The reset vector, which is in the ROM.
const ROM: Device = Device { at: PhysAddr::from_usize(0xffff_f000), offset: 0xff0, value: 0x0d_e9 };

impl Svm {
    /// Starts the other CPU and takes all memory.
    pub fn start() -> Self {
        pc::write_tables();
        cpu::on_nmi(shooter::on_nmi);
        Self {
            board: Board::new(POOL_START..FOREIGN),
            capabilities: Capabilities::detect(),
            cpus: cpus::start(|| {}),
            next_tag: AtomicU32::new(0),
        }
    }

    /// The PC's memory.
    pub fn board(&self) -> Board {
        self.board
    }

    /// The width of a host-physical address.
    pub fn physical_bits(&self) -> u32 {
        self.capabilities.physical_bits
    }

    fn asid(&self, tag: Tag) -> Asid {
        match tag {
            Tag::This(number) => Asid(FIRST + u32::from(number)),
            Tag::Fresh => {
                let number = self.next_tag.fetch_add(1, Ordering::Relaxed) % (self.capabilities.asids - FIRST_FRESH);
                Asid(FIRST_FRESH + number)
            }
        }
    }

    /// The tables of a space. The CPU always notes accesses and writes.
    fn format(&self, setting: Setting) -> Result<Npt, Stop> {
        Npt::new(&self.capabilities, self.asid(setting.tag))
            .and_then(|format| format.with_pat(PAT))
            .and_then(|format| format.with_input_bits(setting.bits))
            .map_err(|error| Stop::failed(format_args!("{error}")))
    }
}

/// One run on this CPU.
pub fn run_here(space: &GuestSpace<Parts>, seat: Seat, errand: Errand) -> Attempt {
    let mut place = OWN[cpus::here()].0[seat.vcpu.0].borrow_mut();
    let vcpu = place.get_or_insert_with(guest::vcpu);
    guest::prepare(vcpu, errand, seat.view);
    match enter(space, seat, vcpu) {
        Ok(exit) => read_exit(vcpu, &exit),
        Err(error) => Attempt::Unexpected(alloc::format!("{error}")),
    }
}

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
        Decoded::NotTranslation { .. } if exit.is_exception() => Attempt::GuestException,
        other => Attempt::Unexpected(alloc::format!("{other:x?}, {exit:x?}")),
    }
}

impl Machine for Svm {
    type Platform = Parts;

    const GUEST_LEVELS: usize = 4;

    fn facts(&self) -> Facts {
        let widest = self.capabilities.guest_physical_bits.min(48);
        Facts { cpus: self.cpus, narrowest: 40, widest, frame_zero: FrameZero::Readable }
    }

    fn largest_leaf(&self) -> usize {
        if self.capabilities.features.contains(Features::LEAF_1G) { 1 << 30 } else { 1 << 21 }
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
        // SAFETY: this program has SVM, EFER.NXE and its PAT set on each CPU, in long mode with four levels; its tables
        // come from its pool, and no virtual CPU runs but on a space that was activated and entered.
        let instructions = unsafe { Instructions::new(Next) };
        let space = GuestSpace::new(Config {
            format: Nested::Npt(self.format(setting)?),
            frames: self.board,
            invalidate: NestedTlb::Npt(Tlb::new(instructions, Shooter)),
            cpus: self.cpus,
            limits: Limits::default(),
        })?;
        let linear = |to| Mapping::Linear { to };
        let tables = range(pc::tables_place(), pc::TABLE_PAGES * PAGE_SIZE_4K);
        let program = range(pc::program_place(), PAGE_SIZE_4K);
        space.map(program, linear(pc::program()), MappingFlags::READ | MappingFlags::EXECUTE)?;
        space.map(tables, linear(pc::tables()), MappingFlags::READ | MappingFlags::WRITE)?;
        Ok(space)
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
        // MOV EAX, value; JMP RDX; NOP (AMD64 APM Vol. 3).
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
