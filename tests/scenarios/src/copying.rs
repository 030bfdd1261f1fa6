//! Memory that guests inherit until they write it.

use alloc::format;

use crate::{prelude::*, shared::region};

/// How often a step may fault while another CPU is at work on the same page: where CPUs are threads, that one may be
/// waiting for a CPU of the host.
const PATIENCE: usize = 50_000;

/// A frozen region of so many pages, each of which begins with its number and one hundred, and a view of all of it.
fn frozen<M: Machine>(guest: &Guest<'_, M>, pages: usize) -> Result<(SharedRegion, Mapping), Stop> {
    let (region, _) = region(guest, pages)?;
    let failed = |error: RegionError| Stop::failed(format_args!("{error}"));
    let writer = region.writer().map_err(failed)?;
    for page in 0..pages {
        writer.write_obj(page * PAGE, 100 + page as u64).map_err(failed)?;
    }
    drop(writer);
    region.freeze().map_err(failed)?;
    let mapping = Mapping::CopyOnWrite { region: region.clone(), offset: 0 };
    Ok((region, mapping))
}

/// Reads share; a write costs one page, is seen by its guest alone, and not by the region.
///
/// # Errors
/// It does not hold.
pub fn reads_share_and_a_write_copies_one_page<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    let (region, mapping) = frozen(&one, 4)?;
    one.map(range(RAM, 4 * PAGE), mapping, RW)?;
    two.map(range(RAM, 2 * PAGE), Mapping::CopyOnWrite { region: region.clone(), offset: 2 * PAGE }, RW)?;
    for page in 0..4 {
        ensure_eq!(one.loads(RAM + page * PAGE)?, Value(100 + page as u64));
    }
    ensure_eq!(two.loads(RAM)?, Value(102));
    ensure_eq!((one.stats().owned_frames, one.stats().shared_frames), (0, 4));
    let before = machine.allocated();
    ensure_eq!(one.stores(RAM + 2 * PAGE + 8, 7)?, Value(7));
    ensure_eq!(machine.allocated(), before + 1);
    ensure_eq!((one.stats().owned_frames, one.stats().shared_frames), (1, 3));
    ensure_eq!((one.loads(RAM + 2 * PAGE)?, one.loads(RAM + 2 * PAGE + 8)?), (Value(102), Value(7)));
    ensure_eq!(two.loads(RAM + 8)?, Value(0));
    ensure_eq!(region.load::<u64>(2 * PAGE + 8), Ok(0));
    // Written before it was ever read.
    ensure_eq!(two.stores(RAM + PAGE, 8)?, Value(8));
    ensure_eq!(two.loads(RAM + PAGE + 8)?, Value(0));
    ensure_eq!(one.loads(RAM + 3 * PAGE)?, Value(103));
    Ok(())
}

/// A CPU that reads a page while another writes it for the first time sees the copy from then on.
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_reads_the_copy<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let (region, mapping) = frozen(&guest, 4)?;
    guest.map(range(RAM, 4 * PAGE), mapping, RW)?;
    let other = guest.seat(1, 1);
    for page in 0..4 {
        let at = RAM + page * PAGE;
        ensure_eq!(other.loads(at)?, Value(100 + page as u64));
        ensure_eq!(guest.stores(at, 7)?, Value(7));
        ensure_eq!(other.loads(at)?, Value(7), "page {page} on CPU 1");
        ensure_eq!(other.stores(at, 8)?, Value(8));
        ensure_eq!(guest.loads(at)?, Value(8));
        ensure_eq!(region.load::<u64>(page * PAGE), Ok(100 + page as u64));
    }
    Ok(())
}

/// A page with a table of the guest's own, over which it has walked, is copied: the copy is walked.
///
/// # Errors
/// It does not hold.
pub fn a_copied_table_of_the_guests_is_walked_where_it_is<M: Machine>(machine: &M) -> Verdict {
    let (source, guest) = (Guest::new(machine)?, Guest::new(machine)?);
    let (region, mapping) = region(&source, 8)?;
    source.map(range(TABLES, 8 * PAGE), mapping, RW)?;
    let last = source.write_tables(TABLES, &[(VIRTUAL, RAM)])?;
    source.unmap(range(TABLES, 8 * PAGE))?;
    ensure_eq!(region.freeze(), Ok(()));
    guest.map(range(TABLES, 8 * PAGE), Mapping::CopyOnWrite { region, offset: 0 }, RW)?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    guest.write_obj(gpa(RAM), 1_u64)?;
    guest.write_obj(gpa(RAM + PAGE), 2_u64)?;
    let run = guest.first().through(TABLES);
    ensure_eq!(run.loads(VIRTUAL)?, Value(1));
    guest.write_obj(gpa(guest.entry_in(last, VIRTUAL)), machine.guest_page(gpa(RAM + PAGE)))?;
    let forgot = run.does(Step::Forget)?;
    ensure!(matches!(forgot, Value(_)), "{forgot:?}");
    ensure_eq!(run.loads(VIRTUAL)?, Value(2));
    Ok(())
}

