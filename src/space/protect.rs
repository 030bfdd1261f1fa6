//! Giving a range other flags: at once, or a part at a time.

use page_table_multiarch::MappingFlags;

use super::{GuestSpace, Progress, State, edit, exclusive::Held, shared};
use crate::{
    addr::GuestPhysRange,
    backend::Backend,
    error::Error,
    lock::LockFamily,
    platform::Platform,
    region::Lease,
    set::{Few, MemorySet, Plan},
    table::Edit,
};

/// A range that gets other flags, of which a part has them already: [`GuestSpace::protect_in_steps`] makes it.
///
/// Dropped, it leaves [`rest`](Self::rest) as it was.
#[must_use = "nothing is protected before the first step"]
pub struct Protecting<'s, P: Platform, L: LockFamily> {
    space: &'s GuestSpace<P, L>,
    flags: MappingFlags,
    rest: GuestPhysRange,
    stage: Stage,
}

/// How far a range is.
enum Stage {
    /// Nothing is known of it.
    Unchecked,
    /// The flags suit what was mapped there at the first step; the regions among it are not frozen meanwhile.
    Begun(#[allow(dead_code, reason = "it is there to be dropped in time")] Few<Lease>),
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Gives `range`, all of which is mapped, other flags; blocks are split at its ends.
    ///
    /// When it returns no CPU allows what the flags do not. Where they allow more, a CPU that remembers a denial
    /// finds out by a fault. [`protect_in_steps`](Self::protect_in_steps) holds the lock for a part at a time.
    ///
    /// # Errors
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range;
    /// - [`Error::Flags`] for flags that the format cannot express, or a device as private memory;
    /// - [`Error::NotMemory`] for a linear area that is a device and would become memory ([H18](crate::hardware#h18));
    /// - [`Error::Region`] for a frozen region that would be written;
    /// - [`Error::NotMapped`] with the first hole;
    /// - [`Error::State`] for memory that is on loan to another space, [`Error::Denied`] for more than a loan allows;
    /// - [`Error::NoMemory`], [`Error::Limit`] for the tables that split blocks, and for the areas that are cut;
    /// - [`Error::Invalidation`]: see there.
    pub fn protect(&self, range: GuestPhysRange, flags: MappingFlags) -> Result<(), Error> {
        self.check(range)?;
        self.check_flags(range, flags)?;
        let mut guard = self.exclusive_over(range)?;
        match self.protect_page(&mut guard, range, flags) {
            Some(done) => done,
            None => self.protect_any(guard, range, flags),
        }
    }

    /// Gives any range other flags.
    #[inline(never)]
    fn protect_any<'s>(&'s self, guard: Held<'s, L>, range: GuestPhysRange, flags: MappingFlags) -> Result<(), Error> {
        let (mut protecting, mut guard) = (Protecting::of(self, range, flags), Some(guard));
        self.paying(|| {
            let guard = guard.take().map_or_else(|| self.exclusive_over(range), Ok)?;
            protecting.step_under(guard, usize::MAX).map(|_| ())
        })
    }

    /// Gives a page of plain memory other flags, if its leaf gets them in place. `None` for all else: nothing has changed.
    #[inline]
    fn protect_page(&self, state: &mut State, range: GuestPhysRange, flags: MappingFlags) -> Option<Result<(), Error>> {
        let State { areas, table, .. } = state;
        if !self.has_room_for_areas(2) {
            // It may cut an area in three: that is counted elsewhere.
            return None;
        }
        let page = shared::plain_page::<P>(areas, range)?;
        edit::check_kind(page.area(), range, flags).ok()?;
        let done = table.protect_page(&self.context, range, flags)?;
        page.set_flags(flags);
        Some(done.map_err(|cause| Error::Invalidation { range, cause }))
    }

    /// Refuses what would make too many areas of what is planned; `range` is what is wanted.
    fn check_protected_areas(
        &self,
        plan: &Plan<'_, Backend>,
        range: GuestPhysRange,
        flags: MappingFlags,
    ) -> Result<(), Error> {
        self.check_areas(range, plan.len(), 2, || plan.len_changed(|area| (flags, area.backend())))
    }

    /// Gives `range` other flags as [`protect`](Self::protect) does, but a part at a time: see [`Protecting::step`].
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range; [`Error::Flags`] for flags that the
    /// format cannot express.
    pub fn protect_in_steps(&self, range: GuestPhysRange, flags: MappingFlags) -> Result<Protecting<'_, P, L>, Error> {
        self.check(range)?;
        self.check_flags(range, flags)?;
        Ok(Protecting::of(self, range, flags))
    }
}

