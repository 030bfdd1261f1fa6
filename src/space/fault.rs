//! Answering a guest's faults, on every CPU at once.

use page_table_multiarch::MappingFlags;

use super::{GuestSpace, State, copy::Copied, supply::is_left_to, supply::is_unsupplied};
use crate::{
    addr::{GuestPhysAddr, Level},
    backend::Backend,
    cpu_id::CpuId,
    error::Error,
    fault::{Cause, Fault, Origin, Outcome},
    format::{Access, Denials, Format, Leaf, LeafPolicy, Owner, Used},
    frame::{Contents, Frames, Owned},
    invalidate::Invalidate,
    lock::{LockFamily, SpaceLock},
    platform::Platform,
    region::View,
    set::MemoryArea,
    table::{Context, Edit, Found, Installed, Position},
};

/// The largest leaf that a fault populates: a guest must not cause more work than that at once.
const LARGEST_LAZY: Level = Level(1);

/// What a fault comes to under the lock.
pub(super) enum Verdict {
    /// This.
    Answer(Outcome),
    /// Private memory that was not touched yet is missing here.
    Missing,
    /// It takes more than the lock held shared.
    Later(Later),
}

/// What a fault takes that is not done with the lock held shared.
pub(super) enum Later {
    /// A page of a region that has no frame yet must come.
    Bring(View),
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
    /// Where the allocator's frames are [zeroed](Contents::Zeroed), one is taken under the space's lock, held shared;
    /// elsewhere it is allocated and zeroed before the lock is taken again. What another CPU did first is not done twice. A
    /// leaf that is too large to allow what its area does ([`Format::allowed`]) is split, which excludes all others. After
    /// a permission fault on a CPU that may remember the denial, that memory is wiped on this CPU
    /// ([H3](crate::hardware#h3)): call it on the CPU that took the fault, with this space's root active. `cpu` only
    /// spreads the load.
    ///
    /// # Errors
    /// [`Error::NoMemory`] when a frame or a table cannot be had; [`Error::Limit`] when the space may not have it;
    /// [`Error::Invalidation`] if an earlier operation's invalidation still fails; [`Error::Snapshotting`] while a
    /// snapshot is being taken in steps, for which no CPU is in the guest; [`Error::NotMapped`] never, unless tables and
    /// areas disagree.
    pub fn fault(&self, cpu: CpuId, fault: Fault) -> Result<Outcome, Error> {
        self.accounts.count_fault(cpu);
        if fault.gpa.as_usize() >= self.context.limit() {
            return Ok(nothing_there(&fault));
        }
        self.answer(cpu, &fault)
    }

    /// Answers a fault of the guest's, or an access of the hypervisor's as if it were one, at an address that the tables
    /// translate.
    pub(super) fn answer(&self, cpu: CpuId, fault: &Fault) -> Result<Outcome, Error> {
        match self.answer_once(cpu, fault) {
            Err(error @ Error::Limit { what, .. }) => self.answer_at_limit(fault, what, error),
            answer => answer,
        }
    }

    /// What most faults meet, a leaf that is there and a page that is missing, takes one look at area and entry.
    fn answer_once(&self, cpu: CpuId, fault: &Fault) -> Result<Outcome, Error> {
        let state = self.state.shared(cpu);
        state.check_rest()?;
        let Some(area) = state.areas.find(fault.gpa) else { return Ok(nothing_there(fault)) };
        if let Some(refusal) = refusal(area, fault) {
            return Ok(refusal);
        }
        let position = state.table.seek(&self.context, fault.gpa);
        if let (Backend::Private(policy), Some(most)) = (area.backend(), position.absent(&self.context)) {
            let (most, flags) = (self.largest_for(area, fault, *policy, most), area.flags());
            if self.context.frames.contents() == Contents::Unknown {
                // Zeroing takes longer than another look.
                drop(state);
                return self.populate(cpu, fault, most, flags);
            }
            let (frames, level, leaf) = self.own_leaf(fault, most, flags)?;
            return self.install(fault.gpa, position, level, &leaf, frames).map(outcome_of);
        }
        if position.allows(&self.context, fault.access) && fault.cause != Cause::AccessFlag {
            self.context.operations().publish();
            self.forget_denial(fault);
            return Ok(Outcome::Retry);
        }
        let later = match self.judge_entry(&state, area, position, fault)? {
            Verdict::Answer(outcome) => return Ok(outcome),
            // Such an entry was answered above.
            Verdict::Missing => return Ok(Outcome::Retry),
            Verdict::Later(later) => later,
        };
        drop(state);
        self.answer_later(cpu, fault, later)
    }

