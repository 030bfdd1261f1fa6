//! Several threads at once on one space: what a hypervisor's CPUs do to each other. First without a guest, on memory
//! that counts its frames, with as many threads as there are; then with a guest on the model of the hardware.

#[path = "threads/guests.rs"]
mod guests;
#[path = "threads/regions.rs"]
mod regions;
#[path = "threads/sources.rs"]
mod sources;
#[path = "threads/steps.rs"]
mod steps;
#[path = "threads/transfers.rs"]
mod transfers;

use std::{
    collections::BTreeSet,
    ptr::NonNull,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use memory_addr::PAGE_SIZE_4K as PAGE;
use stage2::{
    Access, Cause, Config, Content, CpuId, Error, Fault, Frames, GuestPhysAddr, GuestSpace, Invalidate, LeafPolicy,
    Limits, LockFamily, Mapping, MappingFlags, Origin, Outcome, PhysAddr, Pieces, Platform, Populate, Reach, Scope,
    Spin, Unreachable,
    aarch64::{Root, Stage2, Vmid},
};
use stage2_model::{Failure, Memory, Pool};
use stage2_scenarios::{gpa, range};

const RAM: usize = 0x4000_0000;
const BLOCK: usize = 2 << 20;
const READ: MappingFlags = MappingFlags::READ;
const RW: MappingFlags = READ.union(MappingFlags::WRITE);
const LAZY: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Pages };
const LAZY_BLOCKS: Mapping = Mapping::Private { populate: Populate::Lazy, leaf: LeafPolicy::Largest };
const PAGES: Mapping = Mapping::Private { populate: Populate::Now, leaf: LeafPolicy::Pages };

/// A machine on which no guest runs, so that there is nothing to invalidate; it counts how often it was asked to.
#[derive(Clone, Default)]
struct NoGuest(Arc<AtomicU64>);

impl Invalidate<Root> for NoGuest {
    fn reach(&self) -> Reach {
        Reach::Everywhere
    }

    fn publish(&self) {}

    fn invalidate(&self, _: Root, _: Scope) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn invalidate_all(&self, _: Root) {}

    fn invalidate_denial(&self, _: Root, _: GuestPhysAddr) {}

    fn switch_vcpu(&self, _: Root) {}

    fn interrupt(&self, cpus: &mut dyn Iterator<Item = CpuId>) -> Result<(), Unreachable> {
        cpus.next().map_or(Ok(()), |cpu| Err(Unreachable(cpu)))
    }

    fn synchronize(&self, _: NonNull<u8>, _: usize, _: Content) {}

    fn activate(&self, _: Root) {}
}

/// Frames that, when it is so arranged, nobody gets before all have asked: then all bring theirs at once.
#[derive(Clone)]
struct Meeting {
    pool: Pool,
    place: Arc<Place>,
}

/// Where threads meet.
#[derive(Default)]
struct Place {
    /// How many; 0 when nobody waits.
    threads: AtomicUsize,
    arrived: AtomicUsize,
}

impl Place {
    /// Waits for the others, awake, so that all go on at the same moment.
    fn meet(&self) {
        let threads = self.threads.load(Ordering::Acquire);
        if threads > 0 {
            let number = self.arrived.fetch_add(1, Ordering::AcqRel);
            let all = (number + 1).next_multiple_of(threads);
            let mut patience = 1000;
            while self.arrived.load(Ordering::Acquire) < all {
                if patience > 0 {
                    std::hint::spin_loop();
                } else {
                    thread::yield_now();
                }
                patience = patience.max(1) - 1;
            }
        }
    }
}

// SAFETY: all of it is the pool's.
#[allow(unsafe_code, reason = "implements the crate's unsafe trait")]
unsafe impl Frames for Meeting {
    fn allocate(&self, count: usize, align: usize) -> Option<PhysAddr> {
        let at = self.pool.allocate(count, align);
        self.place.meet();
        at
    }

    unsafe fn free(&self, at: PhysAddr, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.pool.free(at, count) }
    }

    fn pointer(&self, at: PhysAddr) -> NonNull<u8> {
        self.pool.pointer(at)
    }

    fn pieces(&self) -> Pieces {
        self.pool.pieces()
    }

    fn pool(&self) -> Option<usize> {
        self.pool.pool()
    }
}

struct Parts;

