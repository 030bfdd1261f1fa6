//! What is granted, by one CPU and by several at once.

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
    Accounts::open(Limits { frames: Some(limit), table_frames: Some(3), areas: None }, 16).unwrap()
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
fn areas_fit_up_to_the_limit() {
    let accounts = Accounts::open(Limits { areas: Some(5), ..Limits::default() }, 4).unwrap();
    let areas = accounts.areas();
    assert_eq!((areas.used(), areas.limited(), areas.fits(5), areas.fits(6)), (0, Some(5), true, false));
    areas.note(4);
    assert_eq!((areas.used(), areas.fits(1), areas.fits(2)), (4, true, false));
    areas.set_limit(Some(2));
    assert_eq!((areas.used(), areas.limited(), areas.fits(0)), (4, Some(2), false));
    areas.note(1);
    assert_eq!((areas.used(), areas.fits(1), areas.fits(2)), (1, true, false));
    areas.set_limit(None);
    assert_eq!((areas.used(), areas.limited(), areas.fits(1 << 30)), (1, None, true));
    areas.set_limit(Some(usize::MAX));
    assert_eq!((areas.limited(), areas.fits(1 << 30)), (None, true), "more than there can be");
}

#[test]
fn what_lies_in_other_stripes_is_had_too() {
    let accounts = open(160);
    let account = accounts.of(FRAMES);
    account.use_up(100).unwrap();
    for cpu in [CpuId(3), CpuId(11)] {
        assert!(account.draw(30));
        accounts.stripes.of(cpu).credit[0].give(30);
    }
    assert_eq!(account.use_up(61), Err(Exhausted::Limit(Resource::Frames, 160)));
    assert_eq!(account.used(), 100);
    account.use_up(60).unwrap();
    assert_eq!(account.used(), 160);
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
fn no_limit_is_not_the_largest_one_and_nothing_overflows() {
    let accounts = open(usize::MAX);
    let account = accounts.of(FRAMES);
    assert_eq!((account.limited(), account.room()), (None, UNLIMITED));
    account.use_up(UNLIMITED).unwrap();
    assert_eq!((account.used(), account.room(), account.use_up(1).is_ok()), (UNLIMITED, 0, false));
    account.set_limit(Some(0));
    assert_eq!((account.used(), account.room()), (UNLIMITED, 0));
    account.give_back(UNLIMITED);
    assert_eq!((account.used(), account.use_up(1).is_ok()), (0, false));
}

/// What is given back at the same time is not granted on, and no CPU reads a number that never was.
#[test]
fn a_lower_limit_holds_from_the_moment_on_that_it_is_set() {
    const HIGH: usize = 100;
    const LOW: usize = 50;
    const ROUNDS: usize = if cfg!(miri) { 20 } else { 100_000 };
    let accounts = open(HIGH);
    let account = accounts.of(FRAMES);
    let (arrived, wrong) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let meet = |times: usize| {
        arrived.fetch_add(1, Ordering::AcqRel);
        while arrived.load(Ordering::Acquire) < 2 * times {
            core::hint::spin_loop();
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                account.use_up(HIGH).unwrap();
                meet(3 * round + 1);
                account.give_back(1 + round % 40);
                let used = account.used();
                meet(3 * round + 2);
                wrong.fetch_add(usize::from(used != HIGH - (1 + round % 40)), Ordering::Relaxed);
                meet(3 * round + 3);
            }
        });
        for round in 0..ROUNDS {
            meet(3 * round + 1);
            account.set_limit(Some(LOW));
            meet(3 * round + 2);
            wrong.fetch_add(usize::from(account.charge_on(CpuId(0), 1).is_ok()), Ordering::Relaxed);
            account.give_back(account.used());
            account.set_limit(Some(HIGH));
            meet(3 * round + 3);
        }
    });
    assert_eq!(wrong.into_inner(), 0);
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
                        assert!(account.total().room.load(Ordering::Relaxed) >= 0);
                        account.give_back(frames);
                    }
                }
            });
        }
    });
    assert_eq!(account.used(), 0);
    account.use_up(50).unwrap();
}
