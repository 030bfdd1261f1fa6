//! What only this machine can be asked: whether the CPU accepts what the crate writes, what it notes there, and whether
//! a fault in the shootdown would show.

use core::{
    hint,
    sync::atomic::{AtomicBool, Ordering},
};

use hypervisor::cpu;
use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{Access, Cause, Error, Fault, LeafPolicy, Mapping, MappingFlags, Outcome, PhysAddr, Populate};
use stage2_bare::pc::Errand;
use stage2_scenarios::{Attempt, Came, Guest, Machine, Scenario, Seat, Seen, Step, Stop, Verdict, gpa, range};

use crate::{
    machine::{Svm, run_here, seat},
    real_mode::a_guest_in_real_mode_runs_on_lazy_memory,
    shooter::{self, Flaw},
    tables::{ACCESSED, DIRTY, Entry, LARGE, NO_EXECUTE, PRESENT, USER, WRITE},
};

/// All of them.
pub const ALL: &[Scenario<Svm>] = &[
    Scenario { name: "svm::a_guest_that_spins_sees_a_moved_page_where_it_is", run: |svm| shows(svm, Flaw::None) },
    Scenario { name: "svm::a_shootdown_that_is_left_out_is_seen", run: |svm| shows(svm, Flaw::NotTold) },
    Scenario { name: "svm::nothing_goes_before_every_cpu_was_told", run: nothing_goes_before_every_cpu_was_told },
    Scenario { name: "svm::what_is_accepted_has_no_reserved_bit", run: what_is_accepted_has_no_reserved_bit },
    Scenario { name: "svm::a_reserved_bit_is_seen", run: a_reserved_bit_is_seen },
    Scenario { name: "svm::a_large_leaf_is_one_where_the_cpu_has_it", run: a_large_leaf_is_one_where_the_cpu_has_it },
    Scenario { name: "svm::what_the_cpu_noted_first_stays", run: what_the_cpu_noted_first_stays },
    Scenario { name: "svm::no_note_is_lost_in_a_race", run: no_note_is_lost_in_a_race },
    Scenario { name: "svm::the_guests_tables_must_be_writable", run: the_guests_tables_must_be_writable },
    Scenario { name: "svm::a_guest_in_real_mode_runs_on_lazy_memory", run: a_guest_in_real_mode_runs_on_lazy_memory },
    Scenario { name: "svm::no_freed_frame_was_written", run: no_freed_frame_was_written },
];

/// Where the guests' memory is.
const RAM: usize = 0x4000_0000;
const BLOCK: usize = 2 << 20;
const GIGABYTE: usize = 1 << 30;
const READ: MappingFlags = MappingFlags::READ;
const RW: MappingFlags = READ.union(MappingFlags::WRITE);
const RWX: MappingFlags = RW.union(MappingFlags::EXECUTE);
const PAGES: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };
const BLOCKS: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Largest };

/// How long a guest gets to see something that it must see, in ticks of the time-stamp counter: many seconds.
const PATIENCE: u64 = 1 << 35;
/// How long something must not come to be taken for never: long for an emulator, too.
const NEVER: u64 = 1 << 30;

fn need_two_cpus(svm: &Svm) -> Verdict {
    if svm.facts().cpus < 2 { Err(Stop::Skipped("it needs two CPUs")) } else { Ok(()) }
}

/// Waits for something, but not for ever: whether it came.
fn comes(patience: u64, mut something: impl FnMut() -> bool) -> bool {
    let start = cpu::ticks();
    while !something() {
        if cpu::ticks() - start > patience {
            return false;
        }
        hint::spin_loop();
    }
    true
}

/// Runs a guest on CPU 1 that waits for a word in memory and does not exit meanwhile, and `work` on CPU 0 once it is
/// in. Whoever wants it to end writes the word, and sends an NMI if the guest does not see it.
fn beside_a_waiting_guest<R: Send>(
    svm: &Svm,
    guest: &Guest<'_, Svm>,
    value: u64,
    work: impl FnOnce(&AtomicBool) -> R + Send,
) -> Result<R, Stop> {
    let over = AtomicBool::new(false);
    // Noted by the CPU when the guest reads the word for the first time.
    let leaf = Entry::leaf(guest, RAM);
    leaf.replace(leaf.bits & !ACCESSED);
    let first = || {
        let there = comes(PATIENCE, || Entry::leaf(guest, RAM).has(ACCESSED));
        there.then(|| work(&over))
    };
    let second = || {
        let came = waits(guest, seat(1), value);
        over.store(true, Ordering::SeqCst);
        came
    };
    let (done, came) = svm.both(first, second);
    match came? {
        Came::Value(came) if came == value => done.ok_or_else(|| Stop::failed(format_args!("the guest never came"))),
        other => Err(Stop::failed(format_args!("the guest waited for {value}: {other:?}"))),
    }
}

