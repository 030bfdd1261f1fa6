//! A guest on a machine: its space, and the loop that a hypervisor runs around it.

use core::ops::Deref;

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{
    CpuId, Fault, GuestPhysAddr, GuestPhysRange, GuestSpace, MappingFlags, Outcome, VcpuId,
    audit::{Meanwhile, audit},
    pager::Ticket,
};

use crate::{
    Stop,
    machine::{Attempt, Machine, Seat, Setting, Step, View},
};

/// How often a guest's step may fault before it counts as a loop. A break in two levels, a copy and a denial that is
/// remembered are not more than four.
const MOST_FAULTS: usize = 8;

/// A guest: its space, on its machine.
pub struct Guest<'m, M: Machine> {
    machine: &'m M,
    space: GuestSpace<M::Platform>,
    /// The leaves that the machine needs itself.
    machines_leaves: [usize; 5],
}

/// What came of something that a guest did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Came {
    /// It was done: what was loaded or returned.
    Value(u64),
    /// Nothing is mapped there.
    NotMapped,
    /// What is mapped there does not allow it.
    Denied(MappingFlags),
    /// The memory is lent to another guest.
    Lent,
    /// Its own tables are where there is no memory.
    Injected,
    /// Its own translation refused.
    GuestException,
    /// The source behind it has not brought it yet.
    NotYet(Ticket),
    /// The source behind it cannot have it.
    SourceFailed(Ticket),
}

impl<'m, M: Machine> Guest<'m, M> {
    /// A guest without memory.
    ///
    /// # Errors
    /// No memory for a root.
    pub fn new(machine: &'m M) -> Result<Self, Stop> {
        let facts = machine.facts();
        let setting = Setting::default();
        Self::with(machine, Setting { bits: setting.bits.clamp(facts.narrowest, facts.widest), ..setting })
    }

    /// A guest without memory, of a certain kind.
    ///
    /// # Errors
    /// The machine cannot have it.
    pub fn with(machine: &'m M, setting: Setting) -> Result<Self, Stop> {
        let space = machine.space(setting)?;
        let machines_leaves = space.stats().leaves;
        Ok(Self { machine, space, machines_leaves })
    }

    /// The scenario's leaves by level, without those that the machine needs itself.
    #[must_use]
    pub fn leaves(&self) -> [usize; 5] {
        let all = self.space.stats().leaves;
        core::array::from_fn(|level| all[level] - self.machines_leaves[level])
    }

    /// The guest's first virtual CPU on CPU 0.
    pub fn first(&self) -> Run<'_, 'm, M> {
        self.seat(0, 0)
    }

    /// A virtual CPU on a CPU.
    pub fn seat(&self, cpu: usize, vcpu: usize) -> Run<'_, 'm, M> {
        Run { guest: self, seat: Seat { cpu: CpuId(cpu), vcpu: VcpuId(vcpu), view: View::Physical } }
    }

    /// The guest loads a word, on CPU 0.
    ///
    /// # Errors
    /// It loops, or something is wrong with the machine.
    #[track_caller]
    pub fn loads(&self, at: usize) -> Result<Came, Stop> {
        self.first().loads(at)
    }

    /// The guest stores a word, on CPU 0.
    ///
    /// # Errors
    /// As for [`loads`](Self::loads).
    #[track_caller]
    pub fn stores(&self, at: usize, value: u64) -> Result<Came, Stop> {
        self.first().stores(at, value)
    }

    /// The guest calls what is there, on CPU 0.
    ///
    /// # Errors
    /// As for [`loads`](Self::loads).
    #[track_caller]
    pub fn calls(&self, at: usize) -> Result<Came, Stop> {
        self.first().calls(at)
    }

    /// The host-physical address behind an address that must be mapped.
    ///
    /// # Errors
    /// It is not.
    #[track_caller]
    pub fn frame(&self, at: usize) -> Result<usize, Stop> {
        match self.space.translate(gpa(at)) {
            Some(translation) => Ok(translation.hpa.as_usize()),
            None => Err(Stop::failed(format_args!("{at:#x} is not mapped"))),
        }
    }

    /// The size of the leaf over an address that must be mapped.
    ///
    /// # Errors
    /// It is not.
    #[track_caller]
    pub fn leaf_size(&self, at: usize) -> Result<usize, Stop> {
        match self.space.translate(gpa(at)) {
            Some(translation) => Ok(translation.size),
            None => Err(Stop::failed(format_args!("{at:#x} is not mapped"))),
        }
    }

    /// Writes tables of the guest's own at `at`, which map the pages of `pairs`, all within 2 MiB of the guest's
    /// virtual addresses: the address of the last of them, which holds the entries of the pages.
    ///
    /// # Errors
    /// The memory cannot be written.
    pub fn write_tables(&self, at: usize, pairs: &[(usize, usize)]) -> Result<usize, Stop> {
        let machine = self.machine;
        let (first, _) = pairs[0];
        let last = at + (M::GUEST_LEVELS - 1) * PAGE;
        if let Some((index, entry)) = machine.guest_root() {
            self.space.write_obj(gpa(at + index * 8), entry)?;
        }
        for level in (1..M::GUEST_LEVELS).rev() {
            let table = at + (M::GUEST_LEVELS - 1 - level) * PAGE;
            let entry = machine.guest_table(gpa(table + PAGE));
            self.space.write_obj(gpa(table + index(first, level) * 8), entry)?;
        }
        for &(from, to) in pairs {
            self.space.write_obj(gpa(self.entry_in(last, from)), machine.guest_page(gpa(to)))?;
        }
        Ok(last)
    }

