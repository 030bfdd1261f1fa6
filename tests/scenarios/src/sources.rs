//! Memory that comes from a source: an image, a file, another machine.

use alloc::{sync::Arc, vec, vec::Vec};
use core::{
    num::NonZeroUsize,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use stage2::pager::{Offered, Pager, Settled, Source, SourceError, SourceFailed, Supply, Ticket, Waiting};

use crate::{Came, prelude::*};

/// How often a step may fault while another CPU is at work on the same page: where CPUs are threads, that one may be
/// waiting for a CPU of the host.
const PATIENCE: usize = 50_000;
/// The first page of the source that guests here see.
const FIRST: usize = 3;

/// An image in memory: each page begins with its number and one hundred, but the one that is code.
struct Image {
    code: Vec<u8>,
    /// Whether it answers at once.
    at_once: AtomicBool,
    asked: AtomicUsize,
    /// How often tickets were over: there, failed, cancelled.
    over: [AtomicUsize; 3],
}

/// The page of code.
const CODE: usize = FIRST + 7;

impl Source for Image {
    fn ask(&self, ticket: Ticket, page: &mut [u8]) -> Supply {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if !self.at_once.load(Ordering::Relaxed) {
            return Supply::Later;
        }
        self.fill(ticket, page);
        Supply::Ready
    }

    fn settled(&self, _: Ticket, how: Settled) {
        let index = match how {
            Settled::Ready => 0,
            Settled::Failed => 1,
            Settled::Cancelled => 2,
        };
        self.over[index].fetch_add(1, Ordering::Relaxed);
    }
}

impl Image {
    fn fill(&self, ticket: Ticket, page: &mut [u8]) {
        match ticket.offset() / PAGE {
            CODE => page[..self.code.len()].copy_from_slice(&self.code),
            number => page[..8].copy_from_slice(&(100 + number as u64).to_le_bytes()),
        }
    }

    /// The page that a ticket is for.
    fn page(&self, ticket: Ticket) -> Vec<u8> {
        let mut page = vec![0; PAGE];
        self.fill(ticket, &mut page);
        page
    }

    /// How often it was asked, and how often tickets were over: there, failed, cancelled.
    fn counts(&self) -> (usize, [usize; 3]) {
        (self.asked.load(Ordering::Relaxed), self.over.each_ref().map(|count| count.load(Ordering::Relaxed)))
    }

    fn answers_at_once(&self, at_once: bool) {
        self.at_once.store(at_once, Ordering::Relaxed);
    }
}

/// An image that answers later, and a pager with room for so many pages.
fn image<M: Machine>(machine: &M, room: usize) -> Result<(Arc<Image>, Pager), Stop> {
    let code = machine.code(77);
    let image = Image { code, at_once: AtomicBool::new(false), asked: AtomicUsize::new(0), over: Default::default() };
    let image = Arc::new(image);
    let room = NonZeroUsize::new(room).unwrap_or(NonZeroUsize::MIN);
    let pager = Pager::new(image.clone(), room).map_err(|error| Stop::failed(format_args!("{error}")))?;
    Ok((image, pager))
}

/// Maps so many pages of an image at the start of memory, private.
fn map<M: Machine>(guest: &Guest<'_, M>, pager: &Pager, count: usize, flags: MappingFlags) -> Verdict {
    guest.map_from(range(RAM, count * PAGE), pager, FIRST * PAGE, flags)?;
    Ok(())
}

/// What the guest waits for.
#[track_caller]
fn ticket(came: Came) -> Result<Ticket, Stop> {
    match came {
        Came::NotYet(ticket) => Ok(ticket),
        other => Err(Stop::failed(format_args!("{other:x?}, not a wait"))),
    }
}

fn value(page: usize) -> Came {
    Value(100 + (FIRST + page) as u64)
}

/// An image in memory comes page by page as the guest touches it, is its own, and goes with it.
///
/// # Errors
/// It does not hold.
pub fn an_image_comes_as_it_is_touched<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (image, pager) = image(machine, 4)?;
    image.answers_at_once(true);
    let before = machine.allocated();
    map(&guest, &pager, 8, RWX)?;
    ensure_eq!((machine.allocated(), image.counts().0), (before, 0));
    ensure_eq!((guest.loads(RAM + PAGE)?, guest.loads(RAM + PAGE + 8)?), (value(1), Value(0)));
    ensure_eq!(guest.stores(RAM + 2 * PAGE + 8, 9)?, Value(9));
    ensure_eq!((guest.loads(RAM + 2 * PAGE)?, guest.stores(RAM + PAGE, 5)?), (value(2), Value(5)));
    // What the source wrote is what the guest fetches.
    ensure_eq!(guest.calls(RAM + 7 * PAGE)?, Value(77));
    ensure_eq!(guest.loads(RAM + PAGE)?, Value(5));
    ensure_eq!((image.counts(), guest.stats().owned_frames), ((3, [3, 0, 0]), 3));
    guest.unmap(range(RAM, 8 * PAGE))?;
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// A guest that waits for its memory does not hold up its other CPU, and comes to it in the end.
///
/// # Errors
/// It does not hold.
pub fn one_cpu_waits_while_another_runs<M: Machine>(machine: &M) -> Verdict {
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let other = guest.seat(1, 1);
    let (image, pager) = image(machine, 4)?;
    map(&guest, &pager, 8, RW)?;
    guest.map(range(RAM + BLOCK, 2 * PAGE), LAZY, RW)?;
    let waited_for = ticket(guest.loads(RAM)?)?;
    ensure_eq!(other.does(Step::CountTo(RAM + BLOCK, 1000))?, Value(1000));
    ensure_eq!((pager.state(waited_for), ticket(guest.loads(RAM + 8)?)?), (Waiting::NotYet, waited_for));
    let count = || other.does(Step::CountTo(RAM + BLOCK, 3000));
    let (completed, counted) = machine.both(|| pager.complete(waited_for, Ok(&image.page(waited_for))), count);
    ensure_eq!((completed, counted?), (Ok(()), Value(3000)));
    ensure_eq!((pager.state(waited_for), other.loads(RAM)?), (Waiting::Over, value(0)));
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    ensure_eq!((other.loads(RAM)?, image.counts()), (Value(1), (1, [1, 0, 0])));
    Ok(())
}

/// Two CPUs miss the same pages at the same time: each page is asked for once, whether it comes at once or later.
///
/// # Errors
/// It does not hold.
pub fn what_two_cpus_miss_is_asked_for_once<M: Machine>(machine: &M) -> Verdict {
    const COUNT: usize = 32;
    need_two_cpus(machine)?;
    let guest = Guest::new(machine)?;
    let (image, pager) = image(machine, 4)?;
    guest.map_from(range(RAM, 2 * COUNT * PAGE), &pager, 100 * PAGE, RW)?;
    for at_once in [true, false] {
        image.answers_at_once(at_once);
        let start = if at_once { 0 } else { COUNT };
        let over = AtomicBool::new(false);
        let touch =
            |cpu: usize| (start..start + COUNT).try_for_each(|page| comes(&guest, cpu, page, (&image, &pager), &over));
        let source = || {
            let came = touch(0);
            // From here on CPU 0 answers no ticket of the other CPU's, also after a failure.
            over.store(true, Ordering::Release);
            came
        };
        let (first, second) = machine.both(source, || touch(1));
        first?;
        second?;
    }
    let (asked, [ready, failed, cancelled]) = image.counts();
    // A CPU that comes too late has a ticket that is cancelled before the source is asked; and CPU 0 may answer the
    // other CPU's ticket before that CPU has asked the source.
    ensure!(asked <= 2 * COUNT, "{asked} questions");
    ensure_eq!((ready, failed), (2 * COUNT, 0), "{asked} questions, {cancelled} cancelled");
    ensure_eq!(guest.stats().owned_frames, 2 * COUNT);
    Ok(())
}

/// A CPU loads from a page of the source. CPU 0 answers its own tickets, in the source's place; the other CPU waits for
/// the answer to each of its tickets, until CPU 0 is done.
fn comes<M: Machine>(
    guest: &Guest<'_, M>,
    cpu: usize,
    page: usize,
    (image, pager): (&Image, &Pager),
    over: &AtomicBool,
) -> Verdict {
    loop {
        // The other CPU may be at work on the page.
        match guest.seat(cpu, cpu).tries(Step::Read(RAM + page * PAGE), PATIENCE)? {
            // It may have come right now.
            Came::NotYet(ticket) if cpu == 0 => drop(pager.complete(ticket, Ok(&image.page(ticket)))),
            Came::NotYet(ticket) => {
                while pager.state(ticket) == Waiting::NotYet {
                    ensure!(
                        !over.load(Ordering::Acquire) || pager.state(ticket) == Waiting::Over,
                        "there is no answer"
                    );
                    (0..1000).for_each(|_| core::hint::spin_loop());
                }
            }
            came => {
                ensure_eq!(came, Value(200 + page as u64));
                return Ok(());
            }
        }
    }
}

/// A source that fails, or answers twice, or with too little, or too late.
///
/// # Errors
/// It does not hold.
pub fn a_source_that_fails_or_answers_twice<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (image, pager) = image(machine, 4)?;
    map(&guest, &pager, 4, RW)?;
    let failed = ticket(guest.stores(RAM, 1)?)?;
    let before = picture(&guest);
    for size in [0, 8, PAGE - 1, PAGE + 1] {
        let refused = pager.complete(failed, Ok(&vec![1; size]));
        ensure_eq!(refused, Err(SourceError::BadSize { ticket: failed, size }));
    }
    ensure_eq!(picture(&guest), before);
    ensure_eq!(pager.complete(failed, Err(SourceFailed)), Ok(()));
    for _ in 0..2 {
        ensure_eq!(guest.loads(RAM)?, Came::SourceFailed(failed));
        let read = guest.load::<u64>(gpa(RAM));
        ensure_eq!(read, Err(Error::SourceFailed { range: range(RAM, 8), ticket: failed }));
    }
    ensure_eq!(pager.complete(failed, Ok(&image.page(failed))), Err(SourceError::NotPending { ticket: failed }));
    ensure_eq!((pager.retry(failed), image.counts()), (Ok(()), (1, [0, 1, 0])));
    let again = ticket(guest.loads(RAM)?)?;
    ensure_eq!(pager.complete(again, Ok(&image.page(again))), Ok(()));
    for answer in [Ok(&[1; PAGE][..]), Err(SourceFailed)] {
        ensure_eq!(pager.complete(again, answer), Err(SourceError::NotPending { ticket: again }));
        ensure_eq!(guest.loads(RAM)?, value(0));
    }
    Ok(())
}

