//! What all ways of giving memory to another space have in common.

use page_table_multiarch::MappingFlags;

use super::{GuestSpace, State, edit, exclusive::Held, missing::Missing};
use crate::{
    addr::{GuestPhysAddr, GuestPhysRange},
    backend::Backend,
    error::Error,
    extents::{Extents, Seams},
    format::{Format, Owner},
    loan::LoanKind,
    lock::LockFamily,
    ownership::PageState,
    platform::Platform,
    set::MemoryArea,
    table::{Context, Detached, Edit, Fill, Supplement, Table, Unowned},
};

/// What goes where.
pub(super) struct Transfer {
    /// At the giver.
    pub range: GuestPhysRange,
    /// At the taker.
    pub place: GuestPhysRange,
    pub seams: Seams,
    pub sharing: Sharing,
}

/// Whether what is shared with a space already may be given once more.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// It may.
    Allowed,
    /// It stays with those that have it.
    Refused,
}

/// Giver and taker.
pub(super) type Both<'s, L> = (Held<'s, L>, Held<'s, L>);

/// Both sides of a transfer, and where its memory is.
pub(super) struct Prepared<'s, P: Platform, L: LockFamily> {
    pub giver: Held<'s, L>,
    pub taker: Held<'s, L>,
    /// What the giver's tables lack of it.
    pub supplement: Supplement<'s, P>,
    pub memory: Extents,
    /// What the giver's guest may do with it, all areas together.
    pub had: MappingFlags,
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Takes both spaces' locks, in the order of their addresses, whichever gives; `range` is what it is about.
    pub(super) fn lock_both<'s>(&'s self, range: GuestPhysRange, other: &'s Self) -> Result<Both<'s, L>, Error> {
        let (this, that) = (core::ptr::from_ref(&self.state), core::ptr::from_ref(&other.state));
        self.pay_part();
        other.pay_part();
        loop {
            let (mine, others) = match this.addr().cmp(&that.addr()) {
                core::cmp::Ordering::Equal => return Err(Error::SameSpace(range)),
                core::cmp::Ordering::Less => {
                    let mine = self.hold();
                    (mine, other.hold())
                }
                core::cmp::Ordering::Greater => {
                    let others = other.hold();
                    (self.hold(), others)
                }
            };
            mine.check_rest()?;
            others.check_rest()?;
            if mine.table.is_finished() && others.table.is_finished() {
                return Ok((mine, others));
            }
            drop((mine, others));
            // Each by itself: what it lets go must go without the other's lock too.
            drop(self.exclusive()?);
            drop(other.exclusive()?);
        }
    }

    /// Refuses bad ranges, and a taker that is this space. Where `range` goes at the taker.
    pub(super) fn check_transfer(
        &self,
        range: GuestPhysRange,
        taker: &Self,
        at: GuestPhysAddr,
    ) -> Result<GuestPhysRange, Error> {
        if core::ptr::eq(self, taker) {
            return Err(Error::SameSpace(range));
        }
        self.check(range)?;
        let size = range.size();
        let place = GuestPhysRange::try_from_start_size(at, size).ok_or(Error::Overflow { start: at, size })?;
        taker.check(place)?;
        Ok(place)
    }

    /// Locks both and finds the memory, all of which is the giver's own, shared or not, or is to be: it is not mapped yet
    /// where it was untouched. `check` refuses a transfer for what else there is at both sides, the giver's first, and answers
    /// what the giver's guest may do.
    ///
    /// What is missing is allocated without the locks; with them, if the guest touched some of it meanwhile. What is refused
    /// changes nothing, but that a source may have brought its pages, which the guest keeps, and that for want of memory, at a
    /// limit, or for a frame that the taker cannot have, what was left to it of a snapshot is its own again.
    pub(super) fn prepare<'s>(
        &'s self,
        transfer: &Transfer,
        taker: &'s Self,
        check: impl Fn(&State, &State) -> Result<MappingFlags, Error>,
    ) -> Result<Prepared<'s, P, L>, Error> {
        let (range, place) = (transfer.range, transfer.place);
        let (mut filled, mut supplement) = (Missing::default(), Supplement::nothing());
        loop {
            let (mut giver, receiver) = self.lock_both(range, taker)?;
            Self::check_own_areas(&giver, range)?;
            match transfer.sharing {
                Sharing::Allowed => Self::check_not_lent(&giver, range)?,
                Sharing::Refused => Self::check_not_on_loan(&giver, range)?,
            }
            if let Some(other) = receiver.areas.overlap(place) {
                return Err(Error::Overlap { range: place, with: other.va_range() });
            }
            let had = check(&giver, &receiver)?;
            let mut missing = self.missing(&giver, range)?;
            if giver.inherited.is_some() && missing.sourced().is_none() {
                // Not before all of it was looked at, and what its sources have is there: another page may refuse it.
                self.unshare(&mut giver, range)?;
                missing = self.missing(&giver, range)?;
            }
            if missing != filled {
                // It is off the account before there is another.
                drop(supplement);
                self.check_room(range, missing.pages())?;
                if filled != Missing::default() && missing.sourced().is_none() {
                    // A guest that touches one page after another would have it built for ever.
                    supplement = self.fill(range, &missing)?;
                } else {
                    drop((giver, receiver));
                    (filled, supplement) = self.supplement(range, missing)?;
                    continue;
                }
            }
            let memory = self.own_extents(&giver, range, transfer.seams, &supplement)?;
            taker.check_frames(place, &memory)?;
            return Ok(Prepared { giver, taker: receiver, supplement, memory, had });
        }
    }

    /// Refuses a range that is not the space's own, as far as its areas tell.
    pub(super) fn check_own_areas(state: &State, range: GuestPhysRange) -> Result<(), Error> {
        edit::check_whole(range, state.parts(range), |area, part| {
            let other = match area.backend() {
                Backend::Private(_) | Backend::CopyOnWrite(_) => return Ok(()),
                Backend::Linear(_) => PageState::Foreign,
                Backend::Shared(_) => PageState::Region,
                Backend::Borrowed(_) => PageState::Borrowed,
            };
            Err(Self::page_is(part.start, other))
        })
    }

    /// Refuses to change what is on loan.
    pub(super) fn check_not_on_loan(state: &State, range: GuestPhysRange) -> Result<(), Error> {
        let Some((loan, part)) = state.loans.first_in(range) else { return Ok(()) };
        let state = match loan.kind() {
            LoanKind::Shared => PageState::SharedOut,
            LoanKind::Lent => PageState::Lent,
        };
        Err(Self::page_is(part.start.max(range.start), state))
    }

    /// Refuses to share what the space is without: before what is left of a snapshot is made its own for it.
    fn check_not_lent(state: &State, range: GuestPhysRange) -> Result<(), Error> {
        let Some((_, part)) = state.loans.first_lent_in(range) else { return Ok(()) };
        Err(Self::page_is(part.start.max(range.start), PageState::Lent))
    }

    /// Where the memory of a range is, in the tables or in what they lack.
    fn own_extents(
        &self,
        state: &State,
        range: GuestPhysRange,
        seams: Seams,
        supplement: &Supplement<'_, P>,
    ) -> Result<Extents, Error> {
        state.table.own_extents(&self.context, range, seams, supplement).map_err(|unowned| match unowned {
            Unowned::Missing(gpa) => Self::page_is(gpa, PageState::Nothing),
            Unowned::NoMemory => Error::NoMemory(range),
            Unowned::Is(gpa, state) => Self::page_is(gpa, state),
        })
    }

    /// Refuses what would be more pages of the space's own, in frames of 4 KiB, than its limit allows just now.
    pub(super) fn check_room(&self, range: GuestPhysRange, pages: usize) -> Result<(), Error> {
        let account = self.context.frames.account();
        if pages <= account.room() { Ok(()) } else { Err(account.refusal().at(range)) }
    }

    /// Refuses memory that no entry of this space holds.
    fn check_frames(&self, range: GuestPhysRange, memory: &Extents) -> Result<(), Error> {
        let bits = self.context.format.output_bits();
        match memory.at(0) {
            Some((to, _)) if memory.top() > 1 << bits => Err(Error::BadTarget { range, to, bits }),
            _ => Ok(()),
        }
    }

    /// The mapping of another space's memory, built for the tables as they are while `state` is held.
    pub(super) fn detached(
        &self,
        state: &State,
        place: GuestPhysRange,
        memory: &Extents,
        owner: Owner,
        flags: MappingFlags,
    ) -> Result<Detached<'_, P>, Error> {
        let level = state.table.graft_level(&self.context, place);
        let built = Detached::build(&self.context, place, level, Fill::Given(memory, owner, flags));
        built.map_err(|exhausted| exhausted.at(place))
    }

    /// Splits the blocks that the ends of `range` cut.
    pub(super) fn split_at_ends(&self, table: &mut Table, range: GuestPhysRange) -> Result<(), Error> {
        let flush = table.edit(&self.context, range, Edit::Split).map_err(|exhausted| exhausted.at(range))?;
        flush.finish().map_err(|cause| Error::Invalidation { range, cause })
    }

    /// Takes memory of the space's own away from its guest, so that it can be put back.
    pub(super) fn withdraw_own(&self, table: &mut Table, range: GuestPhysRange) -> Result<(), Error> {
        let withdrawn = table.withdraw(&self.context, [range].into_iter(), Owner::Space);
        withdrawn.map_err(|cause| Error::Invalidation { range, cause })
    }

    /// The error about a page that is in another state than it should be.
    pub(super) fn page_is(gpa: GuestPhysAddr, state: PageState) -> Error {
        Error::State { range: Context::<P>::page_of(gpa), state }
    }
}

/// The area that `gpa` lies in, which is in `range`; else the hole.
pub(super) fn area_at(state: &State, gpa: GuestPhysAddr, range: GuestPhysRange) -> Result<&MemoryArea<Backend>, Error> {
    state.areas.find(gpa).ok_or_else(|| {
        let next = state.areas.overlap(GuestPhysRange { start: gpa, end: range.end });
        Error::NotMapped(GuestPhysRange { start: gpa, end: next.map_or(range.end, MemoryArea::start) })
    })
}