    /// Where in the last of the guest's tables the entry of a virtual address is.
    #[must_use]
    pub fn entry_in(&self, table: usize, from: usize) -> usize {
        table + index(from, 0) * 8
    }

    /// The machine.
    pub fn machine(&self) -> &'m M {
        self.machine
    }
}

impl<M: Machine> Deref for Guest<'_, M> {
    type Target = GuestSpace<M::Platform>;

    fn deref(&self) -> &Self::Target {
        &self.space
    }
}

impl<M: Machine> Drop for Guest<'_, M> {
    /// Ends it. What it uses by its account must be what its tables show, down to the last frame, and all else must agree.
    fn drop(&mut self) {
        let (usage, stats) = (self.space.usage(), self.space.stats());
        assert_eq!(
            (usage.frames, usage.table_frames),
            (stats.owned_frames + stats.lent_frames, stats.table_frames),
            "the account is wrong"
        );
        let report = audit([&self.space], Meanwhile::Nothing).expect("a heap");
        assert!(report.is_clean(), "{report}");
        self.machine.park();
    }
}

/// A virtual CPU of a guest, on a CPU.
pub struct Run<'g, 'm, M: Machine> {
    guest: &'g Guest<'m, M>,
    seat: Seat,
}

impl<M: Machine> Clone for Run<'_, '_, M> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<M: Machine> Copy for Run<'_, '_, M> {}

impl<M: Machine> Run<'_, '_, M> {
    /// The same, behind the guest's own tables.
    #[must_use]
    pub fn through(self, root: usize) -> Self {
        Self { seat: Seat { view: View::Virtual(gpa(root)), ..self.seat }, ..self }
    }

    /// Loads a word.
    ///
    /// # Errors
    /// It loops, or something is wrong with the machine.
    #[track_caller]
    pub fn loads(self, at: usize) -> Result<Came, Stop> {
        self.does(Step::Read(at))
    }

    /// Stores a word; the value that comes of it says nothing.
    ///
    /// # Errors
    /// As for [`loads`](Self::loads).
    #[track_caller]
    pub fn stores(self, at: usize, value: u64) -> Result<Came, Stop> {
        Ok(match self.does(Step::Write(at, value))? {
            Came::Value(_) => Came::Value(value),
            other => other,
        })
    }

    /// Calls what is there.
    ///
    /// # Errors
    /// As for [`loads`](Self::loads).
    #[track_caller]
    pub fn calls(self, at: usize) -> Result<Came, Stop> {
        self.does(Step::Execute(at))
    }

    /// Does a step, with its faults answered as a hypervisor does.
    ///
    /// # Errors
    /// As for [`loads`](Self::loads).
    #[track_caller]
    pub fn does(self, step: Step) -> Result<Came, Stop> {
        self.tries(step, MOST_FAULTS)
    }

    /// Does a step that may fault more often than others, since another CPU takes its memory away all the time.
    ///
    /// # Errors
    /// As for [`loads`](Self::loads).
    #[track_caller]
    pub fn tries(self, step: Step, most_faults: usize) -> Result<Came, Stop> {
        let machine = self.guest.machine;
        for _ in 0..=most_faults {
            let fault = match self.attempt(step) {
                Attempt::Done(value) => return Ok(Came::Value(value)),
                Attempt::Fault(fault) => fault,
                Attempt::Again => {
                    machine.relax();
                    continue;
                }
                Attempt::GuestException => return Ok(Came::GuestException),
                Attempt::Unexpected(story) => return Err(Stop::failed(format_args!("{step:x?}: {story}"))),
            };
            let answer = machine.on(self.seat.cpu, || self.guest.space.fault(self.seat.cpu, fault));
            match answer? {
                Outcome::Resolved => {}
                Outcome::Retry => machine.relax(),
                Outcome::NotMapped => return Ok(Came::NotMapped),
                Outcome::Denied { flags } => return Ok(Came::Denied(flags)),
                Outcome::Lent => return Ok(Came::Lent),
                Outcome::Inject => return Ok(Came::Injected),
                Outcome::NotYet(ticket) => return Ok(Came::NotYet(ticket)),
                Outcome::SourceFailed(ticket) => return Ok(Came::SourceFailed(ticket)),
            }
        }
        Err(Stop::failed(format_args!("{step:x?} on {} faults for ever", self.seat.cpu)))
    }

    /// Tries a step once.
    #[must_use]
    pub fn attempt(self, step: Step) -> Attempt {
        self.guest.machine.attempt(&self.guest.space, self.seat, step)
    }

    /// Tries a step that must fault.
    ///
    /// # Errors
    /// It does not.
    #[track_caller]
    pub fn faults(self, step: Step) -> Result<Fault, Stop> {
        match self.attempt(step) {
            Attempt::Fault(fault) => Ok(fault),
            other => Err(Stop::failed(format_args!("{step:x?}: {other:x?}, not a fault"))),
        }
    }
}

/// A guest-physical address.
#[must_use]
pub const fn gpa(at: usize) -> GuestPhysAddr {
    GuestPhysAddr::from_usize(at)
}

/// A range from its start and size.
#[must_use]
pub fn range(start: usize, size: usize) -> GuestPhysRange {
    GuestPhysRange { start: gpa(start), end: gpa(start.wrapping_add(size)) }
}

/// The index of an address in a table of the guest's own.
const fn index(address: usize, level: usize) -> usize {
    address >> (12 + 9 * level) & 0x1ff
}
