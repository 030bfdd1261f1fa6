//! Regions whose pages come from a source.

use memory_addr::PAGE_SIZE_4K;

use super::{Region, RegionError, SharedRegion, View};
use crate::{
    account::Exhausted,
    addr::GuestPhysRange,
    counted::Counted,
    source::{Entered, PageOwner, Pager, Supplied},
};

/// Where a region's pages come from.
pub(crate) struct Supply {
    pager: Pager,
    /// The first page's offset in the source, in bytes.
    offset: usize,
}

/// What is behind a page of a region.
pub(crate) enum Behind {
    /// A frame.
    Frame,
    /// Neither a frame nor a source: it is zeros.
    Nothing,
    /// A source that has not been asked, or has not answered, for the page of this region.
    Source(Counted<dyn Region>, usize),
}

impl Supply {
    /// `size` bytes from `offset` on.
    pub(super) fn new(pager: &Pager, offset: usize, size: usize) -> Result<Self, RegionError> {
        if !offset.is_multiple_of(PAGE_SIZE_4K) {
            return Err(RegionError::Unaligned { offset, align: PAGE_SIZE_4K });
        }
        if offset.checked_add(size).is_none() {
            return Err(RegionError::Beyond { offset, size, region: usize::MAX });
        }
        Ok(Self { pager: pager.clone(), offset })
    }
}

/// What is behind a page, of the region itself or of one that stands behind it.
pub(crate) fn behind(region: &Counted<dyn Region>, page: usize) -> Behind {
    let book = region.reading();
    if book.frame(page).is_some() {
        return Behind::Frame;
    }
    if region.supply().is_some() {
        return Behind::Source(region.clone(), page);
    }
    match book.base(page) {
        Some((view, page)) => behind(view.region(), page),
        None => Behind::Nothing,
    }
}

/// The guest that misses a page, whatever platform its space is of.
pub(crate) trait Asker {
    /// Runs `then` with its space's lock held shared, which gets to know whether the guest still misses the page: the
    /// region is still behind the address, and no entry has a page of it there. A CPU that takes the page out of the region
    /// makes its entry busy first.
    fn hold(&self, then: &mut dyn FnMut(&dyn Fn() -> bool));

    /// Refuses one more page on no account, where there are so many.
    ///
    /// # Errors
    /// Only [`Exhausted::Limit`].
    fn check_room(&self, untaken: usize) -> Result<(), Exhausted>;
}

/// Brings the page of a region that a guest misses. Called without any lock.
pub(super) fn bring(region: &Counted<dyn Region>, page: usize, guest: &dyn Asker) -> Result<Supplied, Exhausted> {
    match behind(region, page) {
        Behind::Frame => Ok(Supplied::Ready),
        Behind::Nothing => populate(&**region, page, guest).map(|()| Supplied::Ready),
        Behind::Source(source, index) => {
            region.untaken().map_or(Ok(()), |untaken| guest.check_room(untaken))?;
            supply(&source, index, || is_still_missing(region, page, guest))
        }
    }
}

/// Gives a page a frame, if the guest still misses it when the frame has been allocated.
///
/// That is decided under the space's lock. While another CPU holds it exclusively and looks through the region's
/// pages, as [`make_private`](crate::GuestSpace::make_private) does, no page comes; and none comes that the guest's mapping
/// does not show any more, for the region would keep its frame and no guest reach it.
fn populate(region: &(dyn Region + 'static), page: usize, guest: &dyn Asker) -> Result<(), Exhausted> {
    // Before the lock: what is not needed is freed after its release.
    let mut fresh = region.fresh()?;
    let mut put = Ok(None);
    guest.hold(&mut |is_missing| put = fresh.put(page, is_missing));
    put.map(|_| ())
}

/// Whether a page is still missing, after a ticket for it was written down.
///
/// First the region is looked at: a page that was brought before it was, and that another CPU took from there, is in the
/// tables by then, or its entry busy.
fn is_still_missing(region: &Counted<dyn Region>, page: usize, guest: &dyn Asker) -> bool {
    let mut is_missing = false;
    guest.hold(&mut |in_tables| is_missing = matches!(behind(region, page), Behind::Source(..)) && in_tables());
    is_missing
}

/// Asks the source behind a page for it, once for all CPUs. The CPU that is to ask first looks once more whether the
/// page is missing: another CPU may have brought it before. Called without any lock.
pub(super) fn supply(
    region: &Counted<dyn Region>,
    page: usize,
    is_still_missing: impl FnOnce() -> bool,
) -> Result<Supplied, Exhausted> {
    let Some(supply) = region.supply() else { return Ok(Supplied::Ready) };
    match supply.pager.enter(&owner(region), page, supply.offset + page * PAGE_SIZE_4K) {
        Entered::Other(supplied) => Ok(supplied),
        // Another CPU brought the page, or took it away, before this one's ticket was written down.
        Entered::First(_) if !is_still_missing() => Ok(Supplied::Ready),
        Entered::First(asking) => asking.ask(),
    }
}

/// The region as its pager knows it.
pub(super) fn owner(region: &Counted<dyn Region>) -> Counted<dyn PageOwner> {
    region.clone().known_as(|inner| inner)
}

/// A mapping has lost a part: the waits for its pages end if there is no other mapping, and no handle.
pub(super) fn end_waits(view: &View, part: GuestPhysRange) {
    let region = view.region();
    if let Some(supply) = region.supply().filter(|_| region.reading().is_alone()) {
        supply.pager.cancel_pages(&owner(region), &(view.page(part.start)..view.page(part.end)));
    }
}

/// A mapping or a handle has gone: the waits for all pages end if it was the last.
pub(super) fn end_all_waits(region: &Counted<dyn Region>) {
    let Some(supply) = region.supply() else { return };
    if region.reading().is_unreachable() {
        supply.pager.cancel_pages(&owner(region), &(0..usize::MAX));
    }
}

impl SharedRegion {
    /// Has the page at `offset` brought if a source is behind it; `size` bytes from there on are still to be accessed.
    pub(super) fn bring(&self, offset: usize, size: usize) -> Result<(), RegionError> {
        let page = offset / PAGE_SIZE_4K;
        while let Behind::Source(region, index) = behind(&self.0, page) {
            let is_still_missing = || matches!(behind(&self.0, page), Behind::Source(..));
            match supply(&region, index, is_still_missing) {
                Ok(Supplied::Ready) => {}
                Ok(Supplied::NotYet(ticket)) => return Err(RegionError::NotYet { offset, size, ticket }),
                Ok(Supplied::Failed(ticket)) => return Err(RegionError::SourceFailed { offset, size, ticket }),
                Err(_) => return Err(RegionError::NoMemory { offset, size }),
            }
        }
        Ok(())
    }
}
