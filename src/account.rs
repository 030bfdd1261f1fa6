//! What a space uses of one resource, and how much it may use.

mod areas;

use core::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering, fence};

pub(crate) use self::areas::AreaAccount;
use crate::{counted::Counted, cpu_id::CpuId, stripes::Stripes};

/// How many frames a stripe draws at once: a CPU that faults writes the account's own cache line once for so many.
const BATCH: usize = 64;

/// The limit of a space that has none.
const UNLIMITED: usize = isize::MAX.cast_unsigned();

/// What stands in a limit's place for as long as it is being set.
const CHANGING: usize = usize::MAX;

/// What a space has of the hypervisor's memory: frames of 4 KiB, and areas, for which there is some heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Frames of its own that the guest can reach.
    Frames,
    /// Frames of its tables.
    TableFrames,
    /// Areas of its map.
    Areas,
}

impl core::fmt::Display for Resource {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Frames => "frames of the space's own",
            Self::TableFrames => "frames for tables",
            Self::Areas => "areas",
        })
    }
}

/// How much a space may have, in frames of 4 KiB and in areas; without a limit, as much as the allocator has.
///
/// Memory of regions is theirs, and bounded by their size: it is not in these.
///
/// # Example
/// ```
/// use stage2::{Error, LeafPolicy, Limits, Mapping, Populate, space::Resource};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// let space = guest(1)?;
/// space.set_limits(Limits { frames: Some(2), ..Limits::default() });
/// let lazy = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
/// space.map(range(0x8000_0000, 0x4000), lazy, RW)?;
/// space.write(0x8000_0000.into(), &[1; 0x2000])?;
/// assert!(matches!(space.write(0x8000_2000.into(), &[1]), Err(Error::Limit { .. })));
/// assert_eq!(space.usage().frames, 2);
///
/// // A balloon that takes a page out of the middle leaves two areas.
/// space.set_limits(Limits { areas: Some(1), ..Limits::default() });
/// let inflated = space.unmap(range(0x8000_1000, 0x1000));
/// assert!(matches!(inflated, Err(Error::Limit { what: Resource::Areas, limit: 1, .. })));
/// space.unmap(range(0x8000_3000, 0x1000))?; // The end of it can go.
/// assert_eq!(space.usage().areas, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Frames of its own: private memory, and copies of what it inherited.
    pub frames: Option<usize>,
    /// Frames for tables, the root among them. What a guest touches costs up to one path of tables for each page, where
    /// it chooses the addresses.
    pub table_frames: Option<usize>,
    /// Areas. A guest that, on its own word, unmaps pages, changes their flags or has them shared cuts an area into as many as
    /// it has pages. Whatever would make more than the limit is refused before anything has changed, an unmap that cuts an
    /// area in its middle too; what makes none, or makes fewer, always works. Areas that touch and differ in nothing else
    /// are one.
    ///
    /// An area takes 512 bytes of the hypervisor's heap at most, with what stands behind it and while it goes; 1,536 if it is a
    /// region of its own by [`make_shared`](crate::GuestSpace::make_shared). A space has 24 KiB for them besides. What is
    /// known of each page that is inherited, a region's, or from a source goes by the number of pages and is not in these.
    pub areas: Option<usize>,
}

/// How much a space has, in frames of 4 KiB and in areas, and how much it may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Frames of its own.
    pub frames: usize,
    /// Frames for tables, the root among them.
    pub table_frames: usize,
    /// Areas.
    pub areas: usize,
    /// The limits.
    pub limits: Limits,
}

/// Why a frame, or memory to keep account of one, could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exhausted {
    /// The allocator has nothing left.
    Memory,
    /// So many of these are all that the space may have.
    Limit(Resource, usize),
}

/// The accounts of a space, one for each resource, and what else its CPUs count.
///
/// A total would be a cache line that every fault on every CPU writes. So faults draw in batches: what is drawn and not
/// used is credit, which lies in stripes. Near the limit what is needed is drawn, and then other stripes' credit taken, so
/// that a limit is reached by the last frame and not before. Credit comes only with the space's lock held, which a change of
/// the limit excludes: everything else goes straight to the total, and may happen at the same time.
///
/// Areas come and go with that lock held exclusively alone. So nothing is charged for them: what would make too many looks
/// whether they [fit](AreaAccount::fits), and whoever gives the lock up [notes](AreaAccount::note) how many there are.
pub(crate) struct Accounts {
    totals: [Total; 2],
    areas: AreaAccount,
    stripes: Stripes<Stripe>,
}

