//! What a guest may have at most, in frames; a guest that wants more disturbs no other.

use crate::prelude::*;

/// More pages than any of these guests may have.
const ENOUGH: usize = 600;

/// Where there is room for tables by the hundred.
const SPARSE: usize = 4 * LARGE;

/// The limits that leave a guest so much beside what it has.
fn leave<M: Machine>(guest: &Guest<'_, M>, frames: Option<usize>, table_frames: Option<usize>) -> Limits {
    let usage = guest.usage();
    let limits = Limits {
        frames: frames.map(|frames| usage.frames + frames),
        table_frames: table_frames.map(|tables| usage.table_frames + tables),
        areas: None,
    };
    guest.set_limits(limits);
    limits
}

/// The guest stores to pages `stride` apart until it may not have another one: where that was, and the refusal.
fn touch_all<M: Machine>(guest: &Guest<'_, M>, from: usize, stride: usize) -> Result<(usize, Error), Stop> {
    for at in (0..ENOUGH).map(|index| from + index * stride) {
        if let Err(refused) = touch(guest, at)? {
            return Ok((at, refused));
        }
    }
    fail!("it has {ENOUGH} pages and no end")
}

/// The guest stores to a page, as often as it takes: or the refusal.
fn touch<M: Machine>(guest: &Guest<'_, M>, at: usize) -> Result<Result<(), Error>, Stop> {
    let run = guest.first();
    for _ in 0..8 {
        match run.attempt(Step::Write(at, at as u64)) {
            crate::Attempt::Done(_) => return Ok(Ok(())),
            crate::Attempt::Again => {}
            crate::Attempt::Fault(fault) => match guest.machine().on(CpuId(0), || guest.fault(CpuId(0), fault)) {
                Ok(Outcome::Resolved | Outcome::Retry) => {}
                Ok(other) => fail!("{other:?}"),
                Err(refused) => return Ok(Err(refused)),
            },
            other => fail!("{other:?}"),
        }
    }
    fail!("{at:x} faults for ever")
}

/// The refusal of one page.
fn refusal(at: usize, what: Resource, limit: Option<usize>) -> Error {
    Error::Limit { range: range(at, PAGE), what, limit: limit.unwrap_or(usize::MAX) }
}

/// A guest that touches a page here and there costs a table for each; it has what it may have, and keeps that.
///
/// # Errors
/// It does not hold.
pub fn a_guest_gets_as_many_tables_as_it_may<M: Machine>(machine: &M) -> Verdict {
    let before = machine.allocated();
    let guest = Guest::new(machine)?;
    let (fresh, own) = (guest.usage(), machine.allocated());
    guest.map(range(SPARSE, 4 * LARGE), LAZY, RW)?;
    let limits = leave(&guest, None, Some(40));
    let (at, refused) = touch_all(&guest, SPARSE, BLOCK)?;
    ensure_eq!(refused, refusal(at, Resource::TableFrames, limits.table_frames));
    ensure_eq!(guest.usage().table_frames, fresh.table_frames + 40);
    ensure!(at > SPARSE + 30 * BLOCK, "no more than {:x}", at - SPARSE);
    // Somewhere else it is the same, and the limit stands for all of it.
    ensure_eq!(touch(&guest, SPARSE + 3 * LARGE)?.map_err(drop), Err(()));
    ensure!(machine.allocated() <= own + 40 + guest.usage().frames, "{}", machine.allocated() - own);
    // What has its tables goes on.
    ensure_eq!(guest.loads(SPARSE)?, Value(SPARSE as u64));
    ensure_eq!(guest.stores(SPARSE + PAGE, 5)?, Value(5));
    guest.unmap(range(SPARSE + BLOCK, BLOCK))?;
    ensure_eq!(touch(&guest, at)?, Ok(()));
    guest.unmap(range(SPARSE, 4 * LARGE))?;
    ensure_eq!((guest.usage().frames, guest.usage().table_frames), (fresh.frames, fresh.table_frames));
    drop(guest);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// The same for pages; the hypervisor's own access is the guest's.
///
/// # Errors
/// It does not hold.
pub fn a_guest_gets_as_many_frames_as_it_may<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let fresh = guest.usage();
    guest.map(range(RAM, BLOCK), LAZY, RW)?;
    let limits = leave(&guest, Some(70), None);
    let (at, refused) = touch_all(&guest, RAM, PAGE)?;
    ensure_eq!(at, RAM + 70 * PAGE);
    ensure_eq!(refused, refusal(at, Resource::Frames, limits.frames));
    let bytes = [7; 3 * PAGE];
    let rest = Error::Limit { range: range(at, 2 * PAGE), what: Resource::Frames, limit: fresh.frames + 70 };
    ensure_eq!(guest.write(gpa(at - PAGE), &bytes), Err(rest));
    ensure_eq!(guest.loads(at - PAGE)?, Value(0x0707_0707_0707_0707));
    ensure_eq!(guest.usage().frames, guest.stats().owned_frames);
    guest.unmap(range(RAM, PAGE))?;
    guest.write_obj(gpa(at), 8_u64)?;
    ensure_eq!(touch(&guest, at + PAGE)?.map_err(drop), Err(()));
    guest.unmap(range(RAM, BLOCK))?;
    ensure_eq!((guest.usage().frames, guest.usage().table_frames), (fresh.frames, fresh.table_frames));
    Ok(())
}

