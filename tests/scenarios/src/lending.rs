//! Memory that one guest gives another: to look at, for a while, or for good.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::prelude::*;

/// Where the borrower has it.
const THERE: usize = RAM + 16 * BLOCK;

/// Two guests, the first of which has written its pages' numbers into so many.
fn pair<M: Machine>(machine: &M, pages: usize) -> Result<(Guest<'_, M>, Guest<'_, M>), Stop> {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    one.map(range(RAM, pages * PAGE), LAZY, RW)?;
    for page in 0..pages {
        ensure_eq!(one.stores(RAM + page * PAGE, page as u64)?, Value(page as u64));
    }
    Ok((one, two))
}

/// What the owner writes the borrower reads, and the other way round; the owner keeps all that it had.
///
/// # Errors
/// It does not hold.
pub fn both_see_what_either_writes<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = pair(machine, 4)?;
    let loan = one.share(range(RAM + PAGE, 2 * PAGE), &two, gpa(THERE), RW)?;
    ensure_eq!((two.loads(THERE)?, two.loads(THERE + PAGE)?), (Value(1), Value(2)));
    ensure_eq!(two.loads(THERE + 2 * PAGE)?, NotMapped);
    ensure_eq!(two.stores(THERE + 8, 7)?, Value(7));
    ensure_eq!(one.loads(RAM + PAGE + 8)?, Value(7));
    ensure_eq!(one.stores(RAM + 2 * PAGE, 8)?, Value(8));
    ensure_eq!(two.loads(THERE + PAGE)?, Value(8));
    ensure_eq!(two.write_obj(gpa(THERE), 9_u64), Ok(()));
    ensure_eq!(one.loads(RAM + PAGE)?, Value(9));
    one.reclaim(&loan, &two, Handover::Keep)?;
    ensure_eq!(two.loads(THERE)?, NotMapped);
    ensure_eq!((one.loads(RAM + PAGE)?, one.loads(RAM + PAGE + 8)?), (Value(9), Value(7)));
    Ok(())
}

/// What a borrower could write counts as written when it is back: a migration that copies written pages copies it too.
///
/// # Errors
/// It does not hold.
pub fn what_comes_back_counts_as_written<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    one.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    for (at, flags, written) in [(RAM, RW, true), (RAM + PAGE, READ, false)] {
        let used = || machine.used(&one, gpa(at));
        ensure!(used() != Some(Used::Dirty), "no guest wrote it yet");
        let loan = one.lend(range(at, PAGE), &two, gpa(THERE), flags)?;
        one.reclaim(&loan, &two, Handover::Keep)?;
        ensure!(used().is_none_or(|used| (used == Used::Dirty) == written), "{used:?}", used = used());
    }
    Ok(())
}

/// A page that one borrower could write and another could not counts as written when the last of them is done.
///
/// # Errors
/// It does not hold.
pub fn what_several_wrote_counts_as_written<M: Machine>(machine: &M) -> Verdict {
    let (one, two, three) = (Guest::new(machine)?, Guest::new(machine)?, Guest::new(machine)?);
    one.map(range(RAM, PAGE), PAGES, RW)?;
    let used = || machine.used(&one, gpa(RAM));
    ensure!(used() != Some(Used::Dirty), "no guest wrote it yet");
    let writer = one.share(range(RAM, PAGE), &two, gpa(THERE), RW)?;
    let reader = one.share(range(RAM, PAGE), &three, gpa(THERE), READ)?;
    ensure_eq!(two.stores(THERE, 5)?, Value(5));
    one.reclaim(&writer, &two, Handover::Keep)?;
    one.reclaim(&reader, &three, Handover::Keep)?;
    ensure!(used().is_none_or(|used| used == Used::Dirty), "{used:?}", used = used());
    Ok(())
}