/// The guest on this CPU waits for the word at the beginning of its memory, with its faults answered.
fn waits(guest: &Guest<'_, Svm>, seat: Seat, word: u64) -> Result<Came, Stop> {
    loop {
        match run_here(guest, seat, Errand::WaitFor(RAM, word)) {
            Attempt::Done(value) => return Ok(Came::Value(value)),
            Attempt::Fault(fault) => match guest.fault(seat.cpu, fault)? {
                Outcome::Resolved | Outcome::Retry => {}
                outcome => return Err(Stop::failed(format_args!("{fault:x?}: {outcome:?}"))),
            },
            other => return Err(Stop::failed(format_args!("{other:x?}"))),
        }
    }
}

/// A page moves under a guest that reads it all the time without an exit: whether it sees what is written afterwards.
fn shows(svm: &Svm, flaw: Flaw) -> Verdict {
    need_two_cpus(svm)?;
    let guest = Guest::new(svm)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    let seen = beside_a_waiting_guest(svm, &guest, 2, |over| {
        shooter::put_in(flaw);
        let moved = guest.relocate(range(RAM, PAGE));
        shooter::put_in(Flaw::None);
        let written = guest.write_obj(gpa(RAM), 2_u64);
        let patience = if flaw == Flaw::None { PATIENCE } else { NEVER };
        let seen = if comes(patience, || over.load(Ordering::SeqCst)) { Seen::Fresh } else { Seen::Stale };
        // Svm forgets everything at an exit.
        cpu::interrupt(1);
        moved.and(written).map(|()| seen)
    })??;
    let expected = if flaw == Flaw::None { Seen::Fresh } else { Seen::Stale };
    if seen != expected {
        return Err(Stop::failed(format_args!("{flaw:?}: {seen:?}, not {expected:?}")));
    }
    Ok(())
}

/// Where a CPU cannot be told, the error names it, and its frames stay; the next change frees them.
fn nothing_goes_before_every_cpu_was_told(svm: &Svm) -> Verdict {
    need_two_cpus(svm)?;
    let guest = Guest::new(svm)?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    let (refused, kept) = beside_a_waiting_guest(svm, &guest, 2, |_| {
        let allocated = svm.allocated();
        shooter::put_in(Flaw::Unreachable);
        let refused = guest.unmap(range(RAM + PAGE, PAGE));
        let kept = svm.allocated() == allocated;
        shooter::put_in(Flaw::None);
        guest.write_obj(gpa(RAM), 2_u64).map(|()| (refused, kept))
    })??;
    let named = matches!(refused, Err(Error::Invalidation { range: at, cause })
        if at == range(RAM + PAGE, PAGE) && cause.0 == seat(1).cpu);
    if !named || !kept {
        return Err(Stop::failed(format_args!("{refused:?}; kept: {kept}")));
    }
    let allocated = svm.allocated();
    guest.protect(range(RAM, PAGE), READ)?;
    if svm.allocated() >= allocated {
        return Err(Stop::failed(format_args!("the page is lost")));
    }
    Ok(())
}

/// Every flag set that the crate accepts, in leaves of all sizes: the guest reads, writes and executes, and the CPU
/// complains of no entry (H17).
fn what_is_accepted_has_no_reserved_bit(svm: &Svm) -> Verdict {
    let mut accepted = 0;
    let guest = Guest::new(svm)?;
    for bits in 0..=MappingFlags::all().bits() {
        let Some(flags) = MappingFlags::from_bits(bits) else { continue };
        accepted += every_size(svm, &guest, flags)?;
    }
    // Four flag sets at least: read, with and without write and execute.
    if accepted < 4 * 4 { Err(Stop::failed(format_args!("{accepted} mappings"))) } else { Ok(()) }
}