/// One of a space's accounts of frames.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    accounts: &'a Accounts,
    what: Resource,
}

/// Changes once a batch.
struct Total {
    /// [`CHANGING`] while it is being set.
    limit: AtomicUsize,
    /// How many may still be drawn: limit and use in one word, so that a lower limit holds from one moment on. Below zero
    /// where more than the limit was drawn before it was set.
    room: AtomicIsize,
}

/// What a CPU counts, on a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Stripe {
    credit: [Credit; 2],
    faults: AtomicU64,
}

/// What is drawn and not used.
#[derive(Default)]
struct Credit(AtomicUsize);

impl Accounts {
    /// Accounts of a space of `cpus` CPUs that uses no frame yet; `None` where there is no memory.
    pub(crate) fn open(limits: Limits, cpus: usize) -> Option<Counted<Self>> {
        let total = |limit| Total {
            limit: AtomicUsize::new(bounded(limit)),
            room: AtomicIsize::new(bounded(limit).cast_signed()),
        };
        let totals = [total(limits.frames), total(limits.table_frames)];
        let areas = AreaAccount::open(limits.areas);
        Counted::try_new(Self { totals, areas, stripes: Stripes::new(cpus)? })
    }

    /// The account of areas.
    #[inline]
    pub(crate) const fn areas(&self) -> &AreaAccount {
        &self.areas
    }

    /// The account of frames, for one use of them.
    #[inline]
    pub(crate) const fn of(&self, what: Resource) -> Account<'_> {
        debug_assert!(!matches!(what, Resource::Areas), "areas have an account of another kind");
        Account { accounts: self, what }
    }

    /// Counts a fault.
    #[inline]
    pub(crate) fn count_fault(&self, cpu: CpuId) {
        self.stripes.of(cpu).faults.fetch_add(1, Ordering::Relaxed);
    }

    /// How many faults were counted.
    pub(crate) fn faults(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.faults.load(Ordering::Relaxed)).sum()
    }
}

