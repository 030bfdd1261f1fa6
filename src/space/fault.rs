//! Answering a guest's faults, on every CPU at once.

use super::{
    GuestSpace, Platform, State,
    copy::Copied,
    supply::{is_left_to, is_unsupplied},
};
use crate::{
    Access, Cause, CpuId, Denials, Error, Fault, Format, GuestPhysAddr, GuestPhysRange, Invalidate, Leaf, LeafPolicy,
    Level, LockFamily, MappingFlags, MemoryArea, Origin, Outcome, Owner, SpaceLock, Used,
    backend::Backend,
    frame::Owned,
    region::View,
    table::{Edit, Found, Installed},
};

/// The largest leaf that a fault populates: a guest must not cause more work than that at once.
const LARGEST_LAZY: Level = Level(1);

/// What a fault comes to under the lock.
pub(super) enum Verdict {
    /// This.
    Answer(Outcome),
    /// Memory of the space's own is missing here.
    Missing(Missing),
    /// A page of a region that nobody touched yet.
    Unpopulated(View),
    /// A page that is written for the first time, and not the guest's own.
    Inherited,
    /// The same, within a block.
    InheritedBlock,
    /// A leaf that is too large to allow it must make way for smaller ones.
    TooLarge,
    /// An earlier operation must be finished first.
    Unsettled,
}

/// Private memory that nobody touched yet.
#[derive(Clone, Copy)]
pub(super) struct Missing {
    /// The largest leaf that may stand there.
    pub level: Level,
    /// What it is to allow.
    pub flags: MappingFlags,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Answers a fault that the guest took on `cpu`, any number of times, at any address.
    ///
    /// Frames are allocated and zeroed before the lock is taken; what another CPU did first is not done again. A leaf
    /// that is too large to allow what its area does ([`Format::allowed`]) is split, which excludes all others. After
    /// a permission fault on a CPU that may remember the denial, that memory is wiped on this CPU (H3): call it on the
    /// CPU that took the fault, with this space's root active. `cpu` only spreads the load.
    ///
    /// # Errors
    /// [`Error::NoMemory`] when a frame or a table cannot be had; [`Error::Limit`] when the space may not have it;
    /// [`Error::Invalidation`] if an earlier operation's invalidation still fails; [`Error::Snapshotting`] while a
    /// snapshot is being taken in steps, for which no CPU is in the guest; [`Error::NotMapped`] never, unless tables and
    /// areas disagree.
    pub fn fault(&self, cpu: CpuId, fault: Fault) -> Result<Outcome, Error> {
        self.accounts.count_fault(cpu);
        if fault.gpa.as_usize() >= self.builder.geometry().limit() {
            return Ok(nothing_there(&fault));
        }
        match self.answer(cpu, &fault) {
            Err(error @ Error::Limit { what, .. }) => self.answer_at_limit(&fault, what, error),
            answer => answer,
        }
    }

    /// Answers a fault at an address that the tables translate.
    fn answer(&self, cpu: CpuId, fault: &Fault) -> Result<Outcome, Error> {
        match self.judge(cpu, fault)? {
            Verdict::Answer(outcome) => Ok(outcome),
            Verdict::Missing(missing) => self.populate(cpu, fault, missing),
            Verdict::Unpopulated(view) => self.fetch(cpu, fault, &view),
            Verdict::Inherited => match self.copy(cpu, fault)? {
                Copied::Done => Ok(Outcome::Resolved),
                Copied::Lost => Ok(Outcome::Retry),
                Copied::Missing(view) => self.fetch(cpu, fault, &view),
            },
            Verdict::InheritedBlock => self.cut_out(fault.gpa).map(|()| Outcome::Retry),
            Verdict::TooLarge => self.split(fault),
            Verdict::Unsettled => {
                drop(self.exclusive()?);
                Ok(Outcome::Retry)
            }
        }
    }

    /// Looks at area and entry, and does what needs no frame.
    pub(super) fn judge(&self, cpu: CpuId, fault: &Fault) -> Result<Verdict, Error> {
        self.judge_with(&self.state.shared(cpu), fault)
    }