impl Platform for Parts {
    type Format = Stage2;
    type Frames = Meeting;
    type Invalidate = NoGuest;
}

/// A space on memory of its own.
struct Board<L: LockFamily = Spin> {
    memory: Arc<Memory>,
    invalidations: NoGuest,
    frames: Meeting,
    space: GuestSpace<Parts, L>,
    /// The frames of a space in which nothing is mapped.
    empty: u64,
}

impl<L: LockFamily> Board<L> {
    fn new() -> Self {
        let memory = Memory::new(0, 64 << 20);
        let invalidations = NoGuest::default();
        let capabilities = stage2_model::capabilities(&stage2_model::arm::Config::default());
        let frames = Meeting { pool: Pool::new(&memory), place: Arc::default() };
        let space = GuestSpace::new(Config {
            format: Stage2::new(&capabilities, 40, Vmid(1)).expect("40 bits"),
            frames: frames.clone(),
            invalidate: invalidations.clone(),
            cpus: 4,
            limits: Limits::default(),
        });
        let space = space.expect("a space");
        Self { empty: memory.allocated(), memory, invalidations, frames, space }
    }

    /// From now on so many threads, or none, wait for each other with each frame that they allocate.
    fn meet(&self, threads: usize) {
        self.frames.place.arrived.store(0, Ordering::Release);
        self.frames.place.threads.store(threads, Ordering::Release);
    }

    /// Every frame is in one place, and in the books.
    fn audit(&self) {
        let (stats, mut frames) = (self.space.stats(), BTreeSet::new());
        let walked = self.space.walk(range(0, 1 << 40), |found| {
            for page in (0..found.size).step_by(PAGE) {
                assert!(frames.insert(found.hpa + page), "a frame is in two places");
            }
        });
        assert_eq!(walked, Ok(()));
        assert_eq!(frames.len(), stats.owned_frames);
        assert_eq!(self.memory.allocated() as usize, stats.owned_frames + stats.table_frames, "frames are lost");
        assert_eq!(stats.invalidations.ranges, self.invalidations.0.load(Ordering::Relaxed), "counts are lost");
    }

    /// The same, when everything is unmapped and the space goes.
    fn end(self) {
        self.audit();
        for area in self.space.areas().expect("areas") {
            self.space.unmap(area.range).expect("what is mapped can be unmapped");
        }
        self.audit();
        assert_eq!(self.memory.allocated(), self.empty, "tables of nothing are left");
        drop(self.space);
        assert_eq!(self.memory.allocated(), 0);
    }
}

/// Runs all at the same time, each with its number.
fn race(threads: &[&(dyn Fn(usize) + Sync)]) {
    let start = Barrier::new(threads.len());
    thread::scope(|scope| {
        for (number, work) in threads.iter().enumerate() {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                work(number);
            });
        }
    });
}

/// One of those that others wait for, until it goes, whatever the reason.
struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

fn fault(at: usize, access: Access, cause: Cause) -> Fault {
    Fault { gpa: gpa(at), access, cause, origin: Origin::Instruction }
}

/// Runs `work` with the numbers from 0 on while `others` are [`Running`].
fn until_done(others: &AtomicUsize, mut work: impl FnMut(usize)) {
    let mut round = 0;
    while others.load(Ordering::Acquire) > 0 {
        work(round);
        round += 1;
        thread::yield_now();
    }
}