impl<'a> Account<'a> {
    /// `frames` more are used, if the charge is [kept](Charge::keep).
    ///
    /// # Errors
    /// The limit does not allow it; or it just does, and other CPUs charged and gave back at the same time.
    #[inline]
    pub(crate) fn charge(self, frames: usize) -> Result<Charge<'a>, Exhausted> {
        if !self.draw(frames) {
            self.collect(frames)?;
        }
        Ok(Charge { account: self, frames })
    }

    /// The same in batches, by a CPU that is known and holds the space's lock.
    ///
    /// # Errors
    /// As for [`charge`](Self::charge).
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call and its result in memory cost a tenth of a fault")]
    pub(crate) fn charge_on(self, cpu: CpuId, frames: usize) -> Result<Charge<'a>, Exhausted> {
        let here = self.credit_of(cpu);
        if !here.take(frames) {
            self.draw_more(here, frames)?;
        }
        Ok(Charge { account: self, frames })
    }

    /// Uses `frames` for which there is not enough credit `here`.
    #[cold]
    fn draw_more(self, here: &Credit, frames: usize) -> Result<(), Exhausted> {
        if self.draw(frames.saturating_add(BATCH)) {
            here.give(BATCH);
            return Ok(());
        }
        if self.draw(frames) { Ok(()) } else { self.collect(frames) }
    }

    /// Uses `frames` of all stripes' credit, and of the total what is missing then.
    #[cold]
    fn collect(self, frames: usize) -> Result<(), Exhausted> {
        let mut missing = frames;
        for credit in self.credits() {
            missing -= credit.take_some(missing);
        }
        if missing == 0 || self.draw(missing) {
            return Ok(());
        }
        self.give_back(frames - missing);
        Err(self.refusal())
    }

    /// `frames` are used no more.
    #[inline]
    pub(crate) fn give_back(self, frames: usize) {
        self.total().room.fetch_add(frames.cast_signed(), Ordering::Relaxed);
    }

    /// How many are used: exact while no CPU charges or releases.
    pub(crate) fn used(self) -> usize {
        loop {
            let limit = self.limit();
            let used = limit.cast_signed().saturating_sub(self.left());
            fence(Ordering::Acquire);
            // Both numbers are of one limit.
            if self.total().limit.load(Ordering::Relaxed) == limit {
                return used.max(0).cast_unsigned();
            }
        }
    }

    /// What is said where the limit is reached.
    pub(crate) fn refusal(self) -> Exhausted {
        Exhausted::Limit(self.what, self.limit())
    }

    /// How many more the limit allows: exact while no CPU charges or releases.
    pub(crate) fn room(self) -> usize {
        self.left().max(0).cast_unsigned()
    }

    /// Sets the limit: what is used beyond it stays, and no more is granted from now on. The space's lock is held
    /// exclusively: there is one change at a time, and no new credit.
    pub(crate) fn set_limit(self, limit: Option<usize>) {
        let (new, old, total) = (bounded(limit), self.limit(), self.total());
        total.limit.store(CHANGING, Ordering::Relaxed);
        fence(Ordering::Release);
        total.room.fetch_add(new.cast_signed() - old.cast_signed(), Ordering::Relaxed);
        total.limit.store(new, Ordering::Release);
        for credit in self.credits() {
            self.give_back(credit.take_some(usize::MAX));
        }
    }

    /// The limit, if there is one.
    pub(crate) fn limited(self) -> Option<usize> {
        Some(self.limit()).filter(|&limit| limit != UNLIMITED)
    }

    fn limit(self) -> usize {
        loop {
            let limit = self.total().limit.load(Ordering::Acquire);
            if limit != CHANGING {
                return limit;
            }
            core::hint::spin_loop();
        }
    }

    /// What is neither drawn nor lies in a stripe unused.
    fn left(self) -> isize {
        let credit: usize = self.credits().map(|credit| credit.0.load(Ordering::Relaxed)).sum();
        self.total().room.load(Ordering::Relaxed).saturating_add_unsigned(credit)
    }

    /// Draws so many from the total, if the limit allows it.
    #[inline]
    fn draw(self, frames: usize) -> bool {
        let less = |room: isize| room.checked_sub_unsigned(frames).filter(|&room| room >= 0);
        self.total().room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn total(self) -> &'a Total {
        &self.accounts.totals[self.what as usize]
    }

    fn credits(self) -> impl Iterator<Item = &'a Credit> {
        self.accounts.stripes.iter().map(move |stripe| &stripe.credit[self.what as usize])
    }

    #[inline]
    fn credit_of(self, cpu: CpuId) -> &'a Credit {
        &self.accounts.stripes.of(cpu).credit[self.what as usize]
    }
}

/// What a limit is kept as; a space without one may have more frames than there are.
fn bounded(limit: Option<usize>) -> usize {
    limit.map_or(UNLIMITED, |limit| limit.min(UNLIMITED))
}

/// Frames that are on an account until it is dropped, or, [kept](Self::keep), until they are released.
#[must_use]
pub(crate) struct Charge<'a> {
    account: Account<'a>,
    frames: usize,
}

impl Charge<'_> {
    /// The first `frames` of them are kept; the others are used no more.
    pub(crate) fn keep_some(mut self, frames: usize) {
        self.frames -= frames;
    }

    /// The owner of the frames releases them.
    pub(crate) fn keep(self) {
        core::mem::forget(self);
    }
}

impl Drop for Charge<'_> {
    #[inline]
    fn drop(&mut self) {
        self.account.give_back(self.frames);
    }
}

// Relaxed throughout, but for the look at two numbers at once: no other memory is read or written by what they say.
impl Credit {
    /// Adds to it.
    fn give(&self, frames: usize) {
        self.0.fetch_add(frames, Ordering::Relaxed);
    }

    /// Takes all of `frames`, or none.
    #[inline]
    fn take(&self, frames: usize) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |credit| credit.checked_sub(frames)).is_ok()
    }

    /// Takes `most`, or as many as there are: how many.
    fn take_some(&self, most: usize) -> usize {
        let less = |credit: usize| (credit > 0).then(|| credit.saturating_sub(most));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).map_or(0, |credit| credit.min(most))
    }
}

#[cfg(test)]
mod tests;
