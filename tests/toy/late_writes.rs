//! Writes that land in memory after it was taken away: of a CPU that an invalidation did not reach, of a device, of a
//! walker. They choose nothing of what the hypervisor frees (H47).

use std::{any::Any, collections::BTreeSet};

use stage2::{
    GuestPhysRange,
    format::{Leaf, Owner},
    loan::Handover,
    lock::Spin,
    space::{Progress, Unmapping},
};

use super::*;

type Space = GuestSpace<Machine>;
/// A late write.
type Late = Arc<dyn Fn() + Send + Sync>;

/// How many frames one step may free.
const BUDGET: usize = 2;

/// Where a space has memory that stays, whatever else goes.
const KEPT: usize = 90 * LARGE;

/// Memory that is about to be taken away, beside memory that stays.
struct Scene {
    board: Board,
    /// What it is taken from.
    space: Space,
    /// What is taken away.
    gone: GuestPhysRange,
    /// Another guest on the same board.
    bystander: Space,
    /// What is dropped only when the test is over.
    held: Vec<Box<dyn Any>>,
}

/// How memory is taken away.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Unmap,
    UnmapInSteps,
    /// What a few steps left is freed at once.
    UnmapAndDrop,
    Relocate,
    Dismantle,
    /// The space is dropped.
    Drop,
}

/// When the late write lands.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Never,
    /// While CPUs are made to forget.
    Invalidating,
    /// After that, and between each two steps.
    Between,
    /// Each time that frames have just been freed.
    Freeing,
}

const TIMES: [When; 3] = [When::Invalidating, When::Between, When::Freeing];
const WAYS: [Way; 6] = [Way::Unmap, Way::UnmapInSteps, Way::UnmapAndDrop, Way::Relocate, Way::Dismantle, Way::Drop];

/// What came of it: which pages were freed, how many are left on the board, and what the space has.
type Left = (BTreeSet<usize>, usize, Option<(usize, usize)>);

impl Scene {
    /// A space with what `populate` maps, of which `gone` is taken away.
    fn of(gone: GuestPhysRange, populate: impl FnOnce(&Board, &Space, &mut Vec<Box<dyn Any>>)) -> Self {
        let board = Board::new();
        let (space, bystander) = (board.space(), board.space());
        for space in [&space, &bystander] {
            space.map(range(KEPT, 2 * PAGE), PAGES, RW).unwrap();
            sign(space, range(KEPT, 2 * PAGE));
        }
        let mut held = Vec::new();
        populate(&board, &space, &mut held);
        Self { board, space, gone, bystander, held }
    }

    /// The frames behind what is taken away.
    fn frames(&self) -> Vec<PhysAddr> {
        let pages = (self.gone.start.as_usize()..self.gone.end.as_usize()).step_by(PAGE);
        pages.filter_map(|at| Some(self.space.translate(gpa(at))?.hpa)).collect()
    }

    /// Where words of a guest would do most harm, were they taken for the hypervisor's own.
    fn victims(&self) -> Vec<PhysAddr> {
        let stays = |space: &Space| space.translate(gpa(KEPT)).unwrap().hpa;
        let root = PhysAddr::from_usize(self.space.root() as usize);
        vec![stays(&self.space), stays(&self.bystander), root]
    }

    /// Takes the memory away, while `late` happens.
    fn take(self, way: Way, when: When, late: &Late) -> Left {
        let Self { board, space, gone, bystander, held } = self;
        board.events();
        arm(&board, when, late);
        let between = || {
            if when == When::Between {
                late();
            }
        };
        let left = take_away(space, gone, way, &between);
        disarm(&board);
        let freed = freed(&board);
        for space in [&bystander].into_iter().chain(&left) {
            assert_signed(space, range(KEPT, 2 * PAGE));
            let (stats, usage) = (space.stats(), space.usage());
            assert_eq!((stats.owned_frames, stats.table_frames), (usage.frames, usage.table_frames));
        }
        if let (Some(space), true) = (&left, way != Way::Relocate) {
            assert!(space.walk(gone, |_| panic!("it is gone")).is_ok());
            space
                .walk(range(0, KEPT), |leaf| assert_signed(space, range(leaf.leaf_start.as_usize(), leaf.size)))
                .unwrap();
        }
        let outcome = (
            freed,
            board.allocated(),
            left.as_ref().map(|space| (space.stats().owned_frames, space.stats().table_frames)),
        );
        drop((left, held));
        drop(bystander);
        assert_eq!(board.allocated(), 0, "everything is freed once in the end");
        outcome
    }
}