impl<'s, P: Platform, L: LockFamily> Protecting<'s, P, L> {
    const fn of(space: &'s GuestSpace<P, L>, range: GuestPhysRange, flags: MappingFlags) -> Self {
        Self { space, flags, rest: range, stage: Stage::Unchecked }
    }

    /// What does not have the flags yet. Empty when all is done.
    #[must_use]
    pub const fn rest(&self) -> GuestPhysRange {
        self.rest
    }

    /// Gives the first part of [`rest`](Self::rest) the flags: no more than so many table entries, and as many areas.
    ///
    /// The part is complete when it returns: no CPU allows there what the flags do not, and the lock is free. All that
    /// [`protect`](GuestSpace::protect) refuses in the range is refused by the first step, before anything changed. If
    /// others change the map between two steps, a later one may be refused too; so may one at the limit of areas, as what has
    /// the flags and what does not have them yet are two areas meanwhile.
    ///
    /// # Errors
    /// As for [`protect`](GuestSpace::protect), for the rest; all that is before it is done, and the step may be tried
    /// again.
    pub fn step(&mut self, entries: usize) -> Result<Progress, Error> {
        if entries == 0 || self.rest.is_empty() {
            return Ok(self.progress());
        }
        let space = self.space;
        space.paying(|| self.step_under(space.exclusive_over(self.rest)?, entries))
    }

    /// The same under the lock.
    #[inline(never)]
    fn step_under(&mut self, mut guard: Held<'_, L>, entries: usize) -> Result<Progress, Error> {
        let (range, flags) = (self.rest, self.flags);
        let State { areas, table, removed_leases, .. } = &mut *guard;
        let end = if entries == usize::MAX {
            range.end
        } else {
            let most = areas.iter_range(range).nth(entries - 1).map_or(range.end, |area| area.end().min(range.end));
            table.end_of_entries(&self.space.context, GuestPhysRange { end: most, ..range }, entries)
        };
        let part = GuestPhysRange { end, ..range };
        // It has begun when a first part is done, and there is a rest.
        let begun = match self.stage {
            Stage::Unchecked if end < range.end => Some(self.begin(areas)?),
            _ => None,
        };
        let plan = areas.plan(part).map_err(|_| Error::NoMemory(range))?;
        let is_plain = check_all(&plan, range, flags)?;
        self.space.check_protected_areas(&plan, range, flags)?;
        let leases =
            if is_plain { None } else { Some((shared::new_leases(&plan, flags)?, shared::lost_leases(&plan, flags)?)) };
        let flush = match table.edit(&self.space.context, part, Edit::Protect(flags)) {
            Ok(flush) => flush,
            Err(exhausted) => {
                let (_new, lost) = leases.unwrap_or_default();
                return Err(shared::keep(lost, exhausted.at(range)));
            }
        };
        plan.set_flags(flags);
        areas.join_all(part);
        let lost = leases.map(|(new, lost)| {
            new.into_iter().for_each(Lease::keep);
            lost
        });
        if let Err(cause) = flush.finish() {
            // A CPU may still write: the leave goes when an exclusive operation has told all CPUs.
            *removed_leases = lost.unwrap_or_default();
            return Err(Error::Invalidation { range, cause });
        }
        if let Some(leases) = begun {
            self.stage = Stage::Begun(leases);
        }
        self.rest.start = end;
        Ok(self.progress())
    }

    /// Refuses what cannot be done with all of the range, of which a part comes first. What keeps its regions as they are
    /// until all is done.
    fn begin(&self, areas: &mut MemorySet<Backend>) -> Result<Few<Lease>, Error> {
        let (range, flags) = (self.rest, self.flags);
        let plan = areas.plan(range).map_err(|_| Error::NoMemory(range))?;
        check_all(&plan, range, flags)?;
        self.space.check_protected_areas(&plan, range, flags)?;
        shared::new_leases(&plan, flags)
    }

    fn progress(&self) -> Progress {
        if self.rest.is_empty() { Progress::Done } else { Progress::More }
    }
}

/// Refuses holes in what is planned, and areas that the flags do not suit; `range` is what is wanted. Whether no region and
/// no loan is behind it.
fn check_all(plan: &Plan<'_, Backend>, range: GuestPhysRange, flags: MappingFlags) -> Result<bool, Error> {
    let mut is_plain = true;
    edit::check_whole(plan.range(), plan.pieces(), |area, _| {
        is_plain &= shared::is_plain(area);
        edit::check_kind(area, range, flags)
    })?;
    Ok(is_plain)
}
