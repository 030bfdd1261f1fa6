//! What a space uses of one resource, and how much it may use.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::{
    counted::Counted,
    cpu_id::CpuId,
    stripes::{Stripes, any_cpu},
};

/// How many frames a stripe draws at once: a CPU that faults writes the account's own cache line once for so many.
const BATCH: usize = 64;

/// What a space has of the hypervisor's memory, in frames of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Frames of its own that the guest can reach.
    Frames,
    /// Frames of its tables.
    TableFrames,
}

impl core::fmt::Display for Resource {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Frames => "frames of the space's own",
            Self::TableFrames => "frames for tables",
        })
    }
}

/// How much a space may have, in frames of 4 KiB; without a limit, as much as the allocator has.
///
/// Memory of regions is theirs, and bounded by their size: it is not in these.
///
/// # Example
/// ```
/// use stage2::{Error, LeafPolicy, Limits, Mapping, Populate};
/// # mod host { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/host/mod.rs")); }
/// # use host::{RW, guest, range};
///
/// let space = guest(1)?;
/// space.set_limits(Limits { frames: Some(2), table_frames: None });
/// let lazy = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
/// space.map(range(0x8000_0000, 0x4000), lazy, RW)?;
/// space.write(0x8000_0000.into(), &[1; 0x2000])?;
/// assert!(matches!(space.write(0x8000_2000.into(), &[1]), Err(Error::Limit { .. })));
/// assert_eq!(space.usage().frames, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Frames of its own: private memory, and copies of what it inherited.
    pub frames: Option<usize>,
    /// Frames for tables, the root among them. What a guest touches costs up to one path of tables for each page, where
    /// it chooses the addresses.
    pub table_frames: Option<usize>,
}

/// How much a space has, in frames of 4 KiB, and how much it may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Frames of its own.
    pub frames: usize,
    /// Frames for tables, the root among them.
    pub table_frames: usize,
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
/// A total would be a cache line that every fault on every CPU writes. So it is drawn in batches: what is drawn and not
/// used is credit, which lies in stripes, and what is used is the difference. Near the limit what is needed is drawn, and
/// then other stripes' credit taken, so that a limit is reached by the last frame and not before.
pub(crate) struct Accounts {
    totals: [Total; 2],
    stripes: Stripes<Stripe>,
}

/// One of a space's accounts.
#[derive(Clone, Copy)]
pub(crate) struct Account<'a> {
    accounts: &'a Accounts,
    what: Resource,
}

/// Changes once a batch.
struct Total {
    limit: AtomicUsize,
    drawn: AtomicUsize,
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
        let total = |limit: Option<usize>| Total {
            limit: AtomicUsize::new(limit.unwrap_or(usize::MAX)),
            drawn: AtomicUsize::new(0),
        };
        let totals = [total(limits.frames), total(limits.table_frames)];
        Counted::try_new(Self { totals, stripes: Stripes::new(cpus)? })
    }

    /// The account of one resource.
    #[inline]
    pub(crate) const fn of(&self, what: Resource) -> Account<'_> {
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
        self.charge_on(any_cpu(), frames)
    }

    /// The same, by a CPU that is known.
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
        if self.draw(frames) {
            return Ok(());
        }
        let mut missing = frames;
        for credit in self.credits() {
            missing -= credit.take_some(missing);
        }
        if missing == 0 || self.draw(missing) {
            return Ok(());
        }
        here.give(frames - missing);
        Err(self.refusal())
    }

    /// `frames` are used no more.
    #[inline(never)]
    pub(crate) fn give_back(self, frames: usize) {
        let drawn = &self.total().drawn;
        if drawn.load(Ordering::Relaxed) > self.limit() {
            // Above the limit no credit is kept: another charge could use it.
            drawn.fetch_sub(frames, Ordering::Relaxed);
            return;
        }
        let here = self.credit_of(any_cpu());
        let credit = here.give(frames);
        if credit > 2 * BATCH {
            drawn.fetch_sub(here.take_some(credit - BATCH), Ordering::Relaxed);
        }
    }

    /// How many are used: exact while no CPU charges or releases.
    pub(crate) fn used(self) -> usize {
        let credit: usize = self.credits().map(|credit| credit.0.load(Ordering::Relaxed)).sum();
        self.total().drawn.load(Ordering::Relaxed).saturating_sub(credit)
    }

    /// What is said where the limit is reached.
    pub(crate) fn refusal(self) -> Exhausted {
        Exhausted::Limit(self.what, self.limit())
    }

    /// How many more the limit allows: exact while no CPU charges or releases.
    pub(crate) fn room(self) -> usize {
        self.limit().saturating_sub(self.used())
    }

    /// Sets the limit. What is used beyond it stays. No CPU charges meanwhile.
    pub(crate) fn set_limit(self, limit: Option<usize>) {
        self.total().limit.store(limit.unwrap_or(usize::MAX), Ordering::Relaxed);
        for credit in self.credits() {
            self.total().drawn.fetch_sub(credit.take_some(usize::MAX), Ordering::Relaxed);
        }
    }

    /// The limit, if there is one.
    pub(crate) fn limited(self) -> Option<usize> {
        Some(self.limit()).filter(|&limit| limit != usize::MAX)
    }

    fn limit(self) -> usize {
        self.total().limit.load(Ordering::Relaxed)
    }

    /// Draws so many from the total, if the limit allows it.
    fn draw(self, frames: usize) -> bool {
        let limit = self.limit();
        let more = |drawn: usize| drawn.checked_add(frames).filter(|&drawn| drawn <= limit);
        self.total().drawn.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
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

/// Frames that are on an account until it is dropped, or, [kept](Self::keep), until they are released.
#[must_use]
pub(crate) struct Charge<'a> {
    account: Account<'a>,
    frames: usize,
}

