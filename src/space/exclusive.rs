//! The space's lock, held exclusively, when nothing is left over from earlier.

use core::ops::{Deref, DerefMut};

use super::{
    GuestSpace, Progress, State,
    dismantle::Life,
    inherit,
    removed::{Removed, RemovedAreas},
};
use crate::{
    addr::GuestPhysRange,
    error::Error,
    lock::{LockFamily, SpaceLock},
    platform::Platform,
    table::RemovedMemory,
};

/// A space's state, held exclusively. What gives it up notes how many areas there are: no operation can forget to.
pub(super) struct Held<'s, L: LockFamily>(<L::Lock<State> as SpaceLock<State>>::Exclusive<'s>);

impl<L: LockFamily> Deref for Held<'_, L> {
    type Target = State;

    #[inline]
    fn deref(&self) -> &State {
        &self.0
    }
}

impl<L: LockFamily> DerefMut for Held<'_, L> {
    #[inline]
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl<L: LockFamily> Drop for Held<'_, L> {
    #[inline]
    fn drop(&mut self) {
        let State { accounts, areas, .. } = &*self.0;
        accounts.areas().note(areas.len());
    }
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Takes the lock, whatever is left over from earlier.
    #[inline]
    pub(super) fn hold(&self) -> Held<'_, L> {
        Held(self.state.exclusive())
    }

    /// Takes the lock for a change of the map, when what an earlier operation could not finish is finished, and pays a part
    /// of what is owed. Called without any lock.
    ///
    /// # Errors
    /// [`Error::Snapshotting`] while a snapshot is being taken; [`Error::Invalidation`]: it still cannot.
    #[inline(never)]
    pub(super) fn exclusive(&self) -> Result<Held<'_, L>, Error> {
        loop {
            self.pay_part();
            if let Some(state) = self.try_exclusive()? {
                return Ok(state);
            }
        }
    }

    /// The same for an answer to a fault, which does not pay.
    pub(super) fn exclusive_to_answer(&self) -> Result<Held<'_, L>, Error> {
        loop {
            if let Some(state) = self.try_exclusive()? {
                return Ok(state);
            }
        }
    }

    /// Takes the lock for a change of the map, unless something was left over: then that is finished instead.
    fn try_exclusive(&self) -> Result<Option<Held<'_, L>>, Error> {
        let state = self.hold();
        state.check_rest()?;
        if state.table.is_finished() {
            return Ok(Some(state));
        }
        self.settle(state)?;
        Ok(None)
    }

    /// The same for a change of `range`, of which nothing is on loan.
    ///
    /// # Errors
    /// As for [`exclusive`](Self::exclusive); [`Error::State`] for memory that is on loan to another space.
    #[inline]
    pub(super) fn exclusive_over(&self, range: GuestPhysRange) -> Result<Held<'_, L>, Error> {
        let state = self.exclusive()?;
        Self::check_not_on_loan(&state, range)?;
        Ok(state)
    }

    /// Finishes what an earlier operation could not, since a CPU could not be told.
    ///
    /// What that removed is owed from then on: nothing of it is freed here, where a guest may wait.
    #[cold]
    fn settle(&self, mut state: Held<'_, L>) -> Result<(), Error> {
        let State { table, removed, removed_leases, inherited, .. } = &mut *state;
        let Some(flush) = table.unfinished(&self.context) else { return Ok(()) };
        let range = flush.range();
        let mut memory = RemovedMemory::default();
        flush.detach(&mut memory).map_err(|cause| Error::Invalidation { range, cause })?;
        let inherited = inherited.as_ref().filter(|_| removed.iter().any(inherit::is_inherited)).cloned();
        let areas = RemovedAreas { areas: core::mem::take(removed), inherited };
        areas.give_back(self.accounts());
        let mut let_go = Removed { memory, areas, ..Removed::default() };
        // No CPU writes by them any more: the regions may be frozen from now on.
        while let Some(lease) = removed_leases.pop() {
            let_go.regions.end(lease);
        }
        self.debt.add(&mut let_go);
        drop(state);
        // What there was no memory to name.
        while let_go.step(&self.context, None, &mut { usize::MAX }) == Progress::More {}
        Ok(())
    }
}

impl State {
    /// Comes before anything that changes map or memory: refuses it while a snapshot is being taken.
    #[inline]
    pub(super) fn check_rest(&self) -> Result<(), Error> {
        if self.life == Life::Rests { Err(Error::Snapshotting(self.snapshotting)) } else { Ok(()) }
    }
}