/// What is unmapped while it is waited for is not waited for any more, and does not come; what is mapped there then does.
///
/// # Errors
/// It does not hold.
pub fn unmapping_cancels<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    let (image, pager) = image(machine, 4)?;
    map(&guest, &pager, 4, RW)?;
    let (gone, kept) = (ticket(guest.loads(RAM + PAGE)?)?, ticket(guest.loads(RAM)?)?);
    guest.unmap(range(RAM + PAGE, PAGE))?;
    ensure_eq!((pager.state(gone), pager.state(kept)), (Waiting::Over, Waiting::NotYet));
    ensure_eq!(guest.loads(RAM + PAGE)?, NotMapped);
    guest.map(range(RAM + PAGE, PAGE), LAZY, RW)?;
    ensure_eq!(pager.complete(gone, Ok(&image.page(gone))), Err(SourceError::NotPending { ticket: gone }));
    ensure_eq!((guest.loads(RAM + PAGE)?, image.counts()), (Value(0), (2, [0, 0, 1])));
    guest.protect(range(RAM, PAGE), READ)?;
    ensure_eq!(pager.complete(kept, Ok(&image.page(kept))), Ok(()));
    ensure_eq!((guest.loads(RAM)?, guest.stores(RAM, 1)?), (value(0), Denied(READ)));
    guest.unmap(range(RAM, 4 * PAGE))?;
    ensure_eq!(machine.allocated(), before);
    let other = Guest::new(machine)?;
    map(&other, &pager, 4, RW)?;
    let last = ticket(other.loads(RAM)?)?;
    drop(other);
    ensure_eq!((pager.state(last), image.counts()), (Waiting::Over, (3, [1, 0, 2])));
    ensure_eq!(machine.allocated(), before);
    Ok(())
}