/// Maps with these flags in all ways: how many of them are accepted.
fn every_size(svm: &Svm, guest: &Guest<'_, Svm>, flags: MappingFlags) -> Result<usize, Stop> {
    let page = svm.foreign().as_usize();
    let linear = |size: usize| {
        let to = PhysAddr::from_usize(page & !(size - 1));
        (size, page & (size - 1), Mapping::Linear { to })
    };
    let mut accepted = 0;
    for (size, at, mapping) in [linear(PAGE), linear(BLOCK), linear(GIGABYTE), (PAGE, 0, PAGES), (BLOCK, 0, BLOCKS)] {
        let (whole, at) = (range(4 * GIGABYTE, size), 4 * GIGABYTE + at);
        match guest.map(whole, mapping, flags) {
            Ok(()) => accepted += 1,
            Err(Error::Flags { .. }) => continue,
            Err(other) => return Err(other.into()),
        }
        // Whatever comes of it: an unexpected exit is an error.
        guest.loads(at)?;
        guest.stores(at, 0)?;
        guest.calls(at)?;
        guest.unmap(whole)?;
    }
    Ok(accepted)
}

/// Spoils the leaf at [`RAM`], and has the guest read there.
fn spoiled(guest: &Guest<'_, Svm>, bits: impl FnOnce(u64) -> u64) -> Attempt {
    let leaf = Entry::leaf(guest, RAM);
    leaf.replace(bits(leaf.bits));
    let came = guest.first().attempt(Step::Read(RAM));
    leaf.replace(leaf.bits);
    came
}

/// The CPU complains of what the crate never writes; else the check above would show nothing.
fn a_reserved_bit_is_seen(svm: &Svm) -> Verdict {
    let guest = Guest::new(svm)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    if spoiled(&guest, |bits| bits) != Attempt::Done(0) {
        return Err(Stop::failed(format_args!("an entry that is as it was")));
    }
    let beyond = spoiled(&guest, |bits| bits | 1 << svm.physical_bits());
    if !is_reserved_bit(&beyond) {
        return Err(Stop::failed(format_args!("an address beyond the physical width: {beyond:x?}")));
    }
    // H17: all that a guest does are user accesses.
    match spoiled(&guest, |bits| bits & !USER) {
        Attempt::Fault(Fault { cause: Cause::Permission, access: Access::Read, .. }) => Ok(()),
        other => Err(Stop::failed(format_args!("an entry that is not for users: {other:x?}"))),
    }
}

fn is_reserved_bit(came: &Attempt) -> bool {
    matches!(came, Attempt::Unexpected(story) if story.starts_with("ReservedBit"))
}

/// A leaf of 1 GiB, written past the crate, is one where the crate writes them.
fn a_large_leaf_is_one_where_the_cpu_has_it(svm: &Svm) -> Verdict {
    if svm.largest_leaf() < GIGABYTE {
        return Err(Stop::Skipped("the emulator has it, whatever it says"));
    }
    let guest = Guest::new(svm)?;
    guest.map(range(4 * GIGABYTE, PAGE), PAGES, RW)?;
    let page = svm.foreign().as_usize();
    let entry = Entry::of(&guest, 4 * GIGABYTE, 2);
    svm.poke(svm.foreign(), 0x4711);
    entry.replace((page & !(GIGABYTE - 1)) as u64 | LARGE | PRESENT | WRITE | USER);
    let came = guest.first().attempt(Step::Read(4 * GIGABYTE + page % GIGABYTE));
    entry.replace(entry.bits);
    match came {
        Attempt::Done(0x4711) => Ok(()),
        other => Err(Stop::failed(format_args!("{other:x?}"))),
    }
}

