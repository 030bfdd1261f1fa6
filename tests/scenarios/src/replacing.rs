//! A mapping takes another's place, and no CPU finds a hole.

use core::sync::atomic::{AtomicBool, Ordering};

use crate::prelude::*;

fn shared<M: Machine>(guest: &Guest<'_, M>, value: u64) -> Result<(SharedRegion, Mapping), Stop> {
    let failed = |error| Stop::failed(format_args!("{error}"));
    let region = guest.region(PAGE).map_err(failed)?;
    region.writer().and_then(|writer| writer.write_obj(0, value)).map_err(failed)?;
    Ok((region.clone(), Mapping::Shared { region, offset: 0 }))
}

/// An overlay in the middle of a block.
///
/// # Errors
/// It does not hold.
pub fn a_page_of_registers_is_laid_over_memory_and_taken_off<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    guest.map(range(RAM, BLOCK), BLOCKS, RW)?;
    let at = RAM + 37 * PAGE;
    for at in [RAM, at - 8, at, at + PAGE] {
        ensure_eq!(guest.stores(at, at as u64)?, Value(at as u64));
    }
    let (region, overlay) = shared(&guest, 3)?;
    guest.replace(range(at, PAGE), overlay, RW)?;
    ensure_eq!((guest.loads(at)?, guest.stores(at, 4)?), (Value(3), Value(4)));
    ensure_eq!(region.load::<u64>(0), Ok(4));
    guest.replace(range(at, PAGE), linear(machine.foreign().as_usize()), READ)?;
    ensure_eq!((guest.stores(at, 1)?, guest.frame(at)?), (Denied(READ), machine.foreign().as_usize()));
    guest.replace(range(at, PAGE), LAZY, RW)?;
    for (at, value) in [(RAM, RAM), (at - 8, at - 8), (at, 0), (at + PAGE, at + PAGE)] {
        ensure_eq!(guest.loads(at)?, Value(value as u64), "{at:#x}");
    }
    guest.unmap(range(RAM, BLOCK))?;
    drop(region);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// The other CPU has what was there in its TLB.
///
/// # Errors
/// It does not hold.
pub fn the_other_cpu_sees_what_came<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let other = guest.seat(1, 1);
    guest.map(range(RAM, 3 * PAGE), LAZY, RW)?;
    guest.map(range(RAM + BLOCK, BLOCK), BLOCKS, RW)?;
    for at in [RAM + PAGE, RAM + BLOCK + PAGE] {
        ensure_eq!((other.stores(at, 1)?, guest.loads(at)?), (Value(1), Value(1)));
        let (_region, mapping) = shared(&guest, 7)?;
        guest.replace(range(at, PAGE), mapping, READ)?;
        ensure_eq!((other.loads(at)?, guest.loads(at)?), (Value(7), Value(7)));
        ensure_eq!(other.stores(at, 2)?, Denied(READ));
        guest.replace(range(at, PAGE), PAGES, RW)?;
        ensure_eq!((other.loads(at)?, other.stores(at, 2)?), (Value(0), Value(2)));
        ensure_eq!(guest.loads(at)?, Value(2));
    }
    ensure_eq!(other.loads(RAM + BLOCK)?, Value(0));
    Ok(())
}

/// It never finds that nothing is mapped.
///
/// # Errors
/// It does not hold.
pub fn a_guest_writes_while_its_memory_is_replaced<M: Machine>(machine: &M) -> Verdict {
    const ROUNDS: usize = 60;
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    guest.map(range(RAM, 4 * PAGE), LAZY, RW)?;
    let (_region, mapping) = shared(&guest, 7)?;
    let over = AtomicBool::new(false);
    let writes = || {
        let run = guest.seat(1, 1);
        until(&over, || {
            // Each replacement may come in between, and a CPU that waits for one tries again and again.
            let came = run.tries(Step::Write(RAM + PAGE, 9), 1000)?;
            ensure!(matches!(came, Value(_)), "{came:?}");
            Ok(())
        })
    };
    let replaces = || {
        let done = (0..ROUNDS).try_for_each(|round| {
            let mapping = if round % 3 == 0 { mapping.clone() } else { LAZY };
            Ok(guest.replace(range(RAM + PAGE, PAGE), mapping, RW)?)
        });
        over.store(true, Ordering::Release);
        done
    };
    let (first, second): (Verdict, Verdict) = machine.both(replaces, writes);
    first?;
    second
}

/// Whole and in part, again and again.
///
/// # Errors
/// It does not hold.
pub fn a_guest_goes_back_to_its_template<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    let region = guest.region(4 * PAGE).map_err(|error| Stop::failed(format_args!("{error}")))?;
    let written = region.writer().and_then(|writer| (0..4).try_for_each(|page| writer.write_obj(page * PAGE, 5_u64)));
    ensure_eq!((written, region.freeze()), (Ok(()), Ok(())));
    let template = |page: usize| Mapping::CopyOnWrite { region: region.clone(), offset: page * PAGE };
    guest.map(range(RAM, 4 * PAGE), template(0), RW)?;
    for (first, count) in [(0, 4), (1, 2), (3, 1)] {
        for page in 0..4 {
            ensure_eq!(guest.stores(RAM + page * PAGE, 6)?, Value(6));
        }
        guest.replace(range(RAM + first * PAGE, count * PAGE), template(first), RW)?;
        for page in 0..4 {
            let value = if (first..first + count).contains(&page) { 5 } else { 6 };
            ensure_eq!(guest.loads(RAM + page * PAGE)?, Value(value), "page {page}");
        }
        ensure_eq!((guest.stats().areas, guest.usage().frames), (guest.areas()?.len(), 4 - count));
    }
    guest.unmap(range(RAM, 4 * PAGE))?;
    drop(region);
    ensure_eq!(machine.allocated(), before);
    Ok(())
}