/// Takes memory of a space away, with something between each two steps: the space, if it still is.
fn take_away(space: Space, gone: GuestPhysRange, way: Way, between: &dyn Fn()) -> Option<Space> {
    match way {
        Way::Unmap => space.unmap(gone).unwrap(),
        Way::UnmapInSteps => take_steps(space.unmap_in_steps(gone).unwrap(), usize::MAX, between),
        Way::UnmapAndDrop => take_steps(space.unmap_in_steps(gone).unwrap(), 2, between),
        Way::Relocate => drop(space.relocate(gone).unwrap()),
        Way::Dismantle => {
            let Ok(mut dismantling) = space.dismantle() else { panic!("no CPU is inside") };
            between();
            while dismantling.step(BUDGET) == Progress::More {
                between();
            }
            return None;
        }
        Way::Drop => return None,
    }
    Some(space)
}

/// Unmaps in so many steps, and frees at once what they left.
fn take_steps(mut unmapping: Unmapping<'_, Machine, Spin>, steps: usize, between: &dyn Fn()) {
    between();
    for _ in 0..steps {
        if unmapping.step(BUDGET) == Progress::Done {
            break;
        }
        between();
    }
}

/// Has a late write land at its time, each time that it comes.
fn arm(board: &Board, when: When, late: &Late) {
    let (again, late) = (board.clone(), late.clone());
    let event = move || {
        late();
        arm(&again, when, &late);
    };
    match when {
        When::Invalidating => board.on_invalidation(event),
        When::Freeing => board.on_free(event),
        When::Never | When::Between => {}
    }
}

/// No late write lands any more.
fn disarm(board: &Board) {
    board.on_invalidation(|| ());
    board.on_free(|| ());
}

/// No late write.
fn nothing() -> Late {
    Arc::new(|| ())
}

/// Writes into each page of a range which one it is.
fn sign(space: &Space, range: GuestPhysRange) {
    for at in (range.start.as_usize()..range.end.as_usize()).step_by(PAGE) {
        space.write_obj(gpa(at), at as u64).unwrap();
        space.write_obj(gpa(at + PAGE - 8), !at as u64).unwrap();
    }
}

fn assert_signed(space: &Space, range: GuestPhysRange) {
    for at in (range.start.as_usize()..range.end.as_usize()).step_by(PAGE) {
        let found = (space.read_obj(gpa(at)), space.read_obj(gpa(at + PAGE - 8)));
        assert_eq!(found, (Ok(at as u64), Ok(!at as u64)), "page {at:#x}");
    }
}

/// Which pages were freed since the events were last looked at.
fn freed(board: &Board) -> BTreeSet<usize> {
    let pages = |event| match event {
        Event::Freed(at, count) => at.as_usize() / PAGE..at.as_usize() / PAGE + count,
        _ => 0..0,
    };
    board.events().into_iter().flat_map(pages).collect()
}

/// All that a late write may leave which could be taken for something of the hypervisor's: the address of what stays with
/// any low bit, as a link would have it that tells a size or a level; the number of its page; the entries of each level
/// that name it.
fn words(victims: &[PhysAddr]) -> Vec<u64> {
    let mut words = vec![0, u64::MAX, Toy.absent()];
    for &victim in victims {
        let address = victim.as_usize() as u64;
        words.extend((0..12).map(|bit| address | 1 << bit));
        words.extend([address, address | 0xfff, address | 1 << 63, address >> 12, Toy.table(victim)]);
        for level in [0, 1, 2].map(Level) {
            let leaf = Leaf { at: victim, flags: RW, owner: Owner::Space, used: Used::Dirty };
            let leaf = Toy.leaf(level, &leaf);
            words.extend([leaf, Toy.mark(level, leaf), Toy.mark(level, Toy.table(victim))]);
        }
    }
    words
}