/// A guest that alone can see a page takes it instead of copying it.
///
/// # Errors
/// It does not hold.
pub fn the_last_sharer_takes_the_page<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    let (region, mapping) = frozen(&one, 3)?;
    one.map(range(RAM, 3 * PAGE), mapping.clone(), RW)?;
    two.map(range(RAM, 3 * PAGE), mapping, RW)?;
    for guest in [&one, &two] {
        ensure_eq!(guest.loads(RAM)?, Value(100));
    }
    let (frame, other) = (one.frame(RAM)?, two.frame(RAM)?);
    ensure_eq!(frame, other);
    drop(region);
    ensure_eq!(one.stores(RAM, 1)?, Value(1));
    ensure!(one.frame(RAM)? != frame, "a page that another guest has was taken");
    ensure_eq!(two.stores(RAM, 2)?, Value(2));
    ensure_eq!((one.loads(RAM)?, two.loads(RAM)?), (Value(1), Value(2)));
    ensure_eq!(two.unmap(range(RAM + PAGE, 2 * PAGE)), Ok(()));
    ensure_eq!(one.loads(RAM + PAGE)?, Value(101));
    two.unmap(range(RAM, PAGE))?;
    // Alone with all that is left, read or not.
    let (allocated, frame) = (machine.allocated(), one.frame(RAM + PAGE)?);
    ensure_eq!((one.stores(RAM + PAGE, 3)?, one.stores(RAM + 2 * PAGE + 8, 4)?), (Value(3), Value(4)));
    ensure_eq!((one.frame(RAM + PAGE)?, machine.allocated()), (frame, allocated));
    ensure_eq!(one.loads(RAM + 2 * PAGE)?, Value(102));
    ensure_eq!((one.stats().owned_frames, one.stats().shared_frames), (3, 0));
    one.unmap(range(RAM, 3 * PAGE))?;
    two.map(range(RAM, PAGE), LAZY, RW)?;
    ensure_eq!(two.loads(RAM)?, Value(0));
    two.unmap(range(RAM, PAGE))?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// Two CPUs of one guest write the same fresh pages at once: one copy each, nothing lost.
///
/// # Errors
/// It does not hold.
pub fn both_cpus_write_first<M: Machine>(machine: &M) -> Verdict {
    const COUNT: usize = 32;
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    let (region, mapping) = frozen(&guest, COUNT)?;
    guest.map(range(RAM, COUNT * PAGE), mapping, RW)?;
    for page in (0..COUNT).step_by(2) {
        ensure_eq!(guest.seat(page / 2 % 2, page / 2 % 2).loads(RAM + page * PAGE)?, Value(100 + page as u64));
    }
    let write = |cpu: usize| -> Verdict {
        for page in 0..COUNT {
            let at = RAM + page * PAGE + 8 + cpu * 8;
            let came = guest.seat(cpu, cpu).tries(Step::Write(at, 1 + page as u64), PATIENCE)?;
            ensure!(matches!(came, Value(_)), "{came:?}");
        }
        Ok(())
    };
    let (first, second) = machine.both(|| write(0), || write(1));
    first?;
    second?;
    for page in 0..COUNT {
        for (word, value) in [(0, 100 + page as u64), (1, 1 + page as u64), (2, 1 + page as u64)] {
            ensure_eq!(guest.loads(RAM + page * PAGE + word * 8)?, Value(value), "word {word} of page {page}");
        }
    }
    ensure_eq!((guest.stats().owned_frames, guest.stats().shared_frames), (COUNT, 0));
    guest.unmap(range(RAM, COUNT * PAGE))?;
    drop(region);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// Two guests write the same pages for the first time at once, when no handle is left: each has its own, be it a copy
/// or the page itself, and nothing is lost or leaked.
///
/// # Errors
/// It does not hold.
pub fn two_guests_part_with_the_same_pages<M: Machine>(machine: &M) -> Verdict {
    const COUNT: usize = 32;
    need_two_cpus(machine)?;
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    let (region, mapping) = frozen(&one, COUNT)?;
    one.map(range(RAM, COUNT * PAGE), mapping.clone(), RW)?;
    two.map(range(RAM, COUNT * PAGE), mapping, RW)?;
    drop(region);
    let write = |guest: &Guest<'_, M>, cpu: usize| -> Verdict {
        for page in 0..COUNT {
            let (run, at) = (guest.seat(cpu, cpu), RAM + page * PAGE);
            if page % 3 > 0 {
                ensure_eq!(run.loads(at)?, Value(100 + page as u64));
            }
            ensure_eq!(run.stores(at + 8, 7 + cpu as u64)?, Value(7 + cpu as u64));
        }
        Ok(())
    };
    let (first, second) = machine.both(|| write(&one, 0), || write(&two, 1));
    first?;
    second?;
    for page in 0..COUNT {
        for (guest, cpu) in [(&one, 0), (&two, 1)] {
            let run = guest.seat(cpu, cpu);
            ensure_eq!(run.loads(RAM + page * PAGE)?, Value(100 + page as u64));
            ensure_eq!(run.loads(RAM + page * PAGE + 8)?, Value(7 + cpu as u64));
        }
    }
    one.unmap(range(RAM, COUNT * PAGE))?;
    two.unmap(range(RAM, COUNT * PAGE))?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// The hypervisor's reads share, and its writes copy, as the guest's do.
///
/// # Errors
/// It does not hold.
pub fn the_hypervisor_copies_too<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (region, mapping) = frozen(&guest, 4)?;
    guest.map(range(RAM, 4 * PAGE), mapping, RW)?;
    ensure_eq!(guest.read_obj::<u64>(gpa(RAM + PAGE))?, 101);
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(101));
    ensure_eq!(guest.stats().owned_frames, 0);
    guest.write(gpa(RAM + 2 * PAGE - 4), &[0xff; 8])?;
    ensure_eq!(guest.stats().owned_frames, 2);
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(101));
    ensure_eq!(guest.loads(RAM + 2 * PAGE)?, Value(0xffff_ffff));
    ensure_eq!(guest.compare_exchange(gpa(RAM), 100_u64, 5)?, Ok(100));
    ensure_eq!(guest.loads(RAM)?, Value(5));
    ensure_eq!((region.load::<u64>(0), region.load::<u64>(2 * PAGE)), (Ok(100), Ok(102)));
    Ok(())
}

