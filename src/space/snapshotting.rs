//! Freezing a guest's memory a part at a time, while it is at rest.

use super::{GuestSpace, Progress, State, dismantle::Life, snapshot::Draft};
use crate::{
    addr::GuestPhysRange,
    error::Error,
    lock::{LockFamily, SpaceLock},
    platform::Platform,
    region::Snapshot,
    table::Changes,
};

/// A snapshot that is being taken of a space that is at rest: [`GuestSpace::snapshot_in_steps`] makes it.
///
/// As long as it is there no CPU may enter the guest, and nothing changes map or memory. Dropped before anything was
/// frozen it leaves no trace; later, the snapshot is completed and dropped. Lost without being dropped, it leaves the space
/// at rest for good.
#[must_use = "the space is at rest meanwhile"]
pub struct Snapshotting<'s, P: Platform, L: LockFamily> {
    space: &'s GuestSpace<P, L>,
    /// `None` when it is over.
    draft: Option<Draft>,
    phase: Phase,
    changes: Changes,
}

/// What is done with the memory that is left.
#[derive(Clone, Copy)]
enum Phase {
    /// Room is made for what becomes of it. That may fail, and changes nothing.
    Reserving(GuestPhysRange),
    /// It is frozen. That cannot fail.
    Freezing(GuestPhysRange),
    /// What sources brought goes off the account, from the page of that number on. That cannot fail either.
    Unpaying(usize),
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L>
where
    P::Invalidate: Clone,
{
    /// Takes a snapshot as [`snapshot`](Self::snapshot) does, but of a guest that is at rest, and a part at a time.
    ///
    /// From now on until it is [finished](Snapshotting::finish) or dropped, [`enter`](Self::enter) and all that would
    /// change map or memory answers [`Error::Snapshotting`].
    ///
    /// # Errors
    /// - [`Error::InGuest`] with a CPU that runs the guest;
    /// - [`Error::Snapshotting`] while another one is being taken;
    /// - [`Error::NotMapped`], [`Error::State`], [`Error::Flags`], [`Error::Region`], [`Error::NoMemory`] as for
    ///   [`snapshot`](Self::snapshot);
    /// - [`Error::Invalidation`] if an earlier operation's invalidation still fails.
    pub fn snapshot_in_steps(&self) -> Result<Snapshotting<'_, P, L>, Error> {
        let mut state = self.exclusive()?;
        let draft = self.draft(&mut state)?;
        self.context.shootdown.close().map_err(Error::InGuest)?;
        let range = draft.range();
        (state.life, state.snapshotting) = (Life::Rests, range);
        Ok(Snapshotting {
            space: self,
            draft: Some(draft),
            phase: Phase::Reserving(range),
            changes: Changes::new(range),
        })
    }
}

impl<P: Platform, L: LockFamily> Snapshotting<'_, P, L> {
    /// Looks at the next table entries, no more than so many: first it makes room for all of them, then it freezes them.
    /// Done, all that is left is to [`finish`](Self::finish), which takes one invalidation and the areas.
    ///
    /// The room for a block of 1 GiB is 2 MiB, and is made at once.
    ///
    /// # Errors
    /// [`Error::NoMemory`], while nothing is frozen yet: the step may be tried again.
    pub fn step(&mut self, entries: usize) -> Result<Progress, Error> {
        let Some(draft) = &self.draft else { return Ok(Progress::Done) };
        if entries == 0 {
            return Ok(Progress::More);
        }
        match self.phase {
            Phase::Reserving(rest) => {
                let state = self.space.state.shared(super::any_cpu());
                let end = state.table.end_of_entries(&self.space.context, rest, entries);
                draft.reserve(&self.space.context, &state.table, GuestPhysRange { end, ..rest })?;
                let rest = GuestPhysRange { start: end, ..rest };
                self.phase = if rest.is_empty() { Phase::Freezing(draft.range()) } else { Phase::Reserving(rest) };
            }
            Phase::Unpaying(mut next) => {
                // No page comes to be on the account: nothing is asked for on behalf of a guest that is at rest.
                let is_done = draft.unpay_some(self.space.accounts(), &mut next, &mut { entries });
                self.phase = Phase::Unpaying(next);
                return Ok(if is_done { Progress::Done } else { Progress::More });
            }
            Phase::Freezing(rest) => {
                let mut state = self.space.hold();
                let end = state.table.end_of_entries(&self.space.context, rest, entries);
                let part = GuestPhysRange { end, ..rest };
                draft.adopt(&self.space.context, &state.table, part);
                state.table.freeze(&self.space.context, part, &mut self.changes);
                let rest = GuestPhysRange { start: end, ..rest };
                let is_done = rest.is_empty() && draft.unpay_some(self.space.accounts(), &mut 0, &mut 0);
                self.phase = if rest.is_empty() { Phase::Unpaying(0) } else { Phase::Freezing(rest) };
                if is_done {
                    return Ok(Progress::Done);
                }
            }
        }
        Ok(Progress::More)
    }

    /// Does what is left to do, makes the CPUs forget, and lets them enter again.
    ///
    /// # Errors
    /// [`Error::NoMemory`], where nothing was frozen yet: there is no trace of it. [`Error::Invalidation`] as for
    /// [`snapshot`](GuestSpace::snapshot).
    pub fn finish(mut self) -> Result<Snapshot, Error> {
        while self.step(usize::MAX)? == Progress::More {}
        self.conclude()
    }

    /// Hands over what is frozen, all of it.
    fn conclude(&mut self) -> Result<Snapshot, Error> {
        let mut guard = self.space.hold();
        let State { areas, table, life, .. } = &mut *guard;
        let Some(mut draft) = self.draft.take() else {
            return Err(Error::NotMapped(self.space.context.everything()));
        };
        let range = draft.range();
        let changes = core::mem::replace(&mut self.changes, Changes::new(range));
        let flush = table.frozen(&self.space.context, changes);
        draft.hand_over(areas);
        let flushed = flush.finish();
        *life = Life::Lives;
        self.space.context.shootdown.open();
        drop(guard);
        flushed.map_err(|cause| Error::Invalidation { range, cause })?;
        Ok(draft.into_snapshot())
    }
}

impl<P: Platform, L: LockFamily> Drop for Snapshotting<'_, P, L> {
    fn drop(&mut self) {
        let Some(draft) = &self.draft else { return };
        let has_begun = match self.phase {
            Phase::Reserving(_) => false,
            Phase::Freezing(rest) => rest != draft.range(),
            Phase::Unpaying(_) => true,
        };
        if has_begun {
            // The step cannot fail any more.
            while self.step(usize::MAX) == Ok(Progress::More) {}
            if let Err(error) = self.conclude() {
                log::error!("a snapshot is given up: {error}");
            }
        } else {
            self.space.hold().life = Life::Lives;
            self.space.context.shootdown.open();
        }
    }
}
