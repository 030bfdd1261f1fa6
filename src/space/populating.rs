//! Giving lazily populated memory its frames ahead of time: at once, or a part at a time.

use core::hint;

use page_table_multiarch::MappingFlags;

use super::{
    GuestSpace, Progress, State, edit,
    populate::LARGEST_LAZY,
    supply::{missing_offset, source_offset},
};
use crate::{
    account::Resource,
    addr::{GuestPhysAddr, GuestPhysRange, Level},
    backend::Backend,
    error::Error,
    fault::{Cause, Fault, Origin, Outcome},
    format::{Access, LeafPolicy, Used},
    invalidate::Invalidate,
    lock::{LockFamily, SpaceLock},
    platform::Platform,
    set::MemoryArea,
    source::{Demand, Supplied},
    table::{Context, Found},
    ticket::Ticket,
};

/// How many leaves are passed over while the lock is held once.
const LOOKS: usize = 256;

/// What came of populating a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Populated {
    /// All of it has its memory, in the tables.
    Whole,
    /// Sources were asked for some of it and have not brought it yet; all else has its memory. What they bring is put into
    /// the tables when the guest touches it, or by populating the range again.
    Asked {
        /// How many pages of 4 KiB are still to come.
        pages: usize,
        /// What the first of them waits for.
        first: Ticket,
    },
}

/// A range that gets its memory, of which a part has it already: [`GuestSpace::populate_in_steps`] makes it.
///
/// Dropped, it leaves [`rest`](Self::rest) to be populated when the guest touches it.
#[must_use = "nothing is populated before the first step"]
pub struct Populating<'s, P: Platform, L: LockFamily> {
    space: &'s GuestSpace<P, L>,
    access: Access,
    rest: GuestPhysRange,
    is_checked: bool,
    /// How many pages before the rest were asked for and have not been brought, and what the first waits for.
    asked: Option<(usize, Ticket)>,
}

/// What the first page of a range takes.
enum Next {
    /// It has its memory, and so has all before this address: so many leaves.
    There(GuestPhysAddr, usize),
    /// Private memory is missing: a block of this level, with these flags.
    Block(Level, MappingFlags),
    /// Private memory is missing: so many pages of a part that is one table's, with these flags.
    Pages(GuestPhysRange, usize, MappingFlags),
    /// A source has it, at this offset, and has not brought it to what stands there.
    Source(Backend, usize),
    /// What a fault there takes. This is where the source behind it has the page, if there is one.
    Fault(Option<usize>),
}