/// Two borrowers and the owner see each other's writes, each for as long as its loan, on the other CPU too.
///
/// # Errors
/// It does not hold.
pub fn two_borrowers_and_the_owner_see_each_other<M: Machine>(machine: &M) -> Verdict {
    let cpu = machine.facts().cpus - 1;
    let (one, two) = pair(machine, 3)?;
    let three = Guest::new(machine)?;
    let first = one.share(range(RAM, 2 * PAGE), &two, gpa(THERE), RW)?;
    let second = one.share(range(RAM + PAGE, 2 * PAGE), &three, gpa(THERE), RW)?;
    let (owner, other, third) = (one.seat(cpu, cpu), two.seat(cpu, cpu), three.seat(cpu, cpu));
    ensure_eq!(other.stores(THERE + PAGE, 7)?, Value(7));
    ensure_eq!((owner.loads(RAM + PAGE)?, third.loads(THERE)?), (Value(7), Value(7)));
    ensure_eq!(third.stores(THERE, 8)?, Value(8));
    ensure_eq!((owner.loads(RAM + PAGE)?, other.loads(THERE + PAGE)?), (Value(8), Value(8)));
    one.reclaim(&first, &two, Handover::Zero)?;
    ensure_eq!((other.loads(THERE)?, other.stores(THERE + PAGE, 9)?), (NotMapped, NotMapped));
    ensure_eq!((owner.loads(RAM)?, owner.loads(RAM + PAGE)?), (Value(0), Value(8)));
    let refused = Err(Error::State { range: range(RAM + PAGE, PAGE), state: PageState::SharedOut });
    ensure_eq!(one.unmap(range(RAM, 2 * PAGE)), refused);
    ensure_eq!((owner.stores(RAM + PAGE, 9)?, third.loads(THERE)?), (Value(9), Value(9)));
    one.reclaim(&second, &three, Handover::Keep)?;
    ensure_eq!((third.loads(THERE)?, owner.loads(RAM + PAGE)?), (NotMapped, Value(9)));
    one.unmap(range(RAM, 3 * PAGE))?;
    Ok(())
}

/// A part that is taken back is gone at the borrower at once, on its other CPU too, and is there at the owner; the rest
/// stays where it was. The same out of the middle of a block.
///
/// # Errors
/// It does not hold.
pub fn a_part_comes_back_and_the_rest_stays<M: Machine>(machine: &M) -> Verdict {
    let cpu = machine.facts().cpus - 1;
    for (backing, size) in [(LAZY, 4 * PAGE), (BLOCKS, BLOCK)] {
        let before = machine.allocated();
        let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
        one.map(range(RAM, size), backing, RW)?;
        let (owner, borrower) = (one.seat(cpu, cpu), two.seat(cpu, cpu));
        ensure_eq!((owner.stores(RAM + PAGE, 1)?, owner.stores(RAM + 2 * PAGE, 2)?), (Value(1), Value(2)));
        let loan = one.lend(range(RAM, size), &two, gpa(THERE), RW)?;
        ensure_eq!((borrower.stores(THERE + PAGE, 5)?, borrower.loads(THERE + 2 * PAGE)?), (Value(5), Value(2)));
        one.reclaim_part(&loan, range(RAM + PAGE, PAGE), &two, Handover::Keep)?;
        ensure_eq!((borrower.stores(THERE + PAGE, 6)?, borrower.loads(THERE + PAGE)?), (NotMapped, NotMapped));
        ensure_eq!((owner.loads(RAM + PAGE)?, owner.stores(RAM + PAGE, 7)?), (Value(5), Value(7)));
        ensure_eq!((owner.loads(RAM)?, owner.stores(RAM + 2 * PAGE, 9)?), (Lent, Lent));
        ensure_eq!((borrower.loads(THERE + 2 * PAGE)?, borrower.stores(THERE, 3)?), (Value(2), Value(3)));
        ensure_eq!(loan.borrowed(), size - PAGE);
        ensure!(loan.outstanding().eq([range(RAM, PAGE), range(RAM + 2 * PAGE, size - 2 * PAGE)]), "{loan:?}");
        one.unmap(range(RAM + PAGE, PAGE))?;
        one.reclaim(&loan, &two, Handover::Keep)?;
        ensure_eq!((owner.loads(RAM)?, owner.loads(RAM + 2 * PAGE)?), (Value(3), Value(2)));
        ensure_eq!(borrower.loads(THERE)?, NotMapped);
        drop((one, two));
        ensure_eq!(machine.allocated(), before);
    }
    Ok(())
}