/// The hypervisor's own reads and writes are told to wait, with what they have not done yet.
///
/// # Errors
/// It does not hold.
pub fn the_hypervisor_waits_too<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (image, pager) = image(machine, 4)?;
    image.answers_at_once(true);
    map(&guest, &pager, 4, RW)?;
    guest.write_obj(gpa(RAM + PAGE - 8), 5_u64)?;
    image.answers_at_once(false);
    let mut bytes = [0xff; 16];
    let waits = match guest.read(gpa(RAM + PAGE - 8), &mut bytes) {
        Err(Error::NotYet { range: missing, ticket }) if missing == range(RAM + PAGE, 8) => ticket,
        other => fail!("{other:x?}"),
    };
    ensure_eq!(bytes, [5, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    ensure_eq!((ticket(guest.stores(RAM + PAGE, 1)?)?, image.counts().0), (waits, 2));
    let refused = guest.store(gpa(RAM + PAGE), 1_u32);
    ensure_eq!(refused, Err(Error::NotYet { range: range(RAM + PAGE, 4), ticket: waits }));
    ensure_eq!(pager.complete(waits, Ok(&image.page(waits))), Ok(()));
    guest.store(gpa(RAM + PAGE + 8), 6_u64)?;
    ensure_eq!((guest.loads(RAM + PAGE)?, guest.loads(RAM + PAGE + 8)?), (value(1), Value(6)));
    Ok(())
}

/// Only so many pages are pending at once; a CPU that misses one more is told to wait for the oldest of them.
///
/// # Errors
/// It does not hold.
pub fn pending_pages_are_limited<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (image, pager) = image(machine, 2)?;
    map(&guest, &pager, 6, RW)?;
    let before = machine.allocated();
    let (first, second) = (ticket(guest.loads(RAM)?)?, ticket(guest.loads(RAM + PAGE)?)?);
    for page in 2..6 {
        ensure_eq!(ticket(guest.loads(RAM + page * PAGE)?)?, first);
    }
    ensure_eq!((image.counts().0, guest.stats().owned_frames), (2, 0));
    ensure_eq!(pager.complete(first, Ok(&image.page(first))), Ok(()));
    let third = ticket(guest.loads(RAM + 2 * PAGE)?)?;
    ensure!(third != first && third != second);
    ensure_eq!(ticket(guest.loads(RAM + 3 * PAGE)?)?, second);
    ensure_eq!((guest.loads(RAM)?, image.counts().0), (value(0), 3));
    guest.unmap(range(RAM, 6 * PAGE))?;
    ensure!(machine.allocated() <= before);
    ensure_eq!(image.counts(), (3, [1, 0, 2]));
    Ok(())
}

