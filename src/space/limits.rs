//! What a space uses, and how much it may use.

use super::GuestSpace;
use crate::{
    account::{Account, Limits, Resource, Usage},
    addr::Level,
    error::Error,
    fault::{Fault, Outcome},
    lock::{LockFamily, SpaceLock},
    platform::Platform,
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
        Usage {
            frames: frames.used(),
            table_frames: tables.used(),
            limits: Limits { frames: frames.limited(), table_frames: tables.limited() },
        }
    }

    /// Sets other limits. Where more is used than they allow it stays, and nothing is added.
    pub fn set_limits(&self, limits: Limits) {
        // No CPU answers a fault meanwhile.
        let _state = self.state.exclusive();
        self.account(Resource::Frames).set_limit(limits.frames);
        self.account(Resource::TableFrames).set_limit(limits.table_frames);
    }

    #[inline]
    pub(super) fn account(&self, what: Resource) -> Account<'_> {
        self.accounts.of(what)
    }

    /// The answer to a fault that a limit refused.
    ///
    /// Another CPU may have had the last frame for this very page, or be about to give it back because it lost: with the
    /// lock held exclusively no CPU is on the way.
    pub(super) fn answer_at_limit(&self, fault: &Fault, what: Resource, error: Error) -> Result<Outcome, Error> {
        let state = self.state.exclusive();
        match self.judge(&state, fault)? {
            Verdict::Answer(outcome) => return Ok(outcome),
            Verdict::Later(_) => {}
        }
        let page = Context::<P>::span(Level::PAGE) / memory_addr::PAGE_SIZE_4K;
        if self.account(what).room() >= page { Ok(Outcome::Retry) } else { Err(error) }
    }
}