/// The owner faults on what it lent, and finds what the borrower wrote when it is back, or zeros.
///
/// # Errors
/// It does not hold.
pub fn what_is_lent_is_out_of_reach_until_it_is_back<M: Machine>(machine: &M) -> Verdict {
    for (handover, left) in [(Handover::Keep, 5), (Handover::Zero, 0)] {
        let (one, two) = pair(machine, 3)?;
        let loan = one.lend(range(RAM + PAGE, PAGE), &two, gpa(THERE), RW)?;
        ensure_eq!((one.loads(RAM + PAGE)?, one.stores(RAM + PAGE, 1)?), (Lent, Lent));
        ensure_eq!((one.loads(RAM)?, one.loads(RAM + 2 * PAGE)?), (Value(0), Value(2)));
        ensure_eq!((two.loads(THERE)?, two.stores(THERE, 5)?), (Value(1), Value(5)));
        one.reclaim(&loan, &two, handover)?;
        ensure_eq!((one.loads(RAM + PAGE)?, two.loads(THERE)?), (Value(left), NotMapped));
    }
    Ok(())
}

/// The owner executes what it shares, a borrower does not.
///
/// # Errors
/// It does not hold.
pub fn a_borrower_never_executes<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    one.map(range(RAM, PAGE), LAZY, RWX)?;
    one.write(gpa(RAM), &machine.code(7))?;
    ensure!(matches!(one.share(range(RAM, PAGE), &two, gpa(THERE), RX), Err(Error::Flags { .. })), "it may execute");
    one.share(range(RAM, PAGE), &two, gpa(THERE), RW)?;
    ensure_eq!((one.calls(RAM)?, two.calls(THERE)?), (Value(7), Denied(RW)));
    ensure!(matches!(two.protect(range(THERE, PAGE), RX), Err(Error::Denied { .. })), "it makes itself execute");
    two.write(gpa(THERE), &machine.code(9))?;
    ensure_eq!((one.calls(RAM)?, two.calls(THERE)?), (Value(9), Denied(RW)));
    Ok(())
}

/// What a borrower wrote is executed by its owner, which has it back (H14).
///
/// # Errors
/// It does not hold.
pub fn code_that_comes_back_is_executed<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    one.map(range(RAM, PAGE), LAZY, RWX)?;
    one.write(gpa(RAM), &machine.code(7))?;
    ensure_eq!(one.calls(RAM)?, Value(7));
    let loan = one.lend(range(RAM, PAGE), &two, gpa(THERE), RW)?;
    ensure_eq!(one.calls(RAM)?, Lent);
    two.write(gpa(THERE), &machine.code(9))?;
    one.reclaim(&loan, &two, Handover::Keep)?;
    ensure_eq!(one.calls(RAM)?, Value(9));
    Ok(())
}

/// Neither of the lender's CPUs reaches what it lent, nor the borrower's what was reclaimed: not by a translation that it
/// had before, either.
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_loses_what_is_lent_and_what_is_reclaimed<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let (one, two) = pair(machine, 2)?;
    let (owner, borrower) = (one.seat(1, 1), two.seat(1, 1));
    ensure_eq!(owner.stores(RAM, 3)?, Value(3));
    let loan = one.lend(range(RAM, PAGE), &two, gpa(THERE), RW)?;
    ensure_eq!((owner.stores(RAM, 4)?, owner.loads(RAM)?), (Lent, Lent));
    ensure_eq!((borrower.loads(THERE)?, borrower.stores(THERE, 5)?), (Value(3), Value(5)));
    one.reclaim(&loan, &two, Handover::Keep)?;
    ensure_eq!((borrower.stores(THERE, 6)?, borrower.loads(THERE)?), (NotMapped, NotMapped));
    ensure_eq!(owner.loads(RAM)?, Value(5));
    Ok(())
}