/// Near the limit a guest gets pages where it would have had a block.
///
/// # Errors
/// It does not hold.
pub fn a_block_that_is_too_much_comes_in_pages<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 4 * BLOCK), LAZY_BLOCKS, RW)?;
    leave(&guest, Some(BLOCK / PAGE + 3), None);
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    ensure_eq!(guest.leaf_size(RAM)?, BLOCK);
    let (at, _) = touch_all(&guest, RAM + BLOCK, PAGE)?;
    ensure_eq!(at, RAM + BLOCK + 3 * PAGE);
    ensure_eq!(guest.leaves(), [3, 1, 0, 0, 0]);
    Ok(())
}

/// All or nothing: a mapping that is populated at once.
///
/// # Errors
/// It does not hold.
pub fn a_mapping_that_is_too_much_is_none<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = picture(&guest);
    for (frames, tables) in [(Some(63), None), (None, Some(1)), (Some(0), Some(0))] {
        let limits = leave(&guest, frames, tables);
        let what = if tables == Some(1) { Resource::TableFrames } else { Resource::Frames };
        match guest.map(range(SPARSE - PAGE, 64 * PAGE), PAGES, RW) {
            Err(Error::Limit { range: named, what: refused, limit }) => {
                ensure_eq!(named, range(SPARSE - PAGE, 64 * PAGE));
                ensure!(refused == what || frames == tables, "{refused:?}");
                ensure!([limits.frames, limits.table_frames].contains(&Some(limit)), "{limit}");
            }
            other => fail!("{other:?}"),
        }
        guest.set_limits(Limits::default());
        ensure_eq!(picture(&guest), before);
    }
    leave(&guest, Some(64), None);
    guest.map(range(SPARSE - PAGE, 64 * PAGE), PAGES, RW)?;
    Ok(())
}

/// A page that moves has its place on the account already.
///
/// # Errors
/// It does not hold.
pub fn what_moves_costs_nothing<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, BLOCK), BLOCKS, RW)?;
    guest.map(range(SPARSE, 4 * PAGE), PAGES, RW)?;
    ensure_eq!(guest.stores(RAM, 6)?, Value(6));
    leave(&guest, Some(0), Some(0));
    let before = guest.usage();
    for _ in 0..3 {
        ensure_eq!(guest.relocate(range(RAM, BLOCK))?, BLOCK / PAGE);
        ensure_eq!(guest.relocate(range(SPARSE, 4 * PAGE))?, 4);
    }
    guest.protect(range(RAM, BLOCK), READ)?;
    ensure_eq!(guest.usage(), before);
    ensure_eq!(guest.loads(RAM)?, Value(6));
    // To cut a block takes a table.
    match guest.unmap(range(RAM, PAGE)) {
        Err(Error::Limit { what: Resource::TableFrames, .. }) => {}
        other => fail!("{other:?}"),
    }
    ensure_eq!(guest.loads(RAM)?, Value(6));
    guest.unmap(range(RAM, BLOCK))?;
    Ok(())
}

