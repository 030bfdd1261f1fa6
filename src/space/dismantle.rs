//! A space's end.

use super::{
    GuestSpace, Progress, State,
    removed::{Removed, RemovedAreas, Rest},
};
use crate::{
    error::Error,
    lock::{LockFamily, SpaceLock},
    platform::Platform,
};

/// Whether a space still has what it is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It has.
    Lives,
    /// It has, and nothing of it changes: a snapshot is being taken in steps.
    Rests,
    /// It is freed elsewhere.
    Ended,
}

/// A space that no CPU reaches any more, and that is still to be freed: [`GuestSpace::dismantle`] makes it.
///
/// Dropped, it frees the rest at once.
#[must_use = "dropping it frees everything at once"]
pub struct Dismantling<P: Platform, L: LockFamily> {
    removed: Removed,
    space: GuestSpace<P, L>,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Ends the space as dropping it does, but leaves the freeing to the caller, and loses nothing where it cannot be done.
    ///
    /// When it returns every CPU has been made to forget the space. CPUs outside that have the root in their registers
    /// must not run a guest by it; where they walk speculatively from the hypervisor
    /// (`Errata::SPECULATIVE_TRANSLATION`), another root must be active on them before.
    ///
    /// # Errors
    /// With the space, which is as it was:
    /// - [`Error::InGuest`] with a CPU that runs the guest;
    /// - [`Error::Invalidation`]: a CPU cannot be told.
    #[allow(clippy::result_large_err, reason = "the space is given back")]
    pub fn dismantle(mut self) -> Result<Dismantling<P, L>, (Self, Error)> {
        match self.end() {
            Ok(removed) => Ok(Dismantling { removed, space: self }),
            Err(error) => Err((self, error)),
        }
    }

    /// Takes all but the areas out of the space, once every CPU has been made to forget it.
    fn end(&mut self) -> Result<Removed, Error> {
        if let Some(cpu) = self.context.shootdown.inside() {
            return Err(Error::InGuest(cpu));
        }
        let range = self.context.everything();
        self.context.shootdown.invalidate_all().map_err(|cause| Error::Invalidation { range, cause })?;
        self.state.get_mut().end_loans();
        let State { table, removed, removed_leases, life, inherited, .. } = self.state.get_mut();
        *life = Life::Ended;
        let mut areas = RemovedAreas { areas: core::mem::take(removed), inherited: None };
        let left = inherited.take();
        // SAFETY: no CPU is in the guest, all were made to forget, and a CPU that enters needs `&self`, which none has
        // any more. Nothing looks at the table after this.
        #[allow(unsafe_code, reason = "the tables' end")]
        let memory = unsafe { table.end(&self.context) };
        if let Some(inherited) = left {
            inherited.cut_all(self.context.frames.accounts());
            areas.inherited = Some(inherited);
        }
        let mut ended = Removed { memory, areas, ..Removed::default() };
        while let Some(lease) = removed_leases.pop() {
            ended.regions.end(lease);
        }
        Ok(ended)
    }

    /// Frees some of what is owed, of what was taken out, and of the areas and loans.
    fn free_rest(&mut self, removed: &mut Removed, mut budget: usize) -> Progress {
        self.debt.is_back();
        self.pay(&mut budget);
        let State { areas, loans, .. } = self.state.get_mut();
        let progress = removed.step(&self.context, Some(Rest { areas, loans }), &mut budget);
        if self.debt.is_owed() { Progress::More } else { progress }
    }
}

impl<P: Platform, L: LockFamily> Dismantling<P, L> {
    /// Frees up to `budget` frames of 4 KiB: of memory, of tables, and of regions that nothing else has. An area counts as
    /// one too. What the allocator takes back only as a whole may exceed the budget.
    pub fn step(&mut self, budget: usize) -> Progress {
        self.space.free_rest(&mut self.removed, budget)
    }
}

impl<P: Platform, L: LockFamily> Drop for Dismantling<P, L> {
    fn drop(&mut self) {
        while self.step(usize::MAX) == Progress::More {}
    }
}

impl<P: Platform, L: LockFamily> Drop for GuestSpace<P, L> {
    /// Frees everything, after every CPU has been made to forget it.
    ///
    /// While a CPU is in the guest, or cannot be told, nothing can be freed: it is leaked, and the log says so
    /// ([H24](crate::hardware#h24));
    /// [`dismantle`](Self::dismantle) gives the space back instead, and frees in steps. What that says of CPUs outside
    /// holds here too.
    fn drop(&mut self) {
        if self.state.get_mut().life == Life::Ended {
            return;
        }
        match self.end() {
            Ok(mut removed) => while self.free_rest(&mut removed, usize::MAX) == Progress::More {},
            Err(error) => {
                log::error!("a space is dropped, and its memory is lost: {error}");
                self.state.get_mut().leak();
                // No CPU reaches what is owed, whatever it does.
                while self.debt.is_owed() {
                    self.pay(&mut { usize::MAX });
                }
            }
        }
    }
}
