//! One guest's memory, behind its lock.

mod access;
mod convert;
mod copy;
mod debris;
mod dismantle;
mod donate;
mod edit;
mod exclusive;
mod fault;
mod limits;
mod loan;
mod protect;
mod query;
mod relocate;
mod shared;
mod show;
mod snapshot;
mod snapshotting;
mod supply;
mod transfer;
mod unmap;
mod window;

pub use self::{
    debris::Progress,
    dismantle::Dismantling,
    protect::Protecting,
    query::{Area, AreaKind, Stats},
    snapshotting::Snapshotting,
    unmap::Unmapping,
};
use self::{dismantle::Life, shared::Gone};
use crate::{
    CpuId, Error, Format, Frames, GuestPhysAddr, GuestPhysRange, Invalidate, Limits, LockFamily, Resource, SpaceLock,
    Spin, VcpuId,
    account::Accounts,
    backend::Backend,
    counted::Counted,
    cpus::{Barred, Cpus},
    loan::Loans,
    metered::Metered,
    set::MemorySet,
    shootdown::Shootdown,
    stripes::anybody,
    table::{Builder, Detached, Table},
};

/// The parts that a hypervisor puts together.
pub trait Platform: Sized + 'static {
    /// The kind of tables.
    type Format: Format;
    /// The allocator of host frames.
    type Frames: Frames;
    /// The CPU's invalidation.
    type Invalidate: Invalidate<Root<Self>>;
}

/// What a platform's CPUs get in their registers for a space.
pub type Root<P> = <<P as Platform>::Format as Format>::Root;

type TableOf<P> = Table<<P as Platform>::Format, <P as Platform>::Frames>;
type ShootdownOf<P> = Shootdown<<P as Platform>::Invalidate, Root<P>>;
type DetachedOf<P> = Detached<<P as Platform>::Format, <P as Platform>::Frames>;
type BuilderOf<P> = Builder<<P as Platform>::Format, <P as Platform>::Frames>;

/// What a space is made of.
#[derive(Clone, Debug)]
pub struct Config<P: Platform> {
    /// The tables' format, with the IPA width and the identifier in it.
    pub format: P::Format,
    /// Where tables and private memory come from.
    pub frames: P::Frames,
    /// How CPUs are made to forget.
    pub invalidate: P::Invalidate,
    /// How many CPUs may run the guest: their numbers are below it.
    pub cpus: usize,
    /// How much it may have of the hypervisor's memory.
    pub limits: Limits,
}

/// Everything that one guest can reach, and the tables that say so.
///
/// All calls take `&self`. Faults, translation and guest access run on every CPU at once; whatever removes, replaces
/// or restricts excludes them for as long as it takes to change the tables and invalidate.
///
/// # Locks
/// [`leave`](Self::leave) comes before every other call, [`enter`](Self::enter) after all of them have returned:
/// nothing may be called on a CPU that is in the guest but [`flush`](Self::flush). The order is then the space's lock (two
/// spaces' by their addresses), a region's, a [pager](crate::Pager)'s or the allocator's. [`Frames`] and [`Invalidate`] are
/// called with the space's lock held and must not call back; a [`Source`](crate::Source) is called without any.
pub struct GuestSpace<P: Platform, L: LockFamily = Spin> {
    builder: BuilderOf<P>,
    shootdown: ShootdownOf<P>,
    state: L::Lock<State<P>>,
    accounts: Counted<Accounts>,
}

