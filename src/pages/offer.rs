//! A page that a source has, and that nobody may have asked for.

use super::{Asker, Wanted, keeper::Paid};
use crate::{account::Exhausted, source::Pager};

/// What came of offering a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Offer {
    /// It is there now.
    Came,
    /// It was there before.
    There,
    /// The guest misses it no more, or another CPU is at work on it: look again.
    Gone,
}

/// Where a page is offered to: a place in a tree.
pub(crate) trait Place {
    /// The page, if it has no frame.
    fn wanted(&self) -> Result<Option<Wanted>, Exhausted>;

    /// On whose account it comes, if it was not asked for.
    fn paid(&self) -> Option<Paid>;
}

/// For what no guest has to miss: a handle reaches it whatever guests do.
pub(crate) struct Anyone;

impl Asker for Anyone {
    fn hold(&self, then: &mut dyn FnMut(&dyn Fn() -> bool)) {
        then(&|| true);
    }
}

/// Offers a page of `pager`'s source to all that share its place now. Called without any lock.
///
/// # Errors
/// [`Exhausted`] if there is no memory for it, or no room on the account: whoever waits for it still does.
pub(crate) fn offer(place: &dyn Place, pager: &Pager, guest: &dyn Asker, content: &[u8]) -> Result<Offer, Exhausted> {
    let mut found = Ok(Err(Offer::Gone));
    guest.hold(&mut |is_missing| {
        if is_missing() {
            found = place.wanted().map(|wanted| wanted.ok_or(Offer::There));
        }
    });
    let wanted = match found? {
        Ok(wanted) => wanted,
        Err(offer) => return Ok(offer),
    };
    let mut filled = wanted.filled(content)?;
    let mut offer = Ok(Offer::Gone);
    let mut over = None;
    guest.hold(&mut |is_missing| {
        if !is_missing() {
            return;
        }
        offer = match place.wanted() {
            Ok(None) => Ok(Offer::There),
            // The map changed meanwhile: that frame is not for this page.
            Ok(Some(now)) if !now.is(&wanted) => Ok(Offer::Gone),
            Ok(Some(now)) => now.take_up(&mut filled, pager, place.paid(), is_missing).map(|taken| {
                over = taken;
                if over.is_some() { Offer::Came } else { Offer::Gone }
            }),
            Err(exhausted) => Err(exhausted),
        };
    });
    // What waits is told without the lock, when this goes.
    drop(over);
    offer
}
