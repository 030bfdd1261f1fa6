//! Private memory that is missing: frames for it, and their way into the tables.

use page_table_multiarch::MappingFlags;

use super::{
    GuestSpace, State,
    fault::{is_write, outcome_of, refusal},
};
use crate::{
    account::{Exhausted, Resource},
    addr::Level,
    backend::Backend,
    cpu_id::CpuId,
    error::Error,
    fault::{Cause, Fault, Outcome},
    format::{Leaf, LeafPolicy, Used},
    frame::{Contents, Frames, Owned},
    invalidate::Invalidate,
    lock::{LockFamily, SpaceLock},
    platform::Platform,
    set::MemoryArea,
    table::{Context, Installed},
};

/// The largest leaf that a fault populates: a guest must not cause more work than that at once.
pub(super) const LARGEST_LAZY: Level = Level(1);

/// Frames for memory that is missing, and the leaf of `level` that is to map them.
struct Fresh<'f, F: Frames> {
    frames: Owned<'f, F>,
    level: Level,
    leaf: Leaf,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Answers what most faults are, by one look at entry and area: a page that is there, or one of private memory that is
    /// missing while the allocator has a zeroed frame. `None` for all others, and where a frame, a table or the limit is
    /// short: no leaf has changed. Tables that could be had on the way to the page stay, as part of the path.
    #[inline]
    pub(super) fn answer_at_once(&self, state: &State, cpu: CpuId, fault: &Fault) -> Option<Outcome> {
        state.check_rest().ok()?;
        let position = state.table.seek(&self.context, fault.gpa);
        let Some(most) = position.absent(&self.context) else {
            // A leaf allows no more than its area does.
            let allows = refusal(position.flags(&self.context)?, fault).is_none() && fault.cause != Cause::AccessFlag;
            if !allows {
                return None;
            }
            self.context.operations().publish();
            self.forget_denial(fault);
            return Some(Outcome::Retry);
        };
        let area = state.areas.find(fault.gpa)?;
        let Backend::Private(policy) = area.backend() else { return None };
        let is_page = self.largest_for(area, fault, *policy, most) == Level::PAGE;
        if refusal(area.flags(), fault).is_some() || !is_page || self.context.frames.contents() == Contents::Unknown {
            return None;
        }
        let fresh = self.fresh(fault, Level::PAGE, area.flags())?;
        let charge = self.account(Resource::Frames).charge_on(cpu, fresh.frames.pages()).ok()?;
        let installed = position.install(&self.context, Level::PAGE, &fresh.leaf, fresh.frames).ok()?;
        if installed == Installed::Done {
            charge.keep();
        }
        self.context.operations().publish();
        Some(outcome_of(installed))
    }

    /// Brings memory to where it was missing when the lock was held before: a leaf up to `most`, with `flags`.
    ///
    /// It is charged with the lock held, so that with the lock held exclusively no charge is on its way.
    pub(super) fn bring_private(
        &self,
        cpu: CpuId,
        fault: &Fault,
        most: Level,
        flags: MappingFlags,
    ) -> Result<Outcome, Error> {
        let failed = |exhausted: Exhausted| exhausted.at(Context::<P>::page_of(fault.gpa));
        let block = if most > Level::PAGE { self.fresh_block(fault, most, flags) } else { None };
        let fresh = block.or_else(|| self.fresh(fault, Level::PAGE, flags)).ok_or_else(|| failed(Exhausted::Memory))?;
        let Fresh { frames, level, leaf } = fresh;
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
        let charge = match self.account(Resource::Frames).charge_on(cpu, frames.pages()) {
            Ok(charge) => charge,
            // Others took the room that there was for a block: a page may still be had.
            Err(_) if level > Level::PAGE => return Ok(Outcome::Retry),
            Err(exhausted) => return Err(failed(exhausted)),
        };
        let position = state.table.seek_again(&self.context, fault.gpa);
        let installed = position.install(&self.context, level, &leaf, frames).map_err(failed)?;
        if installed == Installed::Done {
            charge.keep();
        }
        self.context.operations().publish();
        Ok(outcome_of(installed))
    }

    /// Frames for a missing block up to `most`: the largest that the allocator has and the limit allows.
    fn fresh_block(&self, fault: &Fault, most: Level, flags: MappingFlags) -> Option<Fresh<'_, P::Frames>> {
        (1..=most.0).rev().map(Level).find_map(|level| {
            let fits = self.context.allows(LeafPolicy::Largest, level) && self.has_room(level);
            fits.then(|| self.fresh(fault, level, flags))?
        })
    }

    /// Frames for a missing leaf of `level`, if the allocator has them.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its result in memory cost a tenth of a fault")]
    fn fresh(&self, fault: &Fault, level: Level, flags: MappingFlags) -> Option<Fresh<'_, P::Frames>> {
        let frames = Owned::allocate(self.context.frames.plain(), Context::<P>::leaf_pages(level))?;
        let (frames, leaf) = self.context.own_leaf(frames, flags);
        let used = if is_write(fault) { Used::Dirty } else { Used::Accessed };
        Some(Fresh { frames, level, leaf: Leaf { used, ..leaf } })
    }

    /// Whether the limit allows a leaf of `level` just now: a block is not zeroed in vain.
    pub(super) fn has_room(&self, level: Level) -> bool {
        self.context.frames.account().room() >= Context::<P>::leaf_pages(level)
    }

    /// The highest level of a leaf for a missing page that the area, the policy and an absent entry of `most` allow.
    #[inline]
    pub(super) fn largest_for(
        &self,
        area: &MemoryArea<Backend>,
        fault: &Fault,
        policy: LeafPolicy,
        most: Level,
    ) -> Level {
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