    /// The same with the lock that is held.
    pub(super) fn judge_with(&self, state: &State<P>, fault: &Fault) -> Result<Verdict, Error> {
        state.check_rest()?;
        let Some(area) = state.areas.find(fault.gpa) else { return Ok(Verdict::Answer(nothing_there(fault))) };
        if let Some(refusal) = refusal(area, fault) {
            return Ok(Verdict::Answer(refusal));
        }
        match (state.table.find(fault.gpa), area.backend()) {
            (Found::Leaf { leaf, level, .. }, Backend::CopyOnWrite(_))
                if leaf.owner == Owner::Frozen && is_write(fault) =>
            {
                Ok(if level == Level::PAGE { Verdict::Inherited } else { Verdict::InheritedBlock })
            }
            (Found::Leaf { level, .. }, _) if !self.fits(level, area.flags(), fault.access) => Ok(Verdict::TooLarge),
            (Found::Leaf { leaf, .. }, _) => Ok(Verdict::Answer(self.present(state, fault, &leaf, area.flags()))),
            (Found::Changing, _) => Ok(Verdict::Unsettled),
            (Found::Busy, _) => Ok(Verdict::Answer(Outcome::Retry)),
            (Found::Lent(_), _) => Ok(Verdict::Answer(Outcome::Lent)),
            (Found::Nothing(_), Backend::CopyOnWrite(view)) if is_unsupplied(view, fault) => {
                Ok(Verdict::Unpopulated(view.clone()))
            }
            (Found::Nothing(_), Backend::CopyOnWrite(view)) if is_write(fault) || is_left_to(area, view) => {
                Ok(Verdict::Inherited)
            }
            (Found::Nothing(_), Backend::Shared(view) | Backend::CopyOnWrite(view)) => {
                Ok(match self.map_page(state, area, fault.gpa)? {
                    Some(installed) => Verdict::Answer(outcome_of(installed)),
                    None => Verdict::Unpopulated(view.clone()),
                })
            }
            (Found::Nothing(level), Backend::Private(policy)) => {
                let largest = self.largest(area.va_range(), fault.gpa, *policy, level);
                let level = if self.fits(largest, area.flags(), fault.access) { largest } else { Level::PAGE };
                Ok(Verdict::Missing(Missing { level, flags: area.flags() }))
            }
            (Found::Nothing(_), Backend::Linear(_) | Backend::Borrowed(_)) => {
                Err(Error::NotMapped(super::page_of(self.builder.geometry(), fault.gpa)))
            }
        }
    }

    /// A fault on a leaf that is there: an older translation, a permission that was raised, or one to raise.
    fn present(&self, state: &State<P>, fault: &Fault, leaf: &Leaf, flags: MappingFlags) -> Outcome {
        let allowed = leaf.flags.contains(fault.access.flag());
        let outcome = if allowed && fault.cause != Cause::AccessFlag {
            Outcome::Retry
        } else {
            outcome_of(state.table.raise(fault.gpa, leaf.owner.limit(flags), fault.access))
        };
        self.shootdown.operations().publish();
        self.forget_denial(fault);
        outcome
    }

    /// Wipes what this CPU may remember of the entry that denied an access (H3).
    pub(super) fn forget_denial(&self, fault: &Fault) {
        if fault.cause == Cause::Permission && self.builder.format().denials() == Denials::Cached {
            self.shootdown.invalidate_denial(fault.gpa);
        }
    }

    /// Whether a leaf of `level` allows the access where `flags` do.
    fn fits(&self, level: Level, flags: MappingFlags, access: Access) -> bool {
        self.builder.format().allowed(level, flags).contains(access.flag())
    }

    /// Splits the leaf over a page that is to allow what so large a leaf may not; the page alone gets it.
    fn split(&self, fault: &Fault) -> Result<Outcome, Error> {
        let page = super::page_of(self.builder.geometry(), fault.gpa);
        let mut guard = self.exclusive()?;
        let State { areas, table, .. } = &mut *guard;
        // The map may have changed meanwhile.
        let Some(area) = areas.find(fault.gpa).filter(|area| area.flags().contains(fault.access.flag())) else {
            return Ok(Outcome::Retry);
        };
        let flags = area.flags();
        let flush = table.edit(page, Edit::Protect(flags), &self.shootdown).map_err(|exhausted| exhausted.at(page))?;
        flush.finish().map_err(|cause| Error::Invalidation { range: page, cause })?;
        Ok(Outcome::Resolved)
    }