    /// Does what a fault takes besides the lock held shared.
    fn answer_later(&self, cpu: CpuId, fault: &Fault, later: Later) -> Result<Outcome, Error> {
        match later {
            Later::Bring(view) => self.fetch(cpu, fault, &view),
            Later::Copy => match self.copy(cpu, fault)? {
                Copied::Done => Ok(Outcome::Resolved),
                Copied::Lost => Ok(Outcome::Retry),
                Copied::Missing(view) => self.fetch(cpu, fault, &view),
            },
            Later::CutOut => self.cut_out(fault.gpa).map(|()| Outcome::Retry),
            Later::Split => self.split(fault),
            Later::Settle => self.exclusive().map(|_| Outcome::Retry),
        }
    }

    /// Looks at area and entry, and does what needs no frame, with the lock that is held.
    pub(super) fn judge(&self, state: &State, fault: &Fault) -> Result<Verdict, Error> {
        state.check_rest()?;
        let Some(area) = state.areas.find(fault.gpa) else { return Ok(Verdict::Answer(nothing_there(fault))) };
        match refusal(area, fault) {
            Some(refusal) => Ok(Verdict::Answer(refusal)),
            None => self.judge_entry(state, area, state.table.seek(&self.context, fault.gpa), fault),
        }
    }

    /// Looks at the entry of an area that does not refuse the access.
    fn judge_entry(
        &self,
        state: &State,
        area: &MemoryArea<Backend>,
        position: Position<'_>,
        fault: &Fault,
    ) -> Result<Verdict, Error> {
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
            (Found::Absent(_), Backend::Private(_)) => return Ok(Verdict::Missing),
            (Found::Absent(_), Backend::CopyOnWrite(view)) if is_unsupplied(view, fault) => Later::Bring(view.clone()),
            (Found::Absent(_), Backend::CopyOnWrite(view)) if is_write(fault) || is_left_to(area, view) => Later::Copy,
            (Found::Absent(_), Backend::Shared(view) | Backend::CopyOnWrite(view)) => {
                match self.map_page(state, area, fault.gpa)? {
                    Some(installed) => return Ok(Verdict::Answer(outcome_of(installed))),
                    None => Later::Bring(view.clone()),
                }
            }
            (Found::Absent(_), Backend::Linear(_) | Backend::Borrowed(_)) => {
                return Err(Error::NotMapped(Context::<P>::page_of(fault.gpa)));
            }
        };
        Ok(Verdict::Later(later))
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
    fn fits(&self, level: Level, flags: MappingFlags, access: Access) -> bool {
        self.context.format.allowed(level, flags).contains(access.flag())
    }

