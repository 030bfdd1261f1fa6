//! What was taken away and nobody reaches any more: freed in steps, without the space's lock.

use super::{shared, shared::Gone};
use crate::{
    backend::Backend,
    loan::Loan,
    platform::Platform,
    region::{Lease, Orphans},
    set::{MemoryArea, MemorySet},
    table::{Context, RemovedMemory},
};

/// How far an operation is that goes in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// It is complete.
    Done,
    /// There is more to do.
    More,
}

/// Tables, frames, areas, and what stood behind those for the last time.
#[derive(Default)]
pub(super) struct Debris {
    pub remains: RemovedMemory,
    pub gone: Gone,
    pub orphans: Orphans,
    /// What nobody else has any more, and no lender either.
    pub loan: Option<Loan>,
}

impl Debris {
    /// Frees until `budget` is used up: each frame of 4 KiB takes one, and so does each area.
    ///
    /// `areas` are those of a space that is at its end, whose leave to write ends with them.
    pub(super) fn step<P: Platform>(
        &mut self,
        context: &Context<P>,
        mut areas: Option<&mut MemorySet<Backend>>,
        mut budget: usize,
    ) -> Progress {
        if !self.remains.is_empty() {
            self.remains.free(context, &mut budget);
        }
        while budget > 0 {
            if !self.orphans.is_empty() {
                self.orphans.step(&mut budget);
            }
            if let Some(loan) = &mut self.loan {
                loan.free_some(&mut budget);
            }
            // Leave comes first: it keeps the region too.
            if budget > 0 && self.gone.leases.pop().is_none() {
                let area = self.gone.areas.pop().or_else(|| last_of(areas.as_deref_mut()?));
                self.loan = None;
                let Some(area) = area else { return Progress::Done };
                match area.into_backend() {
                    Backend::Shared(view) | Backend::CopyOnWrite(view) => self.orphans.add(view),
                    Backend::Borrowed(loan) => self.loan = loan.release(),
                    Backend::Linear(_) | Backend::Private(_) => {}
                }
            }
            budget = budget.saturating_sub(1);
        }
        if self.is_empty() && areas.is_none_or(|areas| areas.is_empty()) { Progress::Done } else { Progress::More }
    }

    /// Whether all is free.
    fn is_empty(&self) -> bool {
        self.remains.is_empty()
            && self.gone.leases.is_empty()
            && self.gone.areas.is_empty()
            && self.orphans.is_empty()
            && self.loan.is_none()
    }
}

/// Takes the last area out, and ends its leave to write its region.
fn last_of(areas: &mut MemorySet<Backend>) -> Option<MemoryArea<Backend>> {
    let area = areas.pop()?;
    if let Backend::Shared(view) = area.backend()
        && shared::writes(area.flags())
    {
        drop(Lease::kept(view.region(), area.size()));
    }
    Some(area)
}
