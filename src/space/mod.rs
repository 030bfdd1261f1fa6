//! One guest's memory, behind its lock.

mod access;
mod audit;
mod convert;
mod copy;
mod debt;
mod discard;
mod discard_region;
mod dismantle;
mod donate;
mod edit;
mod exclusive;
mod fault;
mod inherit;
mod limits;
mod loan;
mod missing;
mod offer;
mod populate;
mod populating;
mod protect;
mod query;
mod reclaim;
mod release;
mod relocate;
mod removed;
mod replace;
mod shared;
mod show;
mod snapshot;
mod snapshotting;
mod supply;
mod transfer;
mod unmap;
mod unshare;
mod window;

pub(crate) use self::audit::Audited;
use self::{debt::Debt, dismantle::Life};
pub use self::{
    discard::Refill,
    discard_region::Discarding,
    dismantle::Dismantling,
    populating::{Populated, Populating},
    protect::Protecting,
    query::{Area, AreaKind, Stats},
    release::Releasing,
    snapshotting::Snapshotting,
    unmap::Unmapping,
};
pub use crate::account::Resource;
use crate::{
    account::{Accounts, Limits},
    addr::{GuestPhysRange, Level},
    backend::Backend,
    counted::Counted,
    cpu_id::{CpuId, VcpuId},
    cpus::{Barred, Cpus},
    error::Error,
    format::Format,
    invalidate::Invalidate,
    loan::Loans,
    lock::{LockFamily, SpaceLock, Spin},
    metered::Metered,
    pages::Inherited,
    platform::{Platform, Root},
    region::Lease,
    set::{Few, MemoryArea, MemorySet},
    shootdown::Shootdown,
    stripes::any_cpu,
    table::{Context, Table},
};

/// What a space is made of.
///
/// # Example
/// ```
/// use stage2::{
///     Config, GuestSpace, Limits,
///     aarch64::{Capabilities, IdRegisters, Stage2, Tlb, Vmid},
/// };
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{Heap, Host, Idle};
///
/// // On hardware: the minimum of what all CPUs detect.
/// let capabilities = Capabilities::from_registers(IdRegisters { mmfr0: 0x5, ..IdRegisters::default() });
/// let space = GuestSpace::<Host>::new(Config {
///     format: Stage2::new(&capabilities, 40, Vmid(1))?,
///     frames: Heap,
///     invalidate: Tlb::new(capabilities, Idle),
///     cpus: 4,
///     limits: Limits { frames: Some(1 << 18), table_frames: Some(1024), areas: Some(4096) },
/// })?;
/// assert_eq!(space.stats().areas, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
/// nothing may be called on a CPU that is in the guest but [`flush`](Self::flush). The order is then the space's lock
/// (several spaces' by their addresses), a region's, a [pager](crate::pager::Pager)'s or the allocator's.
/// [`Frames`](crate::Frames) and [`Invalidate`] are called with the space's lock held and must not call back; a
/// [`Source`](crate::pager::Source) is called without any.
///
/// # Example
/// ```
/// use stage2::{Access, Cause, CpuId, Fault, LeafPolicy, Mapping, Origin, Outcome, Populate};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// let space = guest(1)?; // `GuestSpace::new` with a `Config`
/// let ram = range(0x8000_0000, 16 << 20);
/// space.map(ram, Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages }, RW)?;
///
/// // The guest touches a page, and the hypervisor the next one.
/// let fault = Fault { gpa: ram.start, access: Access::Write, cause: Cause::Translation, origin: Origin::Instruction };
/// assert_eq!(space.fault(CpuId(0), fault)?, Outcome::Resolved);
/// space.write((0x8000_1000).into(), b"hello")?;
/// assert_eq!(space.stats().owned_frames, 2);
///
/// // When this returns, no CPU reaches the memory, and the frames are the allocator's again.
/// space.unmap(ram)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct GuestSpace<P: Platform, L: LockFamily = Spin> {
    context: Context<P>,
    state: L::Lock<State>,
    debt: Debt,
}