/// What is in a snapshot is the snapshot's; what the guest writes from then on costs it a frame again.
///
/// # Errors
/// It does not hold.
pub fn a_snapshot_takes_frames_off_the_account<M: Machine>(machine: &M) -> Verdict {
    let before = machine.allocated();
    let guest = Guest::new(machine)?;
    let fresh = guest.usage();
    guest.map(range(RAM, 8 * PAGE), LAZY, RW)?;
    let limits = leave(&guest, Some(4), None);
    touch_all(&guest, RAM, PAGE)?;
    let snapshot = guest.snapshot()?;
    ensure_eq!(guest.usage().frames, fresh.frames);
    let stats = guest.stats();
    ensure_eq!((stats.owned_frames - fresh.frames, stats.copied_frames, stats.shared_frames), (0, 0, 4));
    let (at, refused) = touch_all(&guest, RAM + PAGE, PAGE)?;
    ensure_eq!((at, refused), (RAM + 5 * PAGE, refusal(RAM + 5 * PAGE, Resource::Frames, limits.frames)));
    let stats = guest.stats();
    ensure_eq!((stats.owned_frames - fresh.frames, stats.copied_frames, stats.shared_frames), (4, 4, 1));
    // To read costs nothing.
    ensure_eq!(guest.loads(RAM)?, Value(RAM as u64));
    ensure_eq!(touch(&guest, RAM)?.map_err(drop), Err(()));
    let fork = Guest::new(machine)?;
    fork.restore(&snapshot)?;
    leave(&fork, Some(0), None);
    ensure_eq!(fork.loads(RAM)?, Value(RAM as u64));
    ensure_eq!(touch(&fork, RAM)?.map_err(drop), Err(()));
    for guest in [&guest, &fork] {
        guest.unmap(range(RAM, 8 * PAGE))?;
        ensure_eq!((guest.usage().frames, guest.usage().table_frames), (fresh.frames, fresh.table_frames));
    }
    drop((guest, fork, snapshot));
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// The last guest of a region takes its pages, and then they are on its account.
///
/// # Errors
/// It does not hold.
pub fn a_copy_counts_and_so_does_a_page_that_is_taken<M: Machine>(machine: &M) -> Verdict {
    let before = machine.allocated();
    let guest = Guest::new(machine)?;
    let fresh = guest.usage();
    guest.map(range(RAM, 4 * PAGE), PAGES, RW)?;
    let snapshot = guest.snapshot()?;
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    ensure_eq!(guest.usage().frames, fresh.frames + 1);
    drop(snapshot);
    let frame = guest.frame(RAM + PAGE)?;
    ensure_eq!(guest.stores(RAM + PAGE, 2)?, Value(2));
    ensure_eq!(guest.frame(RAM + PAGE)?, frame);
    ensure_eq!(guest.usage().frames, fresh.frames + 2);
    let limits = leave(&guest, Some(0), None);
    ensure_eq!(touch(&guest, RAM + 2 * PAGE)?, Err(refusal(RAM + 2 * PAGE, Resource::Frames, limits.frames)));
    ensure_eq!(guest.loads(RAM + 2 * PAGE)?, Value(0));
    leave(&guest, Some(1), None);
    ensure_eq!(touch(&guest, RAM + 2 * PAGE)?, Ok(()));
    guest.unmap(range(RAM, 4 * PAGE))?;
    ensure_eq!(guest.usage().frames, fresh.frames);
    drop(guest);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// A limit below what is used refuses what is new, until enough came back.
///
/// # Errors
/// It does not hold.
pub fn a_lower_limit_takes_nothing_away<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let fresh = guest.usage();
    guest.map(range(RAM, BLOCK), LAZY, RW)?;
    for page in 0..200 {
        ensure_eq!(guest.stores(RAM + page * PAGE, 1)?, Value(1));
    }
    let limits = Limits { frames: Some(fresh.frames + 100), ..Limits::default() };
    guest.set_limits(limits);
    ensure_eq!(guest.usage().limits, limits);
    ensure_eq!(guest.loads(RAM + 199 * PAGE)?, Value(1));
    ensure_eq!(touch(&guest, RAM + 200 * PAGE)?.map_err(drop), Err(()));
    guest.unmap(range(RAM, 100 * PAGE))?;
    ensure_eq!(touch(&guest, RAM + 200 * PAGE)?.map_err(drop), Err(()));
    guest.unmap(range(RAM + 100 * PAGE, PAGE))?;
    ensure_eq!(touch(&guest, RAM + 200 * PAGE)?, Ok(()));
    ensure_eq!(touch(&guest, RAM + 201 * PAGE)?.map_err(drop), Err(()));
    Ok(())
}

/// One of two CPUs has the last frame for the page that both touch: the other one is not refused.
///
/// # Errors
/// It does not hold.
pub fn both_cpus_touch_the_last_page<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    for round in 0..machine.rounds(100) {
        guest.map(range(SPARSE, PAGE), LAZY, RW)?;
        leave(&guest, Some(1), None);
        let (one, two) = machine
            .both(|| guest.seat(0, 0).stores(SPARSE, 1).map(drop), || guest.seat(1, 1).stores(SPARSE + 8, 2).map(drop));
        one?;
        two?;
        ensure_eq!((guest.loads(SPARSE)?, guest.loads(SPARSE + 8)?), (Value(1), Value(2)), "round {round}");
        guest.set_limits(Limits::default());
        guest.unmap(range(SPARSE, PAGE))?;
    }
    Ok(())
}

