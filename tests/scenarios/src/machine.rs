//! What a machine must offer for its guest to be put to the test.

use alloc::{string::String, vec::Vec};

use stage2::{CpuId, Fault, GuestPhysAddr, GuestPhysRange, GuestSpace, PhysAddr, Platform, VcpuId, format::Used};

use crate::Stop;

/// A machine with CPUs that run a guest: a model, an emulator, a board.
///
/// Calls come from the scenario, which runs on CPU 0 unless [`on`](Self::on) or [`both`](Self::both) says otherwise.
pub trait Machine: Sync + Sized + 'static {
    /// Its tables, its frames, its way to make CPUs forget.
    type Platform: Platform<Invalidate: Clone>;

    /// The levels of the guest's own tables, from their root down; each takes nine bits of the address above a page's.
    const GUEST_LEVELS: usize;

    /// What it is.
    fn facts(&self) -> Facts;

    /// The size in bytes of the largest leaf that its CPUs have.
    fn largest_leaf(&self) -> usize {
        1 << 30
    }

    /// What the CPU noted in the leaf over an address; `None` where the machine cannot tell.
    fn used(&self, space: &GuestSpace<Self::Platform>, at: GuestPhysAddr) -> Option<Used> {
        let _ = (space, at);
        None
    }

    /// How often to try what goes wrong only sometimes, where `most` is often enough on a fast machine.
    fn rounds(&self, most: u64) -> u64 {
        most
    }

    /// Lets the other CPU go on before this one tries again. Where CPUs are threads, the other one may have none of the
    /// host's CPUs while it is at work on an entry that this one waits for.
    fn relax(&self) {
        core::hint::spin_loop();
    }

    /// A space in which nothing is mapped, but what the machine itself needs in the [`reserved`] range.
    ///
    /// # Errors
    /// [`Stop::Skipped`] for what the CPUs cannot do.
    fn space(&self, setting: Setting) -> Result<GuestSpace<Self::Platform>, Stop>;

    /// The guest tries once: enters on the seat's CPU, does one step, and leaves, whatever came of it.
    fn attempt(&self, space: &GuestSpace<Self::Platform>, seat: Seat, step: Step) -> Attempt;

    /// Runs `work` on a CPU: here if this is it.
    fn on<R: Send>(&self, cpu: CpuId, work: impl FnOnce() -> R + Send) -> R;

    /// Runs both at the same time: the first on CPU 0, the second on CPU 1.
    fn both<A: Send, B: Send>(&self, first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B + Send) -> (A, B);

    /// Takes all CPUs off the spaces that they ran last, one of which is about to go.
    fn park(&self);

    /// How many frames are allocated.
    fn allocated(&self) -> usize;

    /// Lets `count` more allocations succeed and no other, or all of them.
    fn allow(&self, count: Option<usize>);

    /// Reads a word of host memory.
    fn peek(&self, at: PhysAddr) -> u64;

    /// Writes a word of host memory.
    fn poke(&self, at: PhysAddr, value: u64);

    /// A device.
    fn device(&self) -> Device;

    /// A page of host memory that is no space's. The aligned 1 GiB around it can be mapped; only the page itself may
    /// be accessed, and a guest may do so.
    fn foreign(&self) -> PhysAddr;

    /// Instructions that, when the guest calls them, return `value`.
    fn code(&self, value: u16) -> Vec<u8>;

    /// The entry of the guest's own tables that points to a table.
    fn guest_table(&self, at: GuestPhysAddr) -> u64;

    /// The entry of the guest's own tables that maps a page, for everything.
    fn guest_page(&self, at: GuestPhysAddr) -> u64;

    /// What every root of the guest's own must have for the machine to run there: an index and its entry.
    fn guest_root(&self) -> Option<(usize, u64)> {
        None
    }
}

/// Where a machine may put what it needs itself in every space. Scenarios keep away from it.
#[must_use]
pub fn reserved() -> GuestPhysRange {
    GuestPhysRange { start: GuestPhysAddr::from_usize(0x3fff_0000), end: GuestPhysAddr::from_usize(0x4000_0000) }
}

/// What a machine is.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// How many CPUs scenarios can use.
    pub cpus: usize,
    /// The narrowest guest-physical address that can be had.
    pub narrowest: u32,
    /// The widest.
    pub widest: u32,
    /// Whether there is something to read at host-physical address 0.
    pub frame_zero: FrameZero,
}

/// Whether there is something to read at host-physical address 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameZero {
    /// A guest can read it.
    Readable,
    /// There is no memory.
    Absent,
}

/// What a space is to be.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The width of a guest-physical address.
    pub bits: u32,
    /// The identifier in the TLBs.
    pub tag: Tag,
    /// Whether the CPU or the hypervisor notes accesses and writes.
    pub marks: Marks,
}

impl Default for Setting {
    fn default() -> Self {
        Self { bits: 40, tag: Tag::Fresh, marks: Marks::Software }
    }
}

/// A space's identifier in the TLBs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// One that no other living space has.
    Fresh,
    /// This one, below 8: no machine gives it to a space whose setting did not ask for it.
    This(u16),
}

/// Whether the CPU or the hypervisor notes accesses and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marks {
    /// The hypervisor.
    Software,
    /// The CPU: first accesses, and first writes.
    Hardware,
}

/// On which CPU and as which virtual CPU the guest does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The CPU.
    pub cpu: CpuId,
    /// The virtual CPU.
    pub vcpu: VcpuId,
    /// How its addresses are translated first.
    pub view: View,
}

/// What the guest's own translation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// It is off: addresses are guest-physical.
    Physical,
    /// It walks the tables at this root, which lie in the guest's memory.
    Virtual(GuestPhysAddr),
}

/// One thing that a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Loads the word at the address.
    Read(usize),
    /// Stores a word at the address.
    Write(usize, u64),
    /// Calls what is at the address.
    Execute(usize),
    /// Loads the word at the address, adds one and stores it, until it is the value or more; a copy goes to the page
    /// behind. Tried again after a fault, it goes on where it was. It ends early where the word is less than its copy:
    /// what was stored is lost.
    CountTo(usize, u64),
    /// Forgets its own translations on this CPU.
    Forget,
}

/// What came of one try.
#[derive(Clone, Debug, PartialEq)]
pub enum Attempt {
    /// It was done: what was loaded or returned.
    Done(u64),
    /// The second stage of translation refused.
    Fault(Fault),
    /// The CPU saw a fault, but nothing can be said of it any more: try again.
    Again,
    /// The guest's own translation refused.
    GuestException,
    /// Something that no guest of a scenario does.
    Unexpected(String),
}

/// A device that always reads the same.
#[derive(Clone, Copy, Debug)]
pub struct Device {
    /// Its page.
    pub at: PhysAddr,
    /// Where in the page the word is.
    pub offset: usize,
    /// What the word is.
    pub value: u64,
}