/// Fills frames with a word.
fn overwrite(board: &Board, frames: &[PhysAddr], word: u64) {
    for &frame in frames {
        let words = board.pointer(frame).cast::<AtomicU64>();
        for index in 0..PAGE / 8 {
            // SAFETY: the frame is on the board, and what may be written late is only ever reached as bytes or atomics.
            unsafe { words.add(index).as_ref() }.store(word, Ordering::Relaxed);
        }
    }
}

/// As [`check_all`], with each kind of word for some of the victims.
fn check(scene: impl Fn() -> Scene, ways: &[Way]) {
    check_words(scene, ways, 7);
}

/// Takes the memory of a scene away in each way, with each word in all of its frames at each time: what is freed is what is
/// freed without.
fn check_all(scene: impl Fn() -> Scene, ways: &[Way]) {
    check_words(scene, ways, 1);
}

fn check_words(scene: impl Fn() -> Scene, ways: &[Way], step: usize) {
    for &way in ways {
        let expected = scene().take(way, When::Never, &nothing());
        assert!(!expected.0.is_empty());
        let times = TIMES.into_iter().filter(|&when| when != When::Between || is_in_steps(way));
        for when in times {
            for word in (0..).step_by(step) {
                let scene = scene();
                let Some(&word) = words(&scene.victims()).get(word) else { break };
                let (board, frames) = (scene.board.clone(), scene.frames());
                assert!(!frames.is_empty());
                let late: Late = Arc::new(move || overwrite(&board, &frames, word));
                assert_eq!(scene.take(way, when, &late), expected, "{way:?}, {word:#x} {when:?}");
            }
        }
    }
}

fn is_in_steps(way: Way) -> bool {
    matches!(way, Way::UnmapInSteps | Way::UnmapAndDrop | Way::Dismantle)
}

/// Eight pages with data, two of which go. One word in them named a page that stays, which was freed.
#[test]
fn in_pages_that_went_free_exactly_those() {
    let scene = || {
        Scene::of(range(2 * PAGE, 2 * PAGE), |_, space, _| {
            space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
            sign(space, range(0, 8 * PAGE));
        })
    };
    let two = scene().frames().iter().map(|at| at.as_usize() / PAGE).collect::<BTreeSet<_>>();
    for way in [Way::Unmap, Way::UnmapInSteps, Way::UnmapAndDrop, Way::Relocate] {
        assert_eq!(scene().take(way, When::Never, &nothing()).0, two);
    }
    check_all(scene, &WAYS);
}

#[test]
fn in_pages_of_many_tables_free_nothing_else() {
    check(
        || {
            Scene::of(range(BLOCK, 6 * BLOCK), |_, space, _| {
                for table in 0..8 {
                    space.map(range(table * BLOCK, PAGE), PAGES, RW).unwrap();
                    sign(space, range(table * BLOCK, PAGE));
                }
            })
        },
        &[Way::Unmap, Way::UnmapInSteps, Way::UnmapAndDrop, Way::Dismantle, Way::Drop],
    );
}

/// Whole tables with their pages go: no entry of theirs is touched one by one.
#[test]
fn in_pages_below_a_table_that_goes_free_nothing_else() {
    check(
        || {
            Scene::of(range(BLOCK, BLOCK), |_, space, _| {
                space.map(range(BLOCK - PAGE, BLOCK + 2 * PAGE), PAGES, RW).unwrap();
                sign(space, range(BLOCK - PAGE, BLOCK + 2 * PAGE));
            })
        },
        &[Way::UnmapInSteps, Way::Unmap],
    );
}

#[test]
fn in_the_middles_of_blocks_free_nothing_else() {
    check(
        || {
            Scene::of(range(PAGE, 2 * BLOCK), |_, space, _| {
                space.map(range(0, 3 * BLOCK), BLOCKS, RW).unwrap();
                sign(space, range(0, 3 * BLOCK));
            })
        },
        &[Way::UnmapInSteps, Way::UnmapAndDrop, Way::Unmap],
    );
}