/// Two guests share a region that comes from a source: each page is asked for once, and comes to both.
///
/// # Errors
/// It does not hold.
pub fn a_region_comes_to_all_its_guests<M: Machine>(machine: &M) -> Verdict {
    let (one, two) = (Guest::new(machine)?, Guest::new(machine)?);
    let before = machine.allocated();
    let (image, pager) = image(machine, 4)?;
    let region = one.region_from(4 * PAGE, &pager, FIRST * PAGE);
    let region = region.map_err(|error| Stop::failed(format_args!("{error}")))?;
    one.map(range(RAM, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW)?;
    two.map(range(RAM + BLOCK, 2 * PAGE), Mapping::Shared { region: region.clone(), offset: PAGE }, RW)?;
    let waits = ticket(one.loads(RAM + PAGE)?)?;
    ensure_eq!(ticket(two.stores(RAM + BLOCK, 7)?)?, waits);
    ensure_eq!(region.load::<u64>(PAGE), Err(RegionError::NotYet { offset: PAGE, size: 8, ticket: waits }));
    one.unmap(range(RAM, 4 * PAGE))?;
    ensure_eq!(pager.complete(waits, Ok(&image.page(waits))), Ok(()));
    ensure_eq!((two.loads(RAM + BLOCK)?, two.stores(RAM + BLOCK, 7)?), (value(1), Value(7)));
    one.map(range(RAM, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, READ)?;
    ensure_eq!((one.loads(RAM + PAGE)?, region.frames(), image.counts()), (Value(7), 1, (1, [1, 0, 0])));
    let last = ticket(two.loads(RAM + BLOCK + PAGE)?)?;
    one.unmap(range(RAM, 4 * PAGE))?;
    two.unmap(range(RAM + BLOCK, 2 * PAGE))?;
    ensure_eq!(pager.state(last), Waiting::NotYet);
    drop(region);
    ensure_eq!((pager.state(last), machine.allocated()), (Waiting::Over, before));
    Ok(())
}

/// A snapshot has the source behind it: a page that was not touched comes once, to every guest that starts from it.
///
/// # Errors
/// It does not hold.
pub fn a_snapshot_keeps_its_source<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let before = machine.allocated();
    let fork = Guest::new(machine)?;
    let (image, pager) = image(machine, 4)?;
    image.answers_at_once(true);
    map(&guest, &pager, 4, RW)?;
    ensure_eq!(guest.stores(RAM, 1)?, Value(1));
    image.answers_at_once(false);
    let pending = ticket(guest.loads(RAM + PAGE)?)?;
    let snapshot = guest.snapshot()?;
    fork.restore(&snapshot)?;
    drop(snapshot);
    ensure_eq!(ticket(fork.stores(RAM + PAGE, 2)?)?, pending);
    ensure_eq!(pager.complete(pending, Ok(&image.page(pending))), Ok(()));
    ensure_eq!((fork.stores(RAM + PAGE + 8, 2)?, guest.loads(RAM + PAGE + 8)?), (Value(2), Value(0)));
    ensure_eq!((fork.loads(RAM + PAGE)?, guest.loads(RAM + PAGE)?, fork.loads(RAM)?), (value(1), value(1), Value(1)));
    image.answers_at_once(true);
    ensure_eq!((fork.stores(RAM + 2 * PAGE, 3)?, guest.loads(RAM + 2 * PAGE)?), (Value(3), value(2)));
    ensure_eq!(image.counts().0, 3);
    drop(fork);
    ensure_eq!(guest.loads(RAM + 3 * PAGE)?, value(3));
    guest.unmap(range(RAM, 4 * PAGE))?;
    ensure_eq!((machine.allocated(), image.counts()), (before, (4, [4, 0, 0])));
    Ok(())
}

/// A guest whose pages were populated, or offered by the source, waits for none of them. What it wrote is not overwritten.
///
/// # Errors
/// It does not hold.
pub fn what_is_brought_ahead_is_not_waited_for<M: Machine>(machine: &M) -> Verdict {
    let guest = Guest::new(machine)?;
    let (image, pager) = image(machine, 8)?;
    map(&guest, &pager, 8, RWX)?;
    let waited_for = ticket(guest.loads(RAM)?)?;
    let mut page = [0; PAGE];
    page[..8].copy_from_slice(&42_u64.to_le_bytes());
    for at in [RAM, RAM + PAGE] {
        ensure_eq!(guest.offer(at.into(), &page)?, Offered::Taken);
        ensure_eq!((guest.loads(at)?, guest.stores(at, 43)?), (Value(42), Value(43)));
        ensure_eq!((guest.offer(at.into(), &page)?, guest.loads(at)?), (Offered::Late, Value(43)));
    }
    ensure_eq!((pager.state(waited_for), image.counts()), (Waiting::Over, (1, [1, 0, 0])));
    image.answers_at_once(true);
    ensure_eq!(guest.populate(range(RAM, 8 * PAGE), Access::Write)?, Populated::Whole);
    let faults = guest.stats().faults;
    ensure_eq!((guest.loads(RAM + 2 * PAGE)?, guest.stores(RAM + 3 * PAGE, 1)?), (value(2), Value(1)));
    ensure_eq!((guest.calls(RAM + 7 * PAGE)?, guest.loads(RAM)?), (Value(77), Value(43)));
    ensure_eq!((guest.stats().faults, image.counts()), (faults, (7, [7, 0, 0])));
    Ok(())
}
