//! The guest that misses a page.

use crate::source::Demand;

/// The guest that misses a page, whatever platform its space is of.
pub(crate) trait Asker {
    /// Runs `then` with its space's lock held shared, which gets to know whether the guest still misses the page: the
    /// same is still behind the address, and no entry has a page of it there. A CPU that takes the page makes its entry
    /// busy first.
    fn hold(&self, then: &mut dyn FnMut(&dyn Fn() -> bool));

    /// Whether it waits for the page.
    fn demand(&self) -> Demand {
        Demand::Now
    }
}

/// Whether a page is still missing, after a ticket for it was written down.
///
/// First `in_source` looks at who has it: a page that was brought before it was, and that another CPU took from there, is
/// in the tables by then, or its entry busy. If it is missing, `then` is run with the guest's lock still held.
pub(crate) fn is_still_missing(in_source: &dyn Fn() -> bool, guest: &dyn Asker, then: &mut dyn FnMut()) -> bool {
    let mut is_missing = false;
    guest.hold(&mut |in_tables| {
        is_missing = in_source() && in_tables();
        if is_missing {
            then();
        }
    });
    is_missing
}
