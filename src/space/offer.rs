//! Pages that a source has before the guest misses them.

use core::hint;

use memory_addr::PAGE_SIZE_4K;

use super::{
    GuestSpace,
    debt::Kept,
    inherit,
    supply::{Missing, source_offset},
};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange},
    backend::Backend,
    error::Error,
    lock::{LockFamily, SpaceLock},
    pages::Offer,
    platform::Platform,
    source::{Demand, Offered},
    table::Found,
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Brings a page that comes from a source, and that nobody may have asked for: the 4 KiB at `gpa`, a multiple of that.
    ///
    /// A source offers by the guest's addresses, or by a region's offsets ([`SharedRegion::offer`]), and not by its own: any
    /// number of guests and regions may be behind one offset. All that share the page now have it when this returns: this
    /// guest, and with it snapshots and guests that inherited it untouched; or those that map the region. Whoever waited
    /// for it was told by [`Source::settled`]. It is on the account that an answer would put it on: that of the guest that
    /// it was asked for, or of this one, if no other guest and no snapshot shares it. It needs no room at the pager. The
    /// tables get it when the guest touches it, or by [`populate`](Self::populate).
    ///
    /// A page that is there already, which the guest may have written, stays as it is: the answer is [`Offered::Late`].
    ///
    /// Called without any lock that [`Source::settled`] takes.
    ///
    /// # Errors
    /// What was offered is thrown away, and whoever waits for the page still does:
    /// - [`Error::Misaligned`], [`Error::BeyondInput`], [`Error::Overflow`] for the address;
    /// - [`Error::NotMapped`]: no guest of this space reaches it;
    /// - [`Error::NoSource`]: what is mapped there comes from no source;
    /// - [`Error::NoMemory`], [`Error::Limit`];
    /// - [`Error::Invalidation`] if an earlier operation's invalidation still fails;
    /// - [`Error::Snapshotting`] while a snapshot is being taken in steps.
    ///
    /// [`SharedRegion::offer`]: crate::SharedRegion::offer
    /// [`Source::settled`]: crate::pager::Source::settled
    ///
    /// # Example
    /// ```
    /// use std::{num::NonZeroUsize, sync::Arc};
    /// use stage2::pager::{Offered, Pager, Settled, Source, Supply, Ticket};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::{RW, guest, range};
    ///
    /// /// The machine that a guest comes from: it sends page after page, and first those that it is asked for.
    /// struct Origin;
    ///
    /// impl Source for Origin {
    ///     fn ask(&self, _: Ticket, _: &mut [u8]) -> Supply {
    ///         Supply::Later
    ///     }
    ///
    ///     fn settled(&self, _: Ticket, _: Settled) {}
    /// }
    ///
    /// let pager = Pager::new(Arc::new(Origin), NonZeroUsize::new(8).unwrap())?;
    /// let space = guest(1)?;
    /// space.map_from(range(0x8000_0000, 0x4000), &pager, 0, RW)?;
    /// assert_eq!(space.offer(0x8000_1000.into(), &[7; 4096])?, Offered::Taken);
    ///
    /// // The guest does not wait for it, and what it writes stays.
    /// space.store(0x8000_1000.into(), 8_u8)?;
    /// assert_eq!(space.offer(0x8000_1000.into(), &[7; 4096])?, Offered::Late);
    /// assert_eq!(space.load::<u8>(0x8000_1000.into())?, 8);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn offer(&self, gpa: GuestPhysAddr, page: &[u8; PAGE_SIZE_4K]) -> Result<Offered, Error> {
        let size = page.len();
        let range = GuestPhysRange::try_from_start_size(gpa, size).ok_or(Error::Overflow { start: gpa, size })?;
        self.check(range)?;
        loop {
            let Some(backend) = self.offered_to(range)? else { return Ok(Offered::Late) };
            let missing = Missing { space: self, backend: &backend, gpa, demand: Demand::Now };
            match self.offer_to(&missing, page).map_err(|exhausted| exhausted.at(range))? {
                Offer::Came => return Ok(Offered::Taken),
                Offer::There => return Ok(Offered::Late),
                // The map changed, or another CPU is about to put the page into the tables.
                Offer::Gone => hint::spin_loop(),
            }
        }
    }

    /// What is behind a page that the guest misses; `None` if it has it.
    fn offered_to(&self, range: GuestPhysRange) -> Result<Option<Kept<'_, P, L>>, Error> {
        loop {
            let state = self.state.shared(super::any_cpu());
            state.check_rest()?;
            let area = state.areas.find(range.start).ok_or(Error::NotMapped(range))?;
            if source_offset(area, range.start).is_none() {
                return Err(Error::NoSource(range));
            }
            match state.table.find(&self.context, range.start) {
                Found::Absent(_) => return Ok(Some(self.keep(area.backend()))),
                Found::Leaf { .. } | Found::Lent(_) => return Ok(None),
                // Whether it has it is known when the other CPU is done.
                Found::Busy => hint::spin_loop(),
                Found::Changing => {
                    drop(state);
                    self.exclusive().map(drop)?;
                }
            }
        }
    }

    /// Offers a page to what is behind its address. No lock is held.
    fn offer_to(&self, missing: &Missing<'_, P, L>, page: &[u8]) -> Result<Offer, crate::account::Exhausted> {
        match missing.backend {
            Backend::Shared(view) => view.offer(missing.gpa, missing, page),
            Backend::CopyOnWrite(heritage) => {
                let number = inherit::page(missing.gpa);
                let inherited = self.state.shared(super::any_cpu()).inherited.clone();
                match (inherited, heritage.source(number)) {
                    (Some(inherited), Some((pager, _))) => {
                        inherited.offer(number, pager, self.accounts(), missing, page)
                    }
                    _ => Ok(Offer::Gone),
                }
            }
            _ => Ok(Offer::Gone),
        }
    }
}