    /// Brings memory to where it is missing.
    fn populate(&self, cpu: CpuId, fault: &Fault, missing: Missing) -> Result<Outcome, Error> {
        let (frames, level, leaf) = self.own_leaf(fault, missing)?;
        let state = self.state.shared(cpu);
        state.check_rest()?;
        let still = state.areas.find(fault.gpa).filter(|area| {
            area.flags() == missing.flags
                && matches!(area.backend(), Backend::Private(_))
                && area.va_range().contains_range(self.builder.geometry().entry_range(level, fault.gpa))
        });
        if still.is_none() {
            return Ok(Outcome::Retry);
        }
        self.install(&state, fault.gpa, level, &leaf, frames).map(outcome_of)
    }

    /// Puts a leaf of the space's own where nothing is, with the lock that is held.
    ///
    /// It is charged only here, so that with the lock held exclusively no charge is on its way.
    pub(super) fn install(
        &self,
        state: &State<P>,
        gpa: GuestPhysAddr,
        level: Level,
        leaf: &Leaf,
        frames: Owned<'_, P::Frames>,
    ) -> Result<Installed, Error> {
        let page = super::page_of(self.builder.geometry(), gpa);
        let charge = match self.builder.frames().account().charge(frames.pages()) {
            Ok(charge) => charge,
            // Others took the room that there was for a block: a page may still be had.
            Err(_) if level > Level::PAGE => return Ok(Installed::Lost),
            Err(exhausted) => return Err(exhausted.at(page)),
        };
        let installed = state.table.install(gpa, level, leaf, frames).map_err(|exhausted| exhausted.at(page))?;
        if installed == Installed::Done {
            charge.keep();
        }
        self.shootdown.operations().publish();
        Ok(installed)
    }

    /// Frames for the missing memory: the largest leaf that the allocator has and the limit allows.
    pub(super) fn own_leaf(
        &self,
        fault: &Fault,
        missing: Missing,
    ) -> Result<(Owned<'_, P::Frames>, Level, Leaf), Error> {
        for level in (0..=missing.level.0).rev().map(Level) {
            if !self.builder.allows(missing.policy(), level) || !self.has_room(level) {
                continue;
            }
            if let Some((frames, leaf)) = self.builder.own_leaf(self.shootdown.operations(), level, missing.flags) {
                let used = if fault.access == Access::Write { Used::Dirty } else { Used::Accessed };
                return Ok((frames, level, Leaf { used, ..leaf }));
            }
        }
        Err(Error::NoMemory(super::page_of(self.builder.geometry(), fault.gpa)))
    }

    /// Whether the limit allows a leaf of `level` just now: a block is not zeroed in vain. Pages are asked for later.
    fn has_room(&self, level: Level) -> bool {
        let pages = self.builder.geometry().span(level) / memory_addr::PAGE_SIZE_4K;
        level == Level::PAGE || self.builder.frames().account().room() >= pages
    }

    /// The highest level of a leaf over `gpa` that the area, the policy and an absent entry of `most` allow.
    pub(super) fn largest(&self, area: GuestPhysRange, gpa: GuestPhysAddr, policy: LeafPolicy, most: Level) -> Level {
        let geometry = self.builder.geometry();
        let fits = |&level: &Level| {
            self.builder.allows(policy, level) && area.contains_range(geometry.entry_range(level, gpa))
        };
        (1..=most.min(LARGEST_LAZY).0).rev().map(Level).find(fits).unwrap_or(Level::PAGE)
    }
}

impl Missing {
    /// The policy that led to the level: a level above pages comes from no other.
    fn policy(self) -> LeafPolicy {
        if self.level == Level::PAGE { LeafPolicy::Pages } else { LeafPolicy::Largest }
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