#[test]
fn in_a_region_that_was_mapped_for_the_last_time_free_nothing_else() {
    check(
        || {
            Scene::of(range(0, 4 * PAGE), |_, space, held| {
                let [gone, other] = [0, 1].map(|_| space.region(4 * PAGE).unwrap());
                for (at, region) in [(0, &gone), (LARGE, &other)] {
                    space.map(range(at, 4 * PAGE), Mapping::Shared { region: region.clone(), offset: 0 }, RW).unwrap();
                    sign(space, range(at, 4 * PAGE));
                }
                held.push(Box::new(other));
            })
        },
        &[Way::Unmap, Way::UnmapInSteps, Way::UnmapAndDrop, Way::Dismantle, Way::Drop],
    );
}

/// The lender is no more: what it lent goes with the borrower's mapping.
#[test]
fn in_what_a_dead_lender_lent_free_nothing_else() {
    check(
        || {
            Scene::of(range(0, 4 * PAGE), |board, space, _| {
                let lender = board.space();
                lender.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
                drop(lender.share(range(0, 4 * PAGE), space, gpa(0), RW).unwrap());
                drop(lender);
                sign(space, range(0, 4 * PAGE));
            })
        },
        &[Way::Unmap, Way::UnmapInSteps, Way::UnmapAndDrop, Way::Dismantle, Way::Drop],
    );
}

/// The lender lives: its memory is the borrower's to return, not to free.
#[test]
fn in_what_was_borrowed_free_nothing_of_the_lenders() {
    check(
        || {
            Scene::of(range(0, BLOCK), |board, space, held| {
                let lender = board.space();
                lender.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
                let loan = lender.lend(range(0, 4 * PAGE), space, gpa(0), RW).unwrap();
                space.map(range(8 * PAGE, 2 * PAGE), PAGES, RW).unwrap();
                held.push(Box::new((loan, lender)));
            })
        },
        &[Way::Unmap, Way::UnmapInSteps, Way::Dismantle, Way::Drop],
    );
}

/// What a space inherited from a snapshot goes with its last mapping, and the line of regions behind it too.
#[test]
fn in_what_a_snapshot_left_free_nothing_else() {
    check(
        || {
            Scene::of(range(0, 8 * PAGE), |_, space, _| {
                space.map(range(0, 8 * PAGE), PAGES, RW).unwrap();
                for turn in 0..3 {
                    drop(space.snapshot().unwrap());
                    space.write_obj(gpa(turn * PAGE), 1_u64).unwrap();
                }
                sign(space, range(KEPT, 2 * PAGE));
            })
        },
        &[Way::Unmap, Way::UnmapInSteps, Way::UnmapAndDrop, Way::Dismantle, Way::Drop],
    );
}

/// A snapshot that alone has the memory: its space is no more.
#[test]
fn in_a_snapshot_that_goes_free_nothing_else() {
    let end = |word: Option<usize>| {
        let board = Board::new();
        let (space, bystander) = (board.space(), board.space());
        bystander.map(range(KEPT, PAGE), PAGES, RW).unwrap();
        sign(&bystander, range(KEPT, PAGE));
        space.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
        let frames: Vec<_> = (0..4).map(|page| space.translate(gpa(page * PAGE)).unwrap().hpa).collect();
        let snapshot = space.snapshot().unwrap();
        drop(space);
        let root = PhysAddr::from_usize(bystander.root() as usize);
        let victims = [bystander.translate(gpa(KEPT)).unwrap().hpa, root];
        if let Some(word) = word {
            let word = *words(&victims).get(word)?;
            let (late, snapped) = (board.clone(), frames.clone());
            let late: Late = Arc::new(move || overwrite(&late, &snapped, word));
            arm(&board, When::Freeing, &late);
        }
        board.events();
        drop(snapshot);
        disarm(&board);
        let freed = freed(&board);
        assert_eq!(freed, frames.iter().map(|at| at.as_usize() / PAGE).collect());
        assert_signed(&bystander, range(KEPT, PAGE));
        Some((freed, board.allocated()))
    };
    let expected = end(None);
    assert!((0..).map_while(|word| end(Some(word))).all(|found| Some(found) == expected));
}