/// What the lock protects.
struct State<P: Platform> {
    areas: MemorySet<Backend>,
    table: TableOf<P>,
    /// What the table's unfinished operation took away, if its invalidation failed.
    gone: Gone,
    /// Of what a snapshot is being taken in steps, which nothing may change meanwhile.
    snapshotting: Option<GuestPhysRange>,
    life: Life,
    /// What other spaces have of this one's.
    loans: Loans,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// A space in which nothing is mapped.
    ///
    /// Whatever CPUs remember of a former user of the identifier is invalidated first.
    ///
    /// # Errors
    /// [`Error::NoMemory`], [`Error::Limit`] if the root cannot be had.
    pub fn new(config: Config<P>) -> Result<Self, Error> {
        let everything = everything(&config.format);
        let cpus = Cpus::new(config.cpus).ok_or(Error::NoMemory(everything))?;
        let accounts = Accounts::open(config.limits, config.cpus).ok_or(Error::NoMemory(everything))?;
        let frames = Metered::new(config.frames.clone(), accounts.clone(), Resource::Frames);
        let tables = Metered::new(config.frames, accounts.clone(), Resource::TableFrames);
        let table = Table::new(config.format.clone(), frames, tables).map_err(|exhausted| exhausted.at(everything))?;
        let root = config.format.root(table.root_address());
        let builder = table.builder();
        let state = State {
            areas: MemorySet::new(),
            table,
            gone: Gone::default(),
            snapshotting: None,
            loans: Loans::default(),
            life: Life::Lives,
        };
        Ok(Self {
            builder,
            shootdown: Shootdown::new(config.invalidate, root, cpus),
            state: L::Lock::new(state, config.cpus).ok_or(Error::NoMemory(everything))?,
            accounts,
        })
    }

    /// The registers' values for this space.
    pub fn root(&self) -> Root<P> {
        self.shootdown.root()
    }

    /// Loads [`root`](Self::root) into this CPU's registers.
    pub fn activate(&self) {
        self.shootdown.operations().activate(self.root());
    }

    /// This CPU is about to run the virtual CPU, with interrupts off until it does; pays the flushes that it owes.
    ///
    /// The root is active by now. On Arm, where a virtual CPU that invalidates its own translations reaches only the CPU
    /// that it runs on, virtual CPUs that move between CPUs need `HCR_EL2.FB`, which makes that reach all.
    ///
    /// # Errors
    /// - [`Error::NoSuchCpu`]: the number is not below [`Config::cpus`];
    /// - [`Error::Snapshotting`]: a snapshot is being taken in steps, or was about to be. It has not entered;
    /// - [`Error::Invalidation`]: the CPU refuses to forget. It has not entered, and must not run the guest.
    pub fn enter(&self, cpu: CpuId, vcpu: VcpuId) -> Result<(), Error> {
        let entered = self.shootdown.enter(cpu, vcpu).map_err(|barred| match barred {
            Barred::NoSuchCpu => Error::NoSuchCpu(cpu),
            Barred::Closed => Error::Snapshotting(everything(self.builder.format())),
        })?;
        entered.map_err(|cause| Error::Invalidation { range: everything(self.builder.format()), cause })
    }

    /// This CPU has stopped running the guest. Comes before any other call on this CPU.
    ///
    /// # Errors
    /// [`Error::NoSuchCpu`]: the number is not below [`Config::cpus`].
    pub fn leave(&self, cpu: CpuId) -> Result<(), Error> {
        self.shootdown.leave(cpu).ok_or(Error::NoSuchCpu(cpu))
    }

    /// What a CPU runs that [`Invalidate::interrupt`] interrupted: the one thing that may be called from a handler, and
    /// between two runs of the guest that no [`leave`](Self::leave) parts.
    ///
    /// # Errors
    /// [`Error::Invalidation`]: the CPU refuses to forget, and must not run the guest. Whoever waits is told.
    pub fn flush(&self, cpu: CpuId) -> Result<(), Error> {
        let flushed = self.shootdown.flush(cpu);
        flushed.map_err(|cause| Error::Invalidation { range: everything(self.builder.format()), cause })
    }

    /// Refuses what is not a range of whole pages that the tables translate.
    fn check(&self, range: GuestPhysRange) -> Result<(), Error> {
        let geometry = self.builder.geometry();
        let misaligned = (range.start.as_usize() | range.end.as_usize()) & (geometry.page_size() - 1) != 0;
        if range.start >= range.end {
            Err(Error::Empty(range))
        } else if misaligned {
            Err(Error::Misaligned(range))
        } else if range.end.as_usize() > geometry.limit() {
            Err(Error::BeyondInput { range, bits: geometry.input_bits() })
        } else {
            Ok(())
        }
    }
}

/// All addresses that a format translates.
fn everything<F: Format>(format: &F) -> GuestPhysRange {
    GuestPhysRange { start: 0.into(), end: format.geometry().limit().into() }
}

/// The page that `gpa` lies in.
fn page_of(geometry: &crate::Geometry, gpa: GuestPhysAddr) -> GuestPhysRange {
    geometry.entry_range(crate::Level::PAGE, gpa)
}
