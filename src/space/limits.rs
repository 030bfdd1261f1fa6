//! What a space uses, and how much it may use.

use super::GuestSpace;
use crate::{
    account::{Account, Accounts, Limits, Resource, Usage},
    addr::{GuestPhysRange, Level},
    backend::Backend,
    counted::Counted,
    error::Error,
    fault::{Fault, Outcome},
    lock::LockFamily,
    platform::Platform,
    set::{MemoryArea, MemorySet},
    space::fault::Verdict,
    table::Context,
};

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// How much the space uses and may use: without a lock, and without a look at the tables.
    ///
    /// What is about to be installed counts, and so does what was taken away until it is freed. Of what runs at the same
    /// time it may have seen a part.
    pub fn usage(&self) -> Usage {
        let (frames, tables) = (self.account(Resource::Frames), self.account(Resource::TableFrames));
        let areas = self.accounts().areas();
        Usage {
            frames: frames.used(),
            table_frames: tables.used(),
            areas: areas.used(),
            limits: Limits { frames: frames.limited(), table_frames: tables.limited(), areas: areas.limited() },
        }
    }

    /// Sets other limits. Where more is used than they allow it stays, and nothing is added.
    pub fn set_limits(&self, limits: Limits) {
        // No CPU answers a fault meanwhile.
        let _state = self.hold();
        self.account(Resource::Frames).set_limit(limits.frames);
        self.account(Resource::TableFrames).set_limit(limits.table_frames);
        self.accounts().areas().set_limit(limits.areas);
    }

    #[inline]
    pub(super) fn account(&self, what: Resource) -> Account<'_> {
        self.accounts().of(what)
    }

    /// All of the space's accounts.
    #[inline]
    pub(super) fn accounts(&self) -> &Counted<Accounts> {
        self.context.frames.accounts()
    }

    /// Refuses what would make more areas of the `now` that there are than the limit allows: `more` at most, and `after` tells
    /// exactly how many there would be.
    ///
    /// The lock is held exclusively. What makes no more is never refused, also where a limit was set that is lower.
    #[inline]
    pub(super) fn check_areas(
        &self,
        range: GuestPhysRange,
        now: usize,
        more: usize,
        after: impl FnOnce() -> usize,
    ) -> Result<(), Error> {
        if self.has_room_for_areas(more) { Ok(()) } else { self.check_areas_left(range, now, after) }
    }

    /// The same where the limit is near.
    #[cold]
    #[inline(never)]
    fn check_areas_left(&self, range: GuestPhysRange, now: usize, after: impl FnOnce() -> usize) -> Result<(), Error> {
        let (account, after) = (self.accounts().areas(), after());
        if after <= now || account.fits(after - now) { Ok(()) } else { Err(account.refusal().at(range)) }
    }

    /// Whether the limit allows so many areas more. The lock is held exclusively.
    #[inline]
    pub(super) fn has_room_for_areas(&self, more: usize) -> bool {
        self.accounts().areas().fits(more)
    }

    /// Refuses an area that comes to where nothing is, if there would be too many.
    #[inline]
    pub(super) fn check_new_area(&self, areas: &MemorySet<Backend>, area: &MemoryArea<Backend>) -> Result<(), Error> {
        if self.has_room_for_areas(1) { Ok(()) } else { self.check_last_area(areas, area) }
    }

    /// The same where the limit is near.
    #[cold]
    #[inline(never)]
    fn check_last_area(&self, areas: &MemorySet<Backend>, area: &MemoryArea<Backend>) -> Result<(), Error> {
        let range = area.va_range();
        self.check_areas_left(range, areas.len(), || {
            // That something is there is another error.
            if areas.overlaps(range) { areas.len() } else { areas.len_with(core::iter::once(area.clone())) }
        })
    }

    /// The answer to a fault that a limit refused.
    ///
    /// Another CPU may have had the last frame for this very page, or be about to give it back because it lost: with the
    /// lock held exclusively no CPU is on the way.
    pub(super) fn answer_at_limit(&self, fault: &Fault, what: Resource, error: Error) -> Result<Outcome, Error> {
        let state = self.hold();
        match self.judge(&state, fault)? {
            Verdict::Answer(outcome) => return Ok(outcome),
            Verdict::Later(_) => {}
        }
        let page = Context::<P>::span(Level::PAGE) / memory_addr::PAGE_SIZE_4K;
        if self.account(what).room() >= page { Ok(Outcome::Retry) } else { Err(error) }
    }
}