/// The borrower's guest counts on CPU 1 while the lender takes the memory back: what it counted to is there, and no more.
///
/// # Errors
/// It does not hold.
pub fn memory_is_reclaimed_under_a_running_borrower<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let (one, two) = pair(machine, 2)?;
    for _ in 0..machine.rounds(5) {
        one.write_obj(gpa(RAM), 0_u64)?;
        let loan = one.lend(range(RAM, 2 * PAGE), &two, gpa(THERE), RW)?;
        two.write_obj(gpa(THERE + PAGE), 0_u64)?;
        let over = AtomicBool::new(false);
        let host = || -> Result<u64, Stop> {
            while !over.load(Ordering::Acquire) && two.read_obj::<u64>(gpa(THERE))? < 100 {
                core::hint::spin_loop();
            }
            one.reclaim(&loan, &two, Handover::Keep)?;
            let counted = one.read_obj::<u64>(gpa(RAM))?;
            ensure_eq!(one.write_obj(gpa(RAM), 0_u64), Ok(()));
            Ok(counted)
        };
        let vcpu = || {
            let came = two.seat(1, 1).tries(Step::CountTo(THERE, u64::MAX), 1000);
            over.store(true, Ordering::Release);
            came
        };
        let (counted, came) = machine.both(host, vcpu);
        ensure!(counted? >= 100, "it did not count");
        ensure_eq!((came?, one.loads(RAM)?), (NotMapped, Value(0)));
    }
    Ok(())
}

/// Part of a block is lent, and used in a block where it fits.
///
/// # Errors
/// It does not hold.
pub fn blocks_are_split_and_joined_as_they_fit<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    one.map(range(RAM, 3 * BLOCK), BLOCKS, RW)?;
    ensure_eq!(one.leaves()[..2], [0, 3]);
    for at in [RAM, RAM + BLOCK, RAM + 2 * BLOCK] {
        ensure_eq!(one.stores(at, at as u64)?, Value(at as u64));
    }
    let loan = one.lend(range(RAM + BLOCK - PAGE, BLOCK + PAGE), &two, gpa(THERE - PAGE), RW)?;
    ensure_eq!((one.leaves()[..2].to_vec(), two.leaves()[..2].to_vec()), ([511, 1].to_vec(), [1, 1].to_vec()));
    ensure_eq!((one.loads(RAM)?, one.loads(RAM + BLOCK)?), (Value(RAM as u64), Lent));
    ensure_eq!((two.loads(THERE)?, two.loads(THERE - PAGE)?), (Value((RAM + BLOCK) as u64), Value(0)));
    one.reclaim(&loan, &two, Handover::Keep)?;
    ensure_eq!(one.loads(RAM + BLOCK)?, Value((RAM + BLOCK) as u64));
    ensure_eq!((one.stats().owned_frames, two.stats().borrowed_frames), (3 * BLOCK / PAGE, 0));
    Ok(())
}

