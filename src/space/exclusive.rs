//! The space's lock, held exclusively, when nothing is left over from earlier.

use super::{GuestSpace, State, removed::Removed};
use crate::{
    addr::GuestPhysRange,
    error::Error,
    lock::{LockFamily, SpaceLock},
    platform::Platform,
};

/// A space's state, held exclusively.
pub(super) type Held<'s, L> = <<L as LockFamily>::Lock<State> as SpaceLock<State>>::Exclusive<'s>;

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Takes the lock for a change of the map, when what an earlier operation could not finish is finished.
    ///
    /// # Errors
    /// [`Error::Snapshotting`] while a snapshot is being taken; [`Error::Invalidation`]: it still cannot.
    #[inline]
    pub(super) fn exclusive(&self) -> Result<Held<'_, L>, Error> {
        loop {
            let state = self.state.exclusive();
            state.check_rest()?;
            if state.table.is_finished() {
                return Ok(state);
            }
            self.settle(state)?;
        }
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
    /// What that removed goes after the lock's release: a source may be behind it, which is called without any lock.
    #[cold]
    fn settle(&self, mut state: Held<'_, L>) -> Result<(), Error> {
        let State { table, removed, .. } = &mut *state;
        let Some(flush) = table.unfinished(&self.context) else { return Ok(()) };
        let range = flush.range();
        flush.finish().map_err(|cause| Error::Invalidation { range, cause })?;
        removed.give_back(&self.accounts);
        let let_go = core::mem::take(removed);
        drop(state);
        self.free_removed(Removed { areas: let_go, ..Removed::default() });
        Ok(())
    }
}

impl State {
    /// Comes before anything that changes map or memory: refuses it while a snapshot is being taken.
    #[inline]
    pub(super) fn check_rest(&self) -> Result<(), Error> {
        self.snapshotting.map_or(Ok(()), |range| Err(Error::Snapshotting(range)))
    }
}