/// The CPU notes what the guest does in leaves in which nothing was noted, and neither protecting nor moving them forgets
/// it (E6, W15).
fn what_the_cpu_noted_first_stays(svm: &Svm) -> Verdict {
    let guest = Guest::new(svm)?;
    guest.map(range(RAM, 3 * PAGE), PAGES, RW)?;
    for page in 0..3 {
        // Leaves begin as accessed; no CPU has seen these yet.
        let leaf = Entry::leaf(&guest, RAM + page * PAGE);
        leaf.replace(leaf.bits & !(ACCESSED | DIRTY));
    }
    guest.loads(RAM)?;
    guest.stores(RAM + PAGE, 1)?;
    check_notes(&guest, "at first")?;
    for flags in [RWX, READ, RW, READ | MappingFlags::EXECUTE, RW] {
        guest.protect(range(RAM, 3 * PAGE), flags)?;
        check_notes(&guest, "after protecting")?;
        let leaf = Entry::leaf(&guest, RAM);
        let executable = !leaf.has(NO_EXECUTE);
        if flags.contains(MappingFlags::WRITE) != leaf.has(WRITE) || flags.contains(MappingFlags::EXECUTE) != executable
        {
            return Err(Stop::failed(format_args!("{flags:?} is not as in {leaf:x?}")));
        }
    }
    for page in 0..3 {
        guest.relocate(range(RAM + page * PAGE, PAGE))?;
    }
    check_notes(&guest, "after moving")?;
    match guest.loads(RAM + PAGE)? {
        Came::Value(1) => Ok(()),
        other => Err(Stop::failed(format_args!("{other:?}"))),
    }
}

/// Whether the notes are: a page that was read, a page that was written, a page that was left alone.
fn check_notes(guest: &Guest<'_, Svm>, when: &str) -> Verdict {
    for (page, expected) in [ACCESSED, ACCESSED | DIRTY, 0].into_iter().enumerate() {
        let leaf = Entry::leaf(guest, RAM + page * PAGE);
        if leaf.bits & (ACCESSED | DIRTY) != expected {
            return Err(Stop::failed(format_args!("page {page} {when}: {leaf:x?}, not {expected:#x}")));
        }
    }
    Ok(())
}

/// CPU 1 writes page after page while CPU 0 changes the same leaves: every page that was written is dirty in the end.
fn no_note_is_lost_in_a_race(svm: &Svm) -> Verdict {
    const COUNT: usize = 32;
    need_two_cpus(svm)?;
    for _round in 0..4 {
        let guest = Guest::new(svm)?;
        guest.map(range(RAM, COUNT * PAGE), PAGES, RW)?;
        let over = AtomicBool::new(false);
        let changer = || -> Verdict {
            while !over.load(Ordering::SeqCst) {
                guest.protect(range(RAM, COUNT * PAGE), RWX)?;
                guest.protect(range(RAM, COUNT * PAGE), RW)?;
            }
            Ok(())
        };
        let writer = || {
            let came = (0..COUNT).try_for_each(|page| guest.seat(1, 1).stores(RAM + page * PAGE, 1).map(drop));
            over.store(true, Ordering::SeqCst);
            came
        };
        let (protected, written) = svm.both(changer, writer);
        protected.and(written)?;
        for page in 0..COUNT {
            let leaf = Entry::leaf(&guest, RAM + page * PAGE);
            if !leaf.has(ACCESSED | DIRTY) {
                return Err(Stop::failed(format_args!("page {page} was written: {leaf:x?}")));
            }
        }
    }
    Ok(())
}

/// H17: a walk of the guest's own tables counts as a write, whether it writes or not.
fn the_guests_tables_must_be_writable(svm: &Svm) -> Verdict {
    const LINEAR: usize = 0x20_0000;
    let guest = Guest::new(svm)?;
    guest.map(range(RAM, 8 * PAGE), PAGES, RW)?;
    guest.write_tables(RAM, &[(LINEAR, RAM + 7 * PAGE)])?;
    guest.write_obj(gpa(RAM + 7 * PAGE), 7_u64)?;
    for (flags, expected) in [(READ, Came::Denied(READ)), (RW, Came::Value(7))] {
        guest.protect(range(RAM, 4 * PAGE), flags)?;
        let came = guest.first().through(RAM).loads(LINEAR)?;
        if came != expected {
            return Err(Stop::failed(format_args!("{flags:?}: {came:?}, not {expected:?}")));
        }
    }
    Ok(())
}

/// Every freed frame was poisoned, and still is.
fn no_freed_frame_was_written(svm: &Svm) -> Verdict {
    match svm.board().spoiled() {
        (0, _) => Err(Stop::failed(format_args!("nothing was freed"))),
        (_, 0) => Ok(()),
        (checked, spoiled) => Err(Stop::failed(format_args!("{spoiled} of {checked} were"))),
    }
}
