//! What the CPU notes in the entries: accesses and writes.

use core::sync::atomic::{AtomicBool, Ordering};

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::MappingFlags;
use stage2_scenarios::{Came, Guest, Machine, Marks, Setting, Stop, Verdict, range};

use super::{PAGES, RAM, RW, RWX, need_two_cpus};
use crate::pc::{Entry, Pc, Tables, Vendor};

const READ: MappingFlags = MappingFlags::READ;

/// A guest whose CPUs note what it uses.
fn noted<V: Vendor>(pc: &Pc<V>) -> Result<Guest<'_, Pc<V>>, Stop> {
    Guest::with(pc, Setting { marks: Marks::Hardware, ..Setting::default() })
}

/// The CPU notes what the guest does in leaves in which nothing was noted, and neither protecting nor moving them forgets
/// it (E6, W15).
///
/// # Errors
/// It does not hold, or the CPU notes nothing.
pub fn what_the_cpu_noted_first_stays<V: Vendor>(pc: &Pc<V>) -> Verdict {
    let guest = noted(pc)?;
    guest.map(range(RAM, 3 * PAGE), PAGES, RW)?;
    for page in 0..3 {
        // Leaves begin as accessed; no CPU has seen these yet.
        let leaf = Entry::leaf(&guest, RAM + page * PAGE);
        leaf.replace(leaf.bits & !(V::Parts::ACCESSED | V::Parts::DIRTY));
    }
    guest.loads(RAM)?;
    guest.stores(RAM + PAGE, 1)?;
    check_notes(&guest, "at first")?;
    for flags in [RWX, READ, RW, READ | MappingFlags::EXECUTE, RW] {
        guest.protect(range(RAM, 3 * PAGE), flags)?;
        check_notes(&guest, "after protecting")?;
        let leaf = Entry::leaf(&guest, RAM);
        let allowed = [
            (MappingFlags::WRITE, leaf.has(V::Parts::WRITE)),
            (MappingFlags::EXECUTE, V::Parts::is_executable(leaf.bits)),
        ];
        if let Some((flag, _)) = allowed.into_iter().find(|&(flag, allowed)| flags.contains(flag) != allowed) {
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
fn check_notes<V: Vendor>(guest: &Guest<'_, Pc<V>>, when: &str) -> Verdict {
    let (accessed, dirty) = (V::Parts::ACCESSED, V::Parts::DIRTY);
    for (page, expected) in [accessed, accessed | dirty, 0].into_iter().enumerate() {
        let leaf = Entry::leaf(guest, RAM + page * PAGE);
        if leaf.bits & (accessed | dirty) != expected {
            return Err(Stop::failed(format_args!("page {page} {when}: {leaf:x?}, not {expected:#x}")));
        }
    }
    Ok(())
}

/// CPU 1 writes page after page while CPU 0 changes the same leaves: every page that was written is dirty in the end.
///
/// # Errors
/// One is not, or the CPU notes nothing.
pub fn no_note_is_lost_in_a_race<V: Vendor>(pc: &Pc<V>) -> Verdict {
    const COUNT: usize = 32;
    need_two_cpus(pc)?;
    for _round in 0..4 {
        let guest = noted(pc)?;
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
        let (protected, written) = pc.both(changer, writer);
        protected.and(written)?;
        for page in 0..COUNT {
            let leaf = Entry::leaf(&guest, RAM + page * PAGE);
            if !leaf.has(V::Parts::ACCESSED | V::Parts::DIRTY) {
                return Err(Stop::failed(format_args!("page {page} was written: {leaf:x?}")));
            }
        }
    }
    Ok(())
}