/// A guest that has pages taken away on its own word cuts its areas into as many as it may have. At the limit it keeps the
/// page, or has it emptied in place.
///
/// # Errors
/// It does not hold.
pub fn a_balloon_cuts_no_more_areas_than_it_may<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 16 * PAGE), LAZY, RW)?;
    // A machine may have areas of its own in the guest.
    let before = guest.usage().areas;
    let limit = before + 1;
    guest.set_limits(Limits { areas: Some(limit), ..Limits::default() });
    for page in [2, 5, 9] {
        ensure_eq!(guest.stores(RAM + page * PAGE, page as u64)?, Value(page as u64));
    }
    guest.unmap(range(RAM + 2 * PAGE, PAGE))?;
    ensure_eq!((guest.usage().areas, guest.loads(RAM + 2 * PAGE)?), (limit, NotMapped));
    let page = range(RAM + 5 * PAGE, PAGE);
    let refused = Error::Limit { range: page, what: Resource::Areas, limit };
    ensure_eq!((guest.unmap(page), guest.protect(page, READ)), (Err(refused), Err(refused)));
    ensure_eq!((guest.loads(RAM + 5 * PAGE)?, guest.stores(RAM + 5 * PAGE, 7)?), (Value(5), Value(7)));
    guest.discard(page, Refill::Zeros)?;
    ensure_eq!((guest.loads(RAM + 5 * PAGE)?, guest.loads(RAM + 9 * PAGE)?), (Value(0), Value(9)));
    // The page that comes back is one area with its neighbours.
    guest.map(range(RAM + 2 * PAGE, PAGE), LAZY, RW)?;
    ensure_eq!(guest.usage().areas, before);
    guest.unmap(page)?;
    ensure_eq!((guest.usage().areas, guest.loads(RAM + 5 * PAGE)?), (limit, NotMapped));
    Ok(())
}