/// F1: each page gets one frame, however many ask; each fault has an outcome, and is counted.
#[test]
fn one_of_all_faults_on_a_page_resolves_it() {
    const COUNT: usize = 1024;
    for (mapping, leaves) in [(LAZY, COUNT), (LAZY_BLOCKS, 2)] {
        let board = Board::<Spin>::new();
        board.space.map(range(RAM, COUNT * PAGE), mapping, RW).expect("a lazy area");
        let resolved = AtomicUsize::new(0);
        let all = |cpu: usize| {
            for page in 0..COUNT {
                match board.space.fault(CpuId(cpu), fault(RAM + page * PAGE, Access::Write, Cause::Translation)) {
                    Ok(Outcome::Resolved) => drop(resolved.fetch_add(1, Ordering::Relaxed)),
                    Ok(Outcome::Retry) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        race(&[&all, &all, &all, &all]);
        assert_eq!(resolved.load(Ordering::Relaxed), leaves);
        assert_eq!(board.space.stats().faults, 4 * COUNT as u64, "faults are lost");
        assert_eq!(board.space.stats().owned_frames, COUNT);
        board.end();
    }
}

/// H25: four CPUs bring a frame each, and tables, to the same place at the same time; what three bring goes back.
#[test]
fn whoever_comes_second_frees_what_it_brought() {
    for (mapping, pages) in [(LAZY, 1), (LAZY_BLOCKS, 512)] {
        let board = Board::<Spin>::new();
        board.space.map(range(RAM, 6 * BLOCK), mapping.clone(), RW).expect("a lazy area");
        // Beside a page that is there already, in a fresh table, and with tables of two levels missing.
        let far = RAM + (2 << 30);
        board.space.map(range(far, BLOCK), mapping.clone(), RW).expect("a lazy area");
        board.space.write_obj(gpa(RAM), 1_u64).expect("memory");
        let places = [RAM + BLOCK - PAGE, RAM + BLOCK, RAM + 3 * BLOCK, RAM + 3 * BLOCK + PAGE, far];
        let fresh: usize = if mapping == LAZY { 5 } else { 3 };
        let resolved = AtomicUsize::new(0);
        board.meet(4);
        let all = |cpu: usize| {
            for at in places {
                match board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Translation)) {
                    Ok(Outcome::Resolved) => drop(resolved.fetch_add(1, Ordering::Relaxed)),
                    Ok(Outcome::Retry) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        race(&[&all, &all, &all, &all]);
        board.meet(0);
        assert_eq!(resolved.load(Ordering::Relaxed), fresh);
        assert_eq!(board.space.stats().owned_frames, (1 + fresh) * pages);
        board.end();
    }
}

/// F1, H25: of two CPUs that bring a frame to the same entry at the same moment one is told that it lost.
#[test]
fn an_entry_takes_one_of_two_frames() {
    const COUNT: usize = 512;
    const ROUNDS: usize = 6;
    let board = Board::<Spin>::new();
    for _ in 0..ROUNDS {
        board.space.map(range(RAM, COUNT * PAGE), LAZY, RW).expect("a lazy area");
        board.space.write_obj(gpa(RAM), 1_u64).expect("the tables are there");
        let resolved = AtomicUsize::new(0);
        board.meet(2);
        let both = |cpu: usize| {
            for page in 1..COUNT {
                match board.space.fault(CpuId(cpu), fault(RAM + page * PAGE, Access::Write, Cause::Translation)) {
                    Ok(Outcome::Resolved) => drop(resolved.fetch_add(1, Ordering::Relaxed)),
                    Ok(Outcome::Retry) => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        race(&[&both, &both]);
        board.meet(0);
        assert_eq!(resolved.load(Ordering::Relaxed), COUNT - 1, "both were told that theirs is there");
        board.audit();
        board.space.unmap(range(RAM, COUNT * PAGE)).expect("it is mapped");
    }
    board.end();
}

/// What the hypervisor's threads add up in memory that moves is not lost.
#[test]
fn sums_are_right_while_their_pages_move() {
    const COUNT: usize = 6;
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, COUNT * PAGE), PAGES, RW).expect("an area");
    let (left, added) = (AtomicUsize::new(1), AtomicU64::new(0));
    let at = |round: usize| gpa(RAM + round % COUNT * PAGE + 8);
    let add = |_| {
        until_done(&left, |round| {
            let mut old = board.space.load::<u64>(at(round)).expect("memory");
            while let Err(now) = board.space.compare_exchange(at(round), old, old + 1).expect("memory") {
                old = now;
            }
            added.fetch_add(1, Ordering::Relaxed);
        });
    };
    let relocate = |_| {
        let _running = Running(&left);
        for _ in 0..200 {
            assert_eq!(board.space.relocate(range(RAM, COUNT * PAGE)), Ok(COUNT), "all pages move");
        }
    };
    race(&[&add, &add, &add, &relocate]);
    let sum: u64 = (0..COUNT).map(|page| board.space.load::<u64>(at(page)).expect("memory")).sum();
    assert_eq!(sum, added.load(Ordering::Relaxed));
    board.end();
}

/// Aligned words are read and written whole, across pages and while they move (H27).
#[test]
fn words_are_never_torn() {
    const WORDS: usize = 16;
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, 2 * PAGE), PAGES, RW).expect("an area");
    let at = gpa(RAM + PAGE - WORDS * 4);
    let left = AtomicUsize::new(1);
    let write = |_| {
        let _running = Running(&left);
        for round in 1..800_u32 {
            let words = [u64::from(round) << 32 | u64::from(round); WORDS];
            board.space.write_obj(at, words).expect("memory");
        }
    };
    let read = |_| {
        until_done(&left, |_| {
            for word in board.space.read_obj::<[u64; WORDS]>(at).expect("memory") {
                assert_eq!(word >> 32, word & 0xffff_ffff, "a torn word");
            }
        });
    };
    let relocate = |_| {
        until_done(&left, |_| assert_eq!(board.space.relocate(range(RAM, 2 * PAGE)), Ok(2), "both pages move"));
    };
    race(&[&write, &read, &read, &relocate]);
    board.end();
}

/// A frame is never two pages': each page's bytes are zeros, or the page's own number.
#[test]
fn memory_that_comes_and_goes_is_never_anothers() {
    const COUNT: usize = 24;
    let board = Board::<Spin>::new();
    let left = AtomicUsize::new(3);
    let touch = |cpu: usize| {
        let _running = Running(&left);
        for round in 0..1500 {
            let page = (round * 7 + cpu * 5) % COUNT;
            let at = RAM + page * PAGE;
            let outcome = board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Translation));
            assert!(matches!(outcome, Ok(Outcome::Resolved | Outcome::Retry | Outcome::NotMapped)), "{outcome:?}");
            match board.space.read_obj::<u64>(gpa(at)) {
                Ok(value) => assert!(value == 0 || value == page as u64 + 1, "page {page} holds {value:#x}"),
                Err(error) => assert_eq!(error, Error::NotMapped(range(at, 8))),
            }
            match board.space.write_obj(gpa(at), page as u64 + 1) {
                Ok(()) => {}
                Err(error) => assert_eq!(error, Error::NotMapped(range(at, 8))),
            }
        }
    };
    let change = |_| {
        until_done(&left, |round| {
            let start = round * 5 % COUNT;
            let some = range(RAM + start * PAGE, (COUNT - start).min(9) * PAGE);
            match round % 4 {
                0 | 2 => match board.space.map(some, if round % 8 < 4 { LAZY } else { PAGES }, RW) {
                    Ok(()) | Err(Error::Overlap { .. }) => {}
                    other => panic!("{other:?}"),
                },
                1 => match board.space.relocate(some) {
                    Ok(_) | Err(Error::NotMapped(_)) => {}
                    other => panic!("{other:?}"),
                },
                _ => match board.space.unmap(some) {
                    Ok(()) | Err(Error::NotMapped(_)) => {}
                    other => panic!("{other:?}"),
                },
            }
        });
    };
    race(&[&touch, &touch, &touch, &change]);
    board.end();
}

/// When protecting returns, nobody writes any more; blocks are cut and their pieces made one's own meanwhile.
#[test]
fn nothing_changes_while_it_is_protected() {
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, 2 * BLOCK), LAZY_BLOCKS, RW).expect("a lazy area");
    let left = AtomicUsize::new(1);
    let part = range(RAM + BLOCK - 4 * PAGE, 8 * PAGE);
    let write = |cpu: usize| {
        let mut round = 0_u64;
        until_done(&left, |_| {
            round += 1;
            let at = RAM + BLOCK - 4 * PAGE + round as usize % 8 * PAGE;
            match board.space.write_obj(gpa(at), round << 2 | cpu as u64) {
                Ok(()) | Err(Error::Denied { .. }) => {}
                other => panic!("{other:?}"),
            }
            let outcome = board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Permission));
            assert!(matches!(outcome, Ok(Outcome::Resolved | Outcome::Retry | Outcome::Denied { .. })), "{outcome:?}");
        });
    };
    let protect = |_| {
        let _running = Running(&left);
        for _ in 0..200 {
            board.space.protect(part, READ).expect("memory");
            let all = || (0..8).map(|page| board.space.read_obj::<u64>(part.start + page * PAGE)).collect::<Vec<_>>();
            let before = all();
            thread::yield_now();
            assert_eq!(all(), before, "somebody wrote what is read-only");
            board.space.protect(part, RW).expect("memory");
            thread::yield_now();
        }
    };
    race(&[&write, &write, &write, &protect]);
    board.end();
}

