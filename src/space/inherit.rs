//! What a space inherited: pages in common with snapshots and regions, in one tree for all its areas.

use core::ops::Range;

use memory_addr::PAGE_SIZE_4K;

use super::State;
use crate::{
    account::Exhausted,
    addr::{GuestPhysAddr, GuestPhysRange},
    backend::Backend,
    counted::Counted,
    pages::{Frame, Gone, Inherited, Look, Pages, Payer},
    platform::Platform,
    set::MemoryArea,
    table::OwnRun,
};

/// Whether an area's memory was inherited, or is the space's own copy of it.
pub(super) fn is_inherited(area: &MemoryArea<Backend>) -> bool {
    matches!(area.backend(), Backend::CopyOnWrite(_))
}

/// The number of the page at an address.
pub(super) fn page(gpa: GuestPhysAddr) -> usize {
    gpa.as_usize() / PAGE_SIZE_4K
}

/// The numbers of the pages in a range.
pub(super) fn pages(range: GuestPhysRange) -> Range<usize> {
    page(range.start)..page(range.end)
}

/// The pages of a range.
pub(super) fn each_page(range: GuestPhysRange) -> impl Iterator<Item = GuestPhysRange> {
    let starts = (range.start.as_usize()..range.end.as_usize()).step_by(PAGE_SIZE_4K);
    starts.map(|start| GuestPhysRange::from_start_size(start.into(), PAGE_SIZE_4K))
}

/// Gives pages from `first` on, which have none, the frames of a run of leaves. Their room is reserved.
pub(super) fn put_run<P: Platform>(pages: &mut Pages, first: usize, run: &OwnRun<'_, P>) {
    if run.range.size() == run.len() * PAGE_SIZE_4K {
        pages.put_all(first, run.pieces().map(|(at, _)| Frame::page(at)));
    } else {
        pages.put_all(first, run.pieces().flat_map(|(at, size)| Frame::all(at, size)));
    }
}

/// Makes room for pages that are to be inherited in some ranges: nodes that other trees have too must not come to name them.
pub(super) fn make_room<I: Iterator<Item = GuestPhysRange>>(
    inherited: &dyn Inherited,
    ranges: impl Fn() -> I,
    comes: &Pages,
) -> Result<(), Exhausted> {
    ranges().map(pages).try_for_each(|pages| inherited.isolate(&pages))?;
    reserve(inherited, ranges().map(pages))?;
    inherited.make_way(comes)
}

/// Puts pages into some ranges, for which there is [room](make_room), and takes out what else is there. No area shows that any
/// more.
pub(super) fn put(
    inherited: &dyn Inherited,
    ranges: impl Iterator<Item = GuestPhysRange>,
    comes: Pages,
    payer: &Payer,
) {
    ranges.for_each(|range| inherited.cut(&pages(range), payer));
    inherited.merge(comes);
}

/// The room for what is cut out of some ranges.
fn reserve(inherited: &dyn Inherited, ranges: impl Iterator<Item = Range<usize>>) -> Result<(), Exhausted> {
    let pieces = ranges.map(|range| inherited.pieces(&range));
    inherited.reserve(pieces.fold((0, 0), |all, more| (all.0 + more.0, all.1 + more.1)))
}

/// Makes room for taking out what is inherited in some ranges.
pub(super) fn prepare_to_leave<I: Iterator<Item = GuestPhysRange>>(
    inherited: &dyn Inherited,
    ranges: impl Fn() -> I,
) -> Result<(), Exhausted> {
    ranges().map(pages).try_for_each(|pages| inherited.isolate_to_cut(&pages))?;
    reserve(inherited, ranges().map(pages))
}

impl State {
    /// What is known of an inherited page.
    pub(super) fn look(&self, gpa: GuestPhysAddr) -> Look {
        self.inherited.as_ref().map_or(Look { at: None, is_alone: true }, |inherited| inherited.look(page(gpa)))
    }

    /// What the space inherits, which is made if it is the first time.
    pub(super) fn inherit(
        &mut self,
        make: impl FnOnce() -> Option<Counted<dyn Inherited>>,
    ) -> Option<Counted<dyn Inherited>> {
        if self.inherited.is_none() {
            self.inherited = make();
        }
        self.inherited.clone()
    }

    /// Takes a page out that a source was to bring to an area which was removed, though a CPU could not be told. It is looked
    /// for from the page `from` on, as far as a bounded number of looks goes, which is noted there: `None` at the end.
    pub(super) fn take_removed_missing(&self, from: &mut Option<usize>) -> Option<Gone> {
        let first = from.take()?;
        let inherited = self.inherited.as_deref()?;
        let areas = self.removed.iter().filter(|area| is_inherited(area)).map(|area| pages(area.va_range()));
        // They are in order.
        let mut rest = areas.map(|pages| pages.start.max(first)..pages.end).find(|pages| !pages.is_empty())?;
        let missing = inherited.take_missing(&mut rest);
        *from = Some(rest.start);
        missing
    }

    /// Whether an area of that kind stands at an address still.
    pub(super) fn has(&self, gpa: GuestPhysAddr, backend: &Backend) -> bool {
        self.areas.find(gpa).is_some_and(|area| area.backend() == backend)
    }
}
