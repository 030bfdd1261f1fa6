//! Answering a guest's faults, on every CPU at once.

use page_table_multiarch::MappingFlags;

use super::{
    GuestSpace, State,
    copy::Copied,
    debt::{Kept, LITTLE},
    inherit,
};
use crate::{
    addr::Level,
    backend::Backend,
    cpu_id::CpuId,
    error::Error,
    fault::{Cause, Fault, Origin, Outcome},
    format::{Access, Denials, Format, Leaf, Owner},
    invalidate::Invalidate,
    lock::{LockFamily, SpaceLock},
    pages::Pool,
    platform::Platform,
    set::MemoryArea,
    table::{Context, Edit, Found, Installed, Position},
};

/// What a fault comes to under the lock.
pub(super) enum Verdict<'s, P: Platform, L: LockFamily> {
    /// This outcome.
    Answer(Outcome),
    /// It takes more than the lock held shared.
    Later(Later<'s, P, L>),
}

/// What a fault takes that is not done with the lock held shared.
pub(super) enum Later<'s, P: Platform, L: LockFamily> {
    /// Private memory is missing: a leaf up to this level, with these flags.
    Populate(Level, MappingFlags),
    /// A page that has no frame yet must come, of what stands behind the area.
    Bring(Kept<'s, P, L>),
    /// The guest must get a page of its own: it is written for the first time.
    Copy,
    /// The same, and the page must come out of the frozen block over it first.
    CutOut,
    /// A leaf that is too large to allow the access must make way for smaller ones.
    Split,
    /// An earlier operation must be finished first.
    Settle,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Answers a fault that the guest took on `cpu`, any number of times, at any address.
    ///
    /// Where the allocator's frames are [zeroed](crate::frames::Contents::Zeroed), one is taken under the space's lock,
    /// held shared; elsewhere it is allocated and zeroed before the lock is taken again. What another CPU did first is not
    /// done twice. A leaf that is too large to allow what its area does ([`Format::allowed`]) is split, which excludes all
    /// other CPUs. After a permission fault on a CPU that may remember the denial, that memory is wiped on this CPU
    /// ([H3](crate::hardware#h3)): call it on the CPU that took the fault, with this space's root active. `cpu` only
    /// spreads the load.
    ///
    /// # Errors
    /// [`Error::NoMemory`] when a frame or a table cannot be had; [`Error::Limit`] when the space may not have it;
    /// [`Error::Invalidation`] if an earlier operation's invalidation still fails; [`Error::Snapshotting`] while a
    /// snapshot is being taken in steps, for which no CPU is in the guest; [`Error::NotMapped`] never, unless tables and
    /// areas disagree.
    pub fn fault(&self, cpu: CpuId, fault: Fault) -> Result<Outcome, Error> {
        self.accounts().count_fault(cpu);
        if fault.gpa.as_usize() >= self.context.limit() {
            return Ok(nothing_there(&fault));
        }
        self.answer(cpu, &fault)
    }

    /// Answers a fault of the guest's, or an access of the hypervisor's as if it were one, at an address that the tables
    /// translate.
    pub(super) fn answer(&self, cpu: CpuId, fault: &Fault) -> Result<Outcome, Error> {
        let state = self.state.shared(cpu);
        match self.answer_at_once(&state, cpu, fault) {
            Some(outcome) => Ok(outcome),
            None => self.answer_after_all(state, cpu, fault),
        }
    }

    /// Answers what is not [answered at once](Self::answer_at_once).
    #[inline(never)]
    pub(super) fn answer_after_all(
        &self,
        state: <L::Lock<State> as SpaceLock<State>>::Shared<'_>,
        cpu: CpuId,
        fault: &Fault,
    ) -> Result<Outcome, Error> {
        let verdict = self.judge(&state, fault);
        drop(state);
        let answer = verdict.and_then(|verdict| match verdict {
            Verdict::Answer(outcome) => Ok(outcome),
            Verdict::Later(later) => self.answer_later(cpu, fault, later),
        });
        match answer {
            Err(error) if self.pays_for(&error, LITTLE) => Ok(Outcome::Retry),
            Err(error @ Error::Limit { what, .. }) => self.answer_at_limit(fault, what, error),
            answer => answer,
        }
    }

    /// Does what a fault takes besides the lock held shared.
    fn answer_later(&self, cpu: CpuId, fault: &Fault, later: Later<'_, P, L>) -> Result<Outcome, Error> {
        match later {
            Later::Populate(most, flags) => self.bring_private(cpu, fault, most, flags),
            Later::Bring(backend) => self.fetch(cpu, fault, &backend),
            Later::Copy => match self.copy(cpu, fault)? {
                Copied::Done => Ok(Outcome::Resolved),
                Copied::Lost => Ok(Outcome::Retry),
                Copied::Missing(backend) => self.fetch(cpu, fault, &backend),
            },
            Later::CutOut => self.cut_out(fault.gpa).map(|()| Outcome::Retry),
            Later::Split => self.split(fault),
            Later::Settle => self.exclusive_to_answer().map(|_| Outcome::Retry),
        }
    }

    /// Looks at area and entry, and does what needs no frame, with the lock that is held.
    pub(super) fn judge(&self, state: &State, fault: &Fault) -> Result<Verdict<'_, P, L>, Error> {
        state.check_rest()?;
        let Some(area) = state.areas.find(fault.gpa) else { return Ok(Verdict::Answer(nothing_there(fault))) };
        match refusal(area.flags(), fault) {
            Some(refusal) => Ok(Verdict::Answer(refusal)),
            None => self.judge_entry(state, area, state.table.seek_again(&self.context, fault.gpa), fault),
        }
    }

    /// Looks at the entry of an area that does not refuse the access.
    fn judge_entry(
        &self,
        state: &State,
        area: &MemoryArea<Backend>,
        position: Position<'_>,
        fault: &Fault,
    ) -> Result<Verdict<'_, P, L>, Error> {
        let later = match (position.found(&self.context), area.backend()) {
            (Found::Leaf { leaf, level, .. }, Backend::CopyOnWrite(_))
                if leaf.owner == Owner::Frozen && is_write(fault) =>
            {
                if level == Level::PAGE {
                    Later::Copy
                } else {
                    Later::CutOut
                }
            }
            (Found::Leaf { level, .. }, _) if !self.fits(level, area.flags(), fault.access) => Later::Split,
            (Found::Leaf { leaf, .. }, _) => {
                return Ok(Verdict::Answer(self.present(position, fault, &leaf, area.flags())));
            }
            (Found::Changing, _) => Later::Settle,
            (Found::Busy, _) => return Ok(Verdict::Answer(Outcome::Retry)),
            (Found::Lent(_), _) => return Ok(Verdict::Answer(Outcome::Lent)),
            (Found::Absent(most), Backend::Private(policy)) => {
                Later::Populate(self.largest_for(area, fault, *policy, most), area.flags())
            }
            (Found::Absent(most), Backend::Shared(_) | Backend::CopyOnWrite(_)) => {
                match self.inherited(state, area, fault) {
                    Some(later) => later,
                    None => match self.map_present(state, area, fault, most)? {
                        Some(installed) => return Ok(Verdict::Answer(outcome_of(installed))),
                        None => Later::Bring(self.keep(area.backend())),
                    },
                }
            }
            (Found::Absent(_), Backend::Linear(_) | Backend::Borrowed(_)) => {
                return Err(Error::NotMapped(Context::<P>::page_of(fault.gpa)));
            }
        };
        Ok(Verdict::Later(later))
    }

    /// What a page that the guest inherits takes; `None` if it is only to be mapped. The guest gets a page of its own if it
    /// writes it, if nobody has touched it yet, or if its source brought it for this guest alone.
    ///
    /// One look decides: a page that its source brings meanwhile is not mapped where it would be taken.
    fn inherited(&self, state: &State, area: &MemoryArea<Backend>, fault: &Fault) -> Option<Later<'_, P, L>> {
        let Backend::CopyOnWrite(heritage) = area.backend() else { return None };
        let page = inherit::page(fault.gpa);
        let is_supplied = heritage.source(page).is_some();
        let pool = || Pool::of(self.context.frames.plain());
        let can_take = || state.inherited.as_ref().is_some_and(|inherited| inherited.is_takable(page, pool()));
        match state.look(fault.gpa).at {
            None if is_supplied => Some(Later::Bring(self.keep(area.backend()))),
            None => Some(Later::Copy),
            Some(_) => (is_write(fault) || (is_supplied && can_take())).then_some(Later::Copy),
        }
    }

    /// A fault on a leaf that is there: an older translation, a permission that was raised, or one to raise.
    fn present(&self, position: Position<'_>, fault: &Fault, leaf: &Leaf, flags: MappingFlags) -> Outcome {
        let allowed = leaf.flags.contains(fault.access.flag());
        let outcome = if allowed && fault.cause != Cause::AccessFlag {
            Outcome::Retry
        } else {
            outcome_of(position.raise(&self.context, leaf.owner.limit(flags), fault.access))
        };
        self.context.operations().publish();
        self.forget_denial(fault);
        outcome
    }

    /// Wipes what this CPU may remember of the entry that denied an access (H3).
    pub(super) fn forget_denial(&self, fault: &Fault) {
        if fault.cause == Cause::Permission && self.context.format.denials() == Denials::Cached {
            self.context.shootdown.invalidate_denial(fault.gpa);
        }
    }

    /// Whether a leaf of `level` allows the access where `flags` do.
    pub(super) fn fits(&self, level: Level, flags: MappingFlags, access: Access) -> bool {
        self.context.format.allowed(level, flags).contains(access.flag())
    }

    /// Splits the leaf over a page that is to allow what so large a leaf may not; the page alone gets it.
    fn split(&self, fault: &Fault) -> Result<Outcome, Error> {
        let page = Context::<P>::page_of(fault.gpa);
        let mut guard = self.exclusive_to_answer()?;
        let State { areas, table, .. } = &mut *guard;
        // The map may have changed meanwhile.
        let Some(area) = areas.find(fault.gpa).filter(|area| area.flags().contains(fault.access.flag())) else {
            return Ok(Outcome::Retry);
        };
        let edit = Edit::Protect(area.flags());
        let flush = table.edit(&self.context, page, edit).map_err(|exhausted| exhausted.at(page))?;
        flush.finish().map_err(|cause| Error::Invalidation { range: page, cause })?;
        Ok(Outcome::Resolved)
    }
}

/// The answer to a fault that was met with a new or a better leaf.
pub(super) fn outcome_of(installed: Installed) -> Outcome {
    match installed {
        Installed::Done => Outcome::Resolved,
        Installed::Lost => Outcome::Retry,
    }
}

/// Whether the guest wrote.
pub(super) fn is_write(fault: &Fault) -> bool {
    fault.access == Access::Write
}

/// The answer to a fault where no area is.
fn nothing_there(fault: &Fault) -> Outcome {
    match fault.origin {
        Origin::GuestWalk => Outcome::Inject,
        Origin::Instruction => Outcome::NotMapped,
    }
}

/// The answer to a fault where `flags` do not allow the access.
#[inline]
pub(super) fn refusal(flags: MappingFlags, fault: &Fault) -> Option<Outcome> {
    if fault.origin == Origin::GuestWalk && flags.contains(MappingFlags::DEVICE) {
        return Some(Outcome::Inject);
    }
    // A walk that updates its table has read it.
    let reads = if fault.origin == Origin::GuestWalk { MappingFlags::READ } else { MappingFlags::empty() };
    (!flags.contains(fault.access.flag() | reads)).then_some(Outcome::Denied { flags })
}