/// No frame is lost, whether lender or borrower ends first; memory of a lender that ended stays with its borrower.
///
/// # Errors
/// It does not hold.
pub fn the_end_of_either_loses_nothing<M: Machine>(machine: &M) -> Verdict {
    let before = machine.allocated();
    {
        let (one, two) = pair(machine, 3)?;
        let shared = one.share(range(RAM, PAGE), &two, gpa(THERE), RW)?;
        let lent = one.lend(range(RAM + PAGE, PAGE), &two, gpa(THERE + PAGE), RW)?;
        drop(two);
        for loan in [shared, lent] {
            one.reclaim_returned(&loan, Handover::Keep)?;
        }
        ensure_eq!(one.loads(RAM + PAGE)?, Value(1));
    }
    ensure_eq!(machine.allocated(), before);
    {
        let (one, two) = pair(machine, 3)?;
        one.share(range(RAM + PAGE, PAGE), &two, gpa(THERE), RW)?;
        one.lend(range(RAM + 2 * PAGE, PAGE), &two, gpa(THERE + PAGE), RW)?;
        drop(one);
        ensure_eq!((two.loads(THERE)?, two.stores(THERE + PAGE, 9)?), (Value(1), Value(9)));
        two.unmap(range(THERE, PAGE))?;
        ensure_eq!(two.loads(THERE + PAGE)?, Value(9));
    }
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// What does not go names the page and its state, and changes nothing.
///
/// # Errors
/// It does not hold.
pub fn a_wrong_transition_names_the_page_and_its_state<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = pair(machine, 4)?;
    let third = Guest::new(machine)?;
    one.share(range(RAM + PAGE, PAGE), &two, gpa(THERE), RW)?;
    one.lend(range(RAM + 2 * PAGE, PAGE), &two, gpa(THERE + PAGE), RW)?;
    let before = (picture(&one), picture(&two), picture(&third));
    let is = |at: usize, state| Err(Error::State { range: range(at, PAGE), state });
    for (guest, at, state) in [
        (&one, RAM + PAGE, PageState::SharedOut),
        (&one, RAM + 2 * PAGE, PageState::Lent),
        (&two, THERE, PageState::Borrowed),
    ] {
        ensure_eq!(guest.page_state(gpa(at)), state);
        let part = range(at, PAGE);
        if state != PageState::SharedOut {
            ensure_eq!(guest.share(part, &third, gpa(RAM), RW).map(drop), is(at, state), "share");
        }
        ensure_eq!(guest.lend(part, &third, gpa(RAM), RW).map(drop), is(at, state), "lend");
        ensure_eq!(guest.donate(part, &third, gpa(RAM), RW, Handover::Keep), is(at, state), "donate");
        ensure_eq!(guest.make_shared(part).map(drop), is(at, state), "make_shared");
        ensure_eq!(guest.relocate(part).map(drop), is(at, state), "relocate");
        ensure_eq!(
            guest.snapshot().map(drop),
            is(if at == THERE { at } else { RAM + PAGE }, state_of(state)),
            "snapshot"
        );
        if state != PageState::Borrowed {
            ensure_eq!(guest.unmap(part), is(at, state), "unmap");
            ensure_eq!(guest.protect(part, READ), is(at, state), "protect");
        }
    }
    ensure_eq!((picture(&one), picture(&two), picture(&third)), before);
    Ok(())
}

/// The first page that a snapshot of a space with a page in this state finds.
fn state_of(state: PageState) -> PageState {
    if state == PageState::Lent { PageState::SharedOut } else { state }
}

/// What is given is gone at the giver at once, on the other CPU too, and is the taker's own: with what is written in it or
/// zeroed, by choice.
///
/// # Errors
/// It does not hold.
pub fn what_is_donated_is_the_takers_alone<M: Machine>(machine: &M) -> Verdict {
    let cpu = machine.facts().cpus - 1;
    for (handover, left) in [(Handover::Keep, 1), (Handover::Zero, 0)] {
        let (one, two) = pair(machine, 3)?;
        let (giver, taker) = (one.seat(cpu, cpu), two.seat(cpu, cpu));
        ensure_eq!(giver.stores(RAM + PAGE, 1)?, Value(1));
        let frame = one.frame(RAM + PAGE)?;
        one.donate(range(RAM + PAGE, PAGE), &two, gpa(THERE), RWX, handover)?;
        ensure_eq!((giver.stores(RAM + PAGE, 9)?, giver.loads(RAM + PAGE)?), (NotMapped, NotMapped));
        ensure_eq!((taker.loads(THERE)?, two.frame(THERE)?), (Value(left), frame));
        ensure_eq!(
            (two.page_state(gpa(THERE)), one.page_state(gpa(RAM + PAGE))),
            (PageState::Owned, PageState::Nothing)
        );
        two.write(gpa(THERE), &machine.code(7))?;
        ensure_eq!(taker.calls(THERE)?, Value(7));
        let before = machine.allocated();
        drop(one);
        ensure_eq!(taker.calls(THERE)?, Value(7));
        two.unmap(range(THERE, PAGE))?;
        ensure!(machine.allocated() < before, "the page is not free");
    }
    Ok(())
}

