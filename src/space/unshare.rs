//! Inherited pages that nothing else reaches any more: they become the space's own where they stand.

use memory_addr::PAGE_SIZE_4K;

use super::{GuestSpace, State, inherit};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange},
    error::Error,
    format::{Access, Leaf, Owner},
    lock::LockFamily,
    pages::{Inherited, Pool},
    platform::Platform,
    table::{Context, Found},
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Makes what is left to the space alone of a range its own: a snapshot that is gone is as if it had never been.
    ///
    /// The guest may do there what its area allows again.
    pub(super) fn unshare(&self, state: &mut State, range: GuestPhysRange) -> Result<(), Error> {
        let Some(inherited) = state.inherited.clone() else { return Ok(()) };
        let mut rest = inherit::pages(range);
        loop {
            // The lock of the pages is not held meanwhile.
            let next = inherited.pages().read().next(rest.clone());
            let Some(page) = next else { return Ok(()) };
            let end = self.unshare_leaf(state, &*inherited, GuestPhysAddr::from_usize(page * PAGE_SIZE_4K))?;
            rest.start = inherit::page(end);
        }
    }

    /// Whether nothing else reaches some inherited pages, all of which are here: they can be made the space's own. They stay
    /// so while its lock is held exclusively.
    pub(super) fn is_left(&self, state: &State, span: GuestPhysRange) -> bool {
        let pool = Pool::of(self.context.frames.plain());
        let Some(inherited) = &state.inherited else { return false };
        inherit::pages(span).all(|page| inherited.is_takable(page, pool))
    }

    /// Makes its own what is left of the leaf at an address, or the page that has none yet: where it ends. A block of which
    /// others reach a part is split.
    pub(super) fn unshare_leaf(
        &self,
        state: &mut State,
        inherited: &dyn Inherited,
        gpa: GuestPhysAddr,
    ) -> Result<GuestPhysAddr, Error> {
        let pool = Pool::of(self.context.frames.plain());
        let end = Context::<P>::page_of(gpa).end;
        if !inherited.is_takable(inherit::page(gpa), pool) {
            return Ok(end);
        }
        let (mut span, is_mapped) = match state.table.find(&self.context, gpa) {
            Found::Leaf { leaf: Leaf { owner: Owner::Frozen, .. }, span, .. } => (span, true),
            Found::Absent(_) => (Context::<P>::page_of(gpa), false),
            _ => return Ok(end),
        };
        if !inherit::pages(span).all(|page| inherited.is_takable(page, pool)) {
            span = Context::<P>::page_of(gpa);
            self.split_at_ends(&mut state.table, span)?;
        }
        let pages = || inherit::pages(span);
        let failed = |exhausted: Exhausted| exhausted.at(span);
        let mut unpaid = 0;
        for page in pages() {
            unpaid += usize::from(!inherited.prepare(page, self.accounts()).map_err(failed)?);
        }
        let charge = self.context.frames.account().charge(unpaid).map_err(failed)?;
        if let Some(area) = state.areas.find(gpa).filter(|_| !is_mapped) {
            self.map_page(state, area, gpa)?;
        }
        for page in pages() {
            inherited.take(page, pool, self.accounts());
        }
        charge.keep();
        state.table.change_owners(&self.context, span, Owner::Frozen, Owner::Space);
        if let Some(area) = state.areas.find(gpa).filter(|area| area.va_range().contains_range(span)) {
            state.table.seek(&self.context, gpa).raise(&self.context, area.flags(), Access::Read);
        }
        Ok(span.end)
    }
}