impl<P: Platform, L: LockFamily> GuestSpace<P, L> {
    /// Gives all that is mapped in `range` and populated lazily its memory now, as the guest's own `access` to each page
    /// would: a guest that makes such accesses there faults no more.
    ///
    /// - Private memory gets frames, in the largest leaves that its [`LeafPolicy`] allows. A block may reach past the
    ///   range's ends, up to 2 MiB of it, as with a fault.
    /// - Regions' and inherited pages come into the tables. With [`Access::Write`] what would be copied on the first write
    ///   is copied.
    /// - Sources are asked for all their pages, one after the other and without waiting for any:
    ///   [`Populated::Asked`] says how many are still to come. Some places at each [pager](crate::pager::Pager::new) are
    ///   left to faults: what a guest misses is asked for at once, whatever is populated.
    /// - Linear and borrowed memory, and what is on loan, is passed over: it has its memory.
    ///
    /// Faults on other CPUs are answered meanwhile, and what they bring first stays. Frames are allocated and zeroed without
    /// the lock; it is held shared for some entries at a time. [`populate_in_steps`](Self::populate_in_steps) returns in
    /// between.
    ///
    /// # Errors
    /// Before anything is populated:
    /// - [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range;
    /// - [`Error::NotMapped`] with the first hole;
    /// - [`Error::Denied`] with the first area that is populated lazily and does not allow the access.
    ///
    /// With the first page that could not be had, or asked for. What is before it is populated, and stays: it is memory that
    /// the guest would have had by its own accesses.
    /// - [`Error::NoMemory`], [`Error::Limit`];
    /// - [`Error::NotYet`] if it could not be asked for, since as many pages of its pager's are pending as may be while some
    ///   places are left to faults. The ticket is the one that has waited longest: try again when it is over;
    /// - [`Error::SourceFailed`];
    /// - [`Error::Invalidation`] for a copy, or if an earlier operation's invalidation still fails;
    /// - [`Error::Snapshotting`] while a snapshot is being taken in steps.
    ///
    /// # Example
    /// ```
    /// use stage2::{Access, LeafPolicy, Mapping, Populate, space::Populated};
    /// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
    /// # use host::{RW, guest, range};
    ///
    /// let space = guest(1)?;
    /// let ram = range(0x8000_0000, 1 << 20);
    /// space.map(ram, Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages }, RW)?;
    /// assert_eq!(space.populate(ram, Access::Write)?, Populated::Whole);
    /// assert_eq!(space.stats().owned_frames, 256);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn populate(&self, range: GuestPhysRange, access: Access) -> Result<Populated, Error> {
        let mut populating = self.populate_in_steps(range, access)?;
        while populating.step(usize::MAX)? == Progress::More {}
        Ok(populating.populated())
    }

    /// Gives `range` its memory as [`populate`](Self::populate) does, but a part at a time: see [`Populating::step`].
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Misaligned`], [`Error::BeyondInput`] for the range.
    pub fn populate_in_steps(&self, range: GuestPhysRange, access: Access) -> Result<Populating<'_, P, L>, Error> {
        self.check(range)?;
        Ok(Populating { space: self, access, rest: range, is_checked: false, asked: None })
    }

    /// Refuses holes, and areas that are to get memory and do not allow the access.
    fn check_populated(&self, range: GuestPhysRange, access: Access) -> Result<(), Error> {
        let state = self.state.shared(super::any_cpu());
        state.check_rest()?;
        edit::check_whole(range, state.parts(range), |area, part| check_access(area, part, access))
    }

    /// What the start of `rest` takes, where a step may take so many frames of 4 KiB more; and how many leaves were looked
    /// at that are there.
    fn next_to_populate(&self, rest: GuestPhysRange, access: Access, budget: usize) -> Result<Next, Error> {
        let state = self.state.shared(super::any_cpu());
        state.check_rest()?;
        let (mut gpa, mut looks) = (rest.start, 0);
        while gpa < rest.end && looks < budget.min(LOOKS) {
            let page = Context::<P>::page_of(gpa);
            let area = match populated_area(&state, page, access) {
                Ok(area) => area,
                // What is there is passed over first.
                Err(_) if looks > 0 => break,
                Err(error) => return Err(error),
            };
            let end = if is_lazy(area) {
                match (state.table.find(&self.context, gpa), area.backend()) {
                    (Found::Leaf { leaf, span, .. }, _) if leaf.flags.contains(access.flag()) => span.end,
                    (Found::Lent(span), _) => span.end,
                    _ if looks > 0 => break,
                    (Found::Absent(most), Backend::Private(policy)) => {
                        return Ok(self.next_private(&state, area, (rest, budget), access, (*policy, most)));
                    }
                    (Found::Absent(_), backend) => {
                        let missing = missing_offset(&state, area, gpa);
                        let source = missing.map(|offset| Next::Source(backend.clone(), offset));
                        return Ok(source.unwrap_or(Next::Fault(source_offset(area, gpa))));
                    }
                    _ => return Ok(Next::Fault(source_offset(area, gpa))),
                }
            } else {
                area.end()
            };
            (gpa, looks) = (end, looks + 1);
        }
        Ok(Next::There(gpa.min(rest.end), looks))
    }

    /// What private memory that is missing takes, at the start of `rest`, under an absent entry of `most`.
    fn next_private(
        &self,
        state: &State,
        area: &MemoryArea<Backend>,
        (rest, budget): (GuestPhysRange, usize),
        access: Access,
        (policy, most): (LeafPolicy, Level),
    ) -> Next {
        let (gpa, flags) = (rest.start, area.flags());
        let is_block = |&level: &Level| {
            let block = Context::<P>::entry_range(level, gpa);
            // What a fault would bring at once is brought whatever the step.
            let is_bounded =
                level <= LARGEST_LAZY || (rest.contains_range(block) && Context::<P>::leaf_pages(level) <= budget);
            self.context.allows(policy, level)
                && area.va_range().contains_range(block)
                && is_bounded
                && self.fits(level, flags, access)
                && self.has_room(level)
        };
        if let Some(level) = (1..=most.0).rev().map(Level).find(is_block) {
            return Next::Block(level, flags);
        }
        let table = Context::<P>::entry_range(Level(1), gpa);
        let pages = GuestPhysRange { start: gpa, end: table.end.min(area.end()).min(rest.end) };
        Next::Pages(pages, state.table.absent_pages(&self.context, pages), flags)
    }

    /// Brings pages of private memory that were missing in a part of one table when the lock was held before, up to so many,
    /// where the area still has these flags: how many frames of 4 KiB came, and up to which address all is there.
    ///
    /// They are charged with the lock held, so that with the lock held exclusively no charge is on its way. Where memory or
    /// the limit gives nothing, none comes: a fault says why.
    fn populate_pages(
        &self,
        part: GuestPhysRange,
        most: usize,
        flags: MappingFlags,
        used: Used,
    ) -> (usize, GuestPhysAddr) {
        let (cpu, page) = (super::any_cpu(), Context::<P>::leaf_pages(Level::PAGE));
        let (account, nothing) = (self.account(Resource::Frames), (0, part.start));
        // Outside of the lock, for zeroing takes its time. What the limit forbids is not zeroed in vain.
        let batch = self.context.batch(most.min(account.room() / page), flags, used);
        let state = self.state.shared(cpu);
        let still = state.check_rest().is_ok()
            && state.areas.find(part.start).is_some_and(|area| {
                area.flags() == flags
                    && matches!(area.backend(), Backend::Private(_))
                    && area.va_range().contains_range(part)
            });
        if !still {
            return nothing;
        }
        let Ok(charge) = account.charge_on(cpu, batch.frames()) else { return nothing };
        let installed = state.table.install_batch(&self.context, part, batch).unwrap_or(nothing);
        self.context.operations().publish();
        charge.keep_some(installed.0);
        installed
    }
}

impl<P: Platform, L: LockFamily> Populating<'_, P, L> {
    /// What was not looked at yet. Empty when all is done.
    #[must_use]
    pub const fn rest(&self) -> GuestPhysRange {
        self.rest
    }

    /// What came of all that is before the [rest](Self::rest).
    pub const fn populated(&self) -> Populated {
        match self.asked {
            None => Populated::Whole,
            Some((pages, first)) => Populated::Asked { pages, first },
        }
    }

    /// Populates the first part of [`rest`](Self::rest): up to `budget` frames of 4 KiB. A leaf that is there counts as one,
    /// and so does a page that a source is asked for. A block that a fault would bring at once may exceed the budget.
    ///
    /// # Errors
    /// As for [`populate`](GuestSpace::populate), for the rest; what cannot be had is its first page, and the step may be
    /// tried again. Holes and denials in all of the range are refused by the first step, before anything is populated; if
    /// others change the map between two steps, a later one may be refused too.
    pub fn step(&mut self, budget: usize) -> Result<Progress, Error> {
        if budget > 0 && !self.is_checked {
            self.space.check_populated(self.rest, self.access)?;
            self.is_checked = true;
        }
        let mut left = budget;
        while left > 0 && !self.rest.is_empty() {
            left = left.saturating_sub(self.advance(left)?);
        }
        Ok(if self.rest.is_empty() { Progress::Done } else { Progress::More })
    }

    /// Takes one step towards the end of the rest: how much of the budget it took. It may be tried again.
    fn advance(&mut self, budget: usize) -> Result<usize, Error> {
        let Self { space, access, rest, .. } = *self;
        let fault = Fault { gpa: rest.start, access, cause: Cause::Translation, origin: Origin::Instruction };
        match space.next_to_populate(rest, access, budget)? {
            Next::There(end, looks) => {
                self.rest.start = end;
                Ok(looks)
            }
            Next::Block(level, flags) => match space.bring_private(super::any_cpu(), &fault, level, flags) {
                Ok(Outcome::Resolved) => {
                    self.rest.start = Context::<P>::page_of(rest.start).end.min(rest.end);
                    Ok(Context::<P>::leaf_pages(level))
                }
                Ok(_) => Ok(0),
                // A fault looks again whether it was the last word.
                Err(_) => self.touch(&fault, None),
            },
            Next::Pages(part, missing, flags) => {
                let used = if access == Access::Write { Used::Dirty } else { Used::Accessed };
                match space.populate_pages(part, missing.min(budget), flags, used) {
                    (0, end) if end == part.start => self.touch(&fault, None),
                    (frames, end) => {
                        self.rest.start = end;
                        Ok(frames.max(1))
                    }
                }
            }
            Next::Source(backend, offset) => self.ask_ahead(&fault, &backend, offset),
            Next::Fault(offset) => self.touch(&fault, offset),
        }
    }

    /// Has the source behind the first page of the rest asked for it, at `offset` there, unless the places that are left at
    /// its pager are kept for faults.
    fn ask_ahead(&mut self, fault: &Fault, backend: &Backend, offset: usize) -> Result<usize, Error> {
        let outcome = match self.space.bring(backend, fault.gpa, Demand::Ahead) {
            // It came, or something else is there now: the next look tells.
            Ok(Supplied::Ready) => Ok(Outcome::Retry),
            Ok(Supplied::NotYet(ticket)) => Ok(Outcome::NotYet(ticket)),
            Ok(Supplied::Failed(ticket)) => Ok(Outcome::SourceFailed(ticket)),
            // A charge may be on its way that will not be kept.
            Err(error @ Error::Limit { what, .. }) => self.space.answer_at_limit(fault, what, error),
            Err(error) => Err(error),
        };
        self.note(fault, outcome?, Some(offset))
    }

    /// Has the first page of the rest populated as a fault would; its source has it at `offset`, if there is one.
    fn touch(&mut self, fault: &Fault, offset: Option<usize>) -> Result<usize, Error> {
        let (space, cpu) = (self.space, super::any_cpu());
        // Not by way of `answer`: with another caller it is a call in each of the guest's own faults.
        let outcome = space.answer_after_all(space.state.shared(cpu), cpu, fault)?;
        self.note(fault, outcome, offset)
    }

    /// Notes what came of the first page of the rest, which its source has at `offset`, if there is one: how much of the
    /// budget it took.
    fn note(&mut self, fault: &Fault, outcome: Outcome, offset: Option<usize>) -> Result<usize, Error> {
        let range = Context::<P>::page_of(fault.gpa);
        match outcome {
            // It is there, and passed over by the next look.
            Outcome::Resolved | Outcome::Lent => {}
            // Another CPU is about to finish something.
            Outcome::Retry => {
                hint::spin_loop();
                return Ok(0);
            }
            Outcome::NotYet(ticket) if Some(ticket.offset()) == offset => {
                let (pages, first) = self.asked.unwrap_or((0, ticket));
                self.asked = Some((pages + 1, first));
            }
            // Another page's: there is no room to ask for this one.
            Outcome::NotYet(ticket) => return Err(Error::NotYet { range, ticket }),
            Outcome::SourceFailed(ticket) => return Err(Error::SourceFailed { range, ticket }),
            Outcome::NotMapped | Outcome::Inject => return Err(Error::NotMapped(range)),
            Outcome::Denied { flags } => return Err(Error::Denied { range, flags }),
        }
        self.rest.start = range.end.min(self.rest.end);
        Ok(Context::<P>::leaf_pages(Level::PAGE))
    }
}

/// The area that a page lies in, if it may be populated for the access.
fn populated_area(state: &State, page: GuestPhysRange, access: Access) -> Result<&MemoryArea<Backend>, Error> {
    let area = state.areas.find(page.start).ok_or(Error::NotMapped(page))?;
    check_access(area, page, access).map(|()| area)
}

/// Whether an area's memory comes when it is touched.
fn is_lazy(area: &MemoryArea<Backend>) -> bool {
    !matches!(area.backend(), Backend::Linear(_) | Backend::Borrowed(_))
}

/// Refuses to populate for an access that the area does not allow.
fn check_access(area: &MemoryArea<Backend>, range: GuestPhysRange, access: Access) -> Result<(), Error> {
    let flags = area.flags();
    if is_lazy(area) && !flags.contains(access.flag()) { Err(Error::Denied { range, flags }) } else { Ok(()) }
}