/// Every frame that is given away in blocks and parts of blocks is freed once.
///
/// # Errors
/// It does not hold.
pub fn parts_of_blocks_are_donated_and_freed<M: Machine>(machine: &M) -> Verdict {
    let before = machine.allocated();
    {
        let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
        one.map(range(RAM, 3 * BLOCK), BLOCKS, RW)?;
        ensure_eq!(one.stores(RAM + BLOCK, 4)?, Value(4));
        one.donate(range(RAM + BLOCK - PAGE, BLOCK + 2 * PAGE), &two, gpa(THERE - PAGE), RW, Handover::Keep)?;
        ensure_eq!((two.loads(THERE)?, two.leaf_size(THERE)?), (Value(4), BLOCK));
        ensure_eq!((one.loads(RAM + BLOCK)?, one.loads(RAM + 2 * BLOCK)?), (NotMapped, NotMapped));
        ensure_eq!(one.loads(RAM + 2 * BLOCK + PAGE)?, Value(0));
        two.unmap(range(THERE + PAGE, PAGE))?;
        two.donate(range(THERE, PAGE), &one, gpa(RAM + BLOCK), RW, Handover::Keep)?;
        ensure_eq!(one.loads(RAM + BLOCK)?, Value(4));
    }
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// Private memory becomes a region's under a running guest, which another guest then maps; and private again when that one
/// is out, kept or zeroed.
///
/// # Errors
/// It does not hold.
pub fn private_memory_becomes_shared_and_private_again<M: Machine>(machine: &M) -> Verdict {
    for (handover, left) in [(Handover::Keep, 8), (Handover::Zero, 0)] {
        let before = machine.allocated();
        let (one, two) = pair(machine, 2)?;
        one.map(range(RAM + 2 * PAGE, PAGE), LAZY, READ)?;
        let frame = one.frame(RAM + PAGE)?;
        let region = one.make_shared(range(RAM + PAGE, 2 * PAGE))?;
        ensure_eq!((region.frames(), one.frame(RAM + PAGE)?), (1, frame));
        ensure_eq!(one.page_state(gpa(RAM + PAGE)), PageState::Region);
        two.map(range(THERE, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW)?;
        ensure_eq!((two.loads(THERE)?, two.stores(THERE, 8)?), (Value(1), Value(8)));
        ensure_eq!((one.loads(RAM + PAGE)?, two.stores(THERE + PAGE, 9)?), (Value(8), Value(9)));
        let area = range(RAM + PAGE, PAGE);
        let in_use =
            |mappings, handles| Err(Error::Region { range: area, cause: RegionError::InUse { mappings, handles } });
        ensure_eq!(one.make_private(area, handover), in_use(2, 1));
        two.unmap(range(THERE, 2 * PAGE))?;
        ensure_eq!(one.make_private(area, handover), in_use(1, 1));
        drop(region);
        one.make_private(range(RAM + PAGE, 2 * PAGE), handover)?;
        ensure_eq!((one.page_state(gpa(RAM + PAGE)), one.frame(RAM + PAGE)?), (PageState::Owned, frame));
        let read_only = if handover == Handover::Keep { 9 } else { 0 };
        ensure_eq!((one.loads(RAM + PAGE)?, one.loads(RAM + 2 * PAGE)?), (Value(left), Value(read_only)));
        ensure_eq!((one.stores(RAM + PAGE, 3)?, one.stores(RAM + 2 * PAGE, 3)?), (Value(3), Denied(READ)));
        drop((one, two));
        ensure_eq!(machine.allocated(), before);
    }
    Ok(())
}
