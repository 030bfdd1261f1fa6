//! Pages that a region's source has before they are asked for.

use memory_addr::PAGE_SIZE_4K;

use super::{Behind, Region, RegionError, SharedRegion};
use crate::{
    account::Exhausted,
    pages::{self, Anyone, Asker, Offer, Paid, Place, Wanted},
    source::Offered,
};

/// A page of a region.
struct At<'r> {
    region: &'r (dyn Region + 'static),
    page: usize,
}

impl Place for At<'_> {
    fn wanted(&self) -> Result<Option<Wanted>, Exhausted> {
        self.region.writing().pages.wanted(self.region.places().of(self.page))
    }

    /// Regions' pages are on no account.
    fn paid(&self) -> Option<Paid> {
        None
    }
}

/// Offers a page of a region that a guest may miss. Called without any lock.
pub(super) fn offer(
    region: &(dyn Region + 'static),
    page: usize,
    guest: &dyn Asker,
    content: &[u8],
) -> Result<Offer, Exhausted> {
    match region.behind(page) {
        Behind::Frame | Behind::Nothing => Ok(Offer::There),
        Behind::Source(pager, _) => pages::offer(&At { region, page }, &pager, guest, content),
    }
}

impl SharedRegion {
    /// Brings a page that comes from the region's source, and that nobody may have asked for: the 4 KiB at `offset`.
    ///
    /// All that share the page have it when this returns: guests that map the region, and those that inherited the page
    /// untouched. Whoever waited for it was told by [`Source::settled`](crate::pager::Source::settled). The tables get it
    /// when a guest touches it. A page that is there already is [`Offered::Late`] and stays as it is.
    ///
    /// Called without any lock that [`Source::settled`](crate::pager::Source::settled) takes.
    ///
    /// # Errors
    /// [`RegionError::Beyond`], [`RegionError::Unaligned`] for the offset; [`RegionError::NoSource`] where the region has
    /// none; [`RegionError::NoMemory`]: whoever waits for it still does.
    ///
    /// # Example
    /// ```
    /// use std::{num::NonZeroUsize, sync::Arc};
    /// use stage2::pager::{Offered, Pager, Settled, Source, Supply, Ticket};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::guest;
    ///
    /// /// A machine that sends what it has, whether it is asked for it or not.
    /// struct Remote;
    ///
    /// impl Source for Remote {
    ///     fn ask(&self, _: Ticket, _: &mut [u8]) -> Supply {
    ///         Supply::Later
    ///     }
    ///
    ///     fn settled(&self, _: Ticket, _: Settled) {}
    /// }
    ///
    /// let pager = Pager::new(Arc::new(Remote), NonZeroUsize::new(8).unwrap())?;
    /// let region = guest(1)?.region_from(0x4000, &pager, 0)?;
    /// assert_eq!(region.offer(0x1000, &[7; 4096])?, Offered::Taken);
    /// assert_eq!(region.offer(0x1000, &[8; 4096])?, Offered::Late);
    /// assert_eq!(region.load::<u8>(0x1000)?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn offer(&self, offset: usize, page: &[u8; PAGE_SIZE_4K]) -> Result<Offered, RegionError> {
        let (region, size) = (self.0.as_dyn(), PAGE_SIZE_4K);
        self.check(offset, size)?;
        if !offset.is_multiple_of(size) {
            return Err(RegionError::Unaligned { offset, align: size });
        }
        let number = offset / size;
        if region.supplies().is_none_or(|supplies| supplies.behind(region.places().of(number)).is_none()) {
            return Err(RegionError::NoSource { offset, size });
        }
        loop {
            match offer(region, number, &Anyone, page).map_err(|_| RegionError::NoMemory { offset, size })? {
                Offer::Came => return Ok(Offered::Taken),
                Offer::There => return Ok(Offered::Late),
                Offer::Gone => core::hint::spin_loop(),
            }
        }
    }
}