impl Charge<'_> {
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

// Relaxed throughout: no other memory is read or written by what these numbers say.
impl Credit {
    /// Adds to it: how much it is then.
    fn give(&self, frames: usize) -> usize {
        self.0.fetch_add(frames, Ordering::Relaxed) + frames
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
mod tests {
    use std::thread;

    use super::*;

    const FRAMES: Resource = Resource::Frames;

    impl Account<'_> {
        /// Charges for good.
        fn use_up(self, frames: usize) -> Result<(), Exhausted> {
            self.charge(frames).map(Charge::keep)
        }
    }

    fn open(limit: usize) -> Counted<Accounts> {
        Accounts::open(Limits { frames: Some(limit), table_frames: Some(3) }, 16).unwrap()
    }

    #[test]
    fn the_last_frame_is_had_and_no_more() {
        for limit in [0, 1, BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 7] {
            let accounts = open(limit);
            let account = accounts.of(FRAMES);
            (0..limit).for_each(|_| account.use_up(1).unwrap());
            assert_eq!(account.use_up(1), Err(Exhausted::Limit(Resource::Frames, limit)));
            assert_eq!((account.used(), account.room()), (limit, 0));
            account.give_back(limit);
            assert_eq!(account.used(), 0);
            assert_eq!(account.use_up(limit), Ok(()));
        }
    }

    #[test]
    fn a_charge_that_is_not_kept_is_none() {
        let accounts = open(7);
        let account = accounts.of(FRAMES);
        drop(account.charge(7).map_err(drop));
        assert_eq!(account.used(), 0);
        account.charge(5).unwrap().keep();
        assert_eq!((account.used(), account.charge(3).is_ok()), (5, false));
    }

    #[test]
    fn each_resource_has_an_account_of_its_own() {
        let accounts = open(100);
        let tables = accounts.of(Resource::TableFrames);
        accounts.of(FRAMES).use_up(100).unwrap();
        tables.use_up(3).unwrap();
        assert_eq!(tables.use_up(1), Err(Exhausted::Limit(Resource::TableFrames, 3)));
        accounts.of(FRAMES).give_back(50);
        assert_eq!((accounts.of(FRAMES).used(), tables.used()), (50, 3));
        assert_eq!(tables.use_up(1), Err(Exhausted::Limit(Resource::TableFrames, 3)));
    }

    #[test]
    fn what_lies_in_other_stripes_is_had_too() {
        let accounts = open(100);
        let account = accounts.of(FRAMES);
        account.use_up(100).unwrap();
        accounts.stripes.of(CpuId(3)).credit[0].give(30);
        accounts.stripes.of(CpuId(11)).credit[0].give(30);
        assert_eq!(account.use_up(61), Err(Exhausted::Limit(Resource::Frames, 100)));
        assert_eq!(account.used(), 40);
        account.use_up(60).unwrap();
        assert_eq!(account.used(), 100);
    }

    #[test]
    fn a_lower_limit_refuses_until_enough_came_back() {
        let accounts = open(1000);
        let account = accounts.of(FRAMES);
        account.use_up(500).unwrap();
        account.set_limit(Some(400));
        assert_eq!((account.used(), account.room()), (500, 0));
        account.give_back(100);
        assert_eq!(account.use_up(1), Err(Exhausted::Limit(Resource::Frames, 400)));
        account.give_back(1);
        assert_eq!((account.use_up(1), account.use_up(1)), (Ok(()), Err(Exhausted::Limit(Resource::Frames, 400))));
        account.set_limit(None);
        account.use_up(1_000_000).unwrap();
        assert_eq!((account.used(), account.limited()), (1_000_400, None));
    }

    #[test]
    fn what_came_back_does_not_pile_up_in_one_stripe() {
        let accounts = open(usize::MAX);
        let account = accounts.of(FRAMES);
        account.use_up(10_000).unwrap();
        account.give_back(10_000);
        assert_eq!(account.used(), 0);
        assert!(account.total().drawn.load(Ordering::Relaxed) <= 3 * BATCH);
    }

    #[test]
    fn threads_never_have_more_than_the_limit_and_lose_nothing() {
        let accounts = open(50);
        let account = accounts.of(FRAMES);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..if cfg!(miri) { 20 } else { 5000 } {
                        let frames = 1 + round % 20;
                        if account.use_up(frames).is_ok() {
                            assert!(account.total().drawn.load(Ordering::Relaxed) <= 50);
                            account.give_back(frames);
                        }
                    }
                });
            }
        });
        assert_eq!(account.used(), 0);
        account.use_up(50).unwrap();
    }
}