/// Memory that a lender took back, or that another space was given, waits for nothing.
#[test]
fn in_what_was_taken_back_reach_only_its_owner() {
    let board = Board::new();
    let (lender, borrower) = (board.space(), board.space());
    lender.map(range(0, 4 * PAGE), PAGES, RW).unwrap();
    let frames: Vec<_> = (0..4).map(|page| lender.translate(gpa(page * PAGE)).unwrap().hpa).collect();
    for word in words(&[frames[0], PhysAddr::from_usize(lender.root() as usize)]) {
        let loan = lender.lend(range(0, 4 * PAGE), &borrower, gpa(0), RW).unwrap();
        let (late, lent) = (board.clone(), frames.clone());
        board.on_invalidation(move || overwrite(&late, &lent, word));
        board.events();
        lender.reclaim(&loan, &borrower, Handover::Zero).unwrap();
        let tables = freed(&board);
        assert_eq!(tables.len(), 3, "the borrower's tables, {word:#x}");
        assert!(frames.iter().all(|at| !tables.contains(&(at.as_usize() / PAGE))), "{word:#x}");
        for (page, at) in frames.iter().enumerate() {
            assert_eq!(lender.translate(gpa(page * PAGE)).unwrap().hpa, *at);
            assert_eq!(lender.read_obj::<[u64; 4]>(gpa(page * PAGE)), Ok([0; 4]));
        }
    }
}

mod of_a_walker {
    use super::*;

    /// Where each table of a space is, and the level of its entries.
    fn tables(board: &Board, level: Level, table: PhysAddr, found: &mut Vec<(Level, PhysAddr)>) {
        found.push((level, table));
        for entry in entries(board, level, table) {
            if let Entry::Table(below) = Toy.decode(level, entry.load(Ordering::Relaxed)) {
                tables(board, Level(level.0 - 1), below, found);
            }
        }
    }

    fn entries(board: &Board, level: Level, table: PhysAddr) -> &[AtomicU64] {
        let count = if level == Toy.root_shape().0 { 128 } else { 32 };
        // SAFETY: tables are on the board, and are only reached as atomics.
        unsafe { std::slice::from_raw_parts(board.pointer(table).cast::<AtomicU64>().as_ptr(), count) }
    }

    /// A walker that still has the tables in its cache notes accesses and writes in their leaves.
    fn note(board: &Board, tables: &[(Level, PhysAddr)], used: Used) {
        for &(level, table) in tables {
            for entry in entries(board, level, table) {
                let raw = entry.load(Ordering::Relaxed);
                // What the board filled with junk is free.
                if raw >> 60 == 2
                    && let Entry::Leaf(leaf) = Toy.decode(level, raw)
                {
                    entry.store(Toy.leaf(level, &Leaf { used, ..leaf }), Ordering::Relaxed);
                }
            }
        }
    }

    /// Marks in a dead table, of which the address and the owner of what is freed are read.
    #[test]
    fn in_the_entries_of_a_table_that_goes_change_nothing() {
        let scene = || {
            Scene::of(range(BLOCK, LARGE), |_, space, _| {
                space.map(range(0, BLOCK), PAGES, RW).unwrap();
                space.map(range(BLOCK, BLOCK + 9 * PAGE), PAGES, RW).unwrap();
                space.map(range(4 * BLOCK, 3 * BLOCK), BLOCKS, RW).unwrap();
                space.map(range(8 * BLOCK, BLOCK), Mapping::Linear { to: PhysAddr::from_usize(KEPT) }, RW).unwrap();
                space.protect(range(BLOCK + 5 * PAGE, PAGE), READ).unwrap();
                sign(space, range(0, BLOCK));
            })
        };
        for way in [Way::Unmap, Way::UnmapInSteps, Way::UnmapAndDrop, Way::Dismantle, Way::Drop] {
            let expected = scene().take(way, When::Never, &nothing());
            for when in TIMES.into_iter().filter(|&when| when != When::Between || is_in_steps(way)) {
                for used in [Used::Not, Used::Accessed, Used::Dirty] {
                    let scene = scene();
                    let (board, mut dead) = (scene.board.clone(), Vec::new());
                    let (level, _) = Toy.root_shape();
                    tables(&board, level, PhysAddr::from_usize(scene.space.root() as usize), &mut dead);
                    let late: Late = Arc::new(move || note(&board, &dead, used));
                    assert_eq!(scene.take(way, when, &late), expected, "{way:?}, {used:?} {when:?}");
                }
            }
        }
    }
}
