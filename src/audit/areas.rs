//! The areas: each by itself, and beside its neighbours.

use alloc::vec::Vec;

use super::{
    Subject, push,
    report::{Disagreement, Findings},
};
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    backend::Backend,
    lock::LockFamily,
    platform::Platform,
    set::MemoryArea,
    table::Context,
};

/// A space with its areas in a plain list, which is searched by other means than the set is.
pub(super) struct Map<'a, 's, P: Platform, L: LockFamily> {
    pub subject: &'a Subject<'s, P, L>,
    areas: Vec<&'a MemoryArea<Backend>>,
}

impl<'a, 's, P: Platform, L: LockFamily> Map<'a, 's, P, L> {
    /// The areas of a space, after a look at each.
    pub fn of(subject: &'a Subject<'s, P, L>, findings: &mut Findings) -> Result<Self, Exhausted> {
        let set = subject.held.areas();
        let mut areas: Vec<&MemoryArea<Backend>> = Vec::new();
        for area in set.iter() {
            let range = area.va_range();
            let mut complain = |what| findings.add(subject.number, range, what);
            if !is_good(subject.held.context(), range) {
                complain(Disagreement::BadArea);
            }
            if let Some(before) = areas.last() {
                let agrees = before.flags() == area.flags() && before.backend() == area.backend();
                if before.end() > range.start {
                    complain(Disagreement::AreaOrder);
                } else if before.end() == range.start && agrees {
                    complain(Disagreement::AreaSplit);
                }
            }
            let last = GuestPhysAddr::from_usize(range.end.as_usize().wrapping_sub(1));
            let is_found = |gpa| set.find(gpa).is_some_and(|found| core::ptr::eq(found, area));
            if !is_found(range.start) || !is_found(last) {
                complain(Disagreement::AreaLost);
            }
            push(&mut areas, area)?;
        }
        areas.sort_unstable_by_key(|area| area.start());
        Ok(Self { subject, areas })
    }

    /// All of them, in address order.
    pub fn areas(&self) -> &[&'a MemoryArea<Backend>] {
        &self.areas
    }

    /// The areas in a range, each with its place in the list and what of the range lies in it.
    pub fn within(
        &self,
        range: GuestPhysRange,
    ) -> impl Iterator<Item = (usize, &'a MemoryArea<Backend>, GuestPhysRange)> {
        let first = self.areas.partition_point(|area| area.end() <= range.start);
        let areas = self.areas.iter().enumerate().skip(first);
        areas.take_while(move |(_, area)| area.start() < range.end).map(move |(index, &area)| {
            (index, area, GuestPhysRange { start: area.start().max(range.start), end: area.end().min(range.end) })
        })
    }

    /// What an unfinished operation is about.
    pub fn is_pending(&self, range: GuestPhysRange) -> bool {
        self.subject.held.table().pending_range().is_some_and(|pending| pending.overlaps(range))
    }
}

/// Whether a range is one of whole pages that the tables translate.
fn is_good<P: Platform>(context: &Context<P>, range: GuestPhysRange) -> bool {
    let page = Context::<P>::span(Level::PAGE);
    let is_aligned = (range.start.as_usize() | range.end.as_usize()).is_multiple_of(page);
    is_aligned && range.start < range.end && range.end.as_usize() <= context.limit()
}