/// Of all that map the same at once one has it; it alone can give it back.
#[test]
fn an_address_is_mapped_by_one_of_all_who_try() {
    let board = Board::<Spin>::new();
    let mapped = AtomicUsize::new(0);
    let map = |cpu: usize| {
        for round in 0..150 {
            let some = range(RAM + BLOCK - PAGE, (2 + (round + cpu) % 3) * PAGE);
            match board.space.map(some, if round % 2 == 0 { PAGES } else { LAZY }, RW) {
                Ok(()) => {
                    assert_eq!(mapped.fetch_add(1, Ordering::AcqRel), 0, "two have it");
                    board.space.write_obj(some.start, cpu as u64 + 1).expect("memory of one's own");
                    thread::yield_now();
                    assert_eq!(board.space.read_obj(some.start), Ok(cpu as u64 + 1));
                    assert_eq!(mapped.fetch_sub(1, Ordering::AcqRel), 1);
                    board.space.unmap(some).expect("it is mapped");
                }
                Err(Error::Overlap { range: named, .. }) => assert_eq!(named, some),
                other => panic!("{other:?}"),
            }
        }
    };
    race(&[&map, &map, &map, &map]);
    board.end();
}

/// Allocations fail now and then, for whoever it hits: an error, an outcome, and no frame lost.
#[test]
fn failing_allocations_lose_nothing_on_any_thread() {
    const COUNT: usize = 32;
    let board = Board::<Spin>::new();
    board.space.map(range(RAM, COUNT * PAGE), LAZY, RW).expect("a lazy area");
    board.space.map(range(RAM + BLOCK, BLOCK), LAZY_BLOCKS, RW).expect("a lazy area");
    let left = AtomicUsize::new(3);
    let touch = |cpu: usize| {
        let _running = Running(&left);
        for round in 0..800 {
            let at = RAM + round % 2 * BLOCK + (round * 11 + cpu) % COUNT * PAGE;
            match board.space.fault(CpuId(cpu), fault(at, Access::Write, Cause::Translation)) {
                Ok(Outcome::Resolved | Outcome::Retry) | Err(Error::NoMemory(_)) => {}
                other => panic!("{other:?}"),
            }
            let page = range(RAM + (round + cpu) % COUNT * PAGE, PAGE);
            match if cpu == 0 { board.space.relocate(page).map(drop) } else { board.space.protect(page, RW) } {
                Ok(()) | Err(Error::NoMemory(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let starve = |_| until_done(&left, |round| board.memory.fail(Failure::Once(round % 5)));
    race(&[&touch, &touch, &touch, &starve]);
    board.memory.fail(Failure::Never);
    board.end();
}

/// L6: readers that never stop do not keep anybody from unmapping, even where they all share one lock.
#[test]
fn l6_readers_do_not_starve_who_unmaps() {
    const ROUNDS: usize = 300;
    let board = Arc::new(Board::<Spin>::new());
    board.space.map(range(RAM, PAGE), LAZY, RW).expect("a lazy area");
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..3)
        .map(|cpu| {
            let (board, stop, reads) = (board.clone(), stop.clone(), reads.clone());
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Each holds the lock nearly all the time, so that it is hardly ever free.
                    board.space.walk(range(0, 64 << 30), |_| {}).expect("a walk");
                    let outcome = board.space.fault(CpuId(cpu), fault(RAM, Access::Read, Cause::Translation));
                    assert!(matches!(outcome, Ok(Outcome::Resolved | Outcome::Retry)), "{outcome:?}");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let (done, finished) = mpsc::channel();
    let writer = {
        let board = board.clone();
        thread::spawn(move || {
            for _ in 0..ROUNDS {
                board.space.map(range(RAM + BLOCK, PAGE), PAGES, RW).expect("memory");
                board.space.unmap(range(RAM + BLOCK, PAGE)).expect("it is mapped");
            }
            done.send(()).expect("somebody waits");
        })
    };
    let came = finished.recv_timeout(Duration::from_secs(20));
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().chain([writer]).for_each(|thread| thread.join().expect("no panic"));
    assert_eq!(came, Ok(()), "unmapping waits for readers that never stop");
    assert!(reads.load(Ordering::Relaxed) > 0, "nobody read meanwhile");
    Arc::into_inner(board).expect("all threads are done").end();
}
