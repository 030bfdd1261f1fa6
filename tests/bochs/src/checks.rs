//! What only this machine can be asked: whether the CPU accepts what the crate writes, what it notes there, and whether
//! a fault in the shootdown would show.

use core::{
    hint,
    sync::atomic::{AtomicBool, Ordering},
};

use hypervisor::cpu;
use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{Error, LeafPolicy, Mapping, MappingFlags, Outcome, PhysAddr, Populate, x86_64::ept::LargeLeaves};
use stage2_bare::pc::Errand;
use stage2_scenarios::{
    Attempt, Came, Guest, Machine, Marks, Scenario, Seat, Seen, Setting, Step, Stop, Verdict, gpa, guest_memory,
    mapping, protecting, range, relocating,
};

use crate::{
    machine::{Bochs, run_here, seat},
    real_mode::a_guest_in_real_mode_runs_on_lazy_memory,
    shooter::{self, Fault},
    tables::{ACCESSED, DIRTY, EXECUTE, Entry, LARGE, MEMORY, WRITE},
};

/// All of them.
pub const ALL: &[Scenario<Bochs>] = &[
    Scenario {
        name: "bochs::a_guest_that_spins_sees_a_moved_page_where_it_is",
        run: |bochs| shows(bochs, Fault::None),
    },
    Scenario { name: "bochs::a_shootdown_that_is_left_out_is_seen", run: |bochs| shows(bochs, Fault::NotTold) },
    Scenario { name: "bochs::a_guest_that_spins_loses_what_is_unmapped", run: |bochs| takes_away(bochs, Fault::None) },
    Scenario {
        name: "bochs::what_is_unmapped_without_a_shootdown_is_seen",
        run: |bochs| takes_away(bochs, Fault::NotTold),
    },
    Scenario { name: "bochs::nothing_goes_before_every_cpu_was_told", run: nothing_goes_before_every_cpu_was_told },
    Scenario { name: "bochs::what_is_accepted_is_never_misconfigured", run: what_is_accepted_is_never_misconfigured },
    Scenario { name: "bochs::a_misconfigured_entry_is_seen", run: a_misconfigured_entry_is_seen },
    Scenario { name: "bochs::a_large_leaf_that_the_cpu_lacks_is_seen", run: a_large_leaf_that_the_cpu_lacks_is_seen },
    Scenario { name: "bochs::code_runs_where_large_leaves_are_not_executed", run: code_in_careful_spaces },
    Scenario { name: "bochs::what_the_cpu_noted_first_stays", run: what_the_cpu_noted_first_stays },
    Scenario { name: "bochs::no_note_is_lost_in_a_race", run: no_note_is_lost_in_a_race },
    Scenario { name: "bochs::a_guest_in_real_mode_runs_on_lazy_memory", run: a_guest_in_real_mode_runs_on_lazy_memory },
    Scenario { name: "bochs::no_freed_frame_was_written", run: no_freed_frame_was_written },
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

/// How long a guest gets to see something: many times what it needs.
const PATIENCE: usize = 20_000;

fn need_two_cpus(bochs: &Bochs) -> Verdict {
    if bochs.facts().cpus < 2 { Err(Stop::Skipped("it needs two CPUs")) } else { Ok(()) }
}

/// Waits for something, but not for ever: whether it came.
fn comes(mut something: impl FnMut() -> bool) -> bool {
    (0..PATIENCE).any(|_| {
        hint::spin_loop();
        something()
    })
}

/// Runs a guest on CPU 1 that waits for a word in memory and does not exit meanwhile, and `work` on CPU 0 once it is
/// in. Whoever wants it to end writes the word, and sends an NMI if the guest does not see it.
fn beside_a_waiting_guest<R: Send>(
    bochs: &Bochs,
    guest: &Guest<'_, Bochs>,
    value: u64,
    work: impl FnOnce(&AtomicBool) -> R + Send,
) -> Result<(R, Came), Stop> {
    let over = AtomicBool::new(false);
    let first = || {
        comes(|| shooter::is_in(seat(1).cpu));
        // It is on its way; then it is there.
        comes(|| false);
        work(&over)
    };
    let second = || {
        let came = waits(guest, seat(1), value);
        over.store(true, Ordering::SeqCst);
        came
    };
    let (done, came) = bochs.both(first, second);
    came.map(|came| (done, came))
}

/// The guest on this CPU waits for the word at the beginning of its memory, with its faults answered.
fn waits(guest: &Guest<'_, Bochs>, seat: Seat, value: u64) -> Result<Came, Stop> {
    loop {
        match run_here(guest, seat, Errand::WaitFor(RAM, value)) {
            Attempt::Done(value) => return Ok(Came::Value(value)),
            Attempt::Fault(fault) => match guest.fault(seat.cpu, fault)? {
                Outcome::Resolved | Outcome::Retry => {}
                Outcome::NotMapped => return Ok(Came::NotMapped),
                outcome => return Err(Stop::failed(format_args!("{fault:x?}: {outcome:?}"))),
            },
            other => return Err(Stop::failed(format_args!("{other:x?}"))),
        }
    }
}

/// Whether the guest beside sees what was done, without being helped; then it is.
fn seen_without_help(over: &AtomicBool) -> Seen {
    let seen = if comes(|| over.load(Ordering::SeqCst)) { Seen::Fresh } else { Seen::Stale };
    // Bochs forgets everything at an exit.
    cpu::interrupt(1);
    seen
}

/// A fault in the shootdown, and only that, must show; and the guest ends as it should.
fn judge(fault: Fault, seen: Seen, came: Came, end: Came) -> Verdict {
    let expected = if fault == Fault::None { Seen::Fresh } else { Seen::Stale };
    if (seen, came) != (expected, end) {
        return Err(Stop::failed(format_args!("{fault:?}: {seen:?}, not {expected:?}; in the end {came:?}")));
    }
    Ok(())
}

/// A page moves under a guest that reads it all the time without an exit: whether it sees what is written afterwards.
fn shows(bochs: &Bochs, fault: Fault) -> Verdict {
    need_two_cpus(bochs)?;
    let guest = Guest::new(bochs)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    let (seen, came) = beside_a_waiting_guest(bochs, &guest, 2, |over| {
        shooter::put_in(fault);
        let moved = guest.relocate(range(RAM, PAGE));
        shooter::put_in(Fault::None);
        let written = guest.write_obj(gpa(RAM), 2_u64);
        let seen = seen_without_help(over);
        moved.and(written).map(|()| seen)
    })?;
    judge(fault, seen?, came, Came::Value(2))
}

/// The page is unmapped under it: whether its next look faults.
fn takes_away(bochs: &Bochs, fault: Fault) -> Verdict {
    need_two_cpus(bochs)?;
    let guest = Guest::new(bochs)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    let (seen, came) = beside_a_waiting_guest(bochs, &guest, 2, |over| {
        shooter::put_in(fault);
        let unmapped = guest.unmap(range(RAM, PAGE));
        shooter::put_in(Fault::None);
        let seen = seen_without_help(over);
        unmapped.map(|()| seen)
    })?;
    judge(fault, seen?, came, Came::NotMapped)
}

/// Where a CPU cannot be told, the error names it, and its frames stay; the next change frees them.
fn nothing_goes_before_every_cpu_was_told(bochs: &Bochs) -> Verdict {
    need_two_cpus(bochs)?;
    let guest = Guest::new(bochs)?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    let (done, came) = beside_a_waiting_guest(bochs, &guest, 2, |_| {
        let allocated = bochs.allocated();
        shooter::put_in(Fault::Unreachable);
        let refused = guest.unmap(range(RAM + PAGE, PAGE));
        let kept = bochs.allocated() == allocated;
        shooter::put_in(Fault::None);
        guest.write_obj(gpa(RAM), 2_u64).map(|()| (refused, kept))
    })?;
    let (refused, kept) = done?;
    let named = matches!(refused, Err(Error::Invalidation { range: at, cause })
        if at == range(RAM + PAGE, PAGE) && cause.0 == seat(1).cpu);
    if !named || !kept || came != Came::Value(2) {
        return Err(Stop::failed(format_args!("{refused:?}; kept: {kept}; in the end {came:?}")));
    }
    let allocated = bochs.allocated();
    guest.protect(range(RAM, PAGE), READ)?;
    if bochs.allocated() >= allocated {
        return Err(Stop::failed(format_args!("the page is lost")));
    }
    Ok(())
}

/// Every flag set that the crate accepts, in leaves of all sizes, with and without the CPU's marks: the guest reads,
/// writes and executes, and the CPU complains of no entry (H17).
fn what_is_accepted_is_never_misconfigured(bochs: &Bochs) -> Verdict {
    let mut accepted = 0;
    for marks in [Marks::Software, Marks::Hardware] {
        let guest = match Guest::with(bochs, Setting { marks, ..Setting::default() }) {
            Err(Stop::Skipped(_)) => continue,
            guest => guest?,
        };
        for bits in 0..=MappingFlags::all().bits() {
            let Some(flags) = MappingFlags::from_bits(bits) else { continue };
            accepted += every_size(bochs, &guest, flags)?;
        }
    }
    // Four flag sets at least: read, with and without write and execute.
    if accepted < 4 * 4 { Err(Stop::failed(format_args!("{accepted} mappings"))) } else { Ok(()) }
}

/// Maps with these flags in all ways: how many of them are accepted.
fn every_size(bochs: &Bochs, guest: &Guest<'_, Bochs>, flags: MappingFlags) -> Result<usize, Stop> {
    let page = bochs.foreign().as_usize();
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
fn spoiled(guest: &Guest<'_, Bochs>, bits: impl FnOnce(u64) -> u64) -> Attempt {
    let leaf = Entry::leaf(guest, RAM);
    leaf.replace(bits(leaf.bits));
    let came = guest.first().attempt(Step::Read(RAM));
    leaf.replace(leaf.bits);
    came
}

/// The CPU complains of what the crate never writes; else the check above would show nothing.
fn a_misconfigured_entry_is_seen(bochs: &Bochs) -> Verdict {
    const READABLE: u64 = 1 << 0;
    const TYPE: u64 = 0b111 << 3;
    let guest = Guest::new(bochs)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    if spoiled(&guest, |bits| bits) != Attempt::Done(0) {
        return Err(Stop::failed(format_args!("an entry that is as it was")));
    }
    let beyond = 1 << bochs.facts().widest;
    for (what, bits) in [
        ("write without read", spoiled(&guest, |bits| bits & !READABLE)),
        ("memory type 2", spoiled(&guest, |bits| bits & !TYPE | 2 << 3)),
        ("memory type 3", spoiled(&guest, |bits| bits & !TYPE | 3 << 3)),
        ("memory type 7", spoiled(&guest, |bits| bits & !TYPE | 7 << 3)),
        ("an address beyond MAXPHYADDR", spoiled(&guest, |bits| bits | beyond)),
    ] {
        if !is_misconfiguration(&bits) {
            return Err(Stop::failed(format_args!("{what}: {bits:x?}")));
        }
    }
    Ok(())
}

fn is_misconfiguration(came: &Attempt) -> bool {
    matches!(came, Attempt::Unexpected(story) if story.starts_with("Misconfiguration"))
}

/// A leaf of 1 GiB, written past the crate, is a misconfiguration just where the crate writes none.
fn a_large_leaf_that_the_cpu_lacks_is_seen(bochs: &Bochs) -> Verdict {
    let guest = Guest::new(bochs)?;
    guest.map(range(4 * GIGABYTE, PAGE), PAGES, RW)?;
    let page = bochs.foreign().as_usize();
    let entry = Entry::of(&guest, 4 * GIGABYTE, 2);
    bochs.poke(bochs.foreign(), 0x4711);
    entry.replace((page & !(GIGABYTE - 1)) as u64 | LARGE | MEMORY);
    let came = guest.first().attempt(Step::Read(4 * GIGABYTE + page % GIGABYTE));
    entry.replace(entry.bits);
    let lacks = bochs.largest_leaf() < GIGABYTE;
    if lacks != is_misconfiguration(&came) || !lacks && came != Attempt::Done(0x4711) {
        return Err(Stop::failed(format_args!("the CPU lacks it: {lacks}, but {came:x?}")));
    }
    Ok(())
}

/// H18: the same scenarios where the first fetch splits.
fn code_in_careful_spaces(bochs: &Bochs) -> Verdict {
    bochs.with_large_leaves(LargeLeaves::ExecuteNever, || {
        let guest = Guest::new(bochs)?;
        guest.map(range(RAM, BLOCK), BLOCKS, RWX)?;
        guest.write(gpa(RAM + PAGE), &bochs.code(7))?;
        let (before, called) = (guest.leaf_size(RAM)?, guest.calls(RAM + PAGE)?);
        let after = guest.leaf_size(RAM)?;
        if (before, called, after) != (BLOCK, Came::Value(7), PAGE) {
            return Err(Stop::failed(format_args!("{before:#x}, {called:?}, {after:#x}")));
        }
        drop(guest);
        mapping::code_runs_in_large_leaves_and_its_neighbours_stay(bochs)?;
        protecting::a_part_of_a_block_changes_alone(bochs)?;
        relocating::moved_code_is_executed_where_it_is(bochs)?;
        guest_memory::written_code_is_executed(bochs)
    })
}

/// The CPU notes what the guest does in leaves in which nothing was noted, and neither protecting nor moving them forgets
/// it (E6, W15).
fn what_the_cpu_noted_first_stays(bochs: &Bochs) -> Verdict {
    let guest = Guest::with(bochs, Setting { marks: Marks::Hardware, ..Setting::default() })?;
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
        let allowed = [(MappingFlags::WRITE, WRITE), (MappingFlags::EXECUTE, EXECUTE)];
        if let Some((flag, _)) = allowed.into_iter().find(|&(flag, bit)| flags.contains(flag) != leaf.has(bit)) {
            return Err(Stop::failed(format_args!("{flags:?}: {flag:?} is not as in {leaf:x?}")));
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
fn check_notes(guest: &Guest<'_, Bochs>, when: &str) -> Verdict {
    for (page, expected) in [ACCESSED, ACCESSED | DIRTY, 0].into_iter().enumerate() {
        let leaf = Entry::leaf(guest, RAM + page * PAGE);
        if leaf.bits & (ACCESSED | DIRTY) != expected {
            return Err(Stop::failed(format_args!("page {page} {when}: {leaf:x?}, not {expected:#x}")));
        }
    }
    Ok(())
}

/// CPU 1 writes page after page while CPU 0 changes the same leaves: every page that was written is dirty in the end.
fn no_note_is_lost_in_a_race(bochs: &Bochs) -> Verdict {
    const COUNT: usize = 32;
    need_two_cpus(bochs)?;
    for _round in 0..4 {
        let guest = Guest::with(bochs, Setting { marks: Marks::Hardware, ..Setting::default() })?;
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
        let (protected, written) = bochs.both(changer, writer);
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

/// Every freed frame was poisoned, and still is.
fn no_freed_frame_was_written(bochs: &Bochs) -> Verdict {
    match bochs.board().spoiled() {
        (0, _) => Err(Stop::failed(format_args!("nothing was freed"))),
        (_, 0) => Ok(()),
        (checked, spoiled) => Err(Stop::failed(format_args!("{spoiled} of {checked} were"))),
    }
}
