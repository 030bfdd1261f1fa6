//! What is missing of memory that a space is to give away, and how it is had before anything changes.

use super::{GuestSpace, State, inherit};
use crate::{
    addr::GuestPhysRange,
    backend::Backend,
    error::Error,
    format::{Access, LeafPolicy},
    lock::LockFamily,
    ownership::PageState,
    platform::Platform,
    table::{Context, Fill, Gaps, Supplement},
};

/// What of a range was not touched yet.
#[derive(Default, PartialEq)]
pub(super) struct Missing {
    /// What takes frames of the space's own.
    gaps: Gaps,
    /// The first part of it that a source is behind.
    sourced: Option<GuestPhysRange>,
    /// How many frames of 4 KiB sources are behind.
    sourced_pages: usize,
}

impl Missing {
    /// How many frames of 4 KiB it takes.
    pub(super) fn pages(&self) -> usize {
        self.gaps.pages() + self.sourced_pages
    }

    /// The first part that a source is behind.
    pub(super) const fn sourced(&self) -> Option<GuestPhysRange> {
        self.sourced
    }
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// What is missing of a range that is private memory from end to end. The lock is held exclusively. What is left to the
    /// space alone of a snapshot is not: it can be [made its own](Self::unshare).
    ///
    /// # Errors
    /// [`Error::State`] with the first page that is not the space's own, shared or not, and will not be.
    pub(super) fn missing(&self, state: &State, range: GuestPhysRange) -> Result<Missing, Error> {
        let mut missing = Missing::default();
        for area in state.areas.iter_range(range) {
            let part = GuestPhysRange { start: area.start().max(range.start), end: area.end().min(range.end) };
            state.table.page_states(&self.context, part, |level, gap, page| match (page, area.backend()) {
                (PageState::Owned | PageState::SharedOut, _) => Ok(()),
                (PageState::Nothing, Backend::Private(policy)) => {
                    let pushed = missing.gaps.push::<P>(gap, level, Fill::Own(*policy, area.flags()));
                    pushed.map_err(|exhausted| exhausted.at(range))
                }
                (PageState::Frozen, _) => inherit::each_page(gap).try_for_each(|page| self.check_left(state, page)),
                (PageState::Nothing, Backend::CopyOnWrite(heritage)) => inherit::each_page(gap).try_for_each(|page| {
                    if state.look(page.start).at.is_some() {
                        return self.check_left(state, page);
                    }
                    if heritage.source(inherit::page(page.start)).is_some() {
                        missing.sourced.get_or_insert(part);
                        missing.sourced_pages += 1;
                        return Ok(());
                    }
                    let pushed = missing.gaps.push::<P>(page, level, Fill::Own(LeafPolicy::Pages, area.flags()));
                    pushed.map_err(|exhausted| exhausted.at(range))
                }),
                (other, _) => Err(Self::page_is(gap.start, other)),
            })?;
        }
        Ok(missing)
    }

    /// Refuses an inherited page that others reach as well.
    fn check_left(&self, state: &State, page: GuestPhysRange) -> Result<(), Error> {
        if self.is_left(state, page) { Ok(()) } else { Err(Self::page_is(page.start, PageState::Frozen)) }
    }

    /// Has its source bring what is missing, or, if there is no source, allocates it; what was allocated, and for what. No
    /// lock is held. The guest keeps what was brought, and there may be more to bring.
    pub(super) fn supplement(
        &self,
        range: GuestPhysRange,
        missing: Missing,
    ) -> Result<(Missing, Supplement<'_, P>), Error> {
        if let Some(part) = missing.sourced {
            self.bring_own(part)?;
            return Ok((Missing::default(), Supplement::nothing()));
        }
        let supplement = self.fill(range, &missing)?;
        Ok((missing, supplement))
    }

    /// Allocates what is missing and has no source.
    pub(super) fn fill(&self, range: GuestPhysRange, missing: &Missing) -> Result<Supplement<'_, P>, Error> {
        missing.gaps.build(&self.context).map_err(|exhausted| exhausted.at(range))
    }

    /// Makes what a source has for a range, and was not touched, the guest's, as its own read would.
    fn bring_own(&self, range: GuestPhysRange) -> Result<(), Error> {
        let mut gpa = range.start;
        while gpa < range.end {
            gpa = if let Some(there) = self.translate(gpa) {
                there.leaf_start + there.size
            } else {
                let page = Context::<P>::page_of(gpa);
                self.with_window(page, Access::Read, |_| ())?;
                page.end
            };
        }
        Ok(())
    }
}
