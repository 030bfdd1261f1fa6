//! What the threads run on without a guest: a space on memory that counts its frames, and how they start and end.

use super::*;

/// A machine on which no guest runs, so that there is nothing to invalidate; it counts how often it was asked to.
#[derive(Clone, Default)]
pub struct NoGuest(Arc<AtomicU64>);

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

/// Frames which, if so arranged, are given when all threads have asked for one, so that all install theirs at once.
#[derive(Clone)]
pub struct Meeting {
    pool: Pool,
    place: Arc<Place>,
}

/// Where threads meet.
#[derive(Default)]
pub struct Place {
    /// How many threads meet; 0 where none waits for others.
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

pub struct Parts;

impl Platform for Parts {
    type Format = Stage2;
    type Frames = Meeting;
    type Invalidate = NoGuest;
}

/// A space on memory of its own.
pub struct Board<L: LockFamily = Spin> {
    pub memory: Arc<Memory>,
    pub invalidations: NoGuest,
    pub frames: Meeting,
    pub space: GuestSpace<Parts, L>,
    /// The frames of a space in which nothing is mapped.
    pub empty: u64,
}

impl<L: LockFamily> Board<L> {
    pub fn new() -> Self {
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
    pub fn meet(&self, threads: usize) {
        self.frames.place.arrived.store(0, Ordering::Release);
        self.frames.place.threads.store(threads, Ordering::Release);
    }

    /// Adds a one to the word that `at` answers for each round, while `others` are [`Running`]; `added` counts them.
    pub fn add_ones(&self, others: &AtomicUsize, at: impl Fn(usize) -> GuestPhysAddr, added: &AtomicU64) {
        until_done(others, |round| {
            let mut old = self.space.load::<u64>(at(round)).expect("memory");
            while let Err(now) = self.space.compare_exchange(at(round), old, old + 1).expect("memory") {
                old = now;
            }
            added.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Every frame is in one place, and in the books.
    pub fn audit(&self) {
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
    pub fn end(self) {
        self.audit();
        for area in self.space.areas().expect("areas") {
            self.space.unmap(area.range).expect("what is mapped can be unmapped");
        }
        self.audit();
        assert_eq!(self.memory.allocated(), self.empty, "empty tables are left");
        drop(self.space);
        assert_eq!(self.memory.allocated(), 0);
    }
}

/// Runs all at the same time, each with its number.
pub fn race(threads: &[&(dyn Fn(usize) + Sync)]) {
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

/// A thread that others wait for, until this value is dropped, by a panic too.
pub struct Running<'a>(pub &'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

pub fn fault(at: usize, access: Access, cause: Cause) -> Fault {
    Fault { gpa: gpa(at), access, cause, origin: Origin::Instruction }
}

/// Runs `work` with the numbers from 0 on while `others` are [`Running`].
pub fn until_done(others: &AtomicUsize, mut work: impl FnMut(usize)) {
    let mut round = 0;
    while others.load(Ordering::Acquire) > 0 {
        work(round);
        round += 1;
        thread::yield_now();
    }
}