/// What the lock protects.
struct State {
    areas: MemorySet<Backend>,
    /// Where the number of areas is noted.
    accounts: Counted<Accounts>,
    table: Table,
    /// The areas that the table's unfinished operation removed, if its invalidation failed.
    removed: Few<MemoryArea<Backend>>,
    /// The permissions to write regions that it took from areas which are still there.
    removed_leases: Few<Lease>,
    life: Life,
    /// While it rests, the range of which a snapshot is being taken in steps: it must not change meanwhile.
    snapshotting: GuestPhysRange,
    /// The loans that this space gave to others.
    loans: Loans,
    /// What it inherited and has no copies of, once there is any.
    inherited: Option<Counted<dyn Inherited>>,
}

/// How far an operation is that goes in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// It is complete.
    Done,
    /// There is more to do.
    More,
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
        let (table, frames_of_root) =
            Table::new(&config.format, &tables).map_err(|exhausted| exhausted.at(everything))?;
        let root = config.format.root(table.root_address());
        let state = State {
            areas: MemorySet::new(),
            accounts,
            table,
            removed: Few::new(),
            removed_leases: Few::new(),
            snapshotting: GuestPhysRange { start: 0.into(), end: 0.into() },
            loans: Loans::default(),
            inherited: None,
            life: Life::Lives,
        };
        let state = L::Lock::new(state, config.cpus).ok_or(Error::NoMemory(everything))?;
        // The tables' from here on, where nothing fails any more.
        frames_of_root.into_raw();
        Ok(Self {
            context: Context {
                input_bits: config.format.geometry().input_bits(),
                format: config.format,
                frames,
                tables,
                shootdown: Shootdown::new(config.invalidate, root, cpus),
            },
            state,
            debt: Debt::default(),
        })
    }

    /// The registers' values for this space.
    pub fn root(&self) -> Root<P> {
        self.context.shootdown.root()
    }

    /// Loads [`root`](Self::root) into this CPU's registers.
    pub fn activate(&self) {
        self.context.operations().activate(self.root());
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
        let entered = self.context.shootdown.enter(cpu, vcpu).map_err(|barred| match barred {
            Barred::NoSuchCpu => Error::NoSuchCpu(cpu),
            Barred::Closed => Error::Snapshotting(self.context.everything()),
        })?;
        entered.map_err(|cause| Error::Invalidation { range: self.context.everything(), cause })
    }

    /// This CPU has stopped running the guest. Comes before any other call on this CPU.
    ///
    /// # Errors
    /// [`Error::NoSuchCpu`]: the number is not below [`Config::cpus`].
    pub fn leave(&self, cpu: CpuId) -> Result<(), Error> {
        if self.context.shootdown.leave(cpu) { Ok(()) } else { Err(Error::NoSuchCpu(cpu)) }
    }

    /// What a CPU runs that [`Invalidate::interrupt`] interrupted: the one thing that may be called from a handler, and
    /// between two runs of the guest that no [`leave`](Self::leave) parts.
    ///
    /// # Errors
    /// [`Error::Invalidation`]: the CPU refuses to forget, and must not run the guest. The CPUs that wait are told.
    pub fn flush(&self, cpu: CpuId) -> Result<(), Error> {
        let flushed = self.context.shootdown.flush(cpu);
        flushed.map_err(|cause| Error::Invalidation { range: self.context.everything(), cause })
    }

    /// Refuses what is not a range of whole pages that the tables translate.
    fn check(&self, range: GuestPhysRange) -> Result<(), Error> {
        let page = Context::<P>::span(Level::PAGE);
        let misaligned = (range.start.as_usize() | range.end.as_usize()) & (page - 1) != 0;
        if range.start >= range.end {
            Err(Error::Empty(range))
        } else if misaligned {
            Err(Error::Misaligned(range))
        } else if range.end.as_usize() > self.context.limit() {
            Err(Error::BeyondInput { range, bits: self.context.input_bits })
        } else {
            Ok(())
        }
    }
}

/// All addresses that a format translates.
fn everything<F: Format>(format: &F) -> GuestPhysRange {
    GuestPhysRange { start: 0.into(), end: format.geometry().limit().into() }
}
