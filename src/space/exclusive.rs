//! The space's lock, held exclusively, when nothing is left over from earlier.

use core::ops::{Deref, DerefMut};

use super::{GuestSpace, State, removed::RemovedAreas};
use crate::{
    error::Error,
    lock::{LockFamily, SpaceLock},
    platform::Platform,
};

/// What the lock protects, for a change of the map.
///
/// What an earlier operation could not let go, since a CPU could not be told, goes when this is dropped: after the lock's
/// release. A source may be behind it, which is called without any lock.
pub(super) struct Exclusive<'s, L: LockFamily> {
    guard: <L::Lock<State> as SpaceLock<State>>::Exclusive<'s>,
    // Behind the guard: fields are dropped in order.
    _removed: RemovedAreas,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Takes the lock, and finishes what an earlier operation could not.
    ///
    /// # Errors
    /// [`Error::Snapshotting`] while a snapshot is being taken; [`Error::Invalidation`]: it still cannot.
    pub(super) fn exclusive(&self) -> Result<Exclusive<'_, L>, Error> {
        let mut guard = self.state.exclusive();
        guard.check_rest()?;
        let State { table, removed, .. } = &mut *guard;
        let mut let_go = RemovedAreas::default();
        if let Some(flush) = table.unfinished(&self.context) {
            let range = flush.range();
            flush.finish().map_err(|cause| Error::Invalidation { range, cause })?;
            removed.give_back();
            let_go = core::mem::take(removed);
        }
        Ok(Exclusive { guard, _removed: let_go })
    }
}

impl State {
    /// Comes before anything that changes map or memory: refuses it while a snapshot is being taken.
    #[inline]
    pub(super) fn check_rest(&self) -> Result<(), Error> {
        self.snapshotting.map_or(Ok(()), |range| Err(Error::Snapshotting(range)))
    }
}

impl<L: LockFamily> Deref for Exclusive<'_, L> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.guard
    }
}

impl<L: LockFamily> DerefMut for Exclusive<'_, L> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.guard
    }
}