/// Permissions come and go, and never let a guest write into the region.
///
/// # Errors
/// It does not hold.
pub fn permissions_never_reach_the_region<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (region, mapping) = frozen(&guest, 4)?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    guest.map(range(RAM + 2 * PAGE, 4 * PAGE), mapping, READ)?;
    for page in 2..5 {
        ensure_eq!(guest.loads(RAM + page * PAGE)?, Value(98 + page as u64));
    }
    ensure_eq!(guest.stores(RAM + 2 * PAGE, 1)?, Denied(READ));
    for flags in [RW, READ, RW] {
        guest.protect(range(RAM, 6 * PAGE), flags)?;
        ensure_eq!(guest.loads(RAM + 3 * PAGE)?, Value(101));
    }
    ensure_eq!((guest.stores(RAM, 1)?, guest.stores(RAM + 2 * PAGE, 1)?), (Value(1), Value(1)));
    guest.protect(range(RAM + 2 * PAGE, PAGE), READ)?;
    ensure_eq!(guest.stores(RAM + 2 * PAGE, 2)?, Denied(READ));
    ensure_eq!(guest.loads(RAM + 2 * PAGE)?, Value(1));
    ensure_eq!(region.load::<u64>(0), Ok(100));
    ensure_eq!(guest.stats().owned_frames, 3);
    Ok(())
}

/// H14: inherited code is executed, and what is written over it.
///
/// # Errors
/// It does not hold.
pub fn inherited_code_is_executed_and_replaced<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (region, _) = region(&guest, 1)?;
    let writer = region.writer().map_err(|error| Stop::failed(format_args!("{error}")))?;
    ensure_eq!(writer.write(0, &machine.code(5)), Ok(()));
    drop(writer);
    ensure_eq!(region.freeze(), Ok(()));
    guest.map(range(RAM, PAGE), Mapping::CopyOnWrite { region, offset: 0 }, RWX)?;
    ensure_eq!(guest.calls(RAM)?, Value(5));
    ensure_eq!(guest.stores(RAM + 0x800, 1)?, Value(1));
    ensure_eq!(guest.calls(RAM)?, Value(5));
    guest.write(gpa(RAM), &machine.code(6))?;
    ensure_eq!(guest.calls(RAM)?, Value(6));
    Ok(())
}

/// What may still change is not copied on write; what is inherited is shown, and only copies move.
///
/// # Errors
/// It does not hold.
pub fn it_is_refused_shown_and_moved_as_what_it_is<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (open, _) = region(&guest, 1)?;
    let not_frozen = Error::Region { range: range(RAM, PAGE), cause: RegionError::NotFrozen };
    let mapping = Mapping::CopyOnWrite { region: open, offset: 0 };
    ensure_eq!(guest.map(range(RAM, PAGE), mapping, RW), Err(not_frozen));
    let (_region, mapping) = frozen(&guest, 4)?;
    guest.map(range(RAM, 4 * PAGE), mapping, RW)?;
    ensure_eq!((guest.loads(RAM)?, guest.stores(RAM + PAGE, 1)?), (Value(100), Value(1)));
    ensure_eq!(guest.area(gpa(RAM + PAGE)).map(|area| area.kind), Some(AreaKind::CopyOnWrite(0)));
    let shown = format!("{}", *guest);
    ensure!(shown.contains("copy-on-write from 0x0") && shown.contains("4 KiB frozen"), "{shown}");
    let frames = (guest.frame(RAM)?, guest.frame(RAM + PAGE)?);
    ensure_eq!(guest.relocate(range(RAM, 4 * PAGE))?, 1);
    ensure_eq!(guest.frame(RAM)?, frames.0);
    ensure!(guest.frame(RAM + PAGE)? != frames.1, "a copy did not move");
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(1));
    Ok(())
}
