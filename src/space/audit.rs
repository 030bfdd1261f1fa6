//! A space as an audit holds it: locked as it is, with whatever is unfinished in it.

use spin::rwlock::RwLockReadGuard;

use super::{GuestSpace, State, debt::Owed, dismantle::Life, exclusive::Held, removed::Removed};
use crate::{
    account::{Account, Resource},
    addr::GuestPhysRange,
    backend::Backend,
    loan::Loans,
    lock::LockFamily,
    pages::{Inherited, Payer},
    platform::Platform,
    region::{Lease, View},
    set::{MemoryArea, MemorySet},
    table::{Context, RemovedMemory, Table},
};

/// A space that nothing changes meanwhile.
pub(crate) struct Audited<'s, P: Platform, L: LockFamily> {
    space: &'s GuestSpace<P, L>,
    state: Held<'s, L>,
    owed: RwLockReadGuard<'s, Owed>,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// The number by which spaces are locked, the lowest first.
    pub(crate) fn lock_order(&self) -> usize {
        core::ptr::from_ref(&self.state).addr()
    }

    /// Takes the lock exclusively, so that no CPU is in the middle of a change, and finishes nothing that is
    /// unfinished.
    pub(crate) fn hold_to_audit(&self) -> Audited<'_, P, L> {
        let state = self.hold();
        Audited { space: self, state, owed: self.debt.reading() }
    }
}

impl<P: Platform, L: LockFamily> Audited<'_, P, L> {
    fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn context(&self) -> &Context<P> {
        &self.space.context
    }

    pub(crate) fn areas(&self) -> &MemorySet<Backend> {
        &self.state().areas
    }

    pub(crate) fn table(&self) -> &Table {
        &self.state().table
    }

    /// The areas that an unfinished operation removed: what stands behind them goes with the invalidation.
    pub(crate) fn removed(&self) -> impl Iterator<Item = &MemoryArea<Backend>> {
        self.state().removed.iter()
    }

    /// The permissions to write regions that an unfinished operation removed.
    pub(crate) fn removed_leases(&self) -> impl Iterator<Item = &Lease> {
        self.state().removed_leases.iter()
    }

    /// Memory that is still to be freed, of the space's own and of its tables.
    pub(crate) fn owed_memory(&self) -> Option<&RemovedMemory> {
        self.owed.rest().map(|rest| &rest.memory)
    }

    /// What is still to be let go of regions.
    pub(crate) fn owed_views(&self) -> impl Iterator<Item = &View> {
        self.owed.rest().into_iter().flat_map(Removed::views)
    }

    pub(crate) fn loans(&self) -> &Loans {
        &self.state().loans
    }

    pub(crate) fn inherited(&self) -> Option<&dyn Inherited> {
        self.state().inherited.as_deref()
    }

    /// The range of which a snapshot is being taken in steps.
    pub(crate) fn snapshotting(&self) -> Option<GuestPhysRange> {
        let State { life, snapshotting, .. } = self.state();
        (*life == Life::Rests).then_some(*snapshotting)
    }

    pub(crate) fn payer(&self) -> &Payer {
        self.space.accounts()
    }

    pub(crate) fn account(&self, what: Resource) -> Account<'_> {
        self.space.account(what)
    }

    /// How many areas are on the account.
    pub(crate) fn counted_areas(&self) -> usize {
        self.space.accounts().areas().used()
    }
}

/// For those who are to find what is wrong.
#[cfg(test)]
impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Has so many areas on the account, until the lock is taken again.
    pub(crate) fn miscount_areas(&self, areas: usize) {
        self.accounts().areas().note(areas);
    }

    pub(crate) fn damage<R>(&self, change: impl FnOnce(&mut MemorySet<Backend>, &mut Loans) -> R) -> R {
        let mut state = self.hold();
        let State { areas, loans, .. } = &mut *state;
        change(areas, loans)
    }
}