    /// Splits the leaf over a page that is to allow what so large a leaf may not; the page alone gets it.
    fn split(&self, fault: &Fault) -> Result<Outcome, Error> {
        let page = Context::<P>::page_of(fault.gpa);
        let mut guard = self.exclusive()?;
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

    /// Brings memory to where it was missing when the lock was held before.
    fn populate(&self, cpu: CpuId, fault: &Fault, most: Level, flags: MappingFlags) -> Result<Outcome, Error> {
        let (frames, level, leaf) = self.own_leaf(fault, most, flags)?;
        let state = self.state.shared(cpu);
        state.check_rest()?;
        let still = state.areas.find(fault.gpa).is_some_and(|area| {
            area.flags() == flags
                && matches!(area.backend(), Backend::Private(_))
                && area.va_range().contains_range(Context::<P>::entry_range(level, fault.gpa))
        });
        if !still {
            return Ok(Outcome::Retry);
        }
        let position = state.table.seek(&self.context, fault.gpa);
        self.install(fault.gpa, position, level, &leaf, frames).map(outcome_of)
    }

    /// Puts a leaf of the space's own where the entry was absent, with the lock that is held.
    ///
    /// It is charged only here, so that with the lock held exclusively no charge is on its way.
    #[inline]
    fn install(
        &self,
        gpa: GuestPhysAddr,
        position: Position<'_>,
        level: Level,
        leaf: &Leaf,
        frames: Owned<'_, P::Frames>,
    ) -> Result<Installed, Error> {
        let charge = match self.context.frames.account().charge(frames.pages()) {
            Ok(charge) => charge,
            // Others took the room that there was for a block: a page may still be had.
            Err(_) if level > Level::PAGE => return Ok(Installed::Lost),
            Err(exhausted) => return Err(exhausted.at(Context::<P>::page_of(gpa))),
        };
        let installed = position.install(&self.context, level, leaf, frames);
        let installed = installed.map_err(|exhausted| exhausted.at(Context::<P>::page_of(gpa)))?;
        if installed == Installed::Done {
            charge.keep();
        }
        self.context.operations().publish();
        Ok(installed)
    }

    /// Frames for missing memory: the largest leaf, up to `most`, that the allocator has and the limit allows.
    #[inline]
    fn own_leaf(
        &self,
        fault: &Fault,
        most: Level,
        flags: MappingFlags,
    ) -> Result<(Owned<'_, P::Frames>, Level, Leaf), Error> {
        // A level above pages comes from no other policy.
        let policy = if most == Level::PAGE { LeafPolicy::Pages } else { LeafPolicy::Largest };
        for level in (0..=most.0).rev().map(Level) {
            if !self.context.allows(policy, level) || !self.has_room(level) {
                continue;
            }
            let pages = Context::<P>::leaf_pages(level);
            if let Some(frames) = Owned::allocate(self.context.frames.plain(), pages) {
                let (frames, leaf) = self.context.own_leaf(frames, flags);
                let used = if is_write(fault) { Used::Dirty } else { Used::Accessed };
                return Ok((frames, level, Leaf { used, ..leaf }));
            }
        }
        Err(Error::NoMemory(Context::<P>::page_of(fault.gpa)))
    }

    /// Whether the limit allows a leaf of `level` just now: a block is not zeroed in vain. Pages are asked for later.
    fn has_room(&self, level: Level) -> bool {
        level == Level::PAGE || self.context.frames.account().room() >= Context::<P>::leaf_pages(level)
    }

    /// The highest level of a leaf for a missing page that the area, the policy and an absent entry of `most` allow.
    #[inline]
    fn largest_for(&self, area: &MemoryArea<Backend>, fault: &Fault, policy: LeafPolicy, most: Level) -> Level {
        if policy == LeafPolicy::Pages {
            return Level::PAGE;
        }
        let fits = |&level: &Level| {
            self.context.allows(policy, level)
                && area.va_range().contains_range(Context::<P>::entry_range(level, fault.gpa))
        };
        let largest = (1..=most.min(LARGEST_LAZY).0).rev().map(Level).find(fits).unwrap_or(Level::PAGE);
        if self.fits(largest, area.flags(), fault.access) { largest } else { Level::PAGE }
    }
}

/// The answer to a fault that was met with a new or a better leaf.
fn outcome_of(installed: Installed) -> Outcome {
    match installed {
        Installed::Done => Outcome::Resolved,
        Installed::Lost => Outcome::Retry,
    }
}

/// Whether the guest wrote.
fn is_write(fault: &Fault) -> bool {
    fault.access == Access::Write
}

/// The answer to a fault where no area is.
fn nothing_there(fault: &Fault) -> Outcome {
    match fault.origin {
        Origin::GuestWalk => Outcome::Inject,
        Origin::Instruction => Outcome::NotMapped,
    }
}

/// The answer to a fault that its area does not allow.
fn refusal(area: &MemoryArea<Backend>, fault: &Fault) -> Option<Outcome> {
    let flags = area.flags();
    if fault.origin == Origin::GuestWalk && flags.contains(MappingFlags::DEVICE) {
        return Some(Outcome::Inject);
    }
    // A walk that updates its table has read it.
    let reads = if fault.origin == Origin::GuestWalk { MappingFlags::READ } else { MappingFlags::empty() };
    (!flags.contains(fault.access.flag() | reads)).then_some(Outcome::Denied { flags })
}
