//! Regions whose pages come from a source.

use memory_addr::PAGE_SIZE_4K;

use super::{Region, RegionError, SharedRegion};
use crate::{
    account::Exhausted,
    pages::{Asker, is_still_missing},
    source::{Demand, Pager, Supplied},
};

/// What is behind a page.
pub(crate) enum Behind {
    /// A frame.
    Frame,
    /// Neither a frame nor a source: it is zeros.
    Nothing,
    /// A source that has not been asked, or has not answered, and the page's offset there in bytes.
    Source(Pager, usize),
}

/// Brings the page of a region that a guest misses. Called without any lock.
pub(super) fn bring(region: &(dyn Region + 'static), page: usize, guest: &dyn Asker) -> Result<Supplied, Exhausted> {
    match region.behind(page) {
        Behind::Frame => Ok(Supplied::Ready),
        Behind::Nothing => populate(region, page, guest).map(|()| Supplied::Ready),
        Behind::Source(pager, offset) => ask(region, page, (&pager, offset), guest.demand(), |note| {
            is_still_missing(&|| matches!(region.behind(page), Behind::Source(..)), guest, note)
        }),
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

/// Asks the source behind a page of a region for it.
fn ask(
    region: &(dyn Region + 'static),
    page: usize,
    (pager, offset): (&Pager, usize),
    demand: Demand,
    is_still_missing: impl FnOnce(&mut dyn FnMut()) -> bool,
) -> Result<Supplied, Exhausted> {
    let wanted = region.writing().pages.wanted(region.places().of(page))?;
    let Some(wanted) = wanted else { return Ok(Supplied::Ready) };
    wanted.ask((pager, offset), demand, || is_still_missing(&mut || wanted.note(None, pager)))
}

impl SharedRegion {
    /// Has the page at `offset` brought if a source is behind it; `size` bytes from there on are still to be accessed.
    pub(super) fn bring(&self, offset: usize, size: usize) -> Result<(), RegionError> {
        let (region, page) = (self.0.as_dyn(), offset / PAGE_SIZE_4K);
        while let Behind::Source(pager, at) = region.behind(page) {
            let is_still_missing = |note: &mut dyn FnMut()| {
                let is_missing = matches!(region.behind(page), Behind::Source(..));
                if is_missing {
                    note();
                }
                is_missing
            };
            match ask(region, page, (&pager, at), Demand::Now, is_still_missing) {
                Ok(Supplied::Ready) => {}
                Ok(Supplied::NotYet(ticket)) => return Err(RegionError::NotYet { offset, size, ticket }),
                Ok(Supplied::Failed(ticket)) => return Err(RegionError::SourceFailed { offset, size, ticket }),
                Err(_) => return Err(RegionError::NoMemory { offset, size }),
            }
        }
        Ok(())
    }
}
