//! Whether a fault in the shootdown would show.

use core::sync::atomic::{AtomicBool, Ordering};

use hypervisor::cpu;
use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{Error, MappingFlags, Outcome, PhysAddr};
use stage2_scenarios::{Attempt, Came, Guest, Machine, Seat, Seen, Stop, Verdict, gpa, range};

use super::{PAGES, RAM, RW, comes, need_two_cpus};
use crate::pc::{
    Pc, Vendor,
    guest::{Errand, WAITS},
    seat,
    shooter::{self, Flaw},
};

/// Runs a guest on CPU 1 that waits for a word in memory and does not exit meanwhile, and `work` on CPU 0 once the guest
/// has read the word. To end it, the word is written, and an NMI sent if the guest does not see it.
fn beside_a_waiting_guest<V: Vendor, R: Send>(
    pc: &Pc<V>,
    guest: &Guest<'_, Pc<V>>,
    value: u64,
    work: impl FnOnce(&AtomicBool) -> R + Send,
) -> Result<(R, Came), Stop> {
    let over = AtomicBool::new(false);
    let sign = PhysAddr::from_usize(guest.frame(RAM + WAITS)?);
    let first = || comes(V::PATIENCE, || pc.peek(sign) != 0).then(|| work(&over));
    let second = || {
        let came = waits(pc, guest, seat(1), value);
        over.store(true, Ordering::SeqCst);
        came
    };
    let (done, came) = pc.both(first, second);
    let came = came?;
    done.map(|done| (done, came)).ok_or_else(|| Stop::failed(format_args!("the guest never came")))
}

/// The guest on this CPU waits for the word at the beginning of its memory, with its faults answered.
fn waits<V: Vendor>(pc: &Pc<V>, guest: &Guest<'_, Pc<V>>, seat: Seat, value: u64) -> Result<Came, Stop> {
    loop {
        match pc.run_here(guest, seat, Errand::WaitFor(RAM, value)) {
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
fn seen_without_help<V: Vendor>(flaw: Flaw, over: &AtomicBool) -> Seen {
    let patience = if flaw == Flaw::None { V::PATIENCE } else { V::NEVER };
    let seen = if comes(patience, || over.load(Ordering::SeqCst)) { Seen::Fresh } else { Seen::Stale };
    // The emulators forget everything at an exit.
    cpu::interrupt(1);
    seen
}

/// A fault in the shootdown, and only that, must show; and the guest ends as it should.
fn judge(flaw: Flaw, seen: Seen, came: Came, end: Came) -> Verdict {
    let expected = if flaw == Flaw::None { Seen::Fresh } else { Seen::Stale };
    if (seen, came) != (expected, end) {
        return Err(Stop::failed(format_args!("{flaw:?}: {seen:?}, not {expected:?}; in the end {came:?}")));
    }
    Ok(())
}

/// A page moves under a guest that reads it all the time without an exit: whether it sees what is written afterwards.
///
/// # Errors
/// It does with a defect put in, or does not without.
pub fn shows<V: Vendor>(pc: &Pc<V>, flaw: Flaw) -> Verdict {
    need_two_cpus(pc)?;
    let guest = Guest::new(pc)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    let (seen, came) = beside_a_waiting_guest(pc, &guest, 2, |over| {
        shooter::put_in(flaw);
        let moved = guest.relocate(range(RAM, PAGE));
        shooter::put_in(Flaw::None);
        let written = guest.write_obj(gpa(RAM), 2_u64);
        let seen = seen_without_help::<V>(flaw, over);
        moved.and(written).map(|()| seen)
    })?;
    judge(flaw, seen?, came, Came::Value(2))
}

/// The page is unmapped under it: whether its next look faults.
///
/// # Errors
/// It does with a defect put in, or does not without.
pub fn takes_away<V: Vendor>(pc: &Pc<V>, flaw: Flaw) -> Verdict {
    need_two_cpus(pc)?;
    let guest = Guest::new(pc)?;
    guest.map(range(RAM, PAGE), PAGES, RW)?;
    let (seen, came) = beside_a_waiting_guest(pc, &guest, 2, |over| {
        shooter::put_in(flaw);
        let unmapped = guest.unmap(range(RAM, PAGE));
        shooter::put_in(Flaw::None);
        let seen = seen_without_help::<V>(flaw, over);
        unmapped.map(|()| seen)
    })?;
    judge(flaw, seen?, came, Came::NotMapped)
}

/// Where a CPU cannot be told, the error names it, and its frames stay; the next change frees them.
///
/// # Errors
/// It does not hold.
pub fn nothing_goes_before_every_cpu_was_told<V: Vendor>(pc: &Pc<V>) -> Verdict {
    need_two_cpus(pc)?;
    let guest = Guest::new(pc)?;
    guest.map(range(RAM, 2 * PAGE), PAGES, RW)?;
    let (done, came) = beside_a_waiting_guest(pc, &guest, 2, |_| {
        let allocated = pc.allocated();
        shooter::put_in(Flaw::Unreachable);
        let refused = guest.unmap(range(RAM + PAGE, PAGE));
        let kept = pc.allocated() == allocated;
        shooter::put_in(Flaw::None);
        guest.write_obj(gpa(RAM), 2_u64).map(|()| (refused, kept))
    })?;
    let (refused, kept) = done?;
    let named = matches!(refused, Err(Error::Invalidation { range: at, cause })
        if at == range(RAM + PAGE, PAGE) && cause.0 == seat(1).cpu);
    if !named || !kept || came != Came::Value(2) {
        return Err(Stop::failed(format_args!("{refused:?}; kept: {kept}; in the end {came:?}")));
    }
    let allocated = pc.allocated();
    guest.protect(range(RAM, PAGE), MappingFlags::READ)?;
    if pc.allocated() >= allocated {
        return Err(Stop::failed(format_args!("the page is lost")));
    }
    Ok(())
}
